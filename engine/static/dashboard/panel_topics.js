// Topics, a page at a time: how fast they tick, and what came last.

import { tell } from "./dialogs.js";
import { button, h, put } from "./dom.js";
import { NONE, age, clock, count, perSecond } from "./format.js";
import { Pager } from "./pager.js";
import { Table } from "./table.js";

const PAUSE = 300; // ms without a key, after which a filter counts
const SHOWN = 20_000; // characters of an event

export class TopicsPanel {
  #admin;
  #table;
  #pager;
  #seen = new Map(); // topics of the last page to {epoch, offset, at}, for rates
  #filter;
  #refresh;
  #now;

  /** `refresh()`: another page is wanted now; `now()`: Unix seconds of the engine. */
  constructor(place, { admin, act, refresh, now }) {
    this.#admin = admin;
    this.#refresh = refresh;
    this.#now = now;
    this.#pager = new Pager("topics", refresh);
    this.#table = new Table({
      label: "Topics",
      key: ({ topic }) => topic,
      columns: [
        {
          head: "Topic",
          when: ({ topic }) => topic,
          render: ({ topic }) =>
            button(topic, `Last event of ${topic}`, () => this.#show(topic).catch(act.failed), { class: "link" }),
        },
        { head: "Type", text: ({ type }) => type },
        { head: "Rate", numeric: true, text: ({ rate }) => perSecond(rate) },
        { head: "Offset", numeric: true, text: ({ offset }) => count(offset) },
        { head: "Last event", numeric: true, text: ({ ts }) => age(now() - ts) },
      ],
      empty: "No topics yet: they come with their first event. Publish one: heliograph publish chat.a '{\"text\": \"hello\"}'",
    });
    let timer;
    this.#filter = h("input", {
      type: "search",
      id: "topic-filter",
      placeholder: "a part of the name",
      autocomplete: "off",
      spellcheck: "false",
      maxlength: 255,
      oninput: () => {
        clearTimeout(timer);
        timer = setTimeout(() => {
          this.#pager.reset();
          this.#refresh();
        }, PAUSE);
      },
    });
    const bar = h("div", { class: "bar" }, h("label", {}, "Filter ", this.#filter), this.#pager.element);
    place.append(bar, this.#table.element);
  }

  /** Get the page that is shown. */
  async poll() {
    const wanted = this.#filter.value.trim();
    const query = new URLSearchParams({ ...this.#pager.query, ...(wanted ? { containing: wanted } : {}) });
    const { topics, cursor } = await this.#admin.get(`/api/topics?${query}`);
    const at = performance.now();
    const rows = topics.map((topic) => ({ ...topic, rate: this.#rate(topic, at) }));
    this.#seen = new Map(rows.map(({ topic, epoch, offset, rate }) => [topic, { epoch, offset, rate, at }]));
    if (wanted) this.#table.empty = `No topic has “${wanted}” in its name.`;
    this.#pager.at(cursor);
    this.#table.update(rows);
  }

  /** By what the offset has risen since the last look; the first time it is not known. */
  #rate({ topic, epoch, offset }, at) {
    const before = this.#seen.get(topic);
    if (before === undefined || before.epoch !== epoch) return undefined;
    const seconds = (at - before.at) / 1000;
    return seconds < 0.5 ? before.rate : (offset - before.offset) / seconds;
  }

  async #show(topic) {
    const query = new URLSearchParams({ topic, limit: "1" });
    const { events } = await this.#admin.get(`/api/history?${query}`);
    const event = events.at(-1);
    if (event === undefined) return tell(topic, h("p", {}, "Its last event is not kept any more."));
    const { data, type, offset, ts, key, priority } = event;
    const facts = [
      ["Type", type],
      ["Offset", count(offset)],
      ["Accepted", `${clock(ts)}, ${age(this.#now() - ts)}`],
      ["Key", key ?? NONE],
      ["Priority", priority ?? "medium"],
    ];
    const code = h("pre", { tabindex: 0, "aria-label": "Data" });
    put(code, JSON.stringify(data, null, 2).slice(0, SHOWN));
    return tell(topic, h("dl", {}, ...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])), code);
  }
}
