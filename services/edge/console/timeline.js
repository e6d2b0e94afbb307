// The messages of the channel in view, and the notes between them.

import { avatar, clock, describe, h, json } from "./dom.js";

const GROUP_MS = 5 * 60_000;
const NEAR_END_PX = 80;
export const MAX_ITEMS = 500; // a channel's; older ones leave the page

// Timeline draws items into a scrolling element: {message} is a message of the
// protocol, {note, time} a line about the channel itself.
export class Timeline {
  #list;
  #jump;
  #last = null;
  #pinned = true; // the end stays in view while the element changes its size

  constructor(list, jump) {
    this.#list = list;
    this.#jump = jump;
    jump.addEventListener("click", () => this.#toEnd());
    list.addEventListener("scroll", () => {
      this.#pinned = this.#atEnd();
      if (this.#pinned) jump.hidden = true;
    });
    new ResizeObserver(() => this.#pinned && this.#toEnd()).observe(list);
  }

  show(items, empty, self) {
    this.#last = null;
    this.#list.replaceChildren(empty, ...items.map((item) => this.#draw(item, self)));
    this.#toEnd();
  }

  add(item, self) {
    const follow = this.#pinned || item.message?.publisher === self;
    this.#list.append(this.#draw(item, self));
    // The first child is the text for an empty channel, which stays.
    if (this.#list.children.length > MAX_ITEMS + 1) this.#list.children[1].remove();
    if (follow) this.#toEnd();
    else this.#jump.hidden = false;
  }

  #atEnd() {
    return this.#list.scrollHeight - this.#list.scrollTop - this.#list.clientHeight < NEAR_END_PX;
  }

  #toEnd() {
    this.#list.scrollTop = this.#list.scrollHeight;
    this.#pinned = true;
    this.#jump.hidden = true;
  }

  #draw(item, self) {
    const previous = this.#last;
    this.#last = item;
    if (!item.message) {
      return h("p", { class: item.warning ? "note warning" : "note" }, item.note, " ", h("time", {}, clock(item.time)));
    }
    const { message } = item;
    const publisher = message.publisher ?? "";
    const { service, name } = describe(publisher);
    const grouped = previous?.message?.publisher === publisher && message.time - previous.message.time < GROUP_MS;
    const classes = ["message", grouped && "grouped", service && "from-service", publisher === self && "own"];
    return h(
      "article",
      {
        class: classes.filter(Boolean).join(" "),
        "data-publisher": publisher,
        "data-offset": message.offset,
        "aria-label": `${name}, ${clock(message.time)}`,
      },
      grouped ? h("time", { class: "aside", "aria-hidden": "true" }, clock(message.time)) : avatar(publisher),
      h(
        "div",
        { class: "content" },
        !grouped &&
          h(
            "header",
            {},
            h("span", { class: "name" }, name || "unknown"),
            service && h("span", { class: "tag bronze" }, "service"),
            publisher === self && h("span", { class: "tag" }, "you"),
            h("time", { datetime: new Date(message.time).toISOString() }, clock(message.time)),
          ),
        body(message),
      ),
      message.offset != null && h("span", { class: "offset", title: "Offset in the channel" }, `#${message.offset}`),
    );
  }
}

// A text, where the data is one or an object with nothing else but one; else JSON.
function body({ data, dataBase64, contentType }) {
  if (dataBase64 != null) {
    return h("p", { class: "text binary" }, `${contentType}, ${Math.floor((dataBase64.replace(/=+$/, "").length * 3) / 4)} bytes`);
  }
  const text = typeof data === "string" ? data : onlyText(data);
  return text === null ? json(data) : h("p", { class: "text" }, text);
}

function onlyText(data) {
  if (data === null || typeof data !== "object" || Array.isArray(data)) return null;
  return Object.keys(data).length === 1 && typeof data.text === "string" ? data.text : null;
}
