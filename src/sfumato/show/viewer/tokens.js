// The places of a text at one step: haze where nothing is decided, drafts that grow clearer, words coloured by how sure
// the network was. A frame is {step, nfe, tokens}; a token is {position, text, state, probability, entropy, step,
// runners_up}, where state is given, masked, draft or committed.

const HAZY = 0.15; // a draft that is less probable is no more than haze

export class Tokens {
  #spans = [];
  #shown = [];
  #active = -1;
  #shades = null;
  #onlook;
  #onselect;
  selected = new Set();

  // root: an empty element. onlook(token): the reader points at a token, or (undefined) at none.
  // onselect(positions): the selection has changed; without it, nothing can be selected.
  constructor(root, { label = "Text, token by token", onlook, onselect } = {}) {
    this.root = root;
    this.#onlook = onlook;
    this.#onselect = onselect;
    root.classList.add("tokens");
    if (!onlook) return;
    root.setAttribute("role", "listbox");
    root.setAttribute("aria-label", label);
    root.setAttribute("aria-orientation", "horizontal");
    if (onselect) root.setAttribute("aria-multiselectable", "true");
    root.tabIndex = 0;
    root.addEventListener("keydown", (event) => this.#key(event));
    root.addEventListener("focus", () => root.matches(":focus-visible") && this.#look(Math.max(0, this.#active)));
    root.addEventListener("pointerover", (event) => this.#point(event));
    root.addEventListener("click", (event) => this.#click(event));
  }

  get selects() {
    return this.#onselect !== undefined;
  }

  // The token that the reader looks at.
  get active() {
    return this.#shown[this.#active];
  }

  clear() {
    this.root.replaceChildren();
    [this.#spans, this.#shown, this.#active, this.#shades] = [[], [], -1, null];
    this.select([]);
  }

  show(frame) {
    const tokens = frame.tokens.filter(visible);
    while (this.#spans.length > tokens.length) this.#spans.pop().remove();
    while (this.#spans.length < tokens.length) this.#append();
    tokens.forEach((token, i) => {
      if (this.#shown[i] !== token) this.#draw(this.#spans[i], token);
    });
    this.#shown = tokens;
    if (this.#active >= tokens.length) this.#active = -1;
    if (this.#active >= 0) this.#onlook?.(this.active);
  }

  select(positions) {
    this.selected = new Set(positions);
    this.#mark();
    this.#onselect?.([...this.selected].sort((a, b) => a - b));
  }

  // Shades by position: {strength from -1 to 1}; null takes them away.
  shade(shades) {
    this.#shades = shades;
    this.root.classList.toggle("shaded", shades !== null);
    this.#mark();
  }

  #append() {
    const span = document.createElement("span");
    const ink = document.createElement("span"); // without the space before it, so that a word is marked, not a gap
    ink.className = "ink";
    span.append(document.createTextNode(""), ink);
    if (this.#onlook) {
      span.setAttribute("role", "option");
      span.id = `${(this.root.id ||= `tokens-${(Tokens.count += 1)}`)}-${this.#spans.length}`;
    }
    this.#spans.push(span);
    this.root.append(span);
  }

  static count = 0;

  #draw(span, token) {
    const open = token.state === "masked" || (token.state === "draft" && token.probability < HAZY);
    span.className = `token ${open ? "masked" : token.state}`;
    const [, space, word] = /^(\s*)(.*)$/s.exec(open ? "" : token.text);
    span.firstChild.data = space;
    span.lastChild.textContent = word;
    span.style.setProperty("--p", (token.probability ?? 1).toFixed(3));
    if (this.#onlook) span.setAttribute("aria-label", spoken(token));
    this.#paint(span, token);
  }

  #mark() {
    this.#spans.forEach((span, i) => this.#shown[i] && this.#paint(span, this.#shown[i]));
  }

  #paint(span, token) {
    const chosen = this.selected.has(token.position);
    span.classList.toggle("selected", chosen);
    if (this.#onselect) span.setAttribute("aria-selected", String(chosen));
    const strength = this.#shades?.get(token.position);
    span.classList.toggle("helps", strength > 0);
    span.classList.toggle("hinders", strength < 0);
    span.style.setProperty("--strength", Math.abs(strength ?? 0).toFixed(3));
  }

  #look(index) {
    if (!this.#spans[index]) return;
    this.#spans[this.#active]?.classList.remove("active");
    this.#active = index;
    this.#spans[index].classList.add("active");
    this.root.setAttribute("aria-activedescendant", this.#spans[index].id);
    this.#onlook(this.#shown[index]);
  }

  #toggle(index) {
    if (!this.#onselect || !this.#shown[index]) return;
    const { position } = this.#shown[index];
    const selected = new Set(this.selected);
    if (!selected.delete(position)) selected.add(position);
    this.select(selected);
  }

  #point(event) {
    const index = this.#under(event);
    if (index >= 0 && event.pointerType === "mouse") this.#look(index);
  }

  #under(event) {
    return this.#spans.indexOf(event.target.closest(".token"));
  }

  #click(event) {
    const index = this.#under(event);
    if (index < 0) return;
    this.#look(index);
    this.#toggle(index);
  }

  #key(event) {
    const last = this.#spans.length - 1;
    const to = { ArrowRight: this.#active + 1, ArrowLeft: this.#active - 1, Home: 0, End: last }[event.key];
    if (to !== undefined) this.#look(Math.min(last, Math.max(0, to)));
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") this.#line(event.key === "ArrowDown" ? 1 : -1);
    else if (event.key === " ") this.#toggle(this.#active);
    else if (event.key === "Escape" && this.selected.size) this.select([]);
    else return;
    event.preventDefault();
  }

  // To the nearest token of the line below or above.
  #line(direction) {
    const from = this.#spans[Math.max(0, this.#active)]?.getBoundingClientRect();
    if (!from) return;
    const distance = (span) => {
      const box = span.getBoundingClientRect();
      const down = (box.top - from.top) * direction;
      return down < from.height / 2 ? Infinity : down * 1000 + Math.abs(box.left - from.left);
    };
    const distances = this.#spans.map(distance);
    const best = Math.min(...distances);
    if (best < Infinity) this.#look(distances.indexOf(best));
  }
}

// A token alone, with its white space made visible.
export function plain(text) {
  return text === "" ? "end" : text.replaceAll("\n", "↵").replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length));
}

export function percent(probability) {
  if (probability == null) return "–";
  const value = 100 * probability;
  if (value > 99.9 && value < 100) return "> 99.9 %";
  return value < 0.1 && value > 0 ? "< 0.1 %" : `${value.toFixed(value < 10 ? 1 : 0)} %`;
}

// What is known and has no text stands behind the end, or is a start token.
export function visible(token) {
  return token.state === "masked" || token.text !== "";
}

function spoken(token) {
  if (token.state === "masked") return "open";
  const text = token.text.trim() === "" ? "space" : token.text.trim();
  if (token.state === "given") return text;
  return `${token.state === "draft" ? "draft " : ""}${text}, ${percent(token.probability)}`;
}
