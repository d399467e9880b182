// Chat: several turns, with drafts while an answer appears.
import { ApiError, postStream } from "./api.js";
import { modelChoice, onEnter, runButton, settings } from "./controls.js";
import { field, h, say } from "./dom.js";
import { feedback } from "./feedback.js";
import { Tokens } from "./viewer/tokens.js";

export function chat(panel, models) {
  const able = models.filter((one) => one.diffusion?.chat);
  if (!able.length) {
    panel.replaceChildren(h("p", { className: "empty" }, "None of this server's models can chat: that takes one with a chat",
      " template. “Write” continues a text with any model."));
    return {};
  }
  const messages = []; // {role, content}
  const model = modelChoice(able, able[0]);
  const options = settings({ tokens: 64 });
  const log = h("div", { className: "log", role: "log", "aria-live": "off", "aria-label": "Conversation" });
  const input = h("textarea", { rows: 2, placeholder: "Say something" });

  const running = runButton("Send", async (signal) => {
    const content = input.value.trim();
    if (!content) throw new ApiError("the message is empty");
    const body = request({ role: "user", content });
    messages.push({ role: "user", content });
    log.append(h("article", { className: "turn user", "aria-label": "You" }, content));
    input.value = "";
    await answer(body, signal);
  });
  const regenerating = runButton("Regenerate", async (signal) => {
    const body = request();
    if (messages.at(-1)?.role === "assistant") {
      messages.pop();
      log.lastElementChild.remove();
      body.messages.pop();
      delete body.seed; // the same one would give the same answer
    }
    await answer(body, signal);
  });
  regenerating.button.className = "quiet";
  const fresh = h("button", { type: "button", className: "quiet", onclick: () => {
    running.stop();
    regenerating.stop();
    messages.length = 0;
    log.replaceChildren();
    refresh();
    input.focus();
  } }, "New conversation");

  const request = (...more) =>
    ({ ...options.values(), model: model.value, messages: [...messages, ...more], diffusing: true });

  async function answer(body, signal) {
    const text = h("div");
    const turn = h("article", { className: "turn assistant", "aria-label": "Answer" }, text);
    const tokens = new Tokens(text);
    const said = { role: "assistant", content: "" };
    let id = null;
    log.append(turn);
    turn.scrollIntoView({ block: "nearest" });
    refresh(true);
    try {
      for await (const chunk of postStream("v1/chat/completions", body, signal)) {
        id = chunk.id ?? id;
        said.content += chunk.choices?.[0]?.delta?.content ?? "";
        if (chunk.diffusion?.tokens) tokens.show(chunk.diffusion);
      }
    } finally {
      if (said.content || !signal.aborted) settle(turn, text, said, id);
      else turn.remove();
      refresh();
    }
    say(said.content);
  }

  function settle(turn, text, said, id) {
    if (!id) return turn.remove();
    messages.push(said);
    text.className = "said";
    text.textContent = said.content.trim() || "(an empty answer)";
    turn.append(feedback(() => ({ id, text: said.content }), { ratings: false }).root);
  }

  function refresh(busy = false) {
    regenerating.button.hidden = !messages.length;
    running.button.disabled = busy && !running.button.classList.contains("running");
    regenerating.button.disabled = busy && !regenerating.button.classList.contains("running");
  }

  onEnter(input, running.start, { alone: true });
  refresh();
  panel.replaceChildren(log,
    h("form", { className: "composer", onsubmit: (event) => event.preventDefault() },
      field("Message", input, "Enter sends, Shift+Enter begins a line."),
      h("div", { className: "row" }, field("Model", model), running.button, regenerating.button, fresh), options.root));
  return { show: () => input.focus({ preventScroll: true }) };
}
