// One client connection to an edge, as docs/protocol.md describes it: connects,
// authenticates, answers for every command, notices silence, and comes back.
// It knows nothing of the page.

const SUBPROTOCOL = "carillon.v1.json";
const CONNECT_TIMEOUT_MS = 10_000;
const COMMAND_TIMEOUT_MS = 15_000;
const PONG_TIMEOUT_MS = 10_000;
const REFUSAL_TIMEOUT_MS = 2_000;
const BACKOFF_FIRST_MS = 500;
const BACKOFF_MAX_MS = 20_000;

// What a close code asks of a client; a code that is not here: reconnect with backoff.
const ON_CLOSE = {
  1000: { then: "stop", why: "Closed by the server" },
  4400: { then: "stop", why: "The server could not read what this page sent" },
  4403: { then: "stop", why: "Disconnected: this user may not connect" },
  4401: { then: "token", why: "The server did not accept the token" },
  4419: { then: "token", why: "The token expired" },
  1008: { then: "retry", why: "Too many messages" },
  1009: { then: "retry", why: "A frame was too large" },
  1011: { then: "retry", why: "The server failed" },
  1012: { then: "retry", why: "The server is restarting" },
  1013: { then: "retry", why: "The server is overloaded" },
  4408: { then: "retry", why: "The connection timed out" },
  4429: { then: "wait", why: "Too many connections" },
  4450: { then: "retry", why: "This page read too slowly" },
};

// CommandError is a command that was refused, or has no answer: then code is
// UNAVAILABLE, and what became of it is unknown.
export class CommandError extends Error {
  constructor({ code, reason, message, field, retryAfterMs }) {
    super(message || reason || code);
    Object.assign(this, { code, reason, field, retryAfterMs });
  }
}

const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) : "");
const unanswered = (message) => new CommandError({ code: "UNAVAILABLE", reason: "", message });

// Connection emits (as CustomEvents, with detail):
//   state      {name: "connecting" | "online" | "waiting" | "stopped", why, retryAt}
//   connected  the body of the connected reply
//   push       a frame without id
//   frame      {sent, text} for a log; the token is blanked out
export class Connection extends EventTarget {
  #url;
  #getToken;
  #getSubscriptions;
  #socket = null;
  #pending = new Map();
  #lastId = 0;
  #attempt = 0;
  #freshToken = false;
  #reconnectAfterMs = 0;
  #heartbeatMs = 0;
  #heardAt = 0;
  #retryTimer = 0;
  #pulseTimer = 0;
  #reason = "";
  #wanted = false;

  // getToken({fresh}) returns a promise of a token, a new one if fresh is set;
  // getSubscriptions() returns what to subscribe to when (re)connecting.
  constructor({ url, getToken, getSubscriptions }) {
    super();
    this.#url = url;
    this.#getToken = getToken;
    this.#getSubscriptions = getSubscriptions;
  }

  start() {
    this.#wanted = true;
    clearTimeout(this.#retryTimer);
    if (!this.#socket) this.#open();
  }

  stop(why = "Signed out") {
    this.#wanted = false;
    clearTimeout(this.#retryTimer);
    this.#socket?.close(1000);
    this.#dropped(this.#socket);
    this.#state("stopped", { why });
  }

  // Tries at once where a try is due later.
  hurry() {
    if (this.#wanted && !this.#socket) this.start();
  }

  // Sends {id, [name]: body} and returns a promise of the reply's body; rejects with
  // a CommandError.
  command(name, body = {}) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return Promise.reject(unanswered("Not connected"));
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        reject(unanswered("No answer in time; it may have been done"));
      }, COMMAND_TIMEOUT_MS);
      this.#pending.set(id, { resolve, reject, timer });
      this.#send({ id, [name]: body });
    });
  }

  async #open() {
    this.#state("connecting");
    let token;
    try {
      token = await this.#getToken({ fresh: this.#freshToken });
    } catch (err) {
      if (!this.#wanted) return;
      if (err instanceof CommandError && err.code !== "UNAVAILABLE") this.#stopped(err.message);
      else this.#retry(err.message);
      return;
    }
    if (!this.#wanted || this.#socket) return;
    const socket = new WebSocket(this.#url, SUBPROTOCOL);
    this.#socket = socket;
    const deadline = setTimeout(() => socket.close(), CONNECT_TIMEOUT_MS);
    socket.addEventListener("open", () => this.#connect(token).then(() => clearTimeout(deadline)));
    socket.addEventListener("message", (event) => this.#receive(event.data));
    socket.addEventListener("close", (event) => {
      clearTimeout(deadline);
      if (this.#dropped(socket)) this.#closed(event);
    });
  }

  async #connect(token) {
    const client = { name: "console", version: "1" };
    try {
      const connected = await this.command("connect", { token, client, subscriptions: this.#getSubscriptions() });
      this.#attempt = 0;
      this.#freshToken = false;
      this.#reconnectAfterMs = 0;
      this.#heartbeatMs = connected.heartbeatMs || 30_000;
      this.#pulseTimer = setInterval(() => this.#pulse(), 1000);
      this.#state("online");
      this.#emit("connected", connected);
    } catch (err) {
      // The server closes now, with a code that says what to do; this is for one that does not.
      this.#reason = sentence(err.message);
      const socket = this.#socket;
      setTimeout(() => socket?.close(), REFUSAL_TIMEOUT_MS);
    }
  }

  #receive(text) {
    this.#heardAt = Date.now();
    this.#emit("frame", { sent: false, text });
    const frame = JSON.parse(text);
    if (frame.disconnect) {
      this.#reconnectAfterMs = frame.disconnect.reconnectAfterMs || 0;
      this.#reason = sentence(frame.disconnect.message);
    }
    const waiting = this.#pending.get(frame.id);
    if (!waiting) {
      this.#emit("push", frame);
      return;
    }
    this.#pending.delete(frame.id);
    clearTimeout(waiting.timer);
    if (frame.error) waiting.reject(new CommandError(frame.error));
    else waiting.resolve(Object.entries(frame).find(([name]) => name !== "id")?.[1] ?? {});
  }

  // Any traffic counts as life; after heartbeatMs of silence the server is asked.
  #pulse() {
    const silence = Date.now() - this.#heardAt;
    if (silence > this.#heartbeatMs + PONG_TIMEOUT_MS) {
      const socket = this.#socket;
      socket.close();
      if (this.#dropped(socket)) this.#retry("The server fell silent");
    } else if (silence > this.#heartbeatMs && this.#pending.size === 0) {
      this.command("ping").catch(() => {});
    }
  }

  // Forgets the socket and fails what waits for it; false if that was done already.
  #dropped(socket) {
    if (!socket || socket !== this.#socket) return false;
    this.#socket = null;
    clearInterval(this.#pulseTimer);
    for (const { reject, timer } of this.#pending.values()) {
      clearTimeout(timer);
      reject(unanswered("The connection was lost; it may have been done"));
    }
    this.#pending.clear();
    return true;
  }

  #closed({ code }) {
    if (!this.#wanted) return;
    const { then, why: usual } = ON_CLOSE[code] ?? { then: "retry", why: "Connection lost" };
    const why = this.#reason || usual;
    this.#reason = "";
    if (then === "stop" || (then === "token" && this.#freshToken)) {
      this.#stopped(why);
      return;
    }
    this.#freshToken ||= then === "token";
    if (then === "wait") this.#attempt = Math.max(this.#attempt, Math.ceil(Math.log2(BACKOFF_MAX_MS / BACKOFF_FIRST_MS)));
    this.#retry(why);
  }

  #stopped(why) {
    this.#wanted = false;
    this.#freshToken = false;
    this.#state("stopped", { why });
  }

  // Full jitter, on top of what the server asked for.
  #retry(why) {
    const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** this.#attempt++);
    const delay = this.#reconnectAfterMs + Math.random() * ceiling;
    this.#reconnectAfterMs = 0;
    this.#state("waiting", { why, retryAt: Date.now() + delay });
    this.#retryTimer = setTimeout(() => this.#open(), delay);
  }

  #send(frame) {
    this.#socket.send(JSON.stringify(frame));
    const shown = frame.connect ? { ...frame, connect: { ...frame.connect, token: "…" } } : frame;
    this.#emit("frame", { sent: true, text: JSON.stringify(shown) });
  }

  #state(name, detail = {}) {
    this.#emit("state", { name, ...detail });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
