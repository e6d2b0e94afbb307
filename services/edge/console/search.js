// The field at the top: names of channels and users on this edge as one types, and any
// full name besides. A combobox with a list, as ARIA's practices describe it.

import { get } from "./api.js";
import { $, h } from "./dom.js";
import { channelLink, userLink } from "./list.js";
import { plural } from "./words.js";

const WAIT_MS = 120;

export class Search {
  #ready;
  #options = [];
  #active = -1;
  #asked = null;
  #timer;

  // ready tells whether there is somebody to ask.
  constructor(ready) {
    this.#ready = ready;
    const input = $("find");
    input.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#show(this.#guess(input.value.trim()));
      this.#timer = setTimeout(() => this.#look(input.value.trim()), WAIT_MS);
    });
    input.addEventListener("focus", () => input.value.trim() && this.#look(input.value.trim()));
    input.addEventListener("blur", () => this.#close());
    input.addEventListener("keydown", (event) => this.#key(event));
    $("search").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#go(this.#options[Math.max(0, this.#active)]);
    });
    // Before the field loses the focus, and the list with it.
    $("found").addEventListener("pointerdown", (event) => {
      event.preventDefault();
      const index = [...$("found").children].indexOf(event.target.closest("[role=option]"));
      if (index >= 0) this.#go(this.#options[index]);
    });
  }

  // What a name could be although nobody here has it now: one with a dot a channel first.
  #guess(text) {
    if (!text) return [];
    const channel = { kind: "channel", name: text, href: channelLink(text), about: "look it up" };
    const user = { kind: "user", name: text, href: userLink(text), about: "look up everywhere" };
    return /^[^@\s]+\.[^@\s]+$/.test(text) ? [channel, user] : [user, ...(text.includes(".") ? [channel] : [])];
  }

  async #look(text) {
    this.#asked?.abort("left");
    if (!text || !this.#ready()) return;
    const asked = (this.#asked = new AbortController());
    let found;
    try {
      found = await get(`search?limit=6&q=${encodeURIComponent(text)}`, asked.signal);
    } catch {
      return; // the guesses stay
    }
    if (asked.signal.aborted || document.activeElement !== $("find")) return;
    const known = [
      ...found.channels.map(({ channel, subscribers }) => ({ kind: "channel", name: channel, href: channelLink(channel), about: plural(subscribers, "subscriber") })),
      ...found.users.map(({ user, connections }) => ({ kind: "user", name: user, href: userLink(user), about: plural(connections, "connection") })),
      ...found.connections.map(({ connectionId, user }) => ({ kind: "connection", name: connectionId, href: userLink(user), about: `of ${user}` })),
    ];
    known.sort((a, b) => Number(b.name === text) - Number(a.name === text));
    const names = new Set(known.map(({ kind, name }) => kind + name));
    this.#show([...known, ...this.#guess(text).filter(({ kind, name }) => !names.has(kind + name))]);
  }

  #show(options) {
    const kept = this.#options[this.#active];
    this.#options = options;
    this.#active = kept ? options.findIndex(({ kind, name }) => kind === kept.kind && name === kept.name) : -1;
    $("found").replaceChildren(
      ...options.map(({ kind, name, about }, i) =>
        h("li", { role: "option", id: `found-${i}`, "aria-selected": String(i === this.#active) }, h("span", { class: "kind" }, kind), h("span", { class: "label" }, name), h("span", { class: "faint" }, about)),
      ),
    );
    $("found").hidden = options.length === 0;
    $("find").setAttribute("aria-expanded", String(options.length > 0));
    this.#mark();
  }

  #mark() {
    [...$("found").children].forEach((option, i) => option.setAttribute("aria-selected", String(i === this.#active)));
    if (this.#active >= 0) $("find").setAttribute("aria-activedescendant", `found-${this.#active}`);
    else $("find").removeAttribute("aria-activedescendant");
  }

  #key(event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by && this.#options.length > 0) {
      event.preventDefault();
      this.#active = (this.#active + by + this.#options.length + (this.#active < 0 && by < 0 ? 1 : 0)) % this.#options.length;
      this.#mark();
    } else if (event.key === "Escape") {
      if (!$("found").hidden) event.preventDefault(); // first the list, then the field
      else $("find").value = "";
      this.#close();
    }
  }

  #go(option) {
    if (!option) return;
    $("find").value = "";
    $("find").blur();
    location.hash = option.href;
  }

  #close() {
    clearTimeout(this.#timer);
    this.#asked?.abort("left");
    this.#active = -1;
    this.#show([]);
  }
}
