// Elements without markup: whatever comes from the server becomes text, never HTML.

// h("label", {class: "wide", onclick}, "text", child): properties, attributes (aria-*, class, for), listeners (on...).
export function h(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made && !key.includes("-")) made[key] = value;
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

let numbers = 0;

// A label and its control.
export function field(label, control, hint) {
  control.id ||= `field-${(numbers += 1)}`;
  return h("div", { className: "field" }, h("label", { htmlFor: control.id }, label), control,
    hint ? h("small", {}, hint) : null);
}

// One clear line about what went wrong; "" takes it away.
export function alertLine(message) {
  document.getElementById("alert").textContent = message;
}

// Something worth hearing, for those who do not see the page.
export function say(message) {
  document.getElementById("status").textContent = message;
}

export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
