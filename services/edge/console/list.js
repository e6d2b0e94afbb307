// Tables and lists that are drawn again and again without losing the reader's place:
// rows are kept by key, and what has not changed is left alone.

import { set } from "./chart.js";
import { h } from "./dom.js";

// Table: columns are [{name, number, wide, text(row), link(row), bar(row) of 0..1}]; wide
// ones leave a narrow page. Rows can be walked with the arrows (data-rows).
export class Table {
  #columns;
  #key;
  #body = h("tbody", { "data-rows": true });
  #empty;
  #rows = new Map();

  constructor({ label, columns, key, empty }) {
    this.#columns = columns;
    this.#key = key;
    this.#empty = h("p", { class: "nothing" }, empty);
    const heads = columns.map(({ name, number, wide }) => h("th", { scope: "col", class: classes(number, wide) }, name));
    this.element = h(
      "div",
      { class: "table" },
      h("table", { "aria-label": label }, h("thead", {}, h("tr", {}, ...heads)), this.#body),
      this.#empty,
    );
  }

  draw(rows) {
    this.#empty.hidden = rows.length > 0;
    this.element.firstChild.hidden = rows.length === 0;
    const held = document.activeElement?.closest("tr");
    const wanted = new Map(rows.map((row) => [this.#key(row), row]));
    for (const [key, element] of this.#rows) {
      if (wanted.has(key)) continue;
      element.remove();
      this.#rows.delete(key);
    }
    let place = this.#body.firstChild;
    for (const [key, row] of wanted) {
      let element = this.#rows.get(key);
      if (!element) this.#rows.set(key, (element = this.#make(row)));
      this.#columns.forEach((column, i) => this.#fill(element.children[i], column, row));
      if (element === place) place = place.nextSibling;
      else this.#body.insertBefore(element, place);
    }
    if (held?.isConnected && !held.contains(document.activeElement)) held.querySelector("a")?.focus({ preventScroll: true });
  }

  #make(row) {
    return h(
      "tr",
      {},
      ...this.#columns.map(({ number, wide, link }) => h("td", { class: classes(number, wide) }, link ? h("a", { href: link(row) }) : h("span"))),
    );
  }

  #fill(cell, { text, bar }, row) {
    set(cell.firstChild, text(row));
    if (bar) cell.style.setProperty("--share", String(bar(row) < 0.02 ? 0 : Math.min(1, bar(row)))); // less is a speck
    if (bar) cell.classList.add("bar");
  }
}

const classes = (number, wide) => [number && "number", wide && "wide"].filter(Boolean).join(" ") || null;

// Bars is a ranked list of counts.
export class Bars {
  #list = h("ul", { class: "bars" });
  #empty;
  #shown = "";

  constructor({ label, empty }) {
    this.#list.setAttribute("aria-label", label);
    this.#empty = h("p", { class: "nothing" }, empty);
    this.element = h("div", {}, this.#list, this.#empty);
  }

  // rows: [{name, about, count}]
  draw(rows) {
    const text = JSON.stringify(rows);
    if (text === this.#shown) return;
    this.#shown = text;
    this.#empty.hidden = rows.length > 0;
    this.#list.hidden = rows.length === 0;
    const most = Math.max(1, ...rows.map(({ count }) => count));
    this.#list.replaceChildren(
      ...rows.map(({ name, about, count }) => {
        const item = h("li", {}, h("span", { class: "what" }, name, about && h("small", {}, about)), h("span", { class: "many" }, count.toLocaleString("en")));
        item.style.setProperty("--share", String(count / most));
        return item;
      }),
    );
  }
}

// Part is a piece of a page that is drawn anew only if what it shows has changed.
export class Part {
  #shown;
  element;

  constructor(attributes = {}) {
    this.element = h("div", attributes);
  }

  // draw(value) returns an array of nodes.
  show(value, draw) {
    const text = JSON.stringify(value ?? null);
    if (text === this.#shown) return;
    this.#shown = text;
    const open = new Set([...this.element.querySelectorAll("details[open][data-key]")].map((one) => one.dataset.key));
    const held = this.element.contains(document.activeElement) ? document.activeElement.closest("[data-key]")?.dataset.key : null;
    this.element.replaceChildren(...draw(value).filter(Boolean));
    for (const one of this.element.querySelectorAll("details[data-key]")) one.open = open.has(one.dataset.key);
    if (held) {
      const again = this.element.querySelector(`[data-key="${CSS.escape(held)}"]`);
      (again?.querySelector("summary, a, button") ?? again)?.focus({ preventScroll: true });
    }
  }
}

// card is a titled section; actions stand at its right.
export function card(title, { actions = [], about = "", wide = false, id = "" } = {}, ...children) {
  return h(
    "section",
    { class: wide ? "card span" : "card", id: id || null, "aria-label": title },
    h("header", {}, h("h2", {}, title), about && h("p", { class: "about" }, about), ...actions),
    ...children,
  );
}

// facts is a list of names and what they stand for; those without a value are left out.
export function facts(pairs) {
  return h(
    "dl",
    { class: "facts" },
    ...pairs.filter(([, value]) => value != null && value !== "" && value !== false).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

// refused says, where a part of an answer should be, why there is none.
export function refused({ reason, message }) {
  return h("p", { class: "refused" }, `${message || "Not available"} `, reason && h("code", {}, reason));
}

export const channelLink = (name) => `#/channels/${encodeURIComponent(name)}`;
export const userLink = (name) => `#/users/${encodeURIComponent(name)}`;
