// A trace as one HTML file that needs no server: the same viewer, the same page as `sfumato generate --html`.
import { pack } from "./viewer/viewer.js";

const text = async (name) => {
  const response = await fetch(`viewer/${name}`);
  if (!response.ok) throw new Error(`the server answered ${response.status} to viewer/${name}`);
  return response.text();
};

export async function exported(title, note, frames) {
  const names = ["page.html", "viewer.css", "tokens.js", "viewer.js", "page.js"];
  const [page, style, ...modules] = await Promise.all(names.map(text));
  const script = modules.map((source) => source.replace(/^import .*\n/gm, "")).join("\n");
  const data = JSON.stringify({ title, traces: [{ title: note, ...pack(frames) }] });
  const parts = { title: escaped(title), style, script, data: harmless(data) };
  return page.replace(/\{\{(\w+)\}\}/g, (_, name) => parts[name]);
}

// JSON in which nothing can end the script element that holds it.
function harmless(json) {
  return json.replace(/[<\u2028\u2029]/g, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function escaped(title) {
  return title.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}
