// Views of one thing each: channels and a channel, users and a user, namespaces.

import { get } from "./api.js";
import { avatar, describe, h, json } from "./dom.js";
import { eventList, fold, traceLink } from "./events.js";
import { Part, Table, card, channelLink, facts, refused, userLink } from "./list.js";
import { bytes, count, exact, lasting, moment, plural } from "./words.js";

const AGAIN_MS = 3000;

// Asking is a view of what is asked for again and again while it is seen.
class Asking {
  element = h("div", { class: "page" });
  body = new Part();
  #left = new AbortController();
  #timer;

  constructor(context, path) {
    this.context = context;
    this.path = path;
    this.problem = h("div", { role: "status" });
  }

  start() {
    this.#ask(true);
  }

  close() {
    clearTimeout(this.#timer);
    this.#left.abort("left");
  }

  update() {}

  async #ask(first = false) {
    if (first || (!this.context.paused() && !document.hidden)) {
      try {
        this.show(await get(this.path, this.#left.signal));
        this.problem.replaceChildren();
      } catch (err) {
        if (this.#left.signal.aborted) return;
        if (err.wantsToken) return this.context.signIn(err);
        if (this.problem.textContent.trim() !== `${err.message} ${err.reason}`.trim()) this.problem.replaceChildren(refused(err));
      }
    }
    if (!this.#left.signal.aborted) this.#timer = setTimeout(() => this.#ask(), AGAIN_MS);
  }
}

export class ChannelsView extends Asking {
  title = "Channels";
  #total = h("p", { class: "about" });
  #tables = ["byDeliveries", "bySubscribers"].map((by) => [by, channelTable(by)]);

  constructor(context) {
    super(context, "channels?limit=50");
    this.element.append(
      h("div", { class: "title" }, h("h1", {}, "Channels"), this.#total),
      this.problem,
      h("div", { class: "board" }, ...this.#tables.map(([by, table]) => card(by === "byDeliveries" ? "By deliveries" : "By subscribers", {}, table.element))),
    );
  }

  show(channels) {
    this.#total.textContent = `${plural(channels.total, "channel has", "channels have")} subscribers on this edge`;
    for (const [by, table] of this.#tables) table.draw(channels[by]);
  }
}

function channelTable(by) {
  return new Table({
    label: by === "byDeliveries" ? "Channels by deliveries" : "Channels by subscribers", key: ({ channel }) => channel,
    empty: by === "byDeliveries" ? "Nothing was delivered in the last seconds." : "Nobody subscribes to a channel here.",
    columns: [
      { name: "Channel", text: ({ channel }) => channel, link: ({ channel }) => channelLink(channel) },
      { name: "Subscribers", number: true, text: ({ subscribers }) => exact(subscribers) },
      { name: "Messages/s", number: true, wide: true, text: ({ messages }) => count(messages) },
      { name: "Deliveries/s", number: true, text: ({ deliveries }) => count(deliveries) },
      { name: "Bytes/s", number: true, wide: true, text: (row) => bytes(row.bytes) },
    ],
  });
}

export class ChannelView extends Asking {
  constructor(context, name) {
    super(context, `channels/${encodeURIComponent(name)}`);
    this.title = name;
    const { session } = context;
    const may = session.mode === "dev" || session.rights?.publish?.length > 0;
    this.element.append(
      h("div", { class: "title" }, h("h1", { class: "name" }, name), may && h("a", { class: "button", href: `#/send/${encodeURIComponent(name)}` }, "Send a message")),
      this.problem,
      this.body.element,
    );
    this.facts = new Part({ class: "strip" });
    for (const part of ["messages", "members", "users", "events"]) this[part] = new Part({ class: part === "members" || part === "users" ? "list" : null });
    this.body.show("once", () => [
      this.facts.element,
      h(
        "div",
        { class: "board" },
        h(
          "div",
          { class: "stack" },
          card("Latest messages", { about: "the latest first" }, this.messages.element),
          card("What went wrong", { about: "on this edge, the latest first" }, this.events.element),
        ),
        h("div", { class: "stack" }, card("Members", { about: "on all edges" }, this.members.element), card("Subscribers", { about: "on this edge" }, this.users.element)),
      ),
    ]);
  }

  show(channel) {
    const { session } = this.context;
    const { position, rates } = channel;
    this.facts.show({ ...channel, users: 0, members: 0, messages: channel.messages?.messages?.[0]?.offset, events: 0 }, () => [
      facts([
        ["Namespace", h("a", { href: `#/namespaces/${encodeURIComponent(channel.namespace)}` }, channel.namespace)],
        [session.deciders === "process" ? "Rule" : "Rule in this edge’s file", channel.rule ? h("code", {}, channel.rule) : "none: nobody may do anything"],
        ["Subscribers here", exact(channel.subscribers)],
        ["Messages/s", count(rates.messages)],
        ["Deliveries/s", count(rates.deliveries)],
        ["Bytes/s", bytes(rates.bytes)],
        ["Stored in its partition", position === null ? "ephemeral: nothing is kept" : position.error ? refused(position.error) : position.last ? `${exact(position.first)} to ${exact(position.last)}` : "nothing"],
        ["Delivered here up to", position?.here == null ? null : delivered(position.here, channel.messages?.messages?.[0]?.offset ?? 0)],
        ["Epoch", position?.epoch && h("code", {}, position.epoch)],
      ]),
    ]);
    this.messages.show(channel.messages, (messages) => drawMessages(messages, session));
    this.members.show(channel.members, drawMembers);
    this.users.show(channel.users, (users) => [people(users, "Nobody subscribes on this edge."), users.length === 100 && h("p", { class: "about" }, "The first 100.")]);
    this.events.show(channel.events, (events) => [eventList(fold(events), session, "Nothing has gone wrong in this channel lately.")]);
  }
}

// Offsets are a partition's: what has been stored since may be another channel's.
function delivered(here, latest) {
  return latest > here ? `${exact(here)}; the latest is ${exact(latest)}` : exact(here);
}

function drawMessages(messages, session) {
  if (messages === null) return [h("p", { class: "nothing" }, "The namespace is ephemeral: nothing is kept.")];
  if (messages.error) return [refused(messages.error)];
  if (messages.messages.length === 0) return [h("p", { class: "nothing" }, "Nothing is stored.")];
  return [
    h(
      "ol",
      { class: "messages", "data-rows": true },
      ...messages.messages.map((message) => {
        const { offset, time, publisher = "", size, id, contentType, traceId } = message;
        const headers = Object.keys(message.headers ?? {}).length > 0 ? JSON.stringify(message.headers) : null;
        return h(
          "li",
          {},
          h(
            "details",
            { "data-key": `message-${offset}` },
            h("summary", {}, h("span", { class: "offset" }, `#${exact(offset)}`), h("span", { class: "preview" }, preview(message)), h("span", { class: "faint who" }, describe(publisher.replace(/^user:/, "")).name), h("time", { class: "faint" }, moment(time))),
            facts([["Publisher", publisher], ["Message id", id && h("code", {}, id)], ["Type", contentType], ["Size", bytes(size)], ["Headers", headers && h("code", {}, headers)], ["Trace", traceLink(traceId, session)]]),
            message.data !== undefined ? json(message.data) : h("pre", { class: "json" }, message.text ?? message.preview ?? message.base64 ?? ""),
            message.truncated && h("p", { class: "about" }, "Cut after 4 KiB."),
          ),
        );
      }),
    ),
    messages.more && h("p", { class: "about" }, "Older ones are stored too."),
  ];
}

const preview = ({ data, text, preview: cut, base64 }) => (data !== undefined ? JSON.stringify(data) : (text ?? cut ?? base64 ?? "")).slice(0, 160);

function drawMembers(members) {
  if (members === null) return [h("p", { class: "nothing" }, "The namespace keeps no presence.")];
  if (members.error) return [refused(members.error)];
  return [people(members.members, "Nobody is here."), members.total > members.members.length && h("p", { class: "about" }, `${exact(members.members.length)} of ${exact(members.total)}.`)];
}

function people(users, nobody) {
  if (users.length === 0) return h("p", { class: "nothing" }, nobody);
  return h(
    "ul",
    { class: "people", "data-rows": true },
    ...users.map(({ user, connections, since }) =>
      h("li", { "data-key": `user-${user}` }, avatar(user), h("a", { href: userLink(user) }, user), h("span", { class: "faint" }, connections === 0 ? "away" : plural(connections, "connection"), since ? `, since ${moment(since)}` : "")),
    ),
  );
}

// UsersView looks for a user whose name begins as typed.
export class UsersView {
  title = "Users";
  #found = new Part({ "aria-live": "polite" });
  #asked = null;

  constructor(context) {
    this.context = context;
    this.input = h("input", { type: "search", id: "user-name", autocomplete: "off", autocapitalize: "none", spellcheck: "false", placeholder: "alice" });
    const form = h("form", { class: "lookup" }, h("label", { for: "user-name" }, "User id"), h("div", { class: "row" }, this.input, h("button", { type: "submit", class: "primary" }, "Look up")));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.input.value.trim()) location.hash = userLink(this.input.value.trim());
    });
    this.input.addEventListener("input", () => this.#look());
    this.element = h("div", { class: "page narrow" }, h("h1", {}, "Users"), h("p", { class: "about" }, "Who is connected to this edge is found by how the name begins. Anybody else by the full id: presence is that of all edges."), form, this.#found.element);
  }

  close() {
    this.#asked?.abort("left");
  }

  update() {}

  async #look() {
    this.#asked?.abort("left");
    const asked = (this.#asked = new AbortController());
    const text = this.input.value.trim();
    if (!text) return this.#found.show("", () => []);
    try {
      const { users } = await get(`search?limit=50&q=${encodeURIComponent(text)}`, asked.signal);
      if (!asked.signal.aborted) this.#found.show([text, users], () => [people(users, `Nobody whose name begins with “${text}” is connected here.`)]);
    } catch (err) {
      if (!asked.signal.aborted) this.#found.show([text, err.message], () => [refused(err)]);
    }
  }
}

export class UserView extends Asking {
  constructor(context, name) {
    super(context, `users/${encodeURIComponent(name)}`);
    this.title = name;
    for (const part of ["state", "connections", "presence", "events"]) this[part] = new Part();
    this.element.append(
      h("div", { class: "title" }, avatar(name), h("h1", { class: "name" }, name), this.state.element, h("a", { class: "button", href: channelLink(`user.${name}`) }, "Inbox")),
      this.problem,
      h(
        "div",
        { class: "board" },
        card("Connections", { about: "on this edge, the latest first" }, this.connections.element),
        card("Presence", { about: "on all edges" }, this.presence.element),
        card("What went wrong", { wide: true, about: "on this edge, the latest first" }, this.events.element),
      ),
    );
  }

  show({ connections, total, presence, events }) {
    const { session } = this.context;
    const online = presence?.online ?? total > 0;
    this.state.show(online, () => [h("span", { class: online ? "pill good" : "pill" }, online ? "online" : "offline")]);
    this.connections.show([connections, total], () => [
      connections.length === 0 ? h("p", { class: "nothing" }, "None on this edge.") : h("ul", { class: "connections" }, ...connections.map(drawConnection)),
      total > connections.length && h("p", { class: "about" }, `${exact(connections.length)} of ${exact(total)}.`),
    ]);
    this.presence.show(presence, drawPresence);
    this.events.show(events, () => [eventList(fold(events), session, "Nothing has gone wrong for this user lately.")]);
  }
}

function drawConnection({ connectionId, address, clientName, clientVersion, connectedAt, expiresAt, queueBytes, subscriptions, subscriptionCount }) {
  return h(
    "li",
    { "data-key": `connection-${connectionId}` },
    h("h3", {}, [clientName, clientVersion].filter(Boolean).join(" ") || "unnamed client", h("span", { class: "faint" }, address)),
    facts([
      ["Since", moment(connectedAt)],
      ["Token until", expiresAt && moment(expiresAt)],
      ["Waiting to be written", queueBytes > 0 && bytes(queueBytes)],
      ["Connection", h("code", {}, connectionId)],
    ]),
    subscriptions.length > 0 &&
      h("ul", { class: "tags", "aria-label": "Subscriptions" }, ...subscriptions.map((name) => h("li", {}, h("a", { href: channelLink(name) }, name))), subscriptionCount > subscriptions.length && h("li", {}, `and ${exact(subscriptionCount - subscriptions.length)} more`)),
    subscriptions.length === 0 && h("p", { class: "nothing" }, "No subscription."),
  );
}

function drawPresence(presence) {
  if (!presence) return [h("p", { class: "nothing" }, "Not known.")];
  if (presence.error) return [refused(presence.error)];
  const { connections, total, lastSeen } = presence;
  if (connections.length === 0) return [h("p", { class: "nothing" }, lastSeen ? `Nowhere. Last seen ${moment(lastSeen)}, ${lasting(Date.now() - lastSeen)} ago.` : "Nowhere.")];
  return [
    h(
      "ul",
      { class: "places" },
      ...connections.map(({ connectionId, edgeId, since, here }) =>
        h("li", {}, h("span", {}, here ? "this edge" : "edge ", !here && h("code", {}, edgeId)), h("span", { class: "faint" }, `since ${moment(since)}, `, h("code", {}, connectionId.slice(0, 8)))),
      ),
    ),
    total > connections.length && h("p", { class: "about" }, `${exact(connections.length)} of ${exact(total)}.`),
  ];
}

export class NamespacesView extends Asking {
  title = "Namespaces";
  #wanted;

  constructor(context, wanted) {
    super(context, "namespaces");
    this.#wanted = wanted;
    this.deciders = new Part({ class: "deciders" });
    this.element.append(h("h1", {}, "Namespaces"), this.problem, this.deciders.element, this.body.element);
    this.load = new Map();
  }

  show({ namespaces, deciders }) {
    this.deciders.show(deciders, drawDeciders);
    const policies = namespaces.map(({ channels, subscribers, messages, deliveries, ...policy }) => policy);
    this.body.show(policies, () => [h("div", { class: "namespaces" }, ...policies.map((policy) => this.#draw(policy)))]);
    for (const { name, channels, subscribers, messages, deliveries } of namespaces) {
      this.load.get(name)?.show([channels, subscribers, messages, deliveries], () => [
        facts([["Channels here", exact(channels)], ["Subscribers here", exact(subscribers)], ["Messages/s", count(messages)], ["Deliveries/s", count(deliveries)]]),
      ]);
    }
    if (this.#wanted) document.getElementById(`namespace-${this.#wanted}`)?.scrollIntoView();
    this.#wanted = "";
  }

  #draw({ name, ephemeral, history, partitions, replicas, presence, slowConsumer, rate, totalRate, rules }) {
    const load = new Part({ class: "load" });
    this.load.set(name, load);
    return card(
      name,
      { id: `namespace-${name}`, about: ephemeral ? "ephemeral" : "kept" },
      load.element,
      facts([
        ["Resumes at most", history && plural(history.maxMessages, "message")],
        ["Kept for", history && (history.maxAgeMs ? lasting(history.maxAgeMs) : "ever")],
        ["Kept at most", history && (history.maxBytes > 0 ? bytes(history.maxBytes) : "without bound")],
        ["Partitions", !ephemeral && exact(partitions)],
        ["Replicas", !ephemeral && exact(replicas)],
        ["Presence", presence ? "yes" : "no"],
        ["Slow consumers", slowConsumer],
        ["A connection may publish", rate && perTime(rate)],
        ["All may publish", totalRate && perTime(totalRate)],
      ]),
      h(
        "ol",
        { class: "rules", "aria-label": `Rules of ${name}` },
        ...rules.map(({ name: rule, channel, ...actions }) =>
          h(
            "li",
            {},
            h("p", {}, h("code", { class: "pattern" }, channel), h("span", { class: "faint" }, rule)),
            facts(["subscribe", "publish", "presence", "history"].map((action) => [action, actions[action] ? h("code", {}, actions[action]) : action === "subscribe" || action === "publish" ? h("span", { class: "never" }, "nobody") : h("span", { class: "faint" }, "as subscribe")])),
          ),
        ),
      ),
      rules.length === 0 && h("p", { class: "nothing" }, "No rule: nobody may do anything."),
    );
  }
}

const DECIDERS = {
  process: "Who may do what is decided here, by the rules shown.",
  presence: "Who may do what is decided by presence, by the rules of its own file. Those shown are of this edge’s file.",
  service: "Who may do what is decided by a service of your own. The rules shown are of this edge’s file, and are not asked.",
};
const RULES = { same: ["pill good", "the same rules"], other: ["pill bad", "other rules"] };

// Whose the rules are: an edge alone shows those of its own file, by which others may not decide.
function drawDeciders({ by, replicas }) {
  const compared = by === "presence";
  return [
    h("p", { class: "about" }, DECIDERS[by] ?? ""),
    replicas.length > 0 &&
      h("ul", { "aria-label": "Who decides" }, ...replicas.map(({ address, rules }) => {
        const [shape, text] = RULES[rules] ?? ["pill", "does not tell now"];
        return h("li", {}, h("code", {}, address), compared && h("span", { class: shape }, text));
      })),
  ];
}

function perTime({ messages, perMs, bytes: size }) {
  const unit = perMs === 1000 ? "s" : lasting(perMs);
  return `${exact(messages)}/${unit}${size > 0 ? `, ${bytes(size)}/${unit}` : ""}`;
}
