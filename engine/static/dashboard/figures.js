// The engine at a glance: figures with their recent past, and charts.

import { aligned } from "./board.js";
import { Chart, Sparkline } from "./charts.js";
import { h, mark, put } from "./dom.js";
import { bytes, count, milliseconds, number, percent, perSecond } from "./format.js";

const LIVE = 600; // s that are shown live; longer windows are asked for
const WINDOWS = [
  [LIVE, "10 min"],
  [3_600, "1 h"],
  [86_400, "24 h"],
];
const SHORTEST = 60; // s: the axis of an engine that has just begun
const POINTS = 400; // of a line, in a window that is asked for
const AGAIN = 30_000; // ms until such a window is asked for again
const TIGHT = 80; // percent of processor or memory that are worth a colour
const SLOW = 50; // ms

const TILES = [
  { label: "Clients", series: "engine.connections", text: count, note: (now) => `${count(now["engine.subscriptions"])} subscriptions` },
  { label: "Events in", series: "engine.events", text: perSecond },
  { label: "Deliveries", series: "engine.deliveries", text: perSecond },
  {
    label: "Latency p99",
    series: "engine.latency_p99",
    text: milliseconds,
    note: (now) => `p50 ${milliseconds(now["engine.latency_p50"])}`,
    high: (value) => value > SLOW,
  },
  { label: "Dropped", series: "engine.dropped", text: perSecond, high: (value) => value > 0 },
  {
    label: "Slow sessions",
    series: "engine.slow_sessions",
    text: count,
    note: (now) => `${bytes(now["engine.outbox_bytes"])} queued`,
    high: (value) => value > 0,
  },
  { label: "Processor", series: "machine.cpu", text: percent, note: (now) => `load ${number(now["machine.load"])}`, high: (value) => value > TIGHT },
  {
    label: "Memory",
    series: "machine.memory",
    text: percent,
    note: (now) => bytes(now["machine.memory_used"]),
    high: (value) => value > TIGHT,
  },
];

export class Figures {
  #board;
  #admin;
  #tiles;
  #charts;
  #seconds = LIVE;
  #asked = null; // {times, columns} of a longer window
  #askedAt = -Infinity;

  constructor(board, admin, places) {
    this.#board = board;
    this.#admin = admin;
    this.#tiles = TILES.map((tile) => ({ ...tile, ...element(tile) }));
    places.tiles.append(...this.#tiles.map(({ place }) => place));
    const names = () => Object.keys(board.now).filter((name) => /^process\..+\.cpu$/.test(name)).sort();
    this.#charts = [
      new Chart({
        title: "Throughput, per second",
        format: number,
        lines: () => [
          { series: "engine.deliveries", label: "deliveries" },
          { series: "engine.events", label: "events" },
        ],
      }),
      new Chart({
        title: "Latency, accepted to written",
        format: milliseconds,
        lines: () => [
          { series: "engine.latency_p99", label: "p99" },
          { series: "engine.latency_p50", label: "p50" },
        ],
      }),
      new Chart({
        title: "Processor per process, of one core",
        format: percent,
        lines: () => names().map((series) => ({ series, label: series.slice("process.".length, -".cpu".length) })),
      }),
    ];
    places.charts.append(...this.#charts.map((chart) => chart.element));
    const choices = WINDOWS.map(([seconds, label]) =>
      h(
        "label",
        {},
        h("input", { type: "radio", name: "window", value: seconds, checked: seconds === LIVE, onchange: () => this.#show(seconds) }),
        h("span", {}, label),
      ),
    );
    places.windows.append(...choices);
  }

  /** Show what the board has by now. */
  draw() {
    for (const tile of this.#tiles) {
      const value = this.#board.now[tile.series];
      put(tile.value, tile.text(value));
      if (tile.note) put(tile.noted, tile.note(this.#board.now));
      mark(tile.place, "data-high", tile.high?.(value) ? "true" : null);
      tile.spark.draw(this.#board.column(tile.series));
    }
    const board = this.#board;
    const now = Math.max(Date.now() / 1000, board.times.at(-1) ?? 0);
    const { times, columns } = this.#asked ?? {};
    const column = this.#asked
      ? (name) => columns.get(name) ?? Array(times.length).fill(null)
      : (name) => board.column(name);
    const known = times ?? board.times;
    const from = Math.max(now - this.#seconds, Math.min(known[0] ?? now, now - SHORTEST));
    for (const chart of this.#charts) chart.draw(known, column, from, now);
    if (this.#seconds !== LIVE && performance.now() - this.#askedAt > AGAIN) this.#ask();
  }

  /** The past that the engine has kept, where it has. */
  async begin() {
    const found = await this.#series(LIVE);
    if (found !== null) this.#board.history(found);
  }

  /** Light has become dark, or the other way round. */
  recolour() {
    for (const chart of this.#charts) chart.forget();
    this.draw();
  }

  #show(seconds) {
    this.#seconds = seconds;
    this.#asked = null;
    if (seconds !== LIVE) this.#ask();
    this.draw();
  }

  async #ask() {
    const seconds = this.#seconds;
    this.#askedAt = performance.now();
    const found = await this.#series(seconds);
    if (found === null || seconds !== this.#seconds) return;
    this.#asked = aligned(found);
    this.draw();
  }

  async #series(seconds) {
    try {
      const { series: all } = await this.#admin.get("/api/series");
      const names = all.filter((name) => /^engine\.|^machine\.(cpu|memory)$|^process\..+\.cpu$/.test(name));
      const to = Date.now() / 1000;
      const query = new URLSearchParams([
        ...names.map((name) => ["name", name]),
        ["from", String(to - seconds)],
        ["to", String(to)],
        ["points", String(seconds === LIVE ? LIVE : POINTS)],
      ]);
      return (await this.#admin.get(`/api/series?${query}`)).series;
    } catch {
      return null; // metrics are off: what comes from now on is drawn
    }
  }
}

function element({ label, note }) {
  const value = h("span", { class: "value" });
  const noted = note ? h("span", { class: "note" }) : null;
  const spark = new Sparkline();
  const place = h("div", { class: "tile" }, h("span", { class: "label" }, label), value, noted, spark.element);
  return { place, value, noted, spark };
}
