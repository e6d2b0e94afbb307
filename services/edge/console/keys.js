// What the keyboard does. Nothing while somebody types, and nothing in "Try it" but
// going elsewhere.

import { $, h } from "./dom.js";

const THEN_MS = 1200;
const GOES = { o: "overview", c: "channels", u: "users", n: "namespaces", e: "events", s: "send", t: "try" };

const HELP = [
  [["/"], "Find a channel or a user"],
  ...Object.entries(GOES).map(([key, view]) => [["g", key], `Go to ${view === "try" ? "Try it" : view}`]),
  [["↓", "↑"], "Next, previous row; also j and k"],
  [["←", "→"], "In a chart: earlier, later; with Shift by 30 s"],
  [["p"], "Pause, go on"],
  [["d"], "Dark, light"],
  [["?"], "These keys"],
  [["Esc"], "Close, leave the field"],
];

export class Keys {
  #actions;
  #then = 0; // until when a second key of "g" counts

  constructor(actions) {
    this.#actions = actions;
    $("key-list").append(...HELP.map(([keys, what]) => h("div", {}, h("dt", {}, ...keys.map((key) => h("kbd", {}, key))), h("dd", {}, what))));
    $("show-keys").addEventListener("click", () => $("keys").showModal());
    document.addEventListener("keydown", (event) => this.#pressed(event));
  }

  #pressed(event) {
    const { key, target } = event;
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing || $("keys").open) return;
    const typing = target.closest("input:not([type=radio]), textarea, select, [contenteditable]");
    if (key === "Escape") {
      if (typing && !target.closest("#try")) typing.blur();
      return;
    }
    if (typing) return;
    if (this.#then > event.timeStamp) {
      this.#then = 0;
      const tab = GOES[key] && document.querySelector(`[data-tab="${GOES[key]}"]:not([hidden])`);
      if (tab) {
        event.preventDefault();
        tab.click();
      }
      return;
    }
    const done = this.#act(key, event);
    if (done) event.preventDefault();
  }

  // Returns whether the key meant something.
  #act(key, { timeStamp, target }) {
    switch (key) {
      case "g":
        this.#then = timeStamp + THEN_MS;
        return true;
      case "/":
        if ($("search").hidden) return false;
        $("find").focus();
        $("find").select();
        return true;
      case "?":
        $("keys").showModal();
        return true;
      case "p":
        if ($("pause").hidden) return false;
        this.#actions.pause();
        return true;
      case "d":
        this.#actions.theme();
        return true;
      case "ArrowDown":
      case "ArrowUp":
        return target.closest("[data-rows]") !== null && step(key === "ArrowDown" ? 1 : -1);
      case "j":
      case "k":
        return step(key === "j" ? 1 : -1);
      default:
        return false;
    }
  }
}

// step goes to the next row: of the list that has the focus, else of the first in view.
function step(by) {
  const list = document.activeElement?.closest("[data-rows]") ?? document.querySelector("#view [data-rows]:has(a, summary)");
  if (!list) return false;
  const rows = [...list.children].filter((row) => row.querySelector("a, summary"));
  const here = rows.findIndex((row) => row.contains(document.activeElement));
  const next = rows[here < 0 ? 0 : here + by];
  next?.querySelector("a, summary").focus();
  return next !== undefined;
}
