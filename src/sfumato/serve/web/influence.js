// Which words of a text made a token likely: each is masked in turn, and the token's probability looked up again.
import { postJson } from "./api.js";
import { runButton } from "./controls.js";
import { h, say } from "./dom.js";
import { percent, plain, visible } from "./viewer/tokens.js";

const LISTED = 10;
const MATTERS = 0.01; // nats; less is not worth a shade

// current(): the finished run {body, response} on the sheet.
export function influence(viewer, current) {
  const root = h("div", { className: "influence", hidden: true });
  const running = runButton("Influence", async (signal) => {
    const { body, response } = current();
    const { position } = viewer.tokens.active;
    const tokens = response.tokens.slice(0, viewer.frames.at(-1).tokens.findLastIndex(visible) + 1);
    show(await postJson("v1/influence", { model: body.model, tokens, position }, signal));
  });
  running.button.className = "";
  running.button.title = "Which words made this token likely";

  function show(answer) {
    const sorted = answer.influence.filter((one) => Math.abs(one.delta_log_probability) >= MATTERS).sort((a, b) => Math.abs(b.delta_log_probability) - Math.abs(a.delta_log_probability));
    const most = Math.max(MATTERS, ...sorted.map((one) => Math.abs(one.delta_log_probability)));
    viewer.pause();
    viewer.seek(viewer.frames.length - 1);
    viewer.tokens.shade(new Map(sorted.map((one) => [one.position, one.delta_log_probability / most])));
    const rows = sorted.slice(0, LISTED).map(({ text, delta_log_probability: delta }) =>
      h("li", { className: delta > 0 ? "helps" : "hinders" }, h("span", { className: "word" }, plain(text)),
        h("span", {}, `× ${factor(-delta)}`)));
    const title = `What made “${plain(answer.text)}” likely (${percent(answer.probability)})`;
    const hint = rows.length
      ? "Each word is hidden in turn; the factor is what becomes of the probability without it."
      : "Each word was hidden in turn, and none of them alone makes a difference.";
    root.replaceChildren(h("h3", {}, title), h("p", { className: "hint" }, hint),
      h("ol", {}, ...rows), h("button", { type: "button", className: "quiet", onclick: clear }, "Close"));
    root.hidden = false;
    say(`${title}: ${sorted.slice(0, 3).map(({ text }) => plain(text)).join(", ") || "no word alone"}`);
  }

  function clear() {
    root.hidden = true;
    viewer.tokens.shade(null);
  }

  function refresh() {
    const token = viewer.tokens?.active;
    running.button.disabled = !token || !viewer.atEnd || !current();
  }

  return { root, button: running.button, clear, refresh };
}

function factor(delta) {
  const value = Math.exp(delta);
  return value >= 100 || value < 0.01 ? value.toExponential(0) : value.toFixed(2);
}
