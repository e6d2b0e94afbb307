// The first view: the four that the person on call starts with, and what explains them.

import { Chart, Spark, set } from "./chart.js";
import { h } from "./dom.js";
import { eventList, fold } from "./events.js";
import { Bars, Part, Table, card, channelLink } from "./list.js";
import { bytes, count, exact, lasting, millis } from "./words.js";

const sum = (samples, key) => samples.reduce((total, sample) => total + (sample[key] ?? 0), 0);
const CLOSES = {
  1000: "normal", 1001: "going away", 1005: "no code", 1006: "lost", 1008: "policy", 1009: "too big", 1011: "internal", 1012: "restart", 1013: "try later",
};

const CHARTS = [
  {
    name: "Connections",
    charts: [
      { label: "Connections", series: [{ key: "connections", label: "open", slot: 1 }], format: count, least: 4 },
      {
        label: "Connections opened and closed a second", mirrored: true, height: 76, format: count, least: 2,
        series: [{ key: "opened", label: "opened a second", slot: 2 }, { key: "closed", label: "closed", slot: 4 }],
      },
    ],
    value: ({ connections }) => exact(connections),
    about: (sample, _, { limits }) => limits?.maxConnections > 0 && `${count((sample.connections / limits.maxConnections) * 100)} % of ${exact(limits.maxConnections)} allowed`,
  },
  {
    name: "Deliveries a second",
    charts: [
      { label: "Deliveries a second", series: [{ key: "deliveries", label: "deliveries", slot: 1 }], format: count, least: 10 },
      {
        label: "Messages a second", height: 76, format: count, least: 4,
        series: [{ key: "messages", label: "messages in", slot: 2 }, { key: "publishes", label: "published by clients", slot: 3 }],
      },
    ],
    value: ({ deliveries }) => count(deliveries),
    about: ({ bytesOut, messages, deliveries }) => `${bytes(bytesOut)}/s, ${messages > 0 ? `${count(deliveries / messages)} recipients a message` : "no message now"}`,
  },
  {
    name: "Stored to delivered",
    charts: [
      {
        label: "Milliseconds from storing a message to its recipients' sockets", height: 204, format: millis, least: 1,
        series: [{ key: "latencyP50", label: "p50", slot: 2 }, { key: "latencyP99", label: "p99", slot: 1 }],
      },
    ],
    value: ({ latencyP99 }) => millis(latencyP99),
    about: ({ latencyP99 }) => (latencyP99 == null ? "nothing delivered in the last 5 s" : "p99 of the last 5 s, handed to the socket"),
  },
  {
    name: "Errors a second",
    charts: [
      {
        label: "Errors a second", height: 204, format: count, least: 4,
        series: [
          { key: "errors", label: "errors", slot: 4 }, { key: "denials", label: "denied", slot: 1 },
          { key: "refused", label: "refused", slot: 3 }, { key: "limited", label: "limited", slot: 2 },
        ],
      },
    ],
    value: ({ errors }) => count(errors),
    about: (_, samples) => `${exact(sum(samples, "errors"))} errors, ${exact(sum(samples, "refused"))} refused in 5 min`,
  },
];

// small: beside the charts. bad: a sum over five minutes that should be nought.
const SMALL = [
  { key: "subscriptions", name: "Subscriptions", value: exact },
  { key: "channels", name: "Channels", value: exact },
  { key: "queueBytes", name: "Queued bytes", value: bytes },
  { key: "memoryBytes", name: "Memory", value: bytes },
  { key: "goroutines", name: "Goroutines", value: exact },
  { key: "recoveries", name: "Recoveries", window: true },
  { key: "slowConsumers", name: "Slow consumers", window: true, bad: true },
  { key: "repairs", name: "Repairs", window: true, bad: true },
  { key: "gaps", name: "Gaps", window: true, bad: true },
];

export class Overview {
  title = "Overview";
  #context;
  #cards = [];
  #small = [];
  #tops;
  #by = "byDeliveries";
  #closes = new Bars({ label: "Closed connections by reason", empty: "No connection was closed in five minutes." });
  #wrong = new Bars({ label: "Errors and refusals by reason", empty: "No error and no refusal in five minutes." });
  #events = new Part();
  #uptime = h("span", {});

  constructor(context) {
    this.#context = context;
    const { session } = context;
    const charts = CHARTS.map((wanted) => {
      const value = h("p", { class: "headline" });
      const about = h("p", { class: "about" });
      const drawn = wanted.charts.map((options) => new Chart(options));
      this.#cards.push({ ...wanted, value, about, drawn, word: wanted.value, tell: wanted.about });
      return h("section", { class: "card metric", "aria-label": wanted.name }, h("header", {}, h("h2", {}, wanted.name), value, about), ...drawn.map(({ element }) => element));
    });
    const small = SMALL.map((wanted) => {
      const value = h("dd", {});
      const spark = new Spark(wanted.key);
      const element = h("div", { class: "stat" }, h("dt", {}, wanted.name, wanted.window && h("small", {}, "5 min")), value, h("dd", { class: "trend" }, spark.element));
      this.#small.push({ ...wanted, word: wanted.value, value, spark, element });
      return element;
    });
    this.element = h(
      "div",
      { class: "page" },
      h(
        "div",
        { class: "title" },
        h("h1", {}, "This edge"),
        h("p", { class: "about" }, h("code", { title: "The edge's id" }, session.edgeId ?? ""), h("span", {}, session.version ?? ""), this.#uptime, session.draining && h("strong", { class: "warn" }, "draining")),
      ),
      h("div", { class: "board" }, ...charts),
      h("dl", { class: "stats" }, ...small),
      h(
        "div",
        { class: "board" },
        h(
          "div",
          { class: "stack" },
          this.#busiest(),
          card("Connections closed", { about: "5 min" }, this.#closes.element),
          card("Errors and refusals", { about: "5 min" }, this.#wrong.element),
        ),
        card("Lately", { actions: [h("a", { href: "#/events" }, "All events")] }, this.#events.element),
      ),
    );
  }

  close() {
    for (const { drawn } of this.#cards) for (const chart of drawn) chart.close();
  }

  #busiest() {
    this.#tops = new Table({
      label: "Busiest channels", key: ({ channel }) => channel, empty: "Nobody subscribes to a channel here.",
      columns: [
        { name: "Channel", text: ({ channel }) => channel, link: ({ channel }) => channelLink(channel), bar: (row) => this.#share(row) },
        { name: "Subscribers", number: true, text: ({ subscribers }) => exact(subscribers) },
        { name: "Messages/s", number: true, wide: true, text: ({ messages }) => count(messages) },
        { name: "Deliveries/s", number: true, text: ({ deliveries }) => count(deliveries) },
      ],
    });
    const choices = h("div", { class: "choices", role: "group", "aria-label": "Order" });
    for (const [by, name] of [["byDeliveries", "By deliveries"], ["bySubscribers", "By subscribers"]]) {
      const button = h("button", { type: "button", "aria-pressed": String(by === this.#by) }, name);
      button.addEventListener("click", () => {
        this.#by = by;
        for (const other of choices.children) other.setAttribute("aria-pressed", String(other === button));
        this.update("channels");
      });
      choices.append(button);
    }
    return card("Busiest channels", { actions: [choices], id: "busiest" }, this.#tops.element);
  }

  #share(row) {
    const key = this.#by === "byDeliveries" ? "deliveries" : "subscribers";
    return row[key] / Math.max(1, this.#context.feed.channels[this.#by][0]?.[key] ?? 1);
  }

  update(topic) {
    const { feed, session } = this.#context;
    if (!topic || topic === "channels") this.#tops.draw(feed.channels[this.#by].slice(0, 8));
    if (!topic || topic === "events") this.#events.show(fold(feed.events.slice(0, 100)).slice(0, 9), (events) => [eventList(events, session, "Nothing has gone wrong since this edge started.", "Latest events")]);
    if (topic && topic !== "sample" && topic !== "overview") return;
    const { samples, latest, window } = feed;
    if (!latest) return;
    for (const { drawn, value, about, word, tell } of this.#cards) {
      set(value, word(latest));
      set(about, tell(latest, samples, session) || "");
      for (const chart of drawn) chart.draw(samples);
    }
    for (const { key, value, word, spark, element, window: summed, bad } of this.#small) {
      const total = summed ? sum(samples, key) : latest[key];
      set(value, summed ? exact(Math.round(total)) : word(total));
      element.classList.toggle("bad", Boolean(bad) && total > 0);
      spark.draw(samples);
    }
    if (session.startedAt) set(this.#uptime, `up ${lasting(latest.at - session.startedAt)}`);
    this.#closes.draw(window.closes.slice(0, 8).map(({ code, by, count: many }) => ({ name: by.replaceAll("_", " "), about: code ? `${code} ${CLOSES[code] ?? ""}`.trim() : "", count: many })));
    const wrong = [
      ...window.errors.map(({ command, code, count: many }) => ({ name: code, about: command, count: many })),
      ...window.refusals.map(({ reason, count: many }) => ({ name: reason.replaceAll("_", " "), about: "refused", count: many })),
      ...window.limits.map(({ limit, count: many }) => ({ name: limit.replaceAll("_", " "), about: "limit", count: many })),
    ];
    this.#wrong.draw(wrong.sort((a, b) => b.count - a.count).slice(0, 8));
  }
}
