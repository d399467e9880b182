// Race: the same prompt at the same time to two models. All times are measured here, from the streams.
import { ApiError, postStream } from "./api.js";
import { isAutoregressive, modelChoice, onEnter, runButton, settings } from "./controls.js";
import { field, h, say } from "./dom.js";
import { preference } from "./feedback.js";
import { Tokens } from "./viewer/tokens.js";

const FIGURES = {
  rate: "tokens/s", tokens: "tokens", nfe: "NFE", tpf: "TPF", first: "first text", finish: "finished",
};

export function race(panel, models) {
  const twin = models.find(isAutoregressive);
  const lanes = [lane("A", models, models.find((one) => !isAutoregressive(one))), lane("B", models, twin ?? models.at(-1))];
  const prompt = h("textarea", { rows: 2, value: "One day, a little girl named Lily", spellcheck: false });
  const options = settings({ tokens: 96, sampler: "confidence", steps: 48 }); // two tokens a forward pass
  const better = preference(() => (lanes.every((one) => one.id()) ? lanes.map((one) => one.id()) : null));
  const running = runButton("Start", async (signal) => {
    if (!prompt.value) throw new ApiError("the prompt is empty; write the beginning of a text");
    const body = { ...options.values(), prompt: prompt.value, diffusing: true, stream_options: { include_usage: true } };
    const runs = lanes.map((one) => one.run(body, signal));
    better.reset();
    const seconds = await Promise.all(runs);
    better.reset();
    say(lanes.map((one, i) => `${one.name()} finished after ${seconds[i].toFixed(2)} seconds`).join("; "));
  });
  onEnter(prompt, running.start);
  panel.replaceChildren(
    h("form", { className: "composer", onsubmit: (event) => event.preventDefault() }, field("Prompt", prompt),
      h("div", { className: "row" }, running.button), options.root),
    h("div", { className: "lanes" }, ...lanes.map((one) => one.root)),
    better.root,
    h("p", { className: "hint" }, "Measured in this browser, from sending the request: the network, the server's queue and",
      " the drawing count. Both models run at the same time and share the server. NFE = forward passes, TPF = tokens per",
      " forward pass. The diffusion model makes as many passes as its steps allow, at first one for two tokens. A figure of",
      " speed says nothing about how good the text is."),
  );
  return {};
}

function lane(letter, models, chosen) {
  const model = modelChoice(models, chosen);
  const text = h("div");
  const tokens = new Tokens(text);
  const values = Object.fromEntries(Object.keys(FIGURES).map((name) => [name, h("dd", {}, "–")]));
  const figures = h("dl", { className: "measures" },
    ...Object.entries(FIGURES).map(([name, label]) => h("div", {}, h("dt", {}, label), values[name])));
  const root = h("section", { className: "sheet lane", "aria-label": `Lane ${letter}` }, field(`Model ${letter}`, model), figures, text);

  let id = null; // of the finished response

  async function run(body, signal) {
    id = null;
    tokens.clear();
    for (const value of Object.values(values)) value.textContent = "–";
    const start = performance.now();
    const elapsed = () => (performance.now() - start) / 1000;
    const given = { position: -1, text: body.prompt, state: "given" };
    let frame = { tokens: [] };
    let drawing = 0;
    const draw = () => {
      drawing = 0;
      tokens.show({ tokens: [given, ...frame.tokens] });
    };
    let answer = null;
    for await (const { id: its, diffusion, usage } of postStream("v1/completions", asked(body), signal)) {
      answer = its;
      if (diffusion?.tokens) {
        frame = diffusion;
        drawing ||= requestAnimationFrame(draw);
        note(elapsed(), frame.tokens.filter(isText).length, frame.nfe);
      }
      if (usage) note(elapsed(), usage.completion_tokens, usage.diffusion?.nfe);
    }
    values.finish.textContent = time(elapsed());
    id = answer;
    return elapsed();
  }

  // An autoregressive model writes one token after the other, whatever the sampler of the other one is.
  function asked({ sampler, steps, threshold, ...others }) {
    const chosen = models.find((one) => one.id === model.value);
    const body = { ...others, model: model.value };
    return isAutoregressive(chosen) ? body : { ...body, sampler, steps, threshold };
  }

  function note(seconds, count, nfe) {
    if (count && values.first.textContent === "–") values.first.textContent = time(seconds);
    values.tokens.textContent = String(count);
    values.rate.textContent = (count / seconds).toFixed(0);
    if (nfe != null) values.nfe.textContent = String(nfe);
    if (nfe) values.tpf.textContent = (count / nfe).toFixed(1);
  }

  return { root, run, name: () => model.value, id: () => id };
}

const isText = (token) => token.state === "committed" && token.text !== "";
const time = (seconds) => (seconds < 1 ? `${Math.round(1000 * seconds)} ms` : `${seconds.toFixed(2)} s`);
