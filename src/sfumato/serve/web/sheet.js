// A text that /v1/denoise writes, and what can be done with it: watch, scrub, select, denoise anew, judge, take along.
import { postStream } from "./api.js";
import { alertLine, download, h, say } from "./dom.js";
import { runButton } from "./controls.js";
import { exported } from "./export.js";
import { feedback } from "./feedback.js";
import { influence } from "./influence.js";
import { Viewer } from "./viewer/viewer.js";

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
    this.feedback = feedback(() => this.#current && { id: this.#current.response.id, text: this.#current.response.text });
    this.undo = h("button", { type: "button", onclick: () => this.#undo() }, "Undo");
    this.save = h("button", { type: "button", onclick: () => this.#save() }, "Download as HTML");
    this.facts = h("p", { className: "facts" });
    const tools = h("div", { className: "row" }, this.renoise.button, this.undo, this.influence.button, this.save);
    this.after = h("div", { className: "after", hidden: true }, this.facts, tools, this.influence.root, this.feedback.root);
    this.root = h("div", { className: "sheet", hidden: true }, stage, this.after);
  }

  get #current() {
    return this.#runs.at(-1);
  }

  // A new text.
  async write(body, signal) {
    this.#runs = [];
    await this.#run(body, signal);
  }

  async #run(body, signal) {
    const { viewer } = this;
    this.root.hidden = false;
    this.after.hidden = true;
    viewer.clear();
    this.influence.clear();
    let last = null;
    try {
      for await (const chunk of postStream("v1/denoise", body, signal)) {
        if (chunk.diffusion?.tokens && !chunk.diffusion.done) viewer.push(chunk.diffusion);
        if (chunk.tokens) last = chunk;
      }
    } catch (error) {
      if (this.#current && !viewer.frames.length) this.#show(this.#current);
      throw error;
    }
    if (!last) return;
    this.#runs.push({ body, response: last, frames: viewer.frames });
    this.#settled();
    say(`Finished: ${last.text}`);
  }

  async #again(signal) {
    const { body, response } = this.#current;
    const noise = [...viewer_selection(this.viewer)];
    const { max_tokens, ...settings } = this.settings();
    await this.#run({ ...settings, model: body.model, tokens: response.tokens, noise }, signal);
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
    const { response, frames } = this.#current;
    try {
      download(`sfumato-${response.seed}.html`, "text/html", await exported(response.model, this.facts.textContent, frames));
    } catch (error) {
      alertLine(`the page could not be put together: ${error.message}`);
    }
  }
}

function viewer_selection(viewer) {
  return [...viewer.tokens.selected].sort((a, b) => a - b);
}
