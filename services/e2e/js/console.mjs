// Drives real Chromium over the console as somebody on call would, by keyboard where
// there is a key for it, and has axe-core look at every view in light and dark.
//
//   node console.mjs --url URL [--token TOKEN] [--traces URL] [--away] [--screenshots DIR]
//
// The edge at URL has a user "alice" connected and subscribed to chat.lobby, and somebody
// who was denied something by a rule, "mallory". With --token it asks for a caller's
// token, is first given a bad one, and has no "Try it". --traces is console.trace_url: what
// was denied and what is sent must have a link to its trace, whose ids are printed, "denied"
// and "sent" before them. Prints a line when a part is done: overview, search, send, keyboard,
// light, dark, narrow. With --away it then waits for the edge to be killed, prints "away" when
// the page says so, and "back" when it is live again. --screenshots writes console-light.png
// and console-dark.png there, of the overview, says "light" and "dark", and that is all.
// Exits 0 when all was as it should be, 1 with a reason on standard error.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { Looked, launch, run } from "./chromium.mjs";

const WIDE = { width: 1280, height: 900 };
const NARROW = { width: 360, height: 740 };
const VIEWS = ["overview", "channels", "channels/chat.lobby", "users", "users/alice", "namespaces", "events", "send"];

const { values: options } = parseArgs({
  options: { url: { type: "string" }, token: { type: "string" }, traces: { type: "string" }, away: { type: "boolean" }, screenshots: { type: "string" } },
});
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

class Page extends Looked {
  constructor(page, scheme) {
    // A refused token is answered with 401, which Chromium tells of.
    super("the person on call", page, (line) => Boolean(options.token) && line.text().includes("401"));
    this.scheme = scheme;
  }

  async open(view = "overview") {
    await this.page.goto(new URL(`#/${view}`, options.url).href);
    if (options.token) await this.signIn();
    await this.see("that it is live", "#live[data-state=live]");
  }

  async signIn() {
    for (const token of ["nonsense", options.token]) {
      await this.page.getByLabel("Caller's token").fill(token);
      await this.page.keyboard.press("Enter");
      if (token !== "nonsense") continue;
      await this.see("why the token was refused", "#token-problem:not(:empty)");
      if (await this.page.locator("#tabs a:visible, #live:visible, #search:visible").count()) throw new Error("there is more than the way in before somebody has signed in");
    }
  }

  async go(view) {
    await this.page.evaluate((hash) => (location.hash = hash), `#/${view}`);
    await this.see(`the view ${view}`, "#view h1");
  }

  // A level line has no height, which Playwright takes for invisible.
  async seeLine(chart) {
    await this.page.locator(`.plot[aria-label="${chart}"] .line[d*="L"]`).first().waitFor({ state: "attached" }).catch(() => this.miss(`a line of ${chart}`));
  }

  // traced wants a link to a trace, and prints the id.
  async traced(what, within) {
    if (!options.traces) return;
    const link = this.page.locator(`${within} a.trace`).first();
    await link.waitFor().catch(() => this.miss(`the trace of what was ${what}`));
    const [href, target, rel] = await Promise.all(["href", "target", "rel"].map((name) => link.getAttribute(name)));
    const [before, after] = options.traces.split("{trace}");
    const id = href.slice(before.length, href.length - after.length);
    if (href !== `${before}${id}${after}` || !/^[0-9a-f]{32}$/.test(id) || target !== "_blank" || !rel.includes("noopener")) {
      throw new Error(`the trace of what was ${what} is at ${href}, target ${target}, rel ${rel}`);
    }
    console.log(what, id);
  }

  // What axe-core calls serious or critical, and anything that makes a page scroll sideways.
  async sound(view) {
    const findings = await this.page.evaluate(async () => {
      const { violations } = await globalThis.axe.run(document, { resultTypes: ["violations"] });
      return violations.filter(({ impact }) => impact === "serious" || impact === "critical").map(({ id, impact, help, nodes }) => ({ id, impact, help, nodes: nodes.slice(0, 3).map(({ html, failureSummary }) => `${html.slice(0, 200)}: ${failureSummary}`) }));
    });
    if (findings.length > 0) throw new Error(`${view} (${this.scheme}): axe-core finds ${JSON.stringify(findings, null, 2)}`);
  }

  async fits(view) {
    const over = await this.page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    if (over > 0) throw new Error(`${view} is ${over} px wider than ${NARROW.width}`);
  }
}

// overview: the numbers move, the charts have lines, a chart is read off by keyboard, a
// pause holds still.
async function overview(p) {
  await p.seeLine("Connections");
  await p.see("a connection", ".metric .headline", /^[1-9]/);
  await p.see("the busiest channel", "#busiest td a", "chat.lobby");
  await p.see("a denial", '.event[data-kind="denied"]', "mallory");
  await p.traced("denied", '.event[data-kind="denied"]');

  await p.page.locator('.plot[aria-label="Connections"]').focus();
  await p.press("ArrowLeft");
  await p.see("the values at the cursor", "#spoken", /open \d/);

  await p.page.locator("#view").focus();
  await p.press("p");
  await p.see("that it is paused", "#live[data-state=paused]");
  const line = () => p.page.locator('.plot[aria-label="Connections"] .line').first().getAttribute("d");
  const held = await line();
  await p.page.waitForTimeout(2500); // more than two samples
  if ((await line()) !== held) throw new Error("the charts go on while paused");
  await p.press("p");
  await p.holds("that it goes on", (old) => document.querySelector('.plot[aria-label="Connections"] .line').getAttribute("d") !== old, held);
}

async function search(p) {
  await p.press("/");
  await p.focused("the search", () => document.activeElement.id === "find");
  await p.page.keyboard.type("ali");
  await p.see("alice among what is found", "#found [role=option]", /useralice/);
  await p.press("ArrowDown");
  await p.see("a chosen one", '#found [aria-selected="true"]', "alice");
  await p.press("Enter");
  await p.see("the user alice", "h1.name", "alice");
  await p.see("that alice is online", ".pill.good", "online");
  await p.see("her subscription", ".connections a", "chat.lobby");

  await p.press("/");
  await p.page.keyboard.type("chat.lob");
  await p.see("the channel among what is found", "#found [role=option]", /chat\.lobby/);
  await p.press("Escape", "Escape");
  await p.focused("the page", () => document.activeElement.id !== "find");
  await p.press("g", "c");
  await p.see("the list of channels", "td a", "chat.lobby");
  await p.press("j");
  await p.focused("a row", () => document.activeElement.closest("tr") !== null);
  await p.press("Enter");
  await p.see("a channel", "h1.name");
  await p.go("channels/chat.lobby");
  await p.see("the member alice", ".people a", "alice");
}

// send: what was sent stands in its channel; what is no JSON is not sent.
async function send(p) {
  const text = `By hand, ${Date.now()}`;
  await p.press("g", "s");
  await p.page.locator("#view").getByLabel("Channel", { exact: true }).fill("chat.lobby");
  await p.page.locator("#view").getByLabel("JSON", { exact: true }).fill("{nonsense");
  await p.press("Control+Enter");
  await p.see("that this is no JSON", "#send-problem .refused");
  await p.page.locator("#view").getByLabel("JSON", { exact: true }).fill(JSON.stringify({ text }));
  await p.press("Control+Enter");
  await p.see("that it was stored", "#send-answer", /Stored in chat\.lobby/);
  await p.traced("sent", "#send-answer");
  await p.page.locator("#send-answer a").first().click();
  await p.see("the message in its channel", ".messages .preview", text);
  await p.see("who sent it", ".messages .who");
}

async function keyboard(p) {
  await p.press("?");
  await p.see("the keys", "#keys[open]");
  await p.press("Escape");
  await p.page.locator("#keys[open]").waitFor({ state: "detached" });
  for (const [key, title] of [["o", "This edge"], ["c", "Channels"], ["u", "Users"], ["n", "Namespaces"], ["e", "Events"]]) {
    await p.press("g", key);
    await p.see(`the view of g ${key}`, "#view h1", title);
  }
  await p.see("the denial by its rule", '.event[data-kind="denied"]', /rule \w+\[\d+\]\.\w+/);
  await p.page.reload();
  if (options.token) await p.see("that the tab keeps its token", "#live[data-state=live]");
  await p.press("Tab");
  await p.focused("the way past the bar", () => document.activeElement.className === "skip");
  await p.press("Enter");
  await p.focused("the content", () => document.activeElement.id === "view");
}

async function theme(p) {
  const background = () => p.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const before = await background();
  await p.press("d");
  const after = await background();
  if (before === after) throw new Error(`d leaves the ${p.scheme} page as it was`);
  await p.page.reload();
  await p.see("the view", "#view h1");
  if ((await background()) !== after) throw new Error("the theme that was chosen is forgotten");
  await p.press("d");
}

async function look(p) {
  await p.page.evaluate(axe); // past the page's policy, which lets no other script in
  for (const view of VIEWS) {
    await p.go(view);
    await p.see("what it is about", "#view .card, #view .lookup, #view .events");
    await p.sound(view);
  }
  if (!options.token) {
    await p.page.evaluate(() => (location.hash = "#/try"));
    await p.see("Try it", "#try #welcome");
    await p.sound("try");
  }
}

// away: what is old does not pass for what is.
async function away(p) {
  await p.see("that it is not live", "#live[data-state=waiting]", "Not live");
  await p.see("since when", "#stale", /What stands here is of \d\d:\d\d:\d\d\. Asking again/);
  console.log("away");
  await p.see("that it is live again", "#live[data-state=live]");
  await p.page.locator("#stale").waitFor({ state: "hidden" }).catch(() => p.miss("an end of what was old"));
  console.log("back");
}

async function main() {
  if (!options.url) throw new Error("usage: console.mjs --url URL [--token TOKEN] [--traces URL] [--away] [--screenshots DIR]");
  const browser = await launch();
  const open = async (scheme, viewport, reducedMotion = "reduce") => {
    const context = await browser.newContext({ colorScheme: scheme, viewport, reducedMotion, deviceScaleFactor: options.screenshots ? 1.5 : 1 });
    return new Page(await context.newPage(), scheme);
  };
  try {
    for (const scheme of ["light", "dark"]) {
      const p = await open(scheme, WIDE);
      await p.open();
      if (options.screenshots) {
        await p.seeLine("Deliveries a second");
        await p.page.waitForTimeout(1500); // the list of channels has come
        await p.page.screenshot({ path: join(options.screenshots, `console-${scheme}.png`), fullPage: true });
        console.log(scheme);
        continue;
      }
      for (const story of scheme === "light" ? [overview, search, send, keyboard] : []) {
        await story(p);
        console.log(story.name);
      }
      await theme(p);
      await look(p);
      console.log(scheme);
      p.content();
    }
    if (options.screenshots) return;
    const narrow = await open("light", NARROW);
    await narrow.open();
    for (const view of VIEWS) {
      await narrow.go(view);
      await narrow.see("what it is about", "#view .card, #view .lookup, #view .events");
      await narrow.fits(view);
    }
    console.log("narrow");
    if (options.away) await away(narrow);
  } finally {
    await browser.close();
  }
}

run(main);
