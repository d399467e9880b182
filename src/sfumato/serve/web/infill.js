// Infill: make holes in a text, or give what stands before and after one.
import { isAutoregressive, modelChoice, onEnter, runButton, settings } from "./controls.js";
import { alertLine, field, h, say } from "./dom.js";
import { Sheet } from "./sheet.js";
import { literal } from "./write.js";

const EXAMPLE = "Tom had a red ball.{8} His mother smiled and said, \"{6}\" They were happy.";

export function infill(panel, models) {
  const model = modelChoice(models, models.find((one) => !isAutoregressive(one)));
  const length = h("input", { type: "number", min: 1, max: 999, step: 1, value: 8 });
  const options = settings({ tokens: 48 });
  const sheet = new Sheet(options.values);

  const text = h("textarea", { rows: 5, value: EXAMPLE, spellcheck: false });
  const hole = h("button", { type: "button", onclick: () => {
    const { selectionEnd } = text;
    const selectionStart = text.selectionStart - (text.value[text.selectionStart - 1] === " "); // it belongs to the word
    text.setRangeText(`{${length.value || 8}}`, selectionStart, selectionEnd, "end");
    text.focus();
    say(`A hole of ${length.value || 8} tokens.`);
  } }, "Make hole");
  const prefix = h("textarea", { rows: 3, value: "Lily wanted to fly to the moon.", spellcheck: false });
  const suffix = h("textarea", { rows: 3, value: "Then she went home.", spellcheck: false });

  const whole = h("div", {}, field("Text with holes", text, "Select words, then “Make hole”; or type {8} yourself. The space before a word belongs to its hole."));
  const sides = h("div", { className: "sides", hidden: true }, field("Before the hole", prefix), field("After it", suffix));
  const way = (name, value, checked) => {
    const radio = h("input", { type: "radio", name: "infill-way", value, checked, onchange: () => {
      [whole.hidden, sides.hidden, hole.hidden] = [value !== "holes", value !== "sides", value !== "holes"];
    } });
    return h("label", { className: "way" }, radio, name);
  };
  const ways = h("div", { role: "radiogroup", "aria-label": "How to say it", className: "row" },
    way("Holes in a text", "holes", true), way("Before and after", "sides", false));

  const running = runButton("Fill", (signal) => {
    const template = sides.hidden ? text.value : `${literal(prefix.value)}{${length.value || 8}}${literal(suffix.value)}`;
    if (!/\{(\d+|\*|\?)\}/.test(template)) return alertLine("there is no hole to fill: select words, then “Make hole”");
    return sheet.write({ ...options.values(), model: model.value, template }, signal);
  });
  for (const area of [text, prefix, suffix]) onEnter(area, running.start);
  panel.replaceChildren(
    h("form", { className: "composer", onsubmit: (event) => event.preventDefault() }, ways, whole, sides,
      h("div", { className: "row" }, field("Tokens of a hole", length), hole, field("Model", model), running.button),
      options.root),
    sheet.root,
  );
  return {};
}
