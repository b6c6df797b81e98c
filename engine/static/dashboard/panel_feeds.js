// Upstream feeds: where they stand, when they try again, and what an operator can do about it.

import { OPERATE, button, h, state } from "./dom.js";
import { NONE, count, duration, perSecond } from "./format.js";
import { Table } from "./table.js";

const KINDS = {
  connected: "ok",
  connecting: "busy",
  reconnecting: "warn",
  disconnecting: "busy",
  disconnected: "idle",
  failed: "bad",
};
const BREAKERS = { closed: "ok", half_open: "busy", open: "bad" };
const QUESTIONS = {
  reset: ["Reset", "Its breaker closes, and it connects anew at once.", false],
  disconnect: ["Disconnect", "No events come from it until somebody connects it again, also after a restart.", true],
  connect: ["Connect", "It tries at once.", false],
};

export class FeedsPanel {
  #feeds = new Map(); // name to {name, snapshot, retryAt, breakerAt}: performance.now()
  #table;
  #act;
  #admin;

  constructor(place, { admin, act }) {
    this.#admin = admin;
    this.#act = act;
    this.#table = new Table({
      label: "Feeds",
      key: ({ name }) => name,
      columns: [
        { head: "Feed", text: ({ name }) => name, note: ({ snapshot }) => snapshot.address },
        {
          head: "State",
          when: ({ snapshot }) => `${snapshot.state} ${snapshot.reason}`,
          render: ({ snapshot }) =>
            h(
              "span",
              {},
              state(KINDS[snapshot.state] ?? "idle", snapshot.state),
              h("span", { class: "note", title: snapshot.reason }, snapshot.reason ?? ""),
            ),
        },
        {
          head: "Breaker",
          when: ({ snapshot }) => snapshot.breaker.state,
          render: ({ snapshot: { breaker } }) => state(BREAKERS[breaker.state] ?? "idle", breaker.state.replace("_", "-")),
        },
        {
          head: "Next try",
          numeric: true,
          text: ({ retryAt }) => (retryAt === null ? NONE : `in ${duration(left(retryAt))}`),
        },
        {
          head: "Messages",
          numeric: true,
          text: ({ snapshot }) => perSecond(snapshot.rate),
          note: ({ snapshot }) => `${count(snapshot.messages)} in all`,
        },
        {
          head: "Reconnects",
          numeric: true,
          text: ({ snapshot }) => count(snapshot.reconnects),
          note: ({ snapshot }) => troubles(snapshot),
        },
        { head: "Actions", when: ({ snapshot }) => String(snapshot.held), render: (row, current) => this.#actions(row, current) },
      ],
      empty: "No feeds. Add a table [feeds.NAME] with a url to the configuration and reload, or run with --demo.",
    });
    place.append(this.#table.element);
  }

  /** The feeds of `/stats`. */
  update(feeds) {
    const now = performance.now();
    const at = (seconds) => (typeof seconds === "number" ? now + seconds * 1000 : null);
    this.#feeds = new Map(
      Object.entries(feeds)
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([name, snapshot]) => [name, { name, snapshot, retryAt: at(snapshot.retry_in) }]),
    );
    this.tick();
  }

  /** A feed has changed: shown at once, and made complete by the next {@link update}. */
  event({ topic, type, data }) {
    const feed = this.#feeds.get(topic.slice("system.feeds.".length));
    if (feed === undefined) return;
    if (type === "feed_state") {
      const { state, reason, kind, retry_in } = data;
      feed.snapshot = { ...feed.snapshot, state, reason, kind };
      feed.retryAt = typeof retry_in === "number" ? performance.now() + retry_in * 1000 : null;
    } else if (type === "feed_breaker") {
      feed.snapshot = { ...feed.snapshot, breaker: { ...feed.snapshot.breaker, state: data.state } };
    }
    this.tick();
  }

  /** Time has passed. */
  tick() {
    this.#table.update([...this.#feeds.values()]);
  }

  #actions({ snapshot }, current) {
    const actions = snapshot.held ? ["connect"] : ["reset", "disconnect"];
    const buttons = actions.map((action) => {
      const [word, text, danger] = QUESTIONS[action];
      const name = () => current().name;
      return button(word, `${word} feed ${name()}`, () =>
        this.#act({
          title: `${word} feed ${name()}?`,
          text,
          action: word,
          danger,
          run: () => this.#admin.post(`/api/feeds/${encodeURIComponent(name())}/${action}`),
          done: `Feed ${name()}: ${word.toLowerCase()} done`,
        }),
        OPERATE,
      );
    });
    return h("span", { class: "actions" }, ...buttons);
  }
}

const left = (at) => Math.max(0, Math.ceil((at - performance.now()) / 1000));

function troubles({ gaps, bad }) {
  const wrong = Object.values(bad).reduce((a, b) => a + b, 0);
  return [gaps ? `${count(gaps)} gaps` : "", wrong ? `${count(wrong)} bad` : ""].filter(Boolean).join(", ");
}
