// What the scripts that drive Chromium have in common: starting it, and a page that is
// looked at. Every wait has a deadline; what does not come is told with what the page
// complained about.

import { chromium } from "playwright-core";

export const WAIT_MS = 20_000;

// launch starts the system's Chromium; options go over those that it needs here.
export function launch(options = {}) {
  return chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: [
      "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ],
    ...options,
  });
}

// Looked is a page that somebody looks at. name says who, in errors.
export class Looked {
  complaints = [];

  // expected tells which lines of the browser's console that are errors belong to the story.
  constructor(name, page, expected = () => false) {
    this.name = name;
    this.page = page;
    page.setDefaultTimeout(WAIT_MS);
    page.on("pageerror", (err) => this.complaints.push(`uncaught: ${err.message}`));
    page.on("console", (line) => {
      if (line.type() === "error" && !expected(line)) this.complaints.push(line.text());
    });
  }

  async press(...keys) {
    for (const key of keys) await this.page.keyboard.press(key);
  }

  // see waits for an element that is visible, and has a text.
  async see(what, selector, hasText) {
    await this.page.locator(selector, hasText ? { hasText } : {}).first().waitFor().catch(() => this.miss(what));
  }

  // holds waits for a condition within the page.
  async holds(what, condition, argument) {
    await this.page.waitForFunction(condition, argument).catch(() => this.miss(what));
  }

  async focused(what, condition, argument) {
    await this.holds(`the focus on ${what}`, condition, argument);
  }

  // miss fails: more is what stands on the page besides its text.
  async miss(what, ...more) {
    const text = await this.page.locator("body").innerText({ timeout: 1000 }).catch(() => "");
    throw new Error([`${this.name} does not see ${what} within ${WAIT_MS} ms`, ...this.complaints, ...more, text.slice(0, 4000)].join("\n  "));
  }

  // content fails if the page has complained.
  content() {
    if (this.complaints.length > 0) throw new Error(`${this.name}'s page complains:\n  ${this.complaints.join("\n  ")}`);
  }
}

// run ends the process as main does: 0, or 1 with the reason on standard error.
export function run(main) {
  main().then(
    () => process.exit(0),
    (err) => {
      console.error(err.message);
      process.exit(1);
    },
  );
}
