// Alerts: those that hold, and the rules that watch.

import { OPERATE, button, h, put, state } from "./dom.js";
import { clock, count, number } from "./format.js";
import { Table } from "./table.js";

const METRICS = "system.metrics";
const SHOWN = 50;
const SEVERITIES = { critical: "bad", warning: "warn", info: "busy" };
const RULES = { ok: ["ok", "quiet"], pending: ["busy", "pending"], firing: ["bad", "firing"] };

export class AlertsPanel {
  #admin;
  #act;
  #active;
  #rules;
  #details;
  #summary = h("summary", {}, "Rules");
  #more = h("p", { class: "empty" });

  constructor(place, { admin, act }) {
    this.#admin = admin;
    this.#act = act;
    this.#active = new Table({
      label: "Active alerts",
      key: ({ rule, subject }) => JSON.stringify([rule, subject]),
      columns: [
        {
          head: "Alert",
          text: ({ rule, subject }) => (subject === null ? rule : `${rule}: ${subject}`),
          note: ({ message }) => message,
        },
        {
          head: "Severity",
          when: ({ severity }) => severity,
          render: ({ severity }) => state(SEVERITIES[severity] ?? "warn", severity),
        },
        { head: "Value", numeric: true, text: ({ value }) => (typeof value === "number" ? number(value) : JSON.stringify(value)) },
        { head: "Since", numeric: true, text: ({ since }) => clock(since) },
        {
          head: "Acknowledged",
          when: ({ acknowledged }) => JSON.stringify(acknowledged),
          render: ({ acknowledged }, current) => (acknowledged ? this.#note(acknowledged) : this.#button(current)),
        },
      ],
      empty: "No alert is active.",
    });
    this.#rules = new Table({
      label: "Alert rules",
      key: ({ rule }) => rule,
      columns: [
        { head: "Rule", text: ({ rule }) => rule },
        {
          head: "State",
          when: ({ state: now }) => now,
          render: ({ state: now }) => state(...(RULES[now] ?? ["idle", String(now)])),
        },
        { head: "Watches", wide: true, text: watched },
        { head: "Active", numeric: true, text: ({ firing }) => count(firing) },
        { head: "Pending", numeric: true, text: ({ pending }) => count(pending) },
      ],
      empty: "No rules. Add a table [alerts.NAME] to the configuration, for example: series = \"machine.cpu\", when = {gte = 80}.",
    });
    this.#details = h("details", { class: "rules" }, this.#summary, this.#rules.element);
    place.append(this.#active.element, this.#more, this.#details);
  }

  /** Get all of them; how many hold and are not acknowledged. */
  async poll() {
    const { alerts, more, rules } = await this.#admin.get("/api/alerts");
    const weight = ({ severity, acknowledged }) => (acknowledged ? 10 : 0) + ["critical", "warning", "info"].indexOf(severity);
    alerts.sort((a, b) => weight(a) - weight(b) || a.since - b.since);
    this.#active.update(alerts.slice(0, SHOWN));
    const hidden = more + Math.max(0, alerts.length - SHOWN);
    this.#more.hidden = hidden === 0;
    put(this.#more, `and ${count(hidden)} more: GET /api/alerts, and the log`);
    this.#rules.update(rules);
    this.#summary.textContent = `Rules (${rules.length})`;
    if (!rules.length) this.#details.open = true;
    return alerts.filter(({ acknowledged }) => !acknowledged).length;
  }

  #note({ by, at, note }) {
    return h("span", {}, `by ${by ?? "an operator"}, ${clock(at)}`, h("span", { class: "note", title: note }, note ?? ""));
  }

  #button(current) {
    return button("Acknowledge", `Acknowledge alert ${current().rule}`, () => {
      const { rule, subject } = current();
      this.#act({
        title: `Acknowledge ${rule}?`,
        text: "It stays active until what it watches is back within its bounds; others see that somebody looks after it.",
        fields: [{ name: "note", label: "Note" }],
        action: "Acknowledge",
        run: ({ note }) =>
          this.#admin.post(`/api/alerts/${encodeURIComponent(rule)}/acknowledge`, {
            ...(subject === null ? {} : { subject }),
            ...(note ? { note } : {}),
          }),
        done: `Alert ${rule} was acknowledged`,
      });
    }, OPERATE);
  }
}

/** What a rule is about: a series of the engine's metrics, or a field of events. */
function watched({ topic, field }) {
  return topic === METRICS ? field : `${field} of ${topic}`;
}
