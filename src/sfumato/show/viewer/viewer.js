// A trace before the reader's eyes: the text at a step, a slider through the steps, and what the network thought.
import { Tokens, percent, plain, visible } from "./tokens.js";

const STATES = ["given", "masked", "draft", "committed"];
const PACE = 55; // milliseconds a step, at least: slow enough for the eye
const LONGEST = 9000; // milliseconds to play a whole trace

export class Viewer {
  #frames = [];
  #at = -1;
  #timer = null;
  #pinned = null;

  // root: an empty element. onselect(positions): tokens can be selected. onlook(token): the reader looks at one.
  constructor(root, { label, onselect, onlook } = {}) {
    const text = element("div", "text");
    this.#build(root, text);
    this.tokens = new Tokens(text, {
      label,
      onselect,
      onlook: (token) => {
        this.#detail(token);
        onlook?.(token);
      },
    });
    this.clear();
  }

  get frame() {
    return this.#frames[this.#at];
  }

  get frames() {
    return this.#frames;
  }

  get atEnd() {
    return this.#at === this.#frames.length - 1;
  }

  clear() {
    this.pause();
    [this.#frames, this.#at] = [[], -1];
    this.tokens.clear();
    this.#detail();
    this.#draw();
  }

  // All frames of a finished trace; shows the last one.
  load(frames) {
    this.clear();
    this.#frames = frames;
    this.seek(frames.length - 1);
  }

  // One more frame of a trace that is being written; it is shown in its turn.
  push(frame) {
    const following = this.#at < 0 || this.atEnd || this.#timer !== null;
    this.#frames.push(frame);
    if (this.#at < 0) this.seek(0);
    else if (following && still()) this.seek(this.#frames.length - 1);
    else if (following) this.#run();
    this.#draw();
  }

  seek(index) {
    this.#at = Math.min(this.#frames.length - 1, Math.max(0, index));
    if (this.frame) this.tokens.show(this.frame);
    this.#draw();
  }

  play() {
    if (this.atEnd) this.seek(0);
    this.#run();
  }

  pause() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#draw();
  }

  #run() {
    if (this.#timer !== null) return;
    const step = () => {
      this.seek(this.#at + 1);
      if (this.atEnd) this.pause();
      else this.#timer = setTimeout(step, this.#pace());
    };
    this.#timer = setTimeout(step, this.#pace());
    this.#draw();
  }

  #pace() {
    return Math.max(PACE / 2, Math.min(PACE * 3, LONGEST / this.#frames.length));
  }

  #build(root, text) {
    this.button = element("button", "play");
    this.button.type = "button";
    this.button.addEventListener("click", () => (this.#timer === null ? this.play() : this.pause()));
    this.slider = element("input", "steps");
    Object.assign(this.slider, { type: "range", min: 0, step: 1 });
    this.slider.setAttribute("aria-label", "Step");
    this.slider.addEventListener("input", () => {
      const chosen = Number(this.slider.value); // before a pause draws the slider where it was
      this.pause();
      this.seek(chosen);
    });
    this.figures = element("span", "figures");
    this.transport = element("div", "transport", this.button, this.slider, this.figures);
    this.details = element("div", "details");
    const legend = element(
      "div",
      "legend",
      element("span", "", "unsure ", element("span", "scale"), " sure"),
      element("span", "", element("span", "masked", element("span", "ink")), " open"),
      element("span", "draft sample", element("span", "ink", "draft")),
    );
    legend.setAttribute("aria-hidden", "true");
    root.classList.add("viewer");
    root.replaceChildren(element("div", "stage", text, this.transport, legend, this.details));
  }

  #draw() {
    const { length } = this.#frames;
    this.transport.hidden = length === 0;
    this.button.textContent = this.#timer === null ? "▶" : "❚❚";
    this.button.setAttribute("aria-label", this.#timer === null ? "Play the steps" : "Pause");
    this.button.disabled = length < 2;
    this.slider.max = String(Math.max(0, length - 1));
    this.slider.value = String(Math.max(0, this.#at));
    if (!this.frame) return;
    const { step, nfe, tokens } = this.frame;
    const room = tokens.filter((token) => token.state !== "given" && visible(token)).length;
    const written = tokens.filter((token) => token.state === "committed" && visible(token)).length;
    this.figures.textContent = `step ${step} · NFE ${nfe} · ${written}/${room} tokens`;
    this.slider.setAttribute("aria-valuetext", `step ${step}, ${written} of ${room} tokens written`);
  }

  // What the network thought of a token; what it would have written instead.
  #detail(token) {
    if (!token) {
      const more = this.tokens?.selects ? " Click on it, or press Space, to select it." : "";
      this.details.replaceChildren(element("p", "hint", `Point at a token to see what the network thought.${more}`));
      return;
    }
    const word = element("strong", "word", token.state === "masked" ? "open" : plain(token.text));
    const facts = element("p", "facts", word, ` at ${token.position}, ${told(token)}`);
    const rows = [];
    if (token.probability != null) rows.push(bar(plain(token.text), token.probability, "own"));
    for (const [text, probability] of token.runners_up ?? []) rows.push(bar(plain(text), probability, "other"));
    this.details.replaceChildren(facts, element("ul", "bars", ...rows));
  }
}

// The frames of a recording, of which each step holds only what has changed.
export function unpack(recording) {
  let tokens = recording.start.map(token);
  const frames = [numbered(0, 0, tokens)];
  for (const { step, nfe, inserted, changes } of recording.steps) {
    tokens = frames.at(-1).tokens.slice();
    for (const at of inserted) tokens.splice(at, 0, token([1, ""]));
    for (const [at, ...change] of changes) tokens[at] = token(change);
    frames.push(numbered(step, nfe, tokens));
  }
  return frames;
}

// The other way round.
export function pack(frames) {
  const start = frames[0].tokens.map(packed);
  const steps = frames.slice(1).map(({ step, nfe, tokens }, i) => {
    const before = frames[i].tokens;
    const inserted = Array.from({ length: Math.max(0, tokens.length - before.length) }, (_, n) => before.length + n);
    const changes = tokens.flatMap((token, at) => {
      const now = packed(token);
      return before[at] && String(packed(before[at])) === String(now) ? [] : [[at, ...now]];
    });
    return { step, nfe, inserted, changes };
  });
  return { start, steps };
}

export function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

export function still() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

function token([state, text, probability, entropy, step, runners_up]) {
  return { state: STATES[state], text, probability, entropy, step, runners_up };
}

function packed({ state, text, probability, entropy, step, runners_up }) {
  const place = [STATES.indexOf(state), text];
  return probability == null ? place : [...place, probability, entropy ?? null, step ?? null, runners_up ?? []];
}

function numbered(step, nfe, tokens) {
  return {
    step,
    nfe,
    tokens: tokens.map((token, position) => (token.position === position ? token : { ...token, position })),
  };
}

function told(token) {
  if (token.state === "given") return "given";
  if (token.state === "masked") return "nothing is decided here yet";
  const how = token.state === "draft" ? "a draft" : token.step == null ? "written" : `written in step ${token.step}`;
  const entropy = token.entropy == null ? "" : `, entropy ${token.entropy.toFixed(2)} nats`;
  return token.probability == null ? how : `${how}: ${percent(token.probability)}${entropy}`;
}

function bar(text, probability, kind) {
  const fill = element("span", "fill");
  fill.style.setProperty("--p", probability.toFixed(4));
  return element(
    "li",
    kind,
    element("span", "name", text),
    element("span", "track", fill),
    element("span", "value", percent(probability)),
  );
}
