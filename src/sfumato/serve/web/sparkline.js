// The last two minutes of a figure as a line; decoration, the number stands beside it.

const KEPT = 60;
const [WIDTH, HEIGHT] = [120, 28];
const SVG = "http://www.w3.org/2000/svg";

export class Sparkline {
  #values = [];

  constructor() {
    this.root = document.createElementNS(SVG, "svg");
    this.root.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.root.setAttribute("preserveAspectRatio", "none");
    this.root.setAttribute("class", "sparkline");
    this.root.setAttribute("aria-hidden", "true");
    this.area = this.root.appendChild(document.createElementNS(SVG, "path"));
    this.area.setAttribute("class", "area");
    this.line = this.root.appendChild(document.createElementNS(SVG, "path"));
    this.line.setAttribute("class", "line");
  }

  // A value that is not known leaves the line as it is.
  push(value) {
    if (typeof value !== "number" || !Number.isFinite(value)) return;
    this.#values = [...this.#values, value].slice(-KEPT);
    const most = Math.max(...this.#values, 1e-9);
    const first = WIDTH - ((this.#values.length - 1) * WIDTH) / (KEPT - 1);
    const points = this.#values.map((one, i) => {
      const x = first + (i * WIDTH) / (KEPT - 1);
      return `${x.toFixed(1)} ${(HEIGHT - 2 - (one / most) * (HEIGHT - 4)).toFixed(1)}`;
    });
    this.line.setAttribute("d", `M${points.join("L")}`);
    this.area.setAttribute("d", `M${first} ${HEIGHT}L${points.join("L")}L${WIDTH} ${HEIGHT}Z`);
  }
}
