// Write: a prompt or a template in, a text out of the haze.
import { ApiError } from "./api.js";
import { isAutoregressive, modelChoice, onEnter, runButton, settings } from "./controls.js";
import { field, h } from "./dom.js";
import { Sheet } from "./sheet.js";

const HOLE = /\{(\d+|\*|\?)\}/;

// A prompt is a template with an open end; braces in it are text.
export function asTemplate(text) {
  return HOLE.test(text) ? text : `${literal(text)}{*}`;
}

export function literal(text) {
  return text.replaceAll("{", "{{").replaceAll("}", "}}");
}

export function write(panel, models) {
  const prompt = h("textarea", { rows: 3, value: "Once upon a time there was a", spellcheck: false });
  const model = modelChoice(models, models.find((one) => !isAutoregressive(one)));
  const options = settings({ tokens: 64 });
  const sheet = new Sheet(options.values);
  const running = runButton("Write", (signal) => {
    if (!prompt.value.trim()) throw new ApiError("the prompt is empty; write the beginning of a text");
    return sheet.write({ ...options.values(), model: model.value, template: asTemplate(prompt.value) }, signal);
  });
  onEnter(prompt, running.start);
  panel.replaceChildren(
    h("form", { className: "composer", onsubmit: (event) => event.preventDefault() },
      field("Prompt, or a text with holes", prompt, "{8} is a hole of eight tokens, {*} an open end. Ctrl+Enter writes."),
      h("div", { className: "row" }, field("Model", model), running.button), options.root),
    sheet.root,
  );
  return {};
}
