// Drives real Chromium against the console as two people would: alice and bob sign
// in, each possibly on another edge, meet in chat.lobby, see what a service publishes
// there and what alice types.
//
//   node browser.mjs --alice URL --bob URL [--screenshot DIR]
//
// Prints "ready" when both see both as members; then waits for one line on standard
// input, the text of a message that the caller publishes as a service at that moment.
// Exits 0 when all was seen, 1 with a reason on standard error. Every wait has a
// deadline.

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

import { Looked, launch, run } from "./chromium.mjs";

const CHANNEL = "chat.lobby";
const STDIN_MS = 60_000;

const { values: options } = parseArgs({
  options: { alice: { type: "string" }, bob: { type: "string" }, screenshot: { type: "string" } },
});

class Person extends Looked {
  constructor(name, page) {
    // A page that a team serves itself has no API of the console beside it: "Try it" is all.
    super(name, page, (line) => line.location().url.endsWith("/console/api/session"));
  }

  async signIn(url) {
    await this.page.goto(new URL("#/try", url).href);
    await this.page.getByLabel("Sign in as").fill(this.name);
    await this.page.getByRole("button", { name: "Sign in", exact: true }).click();
    await this.see("the connection", "#state[data-state=online]");
    await this.see(`the channel ${CHANNEL}`, `#channels [data-channel="${CHANNEL}"]:not(.away)`);
    await this.see("the own inbox", `#channels [data-channel="user.${this.name}"]:not(.away)`);
    await this.page.locator(`#channels [data-channel="${CHANNEL}"]`).click();
  }

  async seeMembers(...names) {
    for (const name of names) await this.see(`the member ${name}`, `#members li[data-user="${name}"][data-connections="1"]`);
    const listed = await this.page.locator("#members li[data-user]").count();
    if (listed !== names.length) throw new Error(`${this.name} sees ${listed} members, not ${names.length}`);
  }

  async seeMessage(text, publisher) {
    const message = this.page.locator(`#timeline .message[data-publisher${publisher}]`, { hasText: text });
    await message.waitFor().catch(() => this.miss(`the message ${JSON.stringify(text)}`));
    const count = await message.count();
    if (count !== 1) throw new Error(`${this.name} sees the message ${JSON.stringify(text)} ${count} times`);
  }

  // Who comes is pushed, not found out by asking now and then.
  async wasTold(name) {
    const pushed = this.page.locator("#frame-list li.received", { hasText: '"presenceChanged"' }).filter({ hasText: name });
    await pushed.first().waitFor({ state: "attached" }).catch(() => this.miss(`a push of ${name}`));
  }

  async type(text) {
    await this.page.getByLabel("Message", { exact: true }).fill(text);
    await this.page.keyboard.press("Enter");
  }

  async miss(what) {
    const state = await this.page.locator("#state-text").textContent({ timeout: 1000 }).catch(() => "?");
    const frames = await this.page.locator("#frame-list li").allTextContents().catch(() => []);
    await super.miss(what, `state: ${state}`, ...frames.slice(-20));
  }
}

function line() {
  return new Promise((resolve, reject) => {
    const input = createInterface({ input: process.stdin });
    const deadline = setTimeout(() => reject(new Error(`no line on standard input within ${STDIN_MS} ms`)), STDIN_MS);
    input.once("line", (text) => {
      clearTimeout(deadline);
      resolve(text);
      input.close();
    });
    input.once("close", () => reject(new Error("standard input ended without a line")));
  });
}

async function meet(alice, bob) {
  await alice.signIn(options.alice);
  await bob.signIn(options.bob);
  await alice.seeMembers("alice", "bob");
  await bob.seeMembers("alice", "bob");
  await alice.wasTold("bob");

  const published = line();
  console.log("ready");
  const text = await published;
  await alice.seeMessage(text, '^="service:"');
  await bob.seeMessage(text, '^="service:"');

  const typed = `Hello from alice, ${Date.now()}`;
  await alice.type(typed);
  await bob.seeMessage(typed, '="alice"');
  await alice.seeMessage(typed, '="alice"');
  await bob.seeMembers("alice", "bob");

  alice.content();
  bob.content();
}

async function main() {
  if (!options.alice || !options.bob) throw new Error("usage: browser.mjs --alice URL --bob URL [--screenshot DIR]");
  const browser = await launch();
  const people = [];
  try {
    for (const [name, colorScheme] of [["alice", "light"], ["bob", "dark"]]) {
      const context = await browser.newContext({ colorScheme, viewport: { width: 1280, height: 800 } });
      people.push(new Person(name, await context.newPage()));
    }
    await meet(...people);
  } finally {
    if (options.screenshot) {
      mkdirSync(options.screenshot, { recursive: true });
      for (const { name, page } of people) {
        await page.screenshot({ path: join(options.screenshot, `${name}.png`) }).catch(() => {});
      }
    }
    await browser.close();
  }
}

run(main);
