// The operator's side of the page: colours and keys.

import { tell } from "./dialogs.js";
import { h, mark, put } from "./dom.js";

const THEME = "heliograph-theme"; // in localStorage
const THEMES = { auto: "◐", light: "☀", dark: "☾" };
const PANELS = ["glance", "charts", "alerts", "jobs", "feeds", "processes", "topics", "sessions"];

/** Colours as the operator had them last, and a button for others; `changed()`: what is drawn has to be drawn anew. */
export class Theme {
  #button;
  #changed;

  constructor(button, changed) {
    this.#button = button;
    this.#changed = changed;
    const kept = localStorage.getItem(THEME);
    this.#show(kept in THEMES ? kept : "auto");
    button.addEventListener("click", () => this.next());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  }

  next() {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length];
    localStorage.setItem(THEME, next);
    this.#show(next);
  }

  #show(theme) {
    document.documentElement.dataset.theme = theme;
    put(this.#button, THEMES[theme]);
    mark(this.#button, "aria-label", `Colours: ${theme}`);
    mark(this.#button, "title", `Colours: ${theme}`);
    this.#changed();
  }
}

export function help() {
  const keys = [
    ["1 … 8", "go to a panel"],
    ["/", "filter topics"],
    ["t", "colours: as the system has them, light, dark"],
    ["?", "this list"],
    ["Esc", "close a question"],
  ];
  const rows = keys.flatMap(([key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)]);
  return tell("Keys", h("dl", {}, ...rows));
}

/** Keys without a modifier, where nothing is typed and no question is open. */
export function listenToKeys(theme) {
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input:not([type=checkbox], [type=radio]), textarea, select, dialog");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.key === "t") theme.next();
    else if (event.key === "?") help();
    else if (!goTo(event.key === "/" ? "topic-filter" : PANELS[Number(event.key) - 1])) return;
    event.preventDefault();
  });
}

function goTo(id) {
  const found = id && document.getElementById(id);
  if (!found) return false;
  found.scrollIntoView({ block: id === "topic-filter" ? "center" : "start" });
  found.focus({ preventScroll: true });
  return true;
}
