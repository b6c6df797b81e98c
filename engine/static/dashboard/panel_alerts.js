// Alerts: those that hold, and the rules that watch.

import { OPERATE, button, h, state } from "./dom.js";
import { clock, number } from "./format.js";
import { Table } from "./table.js";

const SEVERITIES = { critical: "bad", warning: "warn", info: "busy" };
const RULES = { ok: ["ok", "quiet"], pending: ["busy", "pending"], firing: ["bad", "firing"] };

export class AlertsPanel {
  #admin;
  #act;
  #active;
  #rules;
  #details;
  #summary = h("summary", {}, "Rules");

  constructor(place, { admin, act }) {
    this.#admin = admin;
    this.#act = act;
    this.#active = new Table({
      label: "Active alerts",
      key: ({ rule, subject }) => JSON.stringify([rule, subject]),
      columns: [
        {
          head: "Severity",
          when: ({ severity }) => severity,
          render: ({ severity }) => state(SEVERITIES[severity] ?? "warn", severity),
        },
        {
          head: "Alert",
          wide: true,
          text: ({ rule, subject }) => (subject === null ? rule : `${rule}: ${subject}`),
          note: ({ message }) => message,
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
      ],
      empty: "No rules. Add a table [alerts.NAME] to the configuration, for example: series = \"machine.cpu\", when = {gte = 80}.",
    });
    this.#details = h("details", { class: "rules" }, this.#summary, this.#rules.element);
    place.append(this.#active.element, this.#details);
  }

  /** Get all of them; how many hold and are not acknowledged. */
  async poll() {
    const { alerts, rules } = await this.#admin.get("/api/alerts");
    const weight = ({ severity, acknowledged }) => (acknowledged ? 10 : 0) + ["critical", "warning", "info"].indexOf(severity);
    alerts.sort((a, b) => weight(a) - weight(b) || a.since - b.since);
    this.#active.update(alerts.slice(0, 100));
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

/** What a rule is about, as far as the engine says. */
function watched({ series, topic, field, when }) {
  const what = series ?? [topic, field].filter(Boolean).join(" ");
  return [what, when && JSON.stringify(when)].filter(Boolean).join(" ");
}
