// A client of the protocol that shares no code with Carillon: npm's ws and
// docs/protocol.md.
//
//   node ws-client.mjs --url ws://…/v1/ws --token JWT --channel NAME [--count N] [--via header,subprotocol,frame]
//
// Opens one connection for each way of sending the token, says connect, subscribe
// and ping on each, and prints "ready". Then prints every message as one line
// {"via":…,"message":…} until each connection has got N, leaves, and exits 0; 1 with
// a reason on standard error where the server does not keep to the protocol.

import { parseArgs } from "node:util";
import WebSocket from "ws";

const SUBPROTOCOL = "carillon.v1.json";
const DEADLINE_MS = 60_000;
const REPLY_MS = 10_000;

const { values: options } = parseArgs({
  options: {
    url: { type: "string" },
    token: { type: "string" },
    channel: { type: "string" },
    count: { type: "string", default: "1" },
    via: { type: "string", default: "header,subprotocol,frame" },
  },
});

function check(condition, complaint, seen) {
  if (!condition) throw new Error(`${complaint}: ${JSON.stringify(seen)}`);
}

class Client {
  #replies = new Map();
  #lastId = 0;
  #offset = 0;
  #messages = 0;

  constructor(via) {
    this.via = via;
    this.failed = new Promise((_, reject) => (this.#fail = reject));
    this.done = new Promise((resolve) => (this.#finish = resolve));
  }

  #fail;
  #finish;

  async open() {
    const protocols = this.via === "subprotocol" ? [SUBPROTOCOL, `carillon.bearer.${options.token}`] : [SUBPROTOCOL];
    const headers = this.via === "header" ? { Authorization: `Bearer ${options.token}` } : {};
    this.socket = new WebSocket(options.url, protocols, { headers });
    await new Promise((resolve, reject) => {
      this.socket.once("open", resolve);
      this.socket.once("error", reject);
    });
    this.socket.on("error", (err) => this.#fail(err));
    this.socket.on("close", (code, reason) => this.#fail(new Error(`${this.via}: closed ${code} ${reason}`)));
    this.socket.on("message", (data, isBinary) => {
      try {
        check(!isBinary, "a binary message on the JSON subprotocol", data.toString());
        this.#receive(JSON.parse(data.toString()));
      } catch (err) {
        this.#fail(err);
      }
    });
    check(this.socket.protocol === SUBPROTOCOL, "another subprotocol was chosen", this.socket.protocol);
  }

  async follow() {
    const connect = { client: { name: "ws", version: "1" } };
    if (this.via === "frame") connect.token = options.token;
    const { connected } = await this.#command({ connect });
    check(connected?.connectionId && connected.userId && connected.maxFrameBytes > 0, "not a connected reply", connected);
    const { subscribed } = await this.#command({ subscribe: { channel: options.channel } });
    check(subscribed?.channel === options.channel, "not a subscribed reply", subscribed);
    this.#offset = subscribed.offset ?? 0;
    const { pong } = await this.#command({ ping: {} });
    check(pong, "not a pong", pong);
  }

  async leave() {
    const { unsubscribed } = await this.#command({ unsubscribe: { channel: options.channel } });
    check(unsubscribed?.channel === options.channel, "not an unsubscribed reply", unsubscribed);
    this.socket.removeAllListeners("close");
    this.socket.close(1000);
  }

  #command(body) {
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      const deadline = setTimeout(() => reject(new Error(`${this.via}: no reply to ${Object.keys(body)}`)), REPLY_MS);
      this.#replies.set(id, (frame) => {
        clearTimeout(deadline);
        if (frame.error) reject(new Error(`${this.via}: refused: ${JSON.stringify(frame.error)}`));
        else resolve(frame);
      });
      this.socket.send(JSON.stringify({ id, ...body }));
    });
  }

  #receive(frame) {
    if (frame.id !== undefined) {
      const reply = this.#replies.get(frame.id);
      check(reply, "a reply to no command", frame);
      this.#replies.delete(frame.id);
      reply(frame);
      return;
    }
    const { message } = frame;
    if (message?.channel !== options.channel) return; // of the inbox, or another push
    check(message.offset === undefined || message.offset > this.#offset, `an offset that does not increase from ${this.#offset}`, message);
    this.#offset = message.offset ?? 0;
    console.log(JSON.stringify({ via: this.via, message }));
    this.#messages += 1;
    if (this.#messages === Number(options.count)) this.#finish();
  }
}

async function main() {
  if (!options.url || !options.token || !options.channel) throw new Error("usage: ws-client.mjs --url URL --token JWT --channel NAME");
  const clients = options.via.split(",").map((via) => new Client(via));
  const work = async (client) => {
    await client.open();
    await client.follow();
  };
  const guarded = (client, promise) => Promise.race([promise, client.failed]);
  await Promise.all(clients.map((client) => guarded(client, work(client))));
  console.log("ready");
  await Promise.all(clients.map((client) => guarded(client, client.done)));
  await Promise.all(clients.map((client) => guarded(client, client.leave())));
}

setTimeout(() => {
  console.error(`not finished within ${DEADLINE_MS} ms`);
  process.exit(1);
}, DEADLINE_MS).unref();

main().then(
  () => process.exit(0),
  (err) => {
    console.error(err.message);
    process.exit(1);
  },
);
