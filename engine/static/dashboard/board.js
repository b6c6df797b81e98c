// What the page knows: the newest figures, and the recent past of those that are drawn.

const KEPT = 900; // points in time, a quarter of an hour at one a second
const SPARE = 100; // points beyond which the oldest are let go, so that it is not done at each
const DRAWN = /^(engine\.|machine\.(cpu|memory)$|process\..+\.cpu$)/;
const STALE = 10_000; // ms without metrics events, after which figures are made from /stats

export class Board {
  /** The newest value of each series. */
  now = {};
  times = [];
  #columns = new Map(); // series to values, one for each of `times`; null where it has none
  #heard = -Infinity; // when the last metrics event came
  #before = null; // the last /stats

  /** Figures of a point in time, Unix seconds. */
  add(time, values) {
    if (this.times.length && time <= this.times.at(-1)) return; // told twice
    this.now = values;
    this.#append(time, values);
  }

  /** A metrics event. */
  metrics(time, values) {
    this.#heard = performance.now();
    this.add(time, values);
  }

  /** `/stats`: its figures count where there are no metrics. */
  stats(stats) {
    const at = performance.now();
    const before = this.#before;
    this.#before = { stats, at };
    if (at - this.#heard < STALE) return;
    const values = {
      "engine.connections": stats.connections,
      "engine.subscriptions": stats.subscriptions,
      "engine.slow_sessions": stats.slow_sessions,
      "engine.outbox_bytes": stats.outbox_bytes,
      "engine.latency_p50": times1000(stats.delivery_seconds?.p50),
      "engine.latency_p99": times1000(stats.delivery_seconds?.p99),
    };
    if (before !== null) {
      const seconds = (at - before.at) / 1000;
      const rate = (now, then) => Math.max(0, now - then) / seconds; // an engine that was restarted begins at 0
      values["engine.events"] = rate(stats.events_published, before.stats.events_published);
      values["engine.deliveries"] = rate(stats.deliveries, before.stats.deliveries);
      values["engine.dropped"] = rate(sum(stats.events_dropped), sum(before.stats.events_dropped));
    }
    this.add(Date.now() / 1000, values);
  }

  /** The past from `/api/series`, in the place of what is known. */
  history(series) {
    const { times, columns } = aligned(series);
    const newer = this.times.filter((time) => !times.length || time > times.at(-1)).length;
    const kept = new Map([...this.#columns].map(([name, values]) => [name, newer ? values.slice(-newer) : []]));
    const names = new Set([...columns.keys(), ...kept.keys()]);
    const past = times.length;
    this.times = [...times, ...(newer ? this.times.slice(-newer) : [])];
    this.#columns = new Map(
      [...names].map((name) => [
        name,
        [...(columns.get(name) ?? Array(past).fill(null)), ...(kept.get(name) ?? Array(newer).fill(null))],
      ]),
    );
  }

  /** The values of a series, one for each of `times`. */
  column(name) {
    return this.#columns.get(name) ?? Array(this.times.length).fill(null);
  }

  #append(time, values) {
    const before = this.times.length;
    this.times.push(time);
    for (const [name, value] of Object.entries(values)) {
      if (!DRAWN.test(name)) continue;
      if (!this.#columns.has(name)) this.#columns.set(name, Array(before).fill(null));
      this.#columns.get(name).push(value ?? null);
    }
    const over = this.times.length > KEPT + SPARE ? this.times.length - KEPT : 0;
    if (over) this.times.splice(0, over);
    for (const [name, column] of this.#columns) {
      if (column.length === before) column.push(null);
      if (over) column.splice(0, over);
      if (over && column.every((value) => value === null)) this.#columns.delete(name); // of a process that is gone
    }
  }
}

/** The answer of `/api/series`, `{name: [[ts, min, mean, max], …]}`, as one axis of time and a column of means each. */
export function aligned(series) {
  const times = [...new Set(Object.values(series).flatMap((points) => points.map(([time]) => time)))];
  times.sort((a, b) => a - b);
  const place = new Map(times.map((time, i) => [time, i]));
  const columns = new Map();
  for (const [name, points] of Object.entries(series)) {
    const column = Array(times.length).fill(null);
    for (const [time, , mean] of points) column[place.get(time)] = mean;
    columns.set(name, column);
  }
  return { times, columns };
}

const sum = (map) => Object.values(map ?? {}).reduce((a, b) => a + b, 0);
const times1000 = (seconds) => (typeof seconds === "number" ? seconds * 1000 : null);
