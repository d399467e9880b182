// Controls that several panels share: which model, how to sample, a button that starts and stops.
import { ApiError } from "./api.js";
import { alertLine, field, h } from "./dom.js";

const SAMPLERS = [
  "margin", "confidence", "entropy", "threshold", "factor", "entropy_bounded", "ancestral", "first_hitting", "euler",
  "remdm", "p2", "predictor_corrector", "gibbs", "edit", "left_to_right", "ddpm", "ddim", "ode", "tau_leaping",
];

export const isAutoregressive = (model) => model.diffusion?.process === "autoregressive";

export function modelChoice(models, chosen) {
  const select = h("select", {}, ...models.map(({ id }) => h("option", { value: id }, id)));
  if (chosen) select.value = chosen.id;
  return select;
}

// The folded settings; values() holds those that the reader has set, the others are the model's own.
export function settings({ tokens, sampler = "", steps = "" }) {
  const number = (name, attributes) => h("input", { type: "number", name, inputMode: "decimal", ...attributes });
  const controls = {
    max_tokens: number("max_tokens", { min: 1, step: 1, value: tokens }),
    sampler: h("select", { name: "sampler" }, h("option", { value: "" }, "the model's"),
      ...SAMPLERS.map((name) => h("option", { value: name }, name.replaceAll("_", " ")))),
    steps: number("steps", { min: 1, step: 1, placeholder: "the sampler's", value: steps }),
    temperature: number("temperature", { min: 0, step: "any", placeholder: "the model's" }),
    threshold: number("threshold", { min: 0, max: 1, step: "any", placeholder: "0.9" }),
    seed: number("seed", { min: 0, step: 1, placeholder: "any" }),
  };
  controls.sampler.value = sampler;
  const labels = { max_tokens: "Tokens of an open end", sampler: "Sampler", steps: "Steps", temperature: "Temperature",
    threshold: "Threshold", seed: "Seed" };
  const grid = h("div", { className: "fields" }, ...Object.entries(controls).map(([name, it]) => field(labels[name], it)));
  const root = h("details", { className: "settings" }, h("summary", {}, "Settings"), grid);
  const values = () => {
    for (const control of Object.values(controls)) {
      if (!control.checkValidity()) root.open = true;
      if (!control.reportValidity()) throw new ApiError(`${labels[control.name]}: ${control.validationMessage}`);
    }
    const given = Object.entries(controls).filter(([, control]) => control.value !== "");
    return Object.fromEntries(given.map(([name, { type, value }]) => [name, type === "number" ? Number(value) : value]));
  };
  return { root, values };
}

// A button that runs an action(signal), and stops it at a second click.
export function runButton(label, action) {
  let controller = null;
  const button = h("button", { type: "button", className: "primary", onclick: () => (controller ? controller.abort() : run()) },
    label);
  async function run() {
    controller = new AbortController();
    button.textContent = "Stop";
    button.classList.add("running");
    alertLine("");
    try {
      await action(controller.signal);
    } catch (error) {
      if (error.name !== "AbortError") alertLine(error.message);
      if (!(error instanceof ApiError) && error.name !== "AbortError") console.error(error);
    } finally {
      controller.abort(); // whatever of the action still runs, after one part of it has failed
      controller = null;
      button.textContent = label;
      button.classList.remove("running");
    }
  }
  return { button, start: () => controller ?? run(), stop: () => controller?.abort() };
}

// Ctrl+Enter (or Enter alone) in a text area starts what its button starts.
export function onEnter(area, run, { alone = false } = {}) {
  area.addEventListener("keydown", (event) => {
    const wanted = alone ? !event.shiftKey : event.ctrlKey || event.metaKey;
    if (event.key !== "Enter" || !wanted || event.isComposing) return;
    event.preventDefault();
    run();
  });
}
