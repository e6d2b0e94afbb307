// Sends a message by hand, as a service: to a channel or to a user.

import { post } from "./api.js";
import { h } from "./dom.js";
import { traceLink } from "./events.js";
import { channelLink, facts, refused } from "./list.js";
import { bytes, exact } from "./words.js";

const utf8 = new TextEncoder();

export class SendView {
  title = "Send";

  constructor(context, channel = "") {
    this.context = context;
    const { session } = context;
    this.to = h("input", { id: "send-to", autocomplete: "off", autocapitalize: "none", spellcheck: "false", placeholder: "chat.lobby", required: true, "aria-describedby": "send-problem", value: channel });
    this.data = h("textarea", { id: "send-data", rows: 8, spellcheck: "false", "aria-describedby": "send-size send-problem" }, '{"text": "hello"}');
    this.size = h("p", { id: "send-size", class: "about" });
    this.problem = h("div", { id: "send-problem", role: "alert" });
    this.answer = h("div", { role: "status", id: "send-answer" });
    this.button = h("button", { type: "submit", class: "primary" }, "Send");
    const kinds = h(
      "fieldset",
      { class: "choices" },
      h("legend", {}, "To"),
      ...[["channel", "A channel"], ["user", "A user's inbox"]].map(([kind, name]) => h("label", {}, h("input", { type: "radio", name: "send-kind", value: kind, checked: kind === "channel" }), h("span", {}, name))),
    );
    kinds.addEventListener("change", () => {
      this.label.textContent = this.#kind === "user" ? "User id" : "Channel";
      this.to.placeholder = this.#kind === "user" ? "alice" : "chat.lobby";
    });
    this.kinds = kinds;
    this.label = h("label", { for: "send-to" }, "Channel");
    const may = session.rights?.publish ?? [];
    const form = h(
      "form",
      { class: "card form", novalidate: true },
      kinds, this.label, this.to,
      h("label", { for: "send-data" }, "JSON"), this.data, this.size, this.problem,
      h("div", { class: "row" }, this.button, h("span", { class: "about" }, "Ctrl Enter sends")),
      this.answer,
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    this.data.addEventListener("input", () => this.#check());
    this.data.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    const as = `It is stored and delivered as service:${session.caller ?? "console"}, like any other, to everybody who subscribes.`;
    const where = session.mode === "dev" ? "" : may.length > 0 ? ` You may send to ${may.join(", ")}.` : " Your caller may publish nowhere, so this will be refused.";
    this.element = h("div", { class: "page narrow" }, h("h1", {}, "Send a message"), h("p", { class: "about" }, as + where), form);
    this.#check();
  }

  update() {}

  get #kind() {
    return this.kinds.querySelector(":checked").value;
  }

  // Returns the value, or undefined if the text is no JSON.
  #check() {
    const most = this.context.session.limits?.maxPayloadBytes;
    this.problem.replaceChildren();
    try {
      const value = JSON.parse(this.data.value);
      const size = utf8.encode(JSON.stringify(value)).length;
      this.size.textContent = `${bytes(size)}${most ? ` of ${bytes(most)}` : ""}`;
      return value;
    } catch (err) {
      this.size.textContent = `Not JSON yet: ${err.message}`;
      return undefined;
    }
  }

  async #send() {
    const data = this.#check();
    const to = this.to.value.trim();
    if (data === undefined || !to) {
      this.problem.replaceChildren(refused({ message: to ? "This is not JSON, so it was not sent." : "Say whom it is for." }));
      (to ? this.data : this.to).focus();
      return;
    }
    this.button.disabled = true;
    try {
      const { offset, epoch, messageId, traceId } = await post("send", { [this.#kind]: to, data });
      const name = this.#kind === "user" ? `user.${to}` : to;
      this.answer.replaceChildren(
        h("p", { class: "done" }, offset == null ? "Sent to " : "Stored in ", h("a", { href: channelLink(name) }, name), offset == null ? "" : ` at ${exact(offset)}.`),
        facts([["Message id", messageId && h("code", {}, messageId)], ["Epoch", epoch && h("code", {}, epoch)], ["Trace", traceLink(traceId, this.context.session)]]),
      );
    } catch (err) {
      this.answer.replaceChildren();
      this.problem.replaceChildren(refused(err));
      if (err.wantsToken) this.context.signIn(err);
      if (err.field === "channel" || err.field === "user") this.to.focus();
    } finally {
      this.button.disabled = false;
    }
  }
}
