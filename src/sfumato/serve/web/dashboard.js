// Dashboard: what the server is doing, looked up every two seconds while the panel is open.
import { getJson } from "./api.js";
import { alertLine, h } from "./dom.js";
import { Sparkline } from "./sparkline.js";

const EVERY = 2000; // milliseconds
const TILES = [
  ["Throughput", "tokens/s", (s) => s.tokens_per_second],
  ["Rows running", "at this moment", (s) => s.running],
  ["Queue", "waiting", (s) => s.queued],
  ["NFE", "a request", (s) => s.nfe_per_request],
  ["TPF", "tokens a forward pass", (s) => s.tpf],
  ["First text", "p50 · p95", (s) => s.first_commit_seconds?.p50, (s) => pair(s.first_commit_seconds)],
  ["First sentence", "p50 · p95", (s) => s.first_sentence_seconds?.p50, (s) => pair(s.first_sentence_seconds)],
  ["Requests", "since the start", (s) => s.requests],
];
const FEEDBACK = { thumb_up: "good", thumb_down: "bad", rating: "ratings", correction: "corrections", preference: "preferences" };

export function dashboard(panel) {
  const tiles = TILES.map(([name, unit, value, shown]) => tile(name, unit, value, shown));
  const models = h("tbody");
  const counts = h("dl", { className: "measures" });
  const adapted = adaptation();
  panel.replaceChildren(
    h("div", { className: "tiles" }, ...tiles.map((one) => one.root)),
    h("h2", {}, "Models"),
    table("Models", ["model", "version", "requests", "tokens"], models),
    h("h2", {}, "Feedback"),
    counts,
    adapted.root,
  );

  function draw(stats) {
    tiles.forEach((one) => one.draw(stats));
    models.replaceChildren(...Object.entries(stats.models ?? {}).map(([name, { version, requests, tokens }]) =>
      h("tr", {}, h("th", { scope: "row" }, name), ...[version, requests, tokens].map((it) => h("td", {}, figure(it))))));
    counts.replaceChildren(...Object.entries(FEEDBACK).map(([kind, name]) =>
      h("div", {}, h("dt", {}, name), h("dd", {}, figure(stats.feedback?.[kind] ?? 0)))));
    adapted.draw(stats.controller);
  }

  let timer = null;
  let broken = false;
  const poll = async () => {
    if (!document.hidden) {
      try {
        draw(await getJson("v1/stats"));
        if (broken) alertLine("");
        broken = false;
      } catch (error) {
        if (!broken) alertLine(error.message);
        broken = true;
      }
    }
    if (timer !== null) timer = setTimeout(poll, EVERY);
  };
  return {
    show: () => {
      timer = 0;
      poll();
    },
    hide: () => {
      clearTimeout(timer);
      timer = null;
    },
  };
}

// What the server believes of presets, by model and kind of request; nothing unless it adapts settings.
function adaptation() {
  const rows = h("tbody");
  const root = h("section", { className: "adapted", hidden: true }, h("h2", {}, "Adapting settings"),
    table("Adapting settings", ["model", "kind", "preset", "used", "judged", "quality", "speed", "utility"], rows));
  const draw = (controller) => {
    root.hidden = !controller;
    rows.replaceChildren(...Object.entries(controller?.models ?? {}).flatMap(([model, { kinds }]) =>
      Object.entries(kinds).flatMap(([kind, presets]) => {
        const best = Math.max(...Object.values(presets).map((one) => one.utility));
        return Object.entries(presets).map(([preset, one]) =>
          h("tr", { className: one.utility === best ? "best" : "" }, h("th", { scope: "row" }, model), h("td", {}, kind),
            h("td", {}, preset), h("td", {}, figure(one.used)), h("td", {}, figure(Math.round(one.judged))),
            ...[one.quality, one.speed, one.utility].map((it) => h("td", {}, it.toFixed(2)))));
      })));
  };
  return { root, draw };
}

function table(name, columns, rows) {
  return h("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": name }, h("table", {}, h("thead", {}, h("tr", {},
    ...columns.map((column) => h("th", { scope: "col" }, column)))), rows));
}

function tile(name, unit, value, shown) {
  const number = h("strong", {}, "–");
  const line = new Sparkline();
  const root = h("div", { className: "tile" }, h("span", { className: "what" }, name), number, h("small", {}, unit), line.root);
  const draw = (stats) => {
    number.textContent = shown ? shown(stats) : figure(value(stats));
    line.push(value(stats));
  };
  return { root, draw };
}

function pair(seconds) {
  return seconds?.p50 == null ? "–" : `${time(seconds.p50)} · ${time(seconds.p95)}`;
}

function time(seconds) {
  return seconds < 1 ? `${Math.round(1000 * seconds)} ms` : `${seconds.toFixed(1)} s`;
}

function figure(value) {
  if (typeof value !== "number") return value ?? "–";
  return value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
}
