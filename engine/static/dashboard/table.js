// A table whose rows are patched, not rebuilt: focus, selection and scroll stay where they are.

import { h, mark, put } from "./dom.js";

/**
 * `columns`: `{head, numeric, wide, text(row)}`, or `{head, render(row, current), when(row)}`: the cell's content, made
 * anew when `when` gives another string; `current()` is the row as it is when a listener runs. `note(row)`: a second
 * line below the text. `key(row)`: its identity. `empty`: what to say where there is no row: text or an element.
 */
export class Table {
  #columns;
  #key;
  #rows = new Map(); // key to {element, cells, row}
  #body = h("tbody");
  #empty;

  constructor({ label, columns, key, empty }) {
    this.#columns = columns;
    this.#key = key;
    const heads = columns.map(({ head, numeric }) =>
      h("th", { scope: "col", class: numeric ? "numeric" : null }, head),
    );
    this.#empty = h("div", { class: "empty" }, empty);
    this.element = h(
      "div",
      { class: "scroll" },
      h("table", { "aria-label": label }, h("thead", {}, h("tr", {}, ...heads)), this.#body),
      this.#empty,
    );
  }

  /** Show these, in this order. Cost: O(rows); what has not changed is not touched. */
  update(rows) {
    const gone = new Set(this.#rows.keys());
    let place = this.#body.firstElementChild;
    for (const row of rows) {
      const key = this.#key(row);
      gone.delete(key);
      let known = this.#rows.get(key);
      if (known === undefined) {
        known = this.#make(row);
        this.#rows.set(key, known);
      }
      known.row = row;
      this.#patch(known);
      if (known.element === place) place = place.nextElementSibling;
      else this.#body.insertBefore(known.element, place);
    }
    for (const key of gone) {
      this.#rows.get(key).element.remove();
      this.#rows.delete(key);
    }
    mark(this.element, "data-rows", String(rows.length));
  }

  /** What to say where there is no row. */
  set empty(text) {
    put(this.#empty, text);
  }

  #make(row) {
    const known = { row };
    known.cells = this.#columns.map(({ head, numeric, wide, note }, i) => {
      const cell = h(i ? "td" : "th", { "data-label": head, scope: i ? null : "row" });
      cell.className = [numeric && "numeric", wide && "wide"].filter(Boolean).join(" ");
      const text = h("span", { class: "text" });
      const second = note ? h("span", { class: "note" }) : null;
      if (this.#columns[i].text) cell.append(text, ...(second ? [second] : []));
      return { cell, text, second, shown: null };
    });
    known.element = h("tr", {}, ...known.cells.map(({ cell }) => cell));
    return known;
  }

  #patch(known) {
    const current = () => known.row;
    this.#columns.forEach((column, i) => {
      const place = known.cells[i];
      if (column.text) {
        put(place.text, column.text(known.row));
        if (place.second) {
          const note = column.note(known.row) ?? "";
          put(place.second, note);
          mark(place.second, "title", note || null);
        }
        return;
      }
      const now = column.when(known.row);
      if (now !== place.shown) {
        place.shown = now;
        place.cell.replaceChildren(column.render(known.row, current));
      }
    });
  }
}
