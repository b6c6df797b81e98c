// The engine's processes, and what else its health depends on.

import { h, state } from "./dom.js";
import { NONE, bytes, count, milliseconds, percent } from "./format.js";
import { Table } from "./table.js";

const KINDS = { ok: "ok", degraded: "warn", down: "bad" };

export class ProcessesPanel {
  #table;

  constructor(place) {
    this.#table = new Table({
      label: "Processes and components",
      key: ({ name }) => name,
      columns: [
        { head: "Name", text: ({ name }) => name },
        {
          head: "State",
          when: ({ part }) => `${part.status} ${part.reason}`,
          render: ({ part }) =>
            h(
              "span",
              {},
              state(KINDS[part.status] ?? "idle", part.status),
              h("span", { class: "note", title: part.reason }, part.reason ?? ""),
            ),
        },
        { head: "CPU", numeric: true, text: ({ cpu }) => percent(cpu) },
        { head: "Memory", numeric: true, text: ({ memory }) => bytes(memory) },
        { head: "Loop lag", numeric: true, text: ({ lag }) => milliseconds(lag * 1000) },
        { head: "Restarts", numeric: true, text: ({ restarts }) => (restarts === undefined ? NONE : count(restarts)) },
      ],
      empty: "The engine has not said yet which processes it has.",
    });
    place.append(this.#table.element);
  }

  /** `/health`'s components, `/stats` and the newest series. */
  update(components, stats, now) {
    const lags = stats?.loop_lag_seconds ?? {};
    const restarts = stats?.process_restarts ?? {};
    const names = new Set([...Object.keys(lags), ...Object.keys(components)]);
    const rows = [...names]
      .filter((name) => !name.startsWith("feed:")) // they have a panel of their own
      .map((name) => ({
        name,
        part: components[name] ?? { status: "ok", reason: null }, // the daemon, which has just answered
        cpu: now[`process.${name}.cpu`],
        memory: now[`process.${name}.memory`],
        lag: lags[name],
        restarts: restarts[name],
      }));
    const order = ({ name }) => (name === "daemon" ? 0 : name in lags ? 1 : 2);
    rows.sort((a, b) => order(a) - order(b) || a.name.localeCompare(b.name, "en", { numeric: true }));
    this.#table.update(rows);
  }
}
