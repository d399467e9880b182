// An exported page: one viewer for each trace that it holds.
import { Viewer, element, unpack } from "./viewer.js";

const { traces } = JSON.parse(document.getElementById("trace").textContent);
for (const { title, ...recording } of traces) {
  const stage = element("div");
  const sheet = element("section", "sheet", element("h2", "", title), stage);
  document.querySelector("main").append(sheet);
  new Viewer(stage, { label: `${title}: text, token by token` }).load(unpack(recording));
}
