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
  let turns = []; // {role, content, root}; another array is another conversation
  const model = modelChoice(able, able[0]);
  const options = settings({ tokens: 64 });
  const log = h("div", { className: "log", role: "log", "aria-live": "off", "aria-label": "Conversation" });
  const input = h("textarea", { rows: 2, placeholder: "Say something" });

  const sending = runButton("Send", async (signal) => {
    const content = input.value.trim();
    if (!content) throw new ApiError("the message is empty");
    const conversation = turns;
    add({ role: "user", content, root: h("article", { className: "turn user", "aria-label": "You" }, content) });
    input.value = "";
    try {
      await answer(conversation, options.values(), signal);
    } finally {
      if (conversation === turns && turns.at(-1)?.role === "user") {
        remove(); // a question that got no answer goes back to where it can be asked again
        input.value ||= content;
      }
    }
  });
  const regenerating = runButton("Regenerate", async (signal) => {
    const conversation = turns;
    const { seed, ...others } = options.values(); // the same seed would give the same answer
    const before = remove();
    try {
      await answer(conversation, others, signal);
    } finally {
      if (conversation === turns && turns.at(-1)?.role === "user") add(before);
    }
  });
  regenerating.button.className = "quiet";
  const fresh = h("button", { type: "button", className: "quiet", onclick: () => {
    turns = [];
    sending.stop();
    regenerating.stop();
    log.replaceChildren();
    refresh();
    input.focus();
  } }, "New conversation");

  function add(turn) {
    turns.push(turn);
    log.append(turn.root);
    refresh();
  }

  function remove() {
    const turn = turns.pop();
    turn.root.remove();
    refresh();
    return turn;
  }

  // What is settled when the stream ends, or is stopped, is the answer.
  async function answer(conversation, chosen, signal) {
    const text = h("div");
    const root = h("article", { className: "turn assistant", "aria-label": "Answer" }, text);
    const tokens = new Tokens(text);
    const messages = conversation.map(({ role, content }) => ({ role, content }));
    let [id, content] = [null, ""];
    log.append(root);
    root.scrollIntoView({ block: "nearest" });
    refresh(true);
    try {
      const body = { ...chosen, model: model.value, messages, diffusing: true };
      for await (const chunk of postStream("v1/chat/completions", body, signal)) {
        id = chunk.id ?? id;
        content += chunk.choices?.[0]?.delta?.content ?? "";
        if (chunk.diffusion?.tokens) tokens.show(chunk.diffusion);
      }
    } finally {
      if (conversation !== turns || !id || (signal.aborted && !content)) root.remove();
      else add({ role: "assistant", content, root: settled(root, text, id, content) });
      refresh();
    }
    say(content);
  }

  function settled(root, text, id, content) {
    text.className = "said";
    text.textContent = content.trim() || "(an empty answer)";
    root.append(feedback(() => ({ id, text: content }), { ratings: false }).root);
    return root;
  }

  function refresh(busy = false) {
    regenerating.button.hidden = turns.at(-1)?.role !== "assistant" && !busy;
    for (const { button } of [sending, regenerating]) button.disabled = busy && !button.classList.contains("running");
  }

  onEnter(input, () => sending.button.disabled || sending.start(), { alone: true });
  refresh();
  panel.replaceChildren(log,
    h("form", { className: "composer", onsubmit: (event) => event.preventDefault() },
      field("Message", input, "Enter sends, Shift+Enter begins a line."),
      h("div", { className: "row" }, field("Model", model), sending.button, regenerating.button, fresh), options.root));
  return { show: () => input.focus({ preventScroll: true }) };
}
