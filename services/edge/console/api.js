// The console's API: docs/console.md says what it answers.

const BASE = new URL(location.pathname.endsWith("/console/") ? "api/" : "console/api/", location.origin + location.pathname);
const TOKEN = "carillon.callerToken";
const ANSWER_MS = 15_000;
const SILENCE_MS = 10_000; // the stream has a sample each second
const BACK_FIRST_MS = 1000;
const BACK_MAX_MS = 15_000;

const MAX_SAMPLES = 300;
const MAX_EVENTS = 500;

// Refusal is what the server answered in place of what was asked for; status 0: nothing.
export class Refusal extends Error {
  constructor(status, { code = "", reason = "", message = "", field = "", retryAfterMs = 0 } = {}) {
    super(message || "The server cannot be reached");
    Object.assign(this, { status, code, reason, field, retryAfterMs });
  }

  // Whether a token is wanted, or another than this one.
  get wantsToken() {
    return this.status === 401 || ["TOKEN_MISSING", "TOKEN_INVALID", "TOKEN_EXPIRED", "TOKEN_REVOKED"].includes(this.reason);
  }

  // Whether the caller is a good one, but not one who may do this.
  get mayNot() {
    return this.status === 403 || ["CALLER_DENIED", "CALLER_UNKNOWN"].includes(this.reason);
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  set: (value) => sessionStorage.setItem(TOKEN, value),
  forget: () => sessionStorage.removeItem(TOKEN),
};

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  let answer;
  try {
    answer = await fetch(new URL(path, BASE), { cache: "no-store", credentials: "omit", ...options, headers });
  } catch (err) {
    if (options.signal?.reason === "left") throw err;
    throw new Refusal(0);
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw new Refusal(answer.status, { message: `The server answered ${answer.status}`, ...body.error });
}

// get and post answer the body, or throw a Refusal.
export async function get(path, signal) {
  const deadline = AbortSignal.timeout(ANSWER_MS);
  const answer = await ask(path, { signal: signal ? AbortSignal.any([signal, deadline]) : deadline });
  return answer.json();
}

export async function post(path, body) {
  const answer = await ask(path, {
    method: "POST", body: JSON.stringify(body),
    headers: { "Content-Type": "application/json" }, signal: AbortSignal.timeout(ANSWER_MS),
  });
  return answer.json();
}

// Feed follows the stream, comes back when it ends, and keeps what charts and lists
// are drawn from. Events: "overview", "sample", "channels", "events", "state".
export class Feed extends EventTarget {
  samples = []; // the oldest first
  window = { seconds: 300, closes: [], errors: [], refusals: [], limits: [] };
  channels = { total: 0, byDeliveries: [], bySubscribers: [] };
  events = []; // the latest first
  lost = 0;
  state = { name: "connecting" }; // connecting, live, waiting (why, retryAt), refused (refusal)
  #stop = null;
  #fresh = true; // the first events of a stream are all that are kept

  get latest() {
    return this.samples.at(-1);
  }

  async start() {
    this.#stop?.abort("left");
    const stop = (this.#stop = new AbortController());
    for (let failures = 0; !stop.signal.aborted; failures += 1) {
      let why = new Refusal(0, { message: "The connection was lost" });
      try {
        const ended = await this.#follow(stop.signal, () => (failures = 0));
        if (ended) why = ended;
      } catch (err) {
        if (stop.signal.aborted) return;
        if (err instanceof Refusal) why = err;
      }
      if (why.wantsToken || why.mayNot) {
        this.#become({ name: "refused", refusal: why });
        return;
      }
      const delay = Math.max(why.retryAfterMs, Math.min(BACK_MAX_MS, BACK_FIRST_MS * 2 ** failures));
      this.#become({ name: "waiting", why: why.message, retryAt: Date.now() + delay });
      await new Promise((resolve) => setTimeout(resolve, delay));
    }
  }

  stop() {
    this.#stop?.abort("left");
  }

  // Resolves when the stream is over, with the Refusal of its end if it told one.
  async #follow(signal, heard) {
    const silence = new AbortController();
    let timer;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort("silence"), SILENCE_MS);
    };
    alive();
    try {
      const answer = await ask("stream", {
        headers: { Accept: "text/event-stream" }, signal: AbortSignal.any([signal, silence.signal]),
      });
      this.#fresh = true;
      let ended = null;
      for await (const { name, data } of serverSent(answer.body, alive)) {
        if (name === "end") ended = new Refusal(0, data.error);
        else this.#take(name, data);
        if (name === "sample") heard();
        if (this.state.name !== "live") this.#become({ name: "live" });
      }
      return ended;
    } finally {
      clearTimeout(timer);
    }
  }

  #take(name, data) {
    switch (name) {
      case "overview":
        this.samples = data.samples.slice(-MAX_SAMPLES);
        this.window = data.window;
        break;
      case "sample":
        this.samples.push(data.sample);
        if (this.samples.length > MAX_SAMPLES) this.samples.shift();
        this.window = data.window ?? this.window;
        break;
      case "channels":
        this.channels = data;
        break;
      case "events": {
        const known = this.#fresh ? [] : this.events;
        this.#fresh = false;
        this.events = [...data.events.toReversed(), ...known].slice(0, MAX_EVENTS);
        this.lost = data.lost ?? 0;
        break;
      }
      default:
        return; // a newer server's
    }
    this.dispatchEvent(new Event(name));
  }

  #become(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}

// serverSent reads the format of server-sent events (HTML, section 9.2), as far as the
// server uses it: a name and one line of JSON.
async function* serverSent(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let name = "message";
  let data = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("event:")) name = line.slice(6).trim();
        else if (line.startsWith("data:")) data += line.slice(5);
        else if (line === "") {
          if (data) yield { name, data: JSON.parse(data) };
          name = "message";
          data = "";
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
