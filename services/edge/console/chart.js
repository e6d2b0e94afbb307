// Lines over the last five minutes, drawn as SVG. All charts share one cursor: what is
// pointed at in one is read off all.

import { h } from "./dom.js";
import { moment } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const SPAN_MS = 300_000;
const BREAK_MS = 3500; // samples further apart are not joined
const LEFT = 46;
const BOTTOM = 18;
const TOP = 6;
const RIGHT = 4;

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// The time pointed at, or null.
const cursor = new EventTarget();
cursor.at = null;
function point(at) {
  cursor.at = at;
  cursor.dispatchEvent(new Event("move"));
}

// ceiling is the least round number that is not below n, of at most two even steps.
function ceiling(n, binary) {
  if (binary) {
    let top = 4;
    while (top < n) top *= 2;
    return top;
  }
  const power = 10 ** Math.floor(Math.log10(n));
  return ([1, 2, 4, 5, 6, 8, 10].find((step) => step * power >= n * 0.9999) ?? 10) * power;
}

// Chart draws series of samples. mirrored draws the second series downwards.
export class Chart {
  #series;
  #format;
  #least;
  #binary;
  #mirrored;
  #root;
  #plot = svg("g");
  #cross = svg("line", { class: "cross" });
  #dots = svg("g");
  #values = [];
  #time = h("span", { class: "at" });
  #samples = [];
  #width = 0;
  #height;
  #drawn = false;

  // series: [{key, label, slot 1..4}]; format words a value; least is the smallest top
  // of the scale, so that noise near zero does not look like a mountain.
  constructor({ label, series, format, least = 1, height = 128, binary = false, mirrored = false }) {
    this.#series = series;
    this.#format = format;
    this.#least = least;
    this.#binary = binary;
    this.#mirrored = mirrored;
    this.#height = height;
    this.#root = svg("svg", { class: "plot", height, role: "img", tabindex: 0, "aria-label": label });
    this.#root.append(this.#plot, this.#cross, this.#dots);
    const legend = series.map(({ label: name, slot }) => {
      const value = h("span", { class: "value" });
      this.#values.push(value);
      return h("li", { class: `series-${slot}` }, h("span", { class: "swatch", "aria-hidden": "true" }), name, " ", value);
    });
    this.label = label;
    this.element = h("div", { class: "chart" }, this.#root, h("ul", { class: "legend" }, ...legend, h("li", { class: "when" }, this.#time)));
    this.#root.addEventListener("pointermove", ({ offsetX }) => point(this.#timeAt(offsetX)));
    this.#root.addEventListener("pointerleave", () => point(null));
    this.#root.addEventListener("blur", () => point(null));
    this.#root.addEventListener("keydown", (event) => this.#step(event));
    this.resize = new ResizeObserver(([{ contentRect }]) => {
      this.#width = contentRect.width;
      if (this.#drawn) this.draw(this.#samples);
    });
    this.resize.observe(this.element);
    this.follow = () => this.#read();
    cursor.addEventListener("move", this.follow);
  }

  close() {
    this.resize.disconnect();
    cursor.removeEventListener("move", this.follow);
  }

  draw(samples) {
    this.#samples = samples;
    this.#drawn = true;
    if (!this.#width) return;
    this.#root.setAttribute("width", this.#width);
    this.#root.setAttribute("viewBox", `0 0 ${this.#width} ${this.#height}`);
    const top = this.#top();
    this.#plot.replaceChildren(...this.#grid(top), ...this.#series.flatMap((series, i) => this.#line(series, i, top)));
    this.#read();
  }

  #top() {
    let most = this.#least;
    for (const sample of this.#samples) for (const { key } of this.#series) most = Math.max(most, sample[key] ?? 0);
    return ceiling(most, this.#binary);
  }

  get #end() {
    return this.#samples.at(-1)?.at ?? Date.now();
  }

  #x(at) {
    return LEFT + (1 - (this.#end - at) / SPAN_MS) * (this.#width - LEFT - RIGHT);
  }

  #y(value, index, top) {
    const room = this.#height - TOP - BOTTOM;
    if (!this.#mirrored) return TOP + (1 - value / top) * room;
    return TOP + room / 2 + (index === 0 ? -1 : 1) * (value / top) * (room / 2);
  }

  #grid(top) {
    const levels = this.#mirrored ? [[top, 0], [0, 0], [top, 1]] : [[0, 0], [top / 2, 0], [top, 0]];
    const minutes = this.#width < 420 ? [0, 2, 4] : [0, 1, 2, 3, 4];
    return [
      ...levels.flatMap(([value, index]) => {
        const y = this.#y(value, index, top);
        return [
          svg("line", { class: value === 0 ? "axis" : "rule", x1: LEFT, x2: this.#width - RIGHT, y1: y, y2: y }),
          svg("text", { class: "tick", x: LEFT - 6, y: y + 3.5, "text-anchor": "end" }, this.#format(value).replace(/^–$/, "")),
        ];
      }),
      ...minutes.map((minute) =>
        svg(
          "text",
          { class: "tick", x: this.#x(this.#end - minute * 60_000), y: this.#height - 3, "text-anchor": minute === 0 ? "end" : "middle" },
          minute === 0 ? "now" : `−${minute} min`,
        ),
      ),
    ];
  }

  #line({ key, slot }, index, top) {
    let line = "";
    let area = "";
    let last = null;
    const base = this.#y(0, index, top).toFixed(1);
    const shut = () => last && (area += `L${this.#x(last.at).toFixed(1)} ${base}Z`);
    for (const sample of this.#samples) {
      if (sample[key] == null || sample.at < this.#end - SPAN_MS) continue;
      const x = this.#x(sample.at).toFixed(1);
      const y = this.#y(Math.min(sample[key], top), index, top).toFixed(1);
      if (last && sample.at - last.at < BREAK_MS) {
        line += `L${x} ${y}`;
        area += `L${x} ${y}`;
      } else {
        shut();
        line += `M${x} ${y}h0`;
        area += `M${x} ${base}L${x} ${y}`;
      }
      last = sample;
    }
    shut();
    const parts = [svg("path", { class: `line series-${slot}`, d: line })];
    if (index === 0 || this.#mirrored) parts.unshift(svg("path", { class: `area series-${slot}`, d: area }));
    return parts;
  }

  #timeAt(x) {
    const share = (x - LEFT) / (this.#width - LEFT - RIGHT);
    return this.#end - (1 - Math.min(1, Math.max(0, share))) * SPAN_MS;
  }

  // What stands at the cursor, or now.
  #read() {
    const pointed = cursor.at != null && this.#samples.length > 0;
    let sample = this.#samples.at(-1);
    if (pointed) for (const one of this.#samples) if (Math.abs(one.at - cursor.at) < Math.abs(sample.at - cursor.at)) sample = one;
    this.#series.forEach(({ key }, i) => set(this.#values[i], sample ? this.#format(sample[key]) : "–"));
    set(this.#time, pointed ? moment(sample.at) : "");
    this.#dots.replaceChildren();
    this.#cross.setAttribute("visibility", pointed ? "visible" : "hidden");
    if (!pointed || !this.#width) return;
    const x = this.#x(sample.at);
    for (const [name, value] of Object.entries({ x1: x, x2: x, y1: TOP, y2: this.#height - BOTTOM })) this.#cross.setAttribute(name, value);
    const top = this.#top();
    this.#series.forEach(({ key, slot }, i) => {
      if (sample[key] != null) this.#dots.append(svg("circle", { class: `series-${slot}`, cx: x, cy: this.#y(sample[key], i, top), r: 3 }));
    });
  }

  // Left and right move the cursor by 5 s, with Shift by 30.
  #step(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || this.#samples.length === 0) return;
    event.preventDefault();
    const at = (cursor.at ?? this.#end) + by * (event.shiftKey ? 30_000 : 5000);
    point(Math.min(this.#end, Math.max(this.#samples[0].at, at)));
    this.element.dispatchEvent(
      new CustomEvent("say", { bubbles: true, detail: `${this.#time.textContent}: ${this.#series.map(({ label }, i) => `${label} ${this.#values[i].textContent}`).join(", ")}` }),
    );
  }
}

// set leaves a text alone that is the same: nothing is painted, nothing read out.
export function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Spark is a small line without axes beside a number.
export class Spark {
  #path = svg("path", { class: "line series-1" });
  #key;
  constructor(key) {
    this.#key = key;
    this.element = svg("svg", { class: "spark", viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" }, this.#path);
  }

  draw(samples) {
    const end = samples.at(-1)?.at ?? 0;
    const most = Math.max(1e-9, ...samples.map((sample) => sample[this.#key] ?? 0));
    let line = "";
    for (const { at, [this.#key]: value } of samples) {
      if (value == null || at < end - SPAN_MS) continue;
      line += `${line ? "L" : "M"}${((1 - (end - at) / SPAN_MS) * 100).toFixed(2)} ${(22 - (value / most) * 20).toFixed(2)}`;
    }
    this.#path.setAttribute("d", line);
  }
}
