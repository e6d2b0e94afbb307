// What went wrong lately: the list that several views show, and the view of all of it.

import { h } from "./dom.js";
import { Part, channelLink, userLink } from "./list.js";
import { exact, moment } from "./words.js";

const SHOWN = 200;

export const KINDS = {
  refused: { name: "Refused", about: "a handshake or a frame was refused" },
  denied: { name: "Denied", about: "a rule denied a command, or ended a subscription" },
  failed: { name: "Failed", about: "a command failed, or a limit held it back" },
  slow: { name: "Slow", about: "the client read too slowly" },
  gap: { name: "Gap", about: "messages were missed" },
  closed: { name: "Closed", about: "the connection ended otherwise than in peace" },
  sent: { name: "Sent", about: "a message was sent through the console" },
};

// traceLink is a link to a trace, or its id where traces have no link.
export function traceLink(id, { traceUrl } = {}) {
  if (!id) return null;
  const short = id.slice(0, 8);
  if (!traceUrl) return h("code", { class: "trace", title: `Trace ${id}` }, short);
  return h("a", { class: "trace", href: traceUrl.replaceAll("{trace}", encodeURIComponent(id)), target: "_blank", rel: "noopener noreferrer", "aria-label": `Trace ${short}, opens in a new tab` }, `trace ${short}`);
}

const alike = ({ kind, reason, command, channel, user, connectionId, address, rule, message, policy, code, by, caller }) =>
  JSON.stringify([kind, reason, command, channel, user, connectionId, address, rule, message, policy, code, by, caller]);

// fold makes one of events that follow each other and are alike, the latest, and says how
// often and since when: what a limit holds back comes by the dozen.
export function fold(events) {
  const folded = [];
  let key = null;
  for (const event of events) {
    const own = alike(event);
    if (own === key) {
      const last = folded.at(-1);
      last.times = (last.times ?? 1) + 1;
      last.since = event.at;
    } else folded.push({ ...event });
    key = own;
  }
  return folded;
}

// drawEvent draws one, with links to what it is about.
function drawEvent(event, session) {
  const { times, since, id, at, kind, reason, code, by, rule, command, channel, user, address, connectionId, message, policy, seconds, caller, offset, traceId } = event;
  const facts = [
    channel && h("a", { href: channelLink(channel) }, channel),
    user && h("a", { href: userLink(user) }, user),
    caller && h("span", {}, `by ${caller}`),
    address && h("span", { class: "faint" }, address),
    connectionId && !user && h("code", { class: "faint" }, connectionId.slice(0, 8)),
    traceLink(traceId, session),
  ];
  const why = [
    command,
    rule && !message?.includes(rule) && `rule ${rule}`,
    policy && `policy ${policy}`,
    code != null && `code ${code || "of its own"}`,
    by && `by ${by.replaceAll("_", " ")}`,
    seconds != null && `after ${seconds < 10 ? Number(seconds.toFixed(1)) : exact(seconds)} s`,
    offset != null && `offset ${exact(offset)}`,
  ];
  return h(
    "li",
    { class: "event", "data-key": `event-${id}`, "data-kind": kind },
    h("time", { datetime: new Date(at).toISOString() }, moment(at)),
    h("span", { class: "kind", title: KINDS[kind]?.about }, KINDS[kind]?.name ?? kind),
    h(
      "div",
      { class: "said" },
      h("p", {}, h("strong", {}, message || reason || KINDS[kind]?.about || kind), message && reason && h("code", {}, reason), times && h("span", { class: "times", title: `since ${moment(since)}` }, `${exact(times)} times`)),
      h("p", { class: "where" }, ...why.filter(Boolean).map((text) => h("span", { class: "faint" }, text)), ...facts.filter(Boolean)),
    ),
  );
}

export function eventList(events, session, empty, label = "Events") {
  if (events.length === 0) return h("p", { class: "nothing" }, empty);
  return h("ul", { class: "events", "data-rows": true, "aria-label": label }, ...events.map((event) => drawEvent(event, session)));
}

// EventsView: all that are kept, narrowed by kind and by a text.
export class EventsView {
  title = "Events";
  #context;
  #kind = "";
  #text = "";
  #list = new Part();
  #buttons = h("div", { class: "choices", role: "group", "aria-label": "Kind" });
  #total = h("p", { class: "about", role: "status" });

  constructor(context) {
    this.#context = context;
    const filter = h("input", { type: "search", id: "event-text", placeholder: "Channel, user, rule, reason, address", "aria-label": "Narrow the events", autocomplete: "off", spellcheck: "false" });
    filter.addEventListener("input", () => {
      this.#text = filter.value.trim().toLowerCase();
      this.update();
    });
    for (const [kind, { name, about }] of [["", { name: "All" }], ...Object.entries(KINDS)]) {
      const button = h("button", { type: "button", title: about, "aria-pressed": String(kind === ""), "data-kind": kind }, name, " ", h("span", { class: "number" }));
      button.addEventListener("click", () => {
        this.#kind = kind;
        for (const other of this.#buttons.children) other.setAttribute("aria-pressed", String(other === button));
        this.update();
      });
      this.#buttons.append(button);
    }
    this.element = h("div", { class: "page" }, h("h1", {}, "Events"), h("div", { class: "filter" }, this.#buttons, filter), this.#total, this.#list.element);
  }

  update(topic) {
    if (topic && topic !== "events") return;
    const { feed, session } = this.#context;
    const counts = Object.groupBy(feed.events, ({ kind }) => kind);
    for (const button of this.#buttons.children) {
      const many = button.dataset.kind ? counts[button.dataset.kind]?.length ?? 0 : feed.events.length;
      button.lastElementChild.textContent = String(many);
    }
    const found = feed.events.filter((event) => (!this.#kind || event.kind === this.#kind) && (!this.#text || searched(event).includes(this.#text)));
    const lost = feed.lost > 0 ? ` ${exact(feed.lost)} more came too fast to be kept.` : "";
    const folded = fold(found);
    this.#total.textContent = feed.events.length === 0 ? "" : `${exact(found.length)} of the last ${exact(feed.events.length)}${folded.length > SHOWN ? `, the latest ${SHOWN} shown` : ""}.${lost}`;
    const none = feed.events.length === 0 ? "Nothing has gone wrong since this edge started." : "None of the events is like that.";
    this.#list.show(folded.slice(0, SHOWN), (events) => [eventList(events, session, none)]);
  }
}

const searched = ({ id, at, ...rest }) => Object.values(rest).join("\n").toLowerCase();
