// Tabs, light and dark, and the models that the panels work with.
import { ApiError, getJson } from "./api.js";
import { chat } from "./chat.js";
import { dashboard } from "./dashboard.js";
import { alertLine, h } from "./dom.js";
import { infill } from "./infill.js";
import { race } from "./race.js";
import { write } from "./write.js";

const PANELS = { write, chat, infill, race, dashboard };
const tabs = [...document.querySelectorAll("[role=tab]")];
const panels = new Map(); // name -> {show(), hide()}, once it was opened
let models = [];

function open(name, focus = false) {
  for (const tab of tabs) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    const panel = document.getElementById(tab.getAttribute("aria-controls"));
    if (!chosen && !panel.hidden) panels.get(panel.id)?.hide?.();
    panel.hidden = !chosen;
    if (chosen && focus) tab.focus();
  }
  alertLine("");
  if (!panels.has(name)) panels.set(name, PANELS[name](document.getElementById(name), models) ?? {});
  panels.get(name).show?.();
  history.replaceState(null, "", `#${name}`);
}

document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
  const at = tabs.indexOf(document.activeElement);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
  if (to === undefined || at < 0) return;
  event.preventDefault();
  open(tabs[(to + tabs.length) % tabs.length].getAttribute("aria-controls"), true);
});
for (const tab of tabs) tab.addEventListener("click", () => open(tab.getAttribute("aria-controls")));

const theme = document.getElementById("theme");
const isDark = () =>
  (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) ===
  "dark";
const nameTheme = () => {
  theme.textContent = isDark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", `Switch to ${theme.textContent.toLowerCase()}`);
};
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  localStorage.setItem("sfumato-theme", document.documentElement.dataset.theme);
  nameTheme();
});
nameTheme();

addEventListener("unhandledrejection", ({ reason }) => {
  if (reason instanceof ApiError) alertLine(reason.message);
});

async function begin() {
  try {
    models = (await getJson("v1/models")).data;
    if (!models.length) throw new ApiError("the server has no model loaded");
  } catch (error) {
    alertLine(error.message);
    const again = h("button", { type: "button", onclick: () => location.reload() }, "Try again");
    document.getElementById("write").replaceChildren(again);
    return;
  }
  const wanted = location.hash.slice(1);
  open(wanted in PANELS ? wanted : "write");
}

begin();
