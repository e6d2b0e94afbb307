// What stands beside the conversation: members, publishing, and the frames on the wire.

import { $, avatar, clockMs, h, json } from "./dom.js";

const MAX_FRAMES = 200;

// showMembers draws the members of a channel, or why they are not known.
export function showMembers(channel, self) {
  const { members, total, membersNote, joined } = channel ?? {};
  $("member-count").textContent = members ? String(total) : "";
  $("members-note").textContent = membersNote ?? (members && !joined ? "As last known: not connected." : "");
  $("members").replaceChildren(
    ...(members ?? []).map(({ userId, connections, info }) =>
      h(
        "li",
        { "data-user": userId, "data-connections": connections, title: info === undefined ? null : JSON.stringify(info) },
        avatar(userId),
        h("span", { class: "name" }, userId),
        userId === self && h("span", { class: "tag" }, "you"),
        h("span", { class: "count" }, connectionsText(connections)),
      ),
    ),
  );
  if (members && members.length < total) {
    $("members").append(h("li", { class: "more" }, `and ${total - members.length} more`));
  }
}

// Without a connection the user is expected back: its last was lost a moment ago.
function connectionsText(connections) {
  if (!connections) return "away";
  return connections === 1 ? "1 connection" : `${connections} connections`;
}

const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function parse(text) {
  try {
    return { data: JSON.parse(text) };
  } catch (err) {
    return { problem: err.message };
  }
}

// PublishPanel sends any JSON to any channel and shows what came back, and words
// the same publish for a shell.
export class PublishPanel {
  #publish;
  #info = { publish: "127.0.0.1:9090", publishHttp: "127.0.0.1:8081", callerToken: "carillon token --service dev" };
  #way = "grpcurl";
  #followed = "";

  // publish(body) returns a promise of the published reply's body.
  constructor(publish) {
    this.#publish = publish;
    $("publish-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    $("publish-form").addEventListener("input", () => this.#word());
    for (const way of document.querySelectorAll("[name=way]")) {
      way.addEventListener("change", () => {
        this.#way = way.value;
        this.#word();
      });
    }
    $("copy").addEventListener("click", async () => {
      await navigator.clipboard.writeText($("command").textContent);
      $("copy").textContent = "Copied";
      setTimeout(() => ($("copy").textContent = "Copy"), 1500);
    });
    this.#word();
  }

  // inform takes the answer of /dev/info.
  inform(info) {
    this.#info = { ...this.#info, ...info };
    this.#word();
  }

  // follow puts the channel in view into the form, unless another was typed there.
  follow(channel) {
    const input = $("publish-channel");
    if (input.value === "" || input.value === this.#followed) input.value = channel;
    this.#followed = channel;
    this.#word();
  }

  suggest(channels) {
    $("known-channels").replaceChildren(...channels.map((name) => h("option", { value: name })));
  }

  async #send() {
    const { data, problem } = parse($("publish-json").value);
    if (problem) {
      this.#answer("bad", "Not JSON, so it was not sent", problem);
      return;
    }
    const body = { channel: $("publish-channel").value.trim(), data };
    const messageId = $("publish-id").value.trim();
    if (messageId) body.messageId = messageId;
    try {
      const published = await this.#publish(body);
      this.#answer("good", published.duplicate ? "Published before" : "Published", published);
    } catch (err) {
      const { code, reason, message, field, retryAfterMs } = err;
      this.#answer("bad", "Refused", { code, reason, message, field, retryAfterMs });
    }
  }

  #answer(kind, title, detail) {
    $("publish-reply").replaceChildren(
      h("div", { class: `reply ${kind}` }, h("strong", {}, title), typeof detail === "string" ? h("p", {}, detail) : json(detail)),
    );
  }

  #word() {
    const channel = $("publish-channel").value.trim();
    const { data, problem } = parse($("publish-json").value);
    const messageId = $("publish-id").value.trim() || undefined;
    const value = problem ? null : data;
    const { publish, publishHttp, callerToken } = this.#info;
    const bearer = `Authorization: Bearer $(${callerToken})`;
    const grpc = JSON.stringify({ channel, json: JSON.stringify(value), messageId });
    const http = JSON.stringify({ channel, data: value, messageId });
    $("command").textContent =
      this.#way === "grpcurl"
        ? `grpcurl -plaintext -H "${bearer}" \\\n  -d ${quote(grpc)} \\\n  ${publish} carillon.publish.v1.PublishService/Publish`
        : `curl -s http://${publishHttp}/v1/publish \\\n  -H "${bearer}" \\\n  -d ${quote(http)}`;
  }
}

// FrameLog keeps the last frames in both directions.
export class FrameLog {
  #count = 0;

  constructor() {
    $("clear-frames").addEventListener("click", () => $("frame-list").replaceChildren());
    $("frames").addEventListener("toggle", () => ($("frame-list").scrollTop = $("frame-list").scrollHeight));
  }

  add({ sent, text }) {
    const list = $("frame-list");
    const follow = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    list.append(
      h(
        "li",
        { class: sent ? "sent" : "received" },
        h("time", {}, clockMs(Date.now())),
        h("span", { class: "direction" }, sent ? "sent" : "received"),
        h("code", {}, text),
      ),
    );
    if (list.children.length > MAX_FRAMES) list.firstElementChild.remove();
    this.#count += 1;
    $("frame-count").textContent = String(this.#count);
    if (follow) list.scrollTop = list.scrollHeight;
  }
}
