// How the console makes elements. All text goes in as text nodes; nothing that a
// user or a service sent is ever read as markup.

export const $ = (id) => document.getElementById(id);

// h("li", {class: "x", "data-user": "alice", onclick: f}, child, "text", …); a child
// that is null or false is left out.
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

// icon draws a symbol of index.html.
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

const SERVICE = "service:";

// describe splits the name of a publisher: a user, or a service.
export function describe(publisher) {
  const service = publisher.startsWith(SERVICE);
  return { service, name: service ? publisher.slice(SERVICE.length) : publisher };
}

// avatar is a disc with initials in a colour of the name's own; a service has a bell.
export function avatar(publisher) {
  const { service, name } = describe(publisher);
  const disc = h("span", { class: service ? "avatar service" : "avatar", "aria-hidden": "true" });
  if (service) {
    disc.append(icon("bell"));
    return disc;
  }
  const words = name.split(/[\s._-]+/u).filter(Boolean);
  const letters = words.length > 1 ? words.slice(0, 2).map((word) => [...word][0]) : [...(words[0] ?? "?")].slice(0, 1);
  disc.textContent = letters.join("").toLocaleUpperCase();
  let hash = 0;
  for (const char of name) hash = (hash * 31 + char.codePointAt(0)) >>> 0;
  disc.style.setProperty("--hue", String((hash * 47) % 360));
  return disc;
}

const TOKEN = /("(?:\\.|[^"\\])*")(\s*:)?|\b(?:true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

// json returns a pretty, lightly coloured JSON text of a value.
export function json(value) {
  const text = JSON.stringify(value, null, 2);
  const pre = h("pre", { class: "json" });
  let end = 0;
  for (const match of text.matchAll(TOKEN)) {
    const [all, string, colon] = match;
    const kind = colon ? "key" : string ? "string" : "literal";
    pre.append(text.slice(end, match.index), h("span", { class: kind }, string ?? all));
    end = match.index + (string ?? all).length;
  }
  pre.append(text.slice(end));
  return pre;
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const CLOCK_MS = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hourCycle: "h23",
});

// clock and clockMs word Unix milliseconds as a time of day.
export const clock = (ms) => CLOCK.format(ms);
export const clockMs = (ms) => CLOCK_MS.format(ms);
