// Questions to the operator. One at a time: a second one waits for the first.

import { h } from "./dom.js";

let last = Promise.resolve();

/**
 * Ask, and return what was answered: null where it was dismissed, else the texts of the fields.
 * `fields`: `[{name, label, type, required}]`; `action`: the button's word; `danger`: it ends something.
 */
export function ask({ title, text, fields = [], action, danger = false }) {
  const turn = last.then(() => show({ title, text, fields, action, danger }));
  last = turn.catch(() => null);
  return turn;
}

/** Tell something, until it is closed; `content`: elements. */
export function tell(title, ...content) {
  const turn = last.then(() => open(title, content, [h("button", { value: "no", autofocus: true }, "Close")]));
  last = turn.catch(() => null);
  return turn;
}

async function show({ title, text, fields, action, danger }) {
  const inputs = fields.map(({ name, label, type = "text", required = false }) => {
    const input = h("input", { name, type, required, autocomplete: "off", spellcheck: "false", maxlength: 4000 });
    return { name, input, element: h("label", { class: "field" }, label, input) };
  });
  const content = [...(text ? [h("p", {}, text)] : []), ...inputs.map(({ element }) => element)];
  const cancel = h("button", { value: "no", formnovalidate: true, autofocus: !inputs.length }, "Cancel");
  const go = h("button", { value: "yes", class: danger ? "danger" : "primary" }, action);
  // Enter in a field submits with the first button of the form: that has to be the one that does something.
  const buttons = inputs.length ? [go, cancel] : [cancel, go];
  if (!(await open(title, content, buttons))) return null;
  return Object.fromEntries(inputs.map(({ name, input }) => [name, input.value.trim()]));
}

function open(title, content, buttons) {
  const heading = h("h2", { id: "dialog-title" }, title);
  const form = h("form", { method: "dialog" }, heading, ...content, h("div", { class: "buttons" }, ...buttons));
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
  document.body.append(dialog);
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    dialog.showModal();
  });
}
