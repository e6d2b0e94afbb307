// "Try it": signs in as a user, keeps channels, and joins the connection with the page.

import { CommandError, Connection } from "./connection.js";
import { $, h, icon } from "./dom.js";
import { FrameLog, PublishPanel, showMembers } from "./panels.js";
import { MAX_ITEMS, Timeline } from "./timeline.js";

const DEFAULT_CHANNEL = "chat.lobby";
const PRESENCE_EVERY_MS = 4000;
const TOKEN_SPARE_MS = 30_000;

// Reads what this tab keeps; sessionStorage, so that two tabs can be two users.
const kept = {
  get: (name) => JSON.parse(sessionStorage.getItem(`carillon.${name}`) ?? "null"),
  set: (name, value) => sessionStorage.setItem(`carillon.${name}`, JSON.stringify(value)),
  clear: () => ["user", "channels", "active"].forEach((name) => sessionStorage.removeItem(`carillon.${name}`)),
};

// A channel as the page knows it. members is undefined until told, and then kept by what
// is pushed; membersNote says why they are not known, and then nobody asks again until
// the next connection.
const newChannel = (name) => ({ name, items: [], unread: 0, epoch: undefined, offset: undefined, joined: false });

const isInbox = (name) => name.startsWith("user.");

class Playground {
  #user;
  #self = ""; // the user id that the server tells
  #token = null;
  #connection;
  #channels = new Map();
  #active = "";
  #timeline = new Timeline($("timeline"), $("jump"));
  #publish = new PublishPanel((body) => this.#connection.command("publish", body));
  #frames = new FrameLog();
  #state = { name: "connecting" };

  constructor() {
    $("sign-in-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#signIn($("user").value);
    });
    for (const suggestion of document.querySelectorAll("[data-user-suggestion]")) {
      suggestion.addEventListener("click", () => this.#signIn(suggestion.dataset.userSuggestion));
    }
    $("sign-out").addEventListener("click", () => this.#signOut());
    $("reconnect").addEventListener("click", () => this.#connection.start());
    $("join-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#join($("join-channel").value.trim());
    });
    $("join-channel").addEventListener("input", () => ($("join-error").textContent = ""));
    $("leave").addEventListener("click", () => this.#leave(this.#active));
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#say();
    });
    $("compose").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      $("composer").requestSubmit();
    });
    document.addEventListener("keydown", (event) => {
      if (event.altKey && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
        event.preventDefault();
        this.#step(event.key === "ArrowDown" ? 1 : -1);
      }
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.#seen();
    });
    window.addEventListener("online", () => this.#connection?.hurry());
    setInterval(() => this.#showState(), 500);
    setInterval(() => {
      if (!document.hidden) this.#askMembers(this.#active);
    }, PRESENCE_EVERY_MS);
    this.#begin();
  }

  #begin() {
    const asked = new URLSearchParams(location.search).get("user");
    const user = kept.get("user");
    $("user").value = asked ?? "";
    if (user && (asked === null || asked === user)) this.#signIn(user);
    else $("user").focus();
  }

  // ---- signing in

  async #signIn(user) {
    this.#user = user.trim();
    $("sign-in-error").textContent = "";
    try {
      await this.#getToken({ fresh: true });
    } catch (err) {
      $("sign-in-error").textContent = err.message;
      $("user").value = user;
      $("user").focus();
      return;
    }
    kept.set("user", this.#user);
    $("welcome").hidden = true;
    $("app").hidden = false;
    $("who").textContent = this.#user;
    fetch("dev/info").then(async (answer) => answer.ok && this.#publish.inform(await answer.json()), () => {});
    this.#connect();
  }

  #signOut() {
    this.#connection.stop();
    kept.clear();
    history.replaceState(null, "", `${location.pathname}#/try`); // without ?user=
    location.reload();
  }

  async #getToken({ fresh }) {
    if (!fresh && this.#token && (!this.#token.expiresAt || this.#token.expiresAt > Date.now() + TOKEN_SPARE_MS)) {
      return this.#token.token;
    }
    let answer, body;
    try {
      answer = await fetch("dev/token", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ user: this.#user }),
      });
      body = await answer.json();
    } catch {
      throw new CommandError({ code: "UNAVAILABLE", reason: "", message: "The server cannot be reached" });
    }
    if (!answer.ok) throw new CommandError(body.error);
    this.#token = body;
    return body.token;
  }

  // ---- the connection

  #connect() {
    for (const name of kept.get("channels") ?? [DEFAULT_CHANNEL]) this.#channel(name);
    this.#show(kept.get("active") ?? DEFAULT_CHANNEL);
    const url = new URL("v1/ws", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    url.search = "";
    this.#connection = new Connection({
      url,
      getToken: (how) => this.#getToken(how),
      getSubscriptions: () => [...this.#channels.values()].filter((c) => !isInbox(c.name) || c.epoch).map((c) => subscription(c)),
    });
    this.#connection.addEventListener("state", ({ detail }) => this.#stateChanged(detail));
    this.#connection.addEventListener("connected", ({ detail }) => this.#connected(detail));
    this.#connection.addEventListener("push", ({ detail }) => this.#pushed(detail));
    this.#connection.addEventListener("frame", ({ detail }) => this.#frames.add(detail));
    this.#connection.start();
  }

  #stateChanged(state) {
    this.#state = state;
    if (state.name !== "online") for (const channel of this.#channels.values()) channel.joined = false;
    this.#showState();
    this.#showChannels();
    this.#showChannel();
  }

  #showState() {
    const { name, why, retryAt } = this.#state;
    const text = { connecting: "Connecting…", online: "Connected", waiting: `${why}. Reconnecting`, stopped: why }[name];
    $("state").dataset.state = name;
    if ($("state-text").textContent !== text) $("state-text").textContent = text;
    const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
    $("countdown").textContent = name === "waiting" ? `in ${seconds} s` : "";
    $("reconnect").hidden = name !== "stopped";
  }

  #connected({ userId, subscriptions }) {
    this.#self = userId;
    $("who").textContent = userId;
    for (const result of subscriptions) {
      const channel = this.#channel(result.channel);
      channel.membersNote = undefined;
      if (canDoWithout(result.error)) this.#join(result.channel, [result.error.field]);
      else if (result.error) this.#refused(channel, result.error);
      else this.#subscribed(channel, result);
    }
  }

  #pushed({ message, subscribed, unsubscribed, gap, presenceChanged }) {
    if (presenceChanged) this.#membersChanged(presenceChanged);
    if (message) this.#received(message);
    if (subscribed) this.#subscribed(this.#channel(subscribed.channel), subscribed);
    if (unsubscribed) {
      const channel = this.#channel(unsubscribed.channel);
      channel.joined = false;
      this.#note(channel, `The server ended this subscription (${unsubscribed.reason || unsubscribed.code}).`, true);
      this.#showChannel();
    }
    if (gap) {
      const channel = this.#channel(gap.channel);
      channel.offset = gap.to;
      this.#note(channel, `Messages ${gap.from} to ${gap.to} may be missing (${gap.reason}).`, true);
    }
  }

  // ---- channels

  // The inbox first, then as they were joined.
  #inOrder() {
    return [...this.#channels.values()].sort((a, b) => Number(isInbox(b.name)) - Number(isInbox(a.name)));
  }

  #channel(name) {
    let channel = this.#channels.get(name);
    if (!channel) {
      channel = newChannel(name);
      this.#channels.set(name, channel);
      this.#showChannels();
    }
    return channel;
  }

  async #join(name, without = []) {
    $("join-error").textContent = "";
    const known = this.#channels.get(name);
    if (!known?.joined) {
      try {
        const subscribed = await this.#connection.command("subscribe", subscription(known ?? { name }, without));
        this.#subscribed(this.#channel(name), subscribed);
      } catch (err) {
        if (canDoWithout(err, without)) return this.#join(name, [...without, err.field]);
        $("join-error").textContent = err.message;
        return;
      }
    }
    $("join-channel").value = "";
    this.#show(name);
  }

  async #leave(name) {
    const channel = this.#channels.get(name);
    if (channel.joined) {
      try {
        await this.#connection.command("unsubscribe", { channel: name });
      } catch (err) {
        this.#note(channel, `Could not leave: ${err.message}`, true);
        return;
      }
    }
    this.#channels.delete(name);
    this.#keep();
    this.#show(this.#channels.keys().next().value ?? "");
  }

  #subscribed(channel, { epoch, offset, recovered }) {
    const resumed = channel.epoch !== undefined;
    channel.joined = true;
    if (!resumed || !recovered) {
      if (resumed) this.#note(channel, "Connected again. Messages sent in between may be missing here.", true);
      else this.#note(channel, offset == null ? "Joined. This channel keeps no history." : "Joined. The latest messages, if there are any, follow.");
      channel.offset = offset;
    }
    channel.epoch = epoch;
    this.#keep();
    this.#showChannels();
    if (channel.name === this.#active) {
      this.#showChannel();
      this.#askMembers(channel.name);
    }
  }

  #refused(channel, { reason, message }) {
    channel.joined = false;
    this.#note(channel, `Could not join: ${message} (${reason})`, true);
    this.#showChannels();
  }

  #received(message) {
    const channel = this.#channel(message.channel);
    if (message.offset != null) channel.offset = message.offset;
    if (channel.name !== this.#active || document.hidden) channel.unread += 1;
    this.#add(channel, { message });
    this.#showChannels();
    if (channel.name === this.#active) $("room-about").textContent = about(channel);
  }

  #note(channel, note, warning = false) {
    this.#add(channel, { note, warning, time: Date.now() });
  }

  #add(channel, item) {
    channel.items.push(item);
    if (channel.items.length > MAX_ITEMS) channel.items.shift();
    if (channel.name === this.#active) this.#timeline.add(item, this.#self);
  }

  #keep() {
    kept.set("channels", [...this.#channels.keys()].filter((name) => !isInbox(name)));
    kept.set("active", this.#active);
  }

  // ---- what a person does

  async #say() {
    const text = $("compose").value.trim();
    if (!text) return;
    $("compose-error").textContent = "";
    const body = { channel: this.#active, data: { text }, messageId: crypto.randomUUID() };
    try {
      $("compose").value = "";
      await this.#connection.command("publish", body);
    } catch (err) {
      $("compose-error").textContent = `Not sent: ${err.message}`;
      if (!$("compose").value) $("compose").value = text;
    }
  }

  #step(by) {
    const names = this.#inOrder().map(({ name }) => name);
    if (names.length > 0) this.#show(names[(names.indexOf(this.#active) + by + names.length) % names.length]);
  }

  async #askMembers(name) {
    const channel = this.#channels.get(name);
    if (!channel?.joined || channel.membersNote) return;
    try {
      const { members, total } = await this.#connection.command("presence", { channel: name });
      Object.assign(channel, { members, total });
    } catch (err) {
      if (err.code === "UNAVAILABLE" || err.code === "RESOURCE_EXHAUSTED") return; // asked again soon
      channel.membersNote = err.reason === "PRESENCE_DISABLED" ? "This namespace keeps no presence." : err.message;
    }
    if (name === this.#active) showMembers(channel, this.#self);
  }

  // Of a large channel, or of many changes at once, only the total is told: the list is
  // as it was when last asked for.
  #membersChanged({ channel: name, joined, left, total, truncated }) {
    const channel = this.#channels.get(name);
    if (!channel?.members) return; // the list that comes has it
    if (!truncated && channel.members.length === channel.total) {
      const members = new Map(channel.members.map((member) => [member.userId, member]));
      for (const { userId } of left ?? []) members.delete(userId);
      for (const member of joined ?? []) members.set(member.userId, member);
      channel.members = [...members.values()].sort((a, b) => (a.userId < b.userId ? -1 : 1));
    }
    channel.total = total;
    if (name === this.#active) showMembers(channel, this.#self);
  }

  // ---- drawing

  #show(name) {
    this.#active = name;
    this.#keep();
    const channel = this.#channels.get(name);
    this.#timeline.show(channel?.items ?? [], emptyText(name), this.#self);
    this.#publish.follow(name);
    $("compose-error").textContent = "";
    this.#seen();
    this.#showChannel();
    this.#askMembers(name);
  }

  #seen() {
    const channel = this.#channels.get(this.#active);
    if (channel) channel.unread = 0;
    this.#showChannels();
  }

  #showChannel() {
    const channel = this.#channels.get(this.#active);
    $("room").replaceChildren(...(channel ? title(this.#active) : ["No channel"]));
    $("room-about").textContent = channel ? about(channel) : "Join one first.";
    $("room-about").title = channel?.epoch ? `epoch ${channel.epoch}` : "";
    $("leave").hidden = !channel || isInbox(channel.name);
    $("compose").disabled = $("send").disabled = !channel || this.#state.name !== "online";
    $("compose").placeholder = channel ? `Message ${this.#active}` : "";
    showMembers(channel, this.#self);
  }

  #showChannels() {
    const focused = document.activeElement?.dataset?.channel;
    $("channels").replaceChildren(
      ...this.#inOrder().map(({ name, unread, joined }) =>
        h(
          "li",
          {},
          h(
            "button",
            {
              type: "button",
              class: joined ? "channel" : "channel away",
              "data-channel": name,
              "aria-current": name === this.#active ? "true" : false,
              onclick: () => this.#show(name),
            },
            icon(isInbox(name) ? "inbox" : "bell"),
            h("span", { class: "label" }, ...title(name)),
            unread > 0 && h("span", { class: "unread", "aria-label": `${unread} unread` }, unread > 99 ? "99+" : String(unread)),
          ),
        ),
      ),
    );
    if (focused) $("channels").querySelector(`[data-channel="${CSS.escape(focused)}"]`)?.focus();
    this.#publish.suggest([...this.#channels.keys()]);
  }
}

// How many of a channel's latest messages are shown when it is joined.
const RECENT = 30;

function subscription({ name, epoch, offset }, without = []) {
  const wanted = { channel: name };
  if (epoch) wanted.since = { epoch, offset };
  else if (!without.includes("rewind")) wanted.rewind = { count: RECENT };
  if (!isInbox(name) && !without.includes("presence")) wanted.presence = true;
  return wanted;
}

// An ephemeral channel keeps nothing, and not every namespace has presence.
const canDoWithout = (error, without = []) => ["rewind", "presence"].includes(error?.field) && !without.includes(error.field);

function title(name) {
  if (isInbox(name)) return ["Inbox"];
  const dot = name.indexOf(".");
  return [h("span", { class: "namespace" }, name.slice(0, dot + 1)), name.slice(dot + 1)];
}

function about({ name, joined, epoch, offset }) {
  if (!joined) return "Not joined";
  const where = epoch ? `Position ${offset}` : "Ephemeral: nothing is kept";
  return isInbox(name) ? `${name} · ${where}` : where;
}

function emptyText(name) {
  const text = isInbox(name)
    ? "What services and people send to you alone arrives here."
    : "Nothing has rung here yet. Say something below, or publish from a backend.";
  return h("div", { class: "empty" }, icon("bell"), h("p", {}, text));
}

// On a narrow page the sidebars are drawers.
function drawers() {
  const set = (open) => {
    document.body.dataset.drawer = open;
    $("open-channels").setAttribute("aria-expanded", String(open === "channels"));
    $("open-details").setAttribute("aria-expanded", String(open === "details"));
  };
  $("open-channels").addEventListener("click", () => set(document.body.dataset.drawer === "channels" ? "" : "channels"));
  $("open-details").addEventListener("click", () => set(document.body.dataset.drawer === "details" ? "" : "details"));
  $("scrim").addEventListener("click", () => set(""));
  $("channels").addEventListener("click", () => set(""));
  document.addEventListener("keydown", (event) => event.key === "Escape" && set(""));
}

// startPlayground is called once, when its tab is first seen.
export function startPlayground() {
  drawers();
  new Playground();
}
