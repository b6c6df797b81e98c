// Jobs: how far they are, and the way to stop them. What is known of them are their events.

import { OPERATE, button, h, mark, put, state } from "./dom.js";
import { NONE, age, duration } from "./format.js";
import { Table } from "./table.js";

const KEPT = 200; // jobs; of those that have ended, the oldest are forgotten first
const SHOWN = 50;
const BEATS = 3; // without a word, after which a running job is silent
const KINDS = { running: "busy", done: "ok", failed: "bad", cancelled: "idle", silent: "warn" };

export class JobsPanel {
  #jobs = new Map(); // topic to {topic, data, at}: performance.now() at its last event
  #table;
  #live;
  #act;
  #now;

  constructor(place, { live, act, now }) {
    this.#now = now;
    this.#live = live;
    this.#act = act;
    this.#table = new Table({
      label: "Jobs",
      key: ({ topic }) => topic,
      columns: [
        { head: "Job", text: ({ data }) => String(data.job), note: ({ data }) => data.message ?? data.error ?? "" },
        {
          head: "State",
          when: (row) => `${standing(row)} ${row.data.attempt}`,
          render: (row) =>
            h(
              "span",
              {},
              state(KINDS[standing(row)] ?? "idle", standing(row)),
              h("span", { class: "note" }, row.data.attempt > 1 ? `attempt ${row.data.attempt}` : ""),
            ),
        },
        {
          head: "Progress",
          wide: true,
          when: ({ data }) => JSON.stringify([data.state, data.progress, data.stages, data.stage]),
          render: ({ data }) => bar(data),
        },
        { head: "Time left", numeric: true, text: (row) => left(row) },
        { head: "Heard", numeric: true, text: ({ at }) => age((performance.now() - at) / 1000) },
        {
          head: "Actions",
          when: ({ data }) => String(data.state === "running"),
          render: (row, current) => (row.data.state === "running" ? this.#cancel(current) : h("span", {}, NONE)),
        },
      ],
      empty: "No jobs. In any Python process: with progress.job(\"backtest-17\", stages={\"load\": 1, \"backtest\": 8}) as job: …",
    });
    place.append(this.#table.element);
  }

  /** A job's word of itself. */
  event({ topic, type, ts, data }) {
    if (type !== "progress" || typeof data !== "object" || data === null) return; // anybody may publish there
    this.#jobs.delete(topic); // so that the newest is last
    // The first one may be old: the job's last word before this page was opened.
    this.#jobs.set(topic, { topic, data, at: performance.now() - Math.max(0, this.#now() - ts) * 1000 });
    if (this.#jobs.size > KEPT) {
      const ended = [...this.#jobs.values()].find((job) => job.data.state !== "running");
      this.#jobs.delete((ended ?? this.#jobs.values().next().value).topic);
    }
  }

  /** Time has passed. */
  tick() {
    const rows = [...this.#jobs.values()].sort(
      (a, b) => (b.data.state === "running") - (a.data.state === "running") || (b.data.started ?? 0) - (a.data.started ?? 0),
    );
    this.#table.update(rows.slice(0, SHOWN));
  }

  #cancel(current) {
    return button("Cancel", `Cancel job ${current().data.job}`, () => {
      const { topic, data } = current();
      this.#act({
        title: `Cancel ${data.job}?`,
        text: "It is told, and stops where it looks next.",
        fields: [{ name: "reason", label: "Reason" }],
        action: "Cancel the job",
        danger: true,
        run: ({ reason }) => this.#live.call(topic, "cancel", reason ? { reason } : {}),
        done: `Job ${data.job} was told to stop`,
      });
    }, OPERATE);
  }
}

/** Its state, or silent: it runs, and has not said anything for too long. */
function standing({ data, at }) {
  const beat = typeof data.beat === "number" ? data.beat : 5;
  const silent = data.state === "running" && performance.now() - at > BEATS * beat * 1000;
  return silent ? "silent" : String(data.state);
}

function left({ data, at }) {
  if (data.state !== "running" || typeof data.eta !== "number") return NONE;
  return duration(Math.max(0, data.eta - (performance.now() - at) / 1000));
}

/** A bar whose parts are the stages, each as wide as its weight. */
function bar({ state: standing, progress, stages, stage }) {
  const known = Array.isArray(stages) && stages.length ? stages : [{ name: "", weight: 1, progress }];
  const total = known.reduce((sum, { weight }) => sum + share(weight), 0) || 1;
  const done = Math.min(1, Math.max(0, Number(progress) || 0));
  const parts = known.slice(0, 50).map(({ name, weight, progress: part }) => {
    const fill = h("span", { class: "fill" });
    fill.style.width = `${Math.min(100, Math.max(0, (Number(part) || 0) * 100))}%`;
    const element = h("span", { class: name === stage ? "part current" : "part", title: name }, fill);
    element.style.flexGrow = String(share(weight) / total);
    return element;
  });
  const whole = h(
    "span",
    { class: `progress ${KINDS[standing] ?? "idle"}`, role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 },
    ...parts,
  );
  mark(whole, "aria-valuenow", String(Math.floor(done * 100)));
  const words = h("span", { class: "note" });
  put(words, [`${(Math.floor(done * 1000) / 10).toFixed(1)} %`, stage].filter(Boolean).join(" · "));
  return h("span", { class: "job" }, whole, words);
}

const share = (weight) => (typeof weight === "number" && weight > 0 ? weight : 0);
