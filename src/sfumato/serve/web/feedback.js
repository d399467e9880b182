// What the reader thinks of a text: thumbs, a rating, a correction; and which of two texts is better.
import { postJson } from "./api.js";
import { alertLine, field, h, say } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";

function thumb(way = "up") {
  const icon = document.createElementNS(SVG, "svg");
  icon.setAttribute("viewBox", "0 0 24 24");
  icon.setAttribute("class", `icon ${way}`);
  icon.setAttribute("aria-hidden", "true");
  icon.appendChild(document.createElementNS(SVG, "path")).setAttribute("d",
    "M3 11h4v9H3zM7 11l4-8c1.7.2 2.5 1.3 2.5 3v4h5.5c1.4 0 2.2 1.1 1.9 2.4l-1.5 6c-.2 1-1 1.6-2 1.6H7");
  return icon;
}

// answer(): {id, text} of the completion that is judged, or null while there is none.
export function feedback(answer, { ratings = true } = {}) {
  const note = h("span", { className: "hint" });
  const buttons = [];
  const send = async (body, thanks) => {
    const judged = answer();
    if (!judged) return false;
    try {
      await postJson("v1/feedback", { response_id: judged.id, ...body });
    } catch (error) {
      alertLine(error.message);
      return false;
    }
    note.textContent = thanks;
    say(thanks);
    return true;
  };
  const press = (group, chosen) => group.forEach((button) => button.setAttribute("aria-pressed", String(button === chosen)));
  const choice = (group, name, text, body, thanks) => {
    const button = h("button", { type: "button", className: "quiet", "aria-pressed": "false", "aria-label": name, title: name,
      onclick: async () => (await send(body, thanks)) && press(group, button) }, text);
    group.push(button);
    buttons.push(button);
    return button;
  };
  const thumbs = [];
  const up = choice(thumbs, "Good", thumb(), { kind: "thumb", value: 1 }, "Thank you.");
  const down = choice(thumbs, "Bad", thumb("down"), { kind: "thumb", value: -1 }, "Thank you.");
  const stars = [];
  const scale = [1, 2, 3, 4, 5].map((n) =>
    choice(stars, `Rating ${n} of 5`, String(n), { kind: "rating", value: n }, `Rated ${n} of 5.`));

  const text = h("textarea", { rows: 4 });
  const form = h("form", { className: "correction", hidden: true, onsubmit: async (event) => {
    event.preventDefault();
    if (await send({ kind: "correction", correction: text.value }, "Your correction is stored.")) form.hidden = true;
    open.setAttribute("aria-expanded", String(!form.hidden));
  } }, field("What should stand there", text), h("button", {}, "Send correction"));
  const open = h("button", { type: "button", className: "quiet", "aria-expanded": "false", onclick: () => {
    form.hidden = !form.hidden;
    open.setAttribute("aria-expanded", String(!form.hidden));
    text.value = answer()?.text ?? "";
    if (!form.hidden) text.focus();
  } }, "Correct");
  buttons.push(open);

  const rating = ratings ? h("span", { role: "group", "aria-label": "Rating", className: "rating" }, ...scale) : null;
  const root = h("div", { className: "feedback" }, h("div", { className: "row" }, up, down, rating, open, note), form);
  const reset = () => {
    for (const button of buttons) button.disabled = !answer();
    press([...thumbs, ...stars], null);
    note.textContent = "";
    form.hidden = true;
    open.setAttribute("aria-expanded", "false");
  };
  reset();
  return { root, reset };
}

// pair(): the ids of two responses to the same prompt, or null.
export function preference(pair) {
  const note = h("span", { className: "hint" });
  const choose = async (better) => {
    const ids = pair();
    try {
      await postJson("v1/feedback", { response_id: ids[better], kind: "preference", over: ids[1 - better] });
    } catch (error) {
      alertLine(error.message);
      return;
    }
    note.textContent = `You prefer ${"AB"[better]}.`;
    say(note.textContent);
  };
  const button = (text, better) => h("button", { type: "button", onclick: () => choose(better) }, text);
  const root = h("div", { className: "row preference", hidden: true }, h("span", {}, "Which text is better?"),
    button("A", 0), button("B", 1), note);
  const reset = () => {
    root.hidden = !pair();
    note.textContent = "";
  };
  return { root, reset };
}
