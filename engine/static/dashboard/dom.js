// Elements. What the engine tells is only ever set as text, so that nothing of it can become markup.

/**
 * An element with attributes, listeners (`onclick: f`) and children: elements, or text.
 * Of the attributes, what is null, undefined or false is left out.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** The same for SVG; attributes only. */
export function svg(tag, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Set an element's text, if it is another: the browser does nothing, and a screen reader says nothing, twice. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set or remove an attribute, if it is another. */
export function mark(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

const SHAPES = { ok: "●", busy: "◐", warn: "▲", bad: "■", idle: "○" };

/** A state: colour, shape and word, so that none of them is needed alone. `kind`: ok, busy, warn, bad or idle. */
export function state(kind, word) {
  return h("span", { class: `state ${kind}` }, h("span", { class: "shape", "aria-hidden": true }, SHAPES[kind]), word);
}

/** A button with a name that says what it is for, also where its text is short. */
export function button(text, label, onclick, attributes = {}) {
  return h("button", { type: "button", "aria-label": label, title: label, onclick, ...attributes }, text);
}

/** Attributes of a button that needs a key with scope operate: it is hidden from others. */
export const OPERATE = { class: "operate" };
