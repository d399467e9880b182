// A text that /v1/denoise writes, and what can be done with it: watch, scrub, select, denoise anew, judge, take along.
import { postStream } from "./api.js";
import { alertLine, download, h, say } from "./dom.js";
import { runButton } from "./controls.js";
import { exported } from "./export.js";
import { feedback } from "./feedback.js";
import { influence } from "./influence.js";
import { Viewer } from "./viewer/viewer.js";

const HAZE = 56; // places of a sheet on which nothing is written yet

export class Sheet {
  #runs = []; // finished ones: {body, response, frames}; the last one is on the sheet

  // settings(): the fields for a text that is denoised anew.
  constructor(settings) {
    this.settings = settings;
    const stage = h("div");
    this.viewer = new Viewer(stage, { onselect: () => this.#refresh(), onlook: () => this.#refresh() });
    this.renoise = runButton("Re-noise selected", (signal) => this.#again(signal));
    this.renoise.button.className = "";
    this.influence = influence(this.viewer, () => this.#current);
    this.feedback = feedback(() => this.#current && { id: this.#current.response.id, text: this.#current.response.completion });
    this.undo = h("button", { type: "button", onclick: () => this.#undo() }, "Undo");
    this.save = h("button", { type: "button", onclick: () => this.#save() }, "Download as HTML");
    this.facts = h("p", { className: "facts" });
    const tools = h("div", { className: "row" }, this.renoise.button, this.undo, this.influence.button, this.save);
    this.after = h("div", { className: "after", hidden: true }, this.facts, tools, this.influence.root, this.feedback.root);
    this.root = h("div", { className: "sheet" }, stage, this.after);
    const haze = Array.from({ length: HAZE }, (_, position) => ({ position, text: "", state: "masked" }));
    this.viewer.tokens.show({ tokens: haze });
  }

  get #current() {
    return this.#runs.at(-1);
  }

  // A new text. Until its first step is here, the one before stays.
  write(body, signal) {
    return this.#run(body, signal, []);
  }

  async #again(signal) {
    const { body, response } = this.#current;
    const { max_tokens, ...settings } = this.settings();
    const noise = [...this.viewer.tokens.selected].sort((a, b) => a - b);
    await this.#run({ ...settings, model: body.model, tokens: response.tokens, noise }, signal, this.#runs);
    this.viewer.tokens.root.focus({ preventScroll: true }); // nothing is selected now, so the button is switched off
  }

  async #run(body, signal, before) {
    let last = null;
    let begun = false;
    try {
      for await (const chunk of postStream("v1/denoise", body, signal)) {
        if (!begun) this.#begin(before);
        begun = true;
        if (chunk.tokens) last = chunk;
        else if (chunk.diffusion?.tokens) this.viewer.push(chunk.diffusion);
      }
    } finally {
      if (last) this.#runs.push({ body, response: last, frames: this.viewer.frames });
      if (last) this.#settled();
      else if (begun && before.length) this.#show(this.#current);
    }
    if (last) say(`Finished: ${last.text}`);
  }

  #begin(before) {
    this.#runs = before;
    this.after.hidden = true;
    this.influence.clear();
    this.viewer.clear();
  }

  #undo() {
    this.#runs.pop();
    this.#show(this.#current);
    say("Undone.");
  }

  #show({ frames }) {
    this.viewer.load(frames);
    this.#settled();
  }

  #settled() {
    const { response } = this.#current;
    const { nfe, tpf } = response.usage?.diffusion ?? {};
    const facts = [response.model, `seed ${response.seed}`, response.usage && `${response.usage.completion_tokens} tokens`,
      nfe != null && `NFE ${nfe}`, tpf != null && `TPF ${tpf.toFixed(1)}`, response.finish_reason === "stop" ? "ended" : null];
    this.facts.textContent = facts.filter(Boolean).join(" · ");
    this.after.hidden = false;
    this.influence.clear();
    this.feedback.reset();
    this.#refresh();
  }

  #refresh() {
    if (!this.after) return; // the viewer tells of itself before the sheet is built
    const chosen = this.viewer.tokens?.selected.size ?? 0;
    this.renoise.button.disabled = !chosen;
    this.undo.hidden = this.#runs.length < 2;
    this.influence.refresh();
  }

  async #save() {
    const { body, response, frames } = this.#current;
    const title = (body.template ?? response.text).replace(/\s+/g, " ").slice(0, 80);
    try {
      download(`sfumato-${response.seed}.html`, "text/html", await exported(title, this.facts.textContent, frames));
    } catch (error) {
      alertLine(`the page could not be put together: ${error.message}`);
    }
  }
}
