// The console: signs in where a token is needed, follows the edge, and shows one view
// at a time, which the address names after its #.

import { Feed, Refusal, get, token } from "./api.js";
import { set } from "./chart.js";
import { $, h } from "./dom.js";
import { EventsView } from "./events.js";
import { Keys } from "./keys.js";
import { ChannelView, ChannelsView, NamespacesView, UserView, UsersView } from "./look.js";
import { Overview } from "./overview.js";
import { startPlayground } from "./playground.js";
import { Search } from "./search.js";
import { SendView } from "./send.js";
import { moment } from "./words.js";

const TRY_IT = "try";

// What stands after #/ and what it shows; of a view that is about one thing, its name.
const VIEWS = {
  overview: (context) => new Overview(context),
  channels: (context, name) => (name ? new ChannelView(context, name) : new ChannelsView(context)),
  users: (context, name) => (name ? new UserView(context, name) : new UsersView(context)),
  namespaces: (context, name) => new NamespacesView(context, name),
  events: (context) => new EventsView(context),
  send: (context, name) => new SendView(context, name),
};

class Console {
  #feed = new Feed();
  #session = null;
  #view = null;
  #paused = false;
  #playing = false;
  #context;

  constructor() {
    themeToggle();
    this.#context = {
      feed: this.#feed,
      session: {},
      paused: () => this.#paused,
      signIn: (refusal) => this.#askToken(refusal),
    };
    new Search(() => this.#session !== null);
    new Keys({ pause: () => this.#pause(!this.#paused), theme: () => document.querySelector(".theme").click() });
    $("pause").addEventListener("click", () => this.#pause(!this.#paused));
    $("forget-token").addEventListener("click", () => this.#askToken());
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault(); // the address after # names a view
      (document.body.dataset.view === TRY_IT ? $("try").querySelector("input, textarea") : $("view")).focus();
    });
    document.addEventListener("say", ({ detail }) => ($("spoken").textContent = detail));
    window.addEventListener("hashchange", () => this.#route(true));
    for (const topic of ["overview", "sample", "channels", "events"]) {
      this.#feed.addEventListener(topic, () => !this.#paused && !document.hidden && this.#view?.update?.(topic));
    }
    document.addEventListener("visibilitychange", () => !document.hidden && !this.#paused && this.#view?.update?.());
    this.#feed.addEventListener("state", () => {
      if (this.#feed.state.name === "live") this.#meet();
      this.#showState();
    });
    setInterval(() => this.#showState(), 500);
    // A greeting's link names the user to try it as.
    if (!location.hash && new URLSearchParams(location.search).has("user")) history.replaceState(null, "", `${location.search}#/${TRY_IT}`);
    if (location.hash.startsWith(`#/${TRY_IT}`)) this.#route();
    this.#open();
  }

  // ---- whose console it is

  async #open() {
    let session;
    try {
      session = await get("session");
    } catch (err) {
      if (err.wantsToken || err.mayNot) return this.#askToken(err);
      // A page of "Try it" alone: there is no API.
      if (err.status === 404) return this.#become({ tryIt: true, alone: true });
      this.#showProblem(err);
      setTimeout(() => this.#open(), 3000);
      return;
    }
    this.#become(session);
    this.#feed.start();
  }

  #become(session) {
    this.#session = session;
    this.#context.session = session;
    $("forget-token").hidden = !token.get(); // there is none in dev, nor with a client certificate
    for (const tab of document.querySelectorAll("[data-tab]")) tab.hidden = tab.dataset.tab === TRY_IT ? !session.tryIt : Boolean(session.alone);
    $("search").hidden = $("pause").hidden = $("live").hidden = Boolean(session.alone);
    this.#route();
  }

  // After a time away it may be another edge, or the same one started anew.
  async #meet() {
    const session = await get("session").catch(() => null);
    if (session && (session.edgeId !== this.#session?.edgeId || session.startedAt !== this.#session?.startedAt)) this.#become(session);
  }

  #askToken(refusal) {
    this.#feed.stop();
    this.#session = null;
    const had = token.get() !== "";
    token.forget();
    $("forget-token").hidden = true;
    for (const part of [...document.querySelectorAll("[data-tab]"), $("search"), $("pause"), $("live")]) part.hidden = true;
    const input = h("input", { id: "token", type: "password", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "token-problem" });
    const problem = h("p", { id: "token-problem", class: "error", role: "alert" });
    if (refusal && (had || refusal.reason !== "TOKEN_MISSING")) problem.textContent = sentence(refusal.reason === "CALLER_DENIED" ? `${refusal.message}: it needs console: true` : refusal.message);
    const form = h(
      "form",
      { class: "card form", novalidate: true },
      h("label", { for: "token" }, "Caller's token"), input, problem,
      h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, "Open the console")),
    );
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (!input.value.trim()) return input.focus();
      token.set(input.value.trim());
      this.#open();
    });
    this.#put({
      title: "Sign in",
      element: h(
        "div",
        { class: "page narrow" },
        h("h1", {}, "Carillon’s console"),
        h("p", { class: "about" }, "It shows what this edge does, to callers whose configuration says ", h("code", {}, "console: true"), ". The token stays in this tab. ", h("code", {}, "carillon token --service NAME"), " prints one."),
        form,
      ),
    });
    input.focus();
  }

  #showProblem(err) {
    set($("live-text"), err instanceof Refusal ? err.message : "Something is wrong with this page");
    $("live").dataset.state = "waiting";
    $("live").hidden = false;
  }

  // ---- views

  #route(moved = false) {
    const [name = "", ...rest] = location.hash.replace(/^#\/?/, "").split("/");
    const playing = name === TRY_IT || this.#session?.alone;
    $("try").hidden = !playing;
    $("view").hidden = playing;
    document.body.dataset.view = playing ? TRY_IT : name || "overview";
    for (const tab of document.querySelectorAll("[data-tab]")) {
      if (tab.dataset.tab === document.body.dataset.view) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
    if (playing) {
      this.#close();
      document.title = "Try it · Carillon";
      if (!this.#playing) startPlayground();
      this.#playing = true;
      return;
    }
    if (!this.#session) return;
    let about = "";
    try {
      about = decodeURIComponent(rest.join("/"));
    } catch {
      about = rest.join("/");
    }
    this.#put((Object.hasOwn(VIEWS, name) ? VIEWS[name] : VIEWS.overview)(this.#context, about));
    if (!moved) return;
    $("view").focus({ preventScroll: true });
    scrollTo(0, 0);
    $("spoken").textContent = this.#view.title;
  }

  #put(view) {
    this.#close();
    this.#view = view;
    $("view").replaceChildren(view.element);
    document.title = `${view.title} · Carillon`;
    view.start?.();
    view.update?.();
  }

  #close() {
    this.#view?.close?.();
    this.#view = null;
    $("view").replaceChildren();
  }

  // ---- what is live

  #pause(paused) {
    this.#paused = paused;
    $("pause").setAttribute("aria-pressed", String(paused));
    $("pause").querySelector("use").setAttribute("href", paused ? "#icon-play" : "#icon-pause");
    if (!paused) this.#view?.update?.();
    this.#showState();
  }

  #showState() {
    const { name, why, retryAt, refusal } = this.#feed.state;
    const away = name === "waiting" && Boolean(this.#session);
    $("stale").hidden = !away || this.#view === null;
    if (!this.#session || this.#session.alone) return;
    if (name === "refused") return this.#askToken(refusal);
    const state = this.#paused && name === "live" ? "paused" : name;
    $("live").dataset.state = state;
    set($("live-text"), { connecting: "Connecting", live: "Live", paused: "Paused", waiting: "Not live" }[state]);
    if (!away) return;
    const { latest } = this.#feed;
    const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
    set($("stale"), `${sentence(why)}${latest ? ` What stands here is of ${moment(latest.at)}.` : ""} Asking again ${seconds > 0 ? `in ${seconds} s` : "now"}.`);
  }
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1).replace(/\.$/, "")}.`;

function themeToggle() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const button = document.querySelector(".theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const label = () => {
    button.setAttribute("aria-label", isDark() ? "Use the light theme" : "Use the dark theme");
    button.dataset.dark = String(isDark());
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("carillon.theme", root.dataset.theme);
    label();
  });
  dark.addEventListener("change", label);
  label();
}

new Console();
