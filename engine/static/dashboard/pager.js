// Leafing through what the API gives page by page: it knows where a page ends, so that the way back is remembered.

import { button, h, put } from "./dom.js";

export const ROWS = 25;

/** `changed()`: another page is wanted. */
export class Pager {
  #before = []; // cursors of the pages on the way to this one
  #cursor = ""; // of this one
  #next = null; // of the next one; null: there is none
  #changed;
  #back;
  #forth;
  #place = h("span", { class: "page" });

  constructor(what, changed) {
    this.#changed = changed;
    this.#back = button("‹ Previous", `Previous ${what}`, () => this.#go(this.#before.pop()));
    this.#forth = button("Next ›", `Next ${what}`, () => {
      this.#before.push(this.#cursor);
      this.#go(this.#next);
    });
    this.element = h("nav", { class: "pager", "aria-label": `Pages of ${what}` }, this.#back, this.#place, this.#forth);
    this.at(null);
  }

  /** As parameters of a request. */
  get query() {
    return { limit: String(ROWS), cursor: this.#cursor };
  }

  /** The page has come; `next`: the API's cursor. */
  at(next) {
    this.#next = next;
    this.#back.disabled = this.#before.length === 0;
    this.#forth.disabled = next === null;
    this.element.hidden = this.#before.length === 0 && next === null;
    put(this.#place, `page ${this.#before.length + 1}`);
  }

  /** Back to the first page. */
  reset() {
    this.#before = [];
    this.#cursor = "";
  }

  #go(cursor) {
    this.#cursor = cursor;
    this.#changed();
  }
}
