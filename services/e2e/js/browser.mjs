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
import { chromium } from "playwright-core";

const CHANNEL = "chat.lobby";
const WAIT_MS = 20_000;
const STDIN_MS = 60_000;

const { values: options } = parseArgs({
  options: { alice: { type: "string" }, bob: { type: "string" }, screenshot: { type: "string" } },
});

class Person {
  complaints = [];

  constructor(name, page) {
    this.name = name;
    this.page = page;
    page.setDefaultTimeout(WAIT_MS);
    page.on("pageerror", (err) => this.complaints.push(`uncaught: ${err.message}`));
    page.on("console", (line) => {
      // A page that a team serves itself has no API of the console beside it: "Try it" is all.
      if (line.type() === "error" && !line.location().url.endsWith("/console/api/session")) this.complaints.push(line.text());
    });
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

  async see(what, selector) {
    await this.page.waitForSelector(selector).catch(() => this.miss(what));
  }

  async miss(what) {
    const state = await this.page.locator("#state-text").textContent({ timeout: 1000 }).catch(() => "?");
    const errors = await this.page.locator(".error:not(:empty), .note.warning").allTextContents().catch(() => []);
    const frames = await this.page.locator("#frame-list li").allTextContents().catch(() => []);
    throw new Error(
      [`${this.name} does not see ${what} within ${WAIT_MS} ms`, `state: ${state}`, ...errors, ...this.complaints, ...frames.slice(-20)].join("\n  "),
    );
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

  for (const { name, complaints } of [alice, bob]) {
    if (complaints.length > 0) throw new Error(`${name}'s page complains:\n  ${complaints.join("\n  ")}`);
  }
}

async function main() {
  if (!options.alice || !options.bob) throw new Error("usage: browser.mjs --alice URL --bob URL [--screenshot DIR]");
  const browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: [
      "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ],
  });
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

main().then(
  () => process.exit(0),
  (err) => {
    console.error(err.message);
    process.exit(1);
  },
);
