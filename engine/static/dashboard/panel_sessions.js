// Clients' sessions, a page at a time: who lags, and the way to send somebody away.

import { OPERATE, button, h, state } from "./dom.js";
import { NONE, bytes, count, duration } from "./format.js";
import { Pager } from "./pager.js";
import { Table } from "./table.js";

const PAUSE = 300; // ms without a key, after which a filter counts

export class SessionsPanel {
  #admin;
  #table;
  #pager;
  #user;
  #slow;
  #act;

  constructor(place, { admin, act, refresh, now }) {
    this.#admin = admin;
    this.#act = act;
    this.#pager = new Pager("sessions", refresh);
    this.#table = new Table({
      label: "Sessions",
      key: ({ id }) => id,
      columns: [
        { head: "Session", text: ({ user, id }) => user ?? id, note: ({ user, id }) => (user === null ? "" : id) },
        { head: "Address", text: ({ address }) => address ?? NONE, note: ({ worker }) => worker },
        {
          head: "Lane",
          when: ({ lane }) => lane,
          render: ({ lane }) => state(lane === "fast" ? "ok" : "warn", lane),
        },
        {
          head: "Lag",
          numeric: true,
          text: ({ oldest_age: oldest }) => (oldest === null ? NONE : duration(oldest)),
          note: ({ queued_bytes: queued }) => (queued ? `${bytes(queued)} queued` : ""),
        },
        { head: "Dropped", numeric: true, text: ({ dropped }) => count(dropped) },
        {
          head: "Connected",
          numeric: true,
          text: ({ connected_at: at }) => duration(Math.floor(now() - at)),
          note: ({ subscriptions }) => `${count(subscriptions)} ${subscriptions === 1 ? "topic" : "topics"}`,
        },
        { head: "Actions", when: () => "", render: (row, current) => this.#actions(current) },
      ],
      empty: "Nobody is connected. This page is, as soon as its own connection is there.",
    });
    let timer;
    const changed = () => {
      this.#pager.reset();
      refresh();
    };
    this.#user = h("input", {
      type: "search",
      placeholder: "a user's name",
      autocomplete: "off",
      spellcheck: "false",
      maxlength: 255,
      oninput: () => {
        clearTimeout(timer);
        timer = setTimeout(changed, PAUSE);
      },
    });
    this.#slow = h("input", { type: "checkbox", onchange: changed });
    const bar = h(
      "div",
      { class: "bar" },
      h("label", {}, "User ", this.#user),
      h("label", {}, this.#slow, " only slow ones"),
      this.#pager.element,
    );
    place.append(bar, this.#table.element);
  }

  /** Get the page that is shown. */
  async poll() {
    const user = this.#user.value.trim();
    const slow = this.#slow.checked;
    const query = new URLSearchParams({ ...this.#pager.query, ...(user && { user }), ...(slow && { lane: "slow" }) });
    const { sessions, cursor } = await this.#admin.get(`/api/sessions?${query}`);
    if (slow) this.#table.empty = "No session is slow: all get what is sent as fast as it is sent.";
    else if (user) this.#table.empty = `${user} has no session here.`;
    this.#pager.at(cursor);
    this.#table.update(sessions);
  }

  #actions(current) {
    const { id, user } = current();
    return button("Disconnect", `Disconnect session ${user ?? id}`, () => {
      const { id, user, address } = current();
      this.#act({
        title: `Disconnect ${user ?? id}?`,
        text: `The session from ${address} is closed with code 4003: a client does not come back by itself.`,
        action: "Disconnect",
        danger: true,
        run: () => this.#admin.delete(`/api/sessions/${encodeURIComponent(id)}`),
        done: `Session ${user ?? id} was disconnected`,
      });
    }, OPERATE);
  }
}
