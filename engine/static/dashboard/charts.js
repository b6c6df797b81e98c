// Lines over time: small ones beside a figure, and charts (uPlot) with axes and a cursor that all of them share.

import { h, put, svg } from "./dom.js";

const WIDTH = 120;
const HEIGHT = 28;
const POINTS = 120; // of a sparkline, at most
const CHART_HEIGHT = 160; // px
const AXIS_WIDTH = 58; // px
const HUES = 8; // lines that have a colour of their own

/** The recent past of one figure, without axes. */
export class Sparkline {
  #line = svg("polyline", { class: "line" });
  #area = svg("polygon", { class: "area" });

  constructor() {
    this.element = svg("svg", {
      class: "spark",
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    });
    this.element.append(this.#area, this.#line);
  }

  draw(column) {
    const values = column.slice(-POINTS);
    const known = values.filter((value) => value !== null);
    const most = Math.max(...known, 0) || 1;
    const step = WIDTH / Math.max(POINTS - 1, 1);
    const left = WIDTH - (values.length - 1) * step;
    const points = values
      .map((value, i) => (value === null ? null : [left + i * step, HEIGHT - 2 - (value / most) * (HEIGHT - 4)]))
      .filter((point) => point !== null)
      .map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`);
    this.#line.setAttribute("points", points.join(" "));
    const [first, last] = [points[0], points.at(-1)];
    const feet = first ? [`${last.split(",")[0]},${HEIGHT}`, `${first.split(",")[0]},${HEIGHT}`] : [];
    this.#area.setAttribute("points", [...points, ...feet].join(" "));
  }
}

/**
 * A chart: `title`; `format(value)` of its axis and legend; `lines()`: `[{series, label}]`, which may change; beyond
 * {@link HUES} of them those with the greatest last values are drawn.
 */
export class Chart {
  #plot = null;
  #drawn = ""; // the lines that the plot was made for
  #place = h("div", { class: "plot", role: "img" });
  #legend = h("ul", { class: "legend" });
  #empty = h("p", { class: "empty" }, "No figures yet.");
  #values = [];
  #data = [[]];

  constructor({ title, format, lines }) {
    this.title = title;
    this.format = format;
    this.lines = lines;
    this.element = h("figure", { class: "chart" }, h("figcaption", {}, title), this.#place, this.#empty, this.#legend);
    new ResizeObserver(() => this.#plot?.setSize(this.#size())).observe(this.#place);
  }

  /** `times`: Unix seconds; `column(series)`: values, one for each; `from`, `to`: the time that is shown. */
  draw(times, column, from, to) {
    const last = (values) => values.findLast((value) => value !== null) ?? -1;
    let lines = this.lines().map((line) => ({ ...line, values: column(line.series) }));
    if (lines.length > HUES) {
      const least = lines.map(({ values }) => last(values)).sort((a, b) => b - a)[HUES - 1];
      lines = lines.filter(({ values }) => last(values) >= least).slice(0, HUES);
    }
    const there = times.length > 1 && lines.some(({ values }) => last(values) >= 0);
    this.#place.hidden = this.#legend.hidden = !there;
    this.#empty.hidden = there;
    if (!there) return;
    this.#data = [times, ...lines.map(({ values }) => values)];
    const wanted = lines.map(({ series }) => series).join(" ");
    if (this.#plot === null || wanted !== this.#drawn) this.#make(lines, wanted);
    this.#plot.batch(() => {
      this.#plot.setData(this.#data, false);
      this.#plot.setScale("x", { min: from, max: to });
    });
    this.#tell(null);
    const now = lines.map(({ label, values }) => `${label} ${this.format(last(values))}`).join(", ");
    this.#place.setAttribute("aria-label", `${this.title}. Now: ${now}`);
  }

  /** Colours have changed: draw anew at the next {@link draw}. */
  forget() {
    this.#plot?.destroy();
    this.#plot = null;
  }

  #size() {
    return { width: Math.max(120, this.#place.clientWidth), height: CHART_HEIGHT };
  }

  #make(lines, wanted) {
    this.forget();
    this.#drawn = wanted;
    const css = getComputedStyle(this.#place);
    const colour = (name) => {
      this.#place.style.color = `var(${name})`; // resolved for the present theme, as a canvas needs it
      return css.color;
    };
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false } };
    const font = `11px ${css.fontFamily}`;
    const hue = (i) => colour(`--line-${i + 1}`);
    const options = {
      ...this.#size(),
      legend: { show: false },
      cursor: { sync: { key: "time" }, y: false, drag: { setScale: false, x: false, y: false }, points: { size: 6 } },
      scales: { x: { time: true }, y: { range: (_, __, most) => [0, most > 0 ? most * 1.08 : 1] } },
      axes: [
        { ...axis, font, size: 26, space: 70, values: (_, splits) => splits.map((at) => hours(at, splits)) },
        { ...axis, font, size: AXIS_WIDTH, values: (_, splits) => splits.map((value) => this.format(value)) },
      ],
      series: [
        {},
        ...lines.map(({ label }, i) => ({ label, stroke: hue(i), width: 1.5, spanGaps: false, points: { show: false } })),
      ],
      hooks: { setCursor: [(plot) => this.#tell(plot.cursor.idx ?? null)] },
    };
    this.#plot = new window.uPlot(options, this.#data, this.#place);
    this.#values = lines.map(() => h("span", { class: "value" }));
    const items = lines.map(({ label }, i) => {
      const swatch = svg("svg", { class: `swatch line-${i + 1}`, viewBox: "0 0 10 10", "aria-hidden": "true" });
      swatch.append(svg("rect", { width: 10, height: 10, rx: 2 }));
      return h("li", {}, swatch, label, " ", this.#values[i]);
    });
    this.#legend.replaceChildren(...items);
  }

  /** The values under the cursor, or the newest. */
  #tell(i) {
    this.#values.forEach((place, line) => {
      const values = this.#data[line + 1] ?? [];
      const value = i === null ? values.findLast((each) => each !== null) : values[i];
      put(place, this.format(value));
    });
  }
}

function hours(unix, all) {
  const then = new Date(unix * 1000);
  const two = (part) => String(part).padStart(2, "0");
  const seconds = all.length > 1 && all[1] - all[0] < 60;
  return `${two(then.getHours())}:${two(then.getMinutes())}${seconds ? `:${two(then.getSeconds())}` : ""}`;
}
