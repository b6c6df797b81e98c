/* What the types of clients/js/heliograph.d.ts allow and refuse; `tsc --noEmit` reads it, nothing runs it. */
import {
  ConnectionLost,
  Heliograph,
  type Gap,
  type HeliographEvent,
  type Position,
  RequestError,
  type State,
  type Subscription,
  topic,
} from "heliograph-client";

interface Price {
  bid: number;
}

const client = new Heliograph("wss://engine.example/ws", { token: async () => "…", requestTimeout: 5_000 });
const state: State = client.state;
const off: () => void = client.on("state", (now: State, why?: Error) => console.log(now, why?.message));
client.on("error", (error) => error instanceof RequestError && console.log(error.code, error.field));
client.on("session", ({ user, session }) => console.log(user?.length, session));
// @ts-expect-error: there is no such event
client.on("message", () => {});

const prices: Subscription = client.subscribe<Price>(
  [topic("price", "EUR/USD"), "price.>"],
  ({ data, offset, priority }: HeliographEvent<Price>) => console.log(data.bid + offset, priority),
  { where: { "a.b": { gte: 1, not: ["x"] }, "@key": ["A", "B"] }, maxRate: 2, onGap: (gap: Gap) => gap.from },
);
await prices.ready;
prices.close();
// @ts-expect-error: an option that there is not
client.subscribe("a", () => {}, { maxrate: 2 });
// @ts-expect-error: no number is a pattern
client.subscribe(1, () => {});

const place: Position | null = await client.publish("a", { n: 1 }, { key: "k", idempotencyKey: crypto.randomUUID() });
// @ts-expect-error: no such priority
await client.publish("a", 1, { priority: "urgent" });
const last: HeliographEvent<Price>[] = await client.snapshot<Price>("price.EUR_USD");
await client.history("a", { limit: 10, since: place ?? undefined });
const users: string[] = await client.presence("a");
const cancelled: { cancelled: boolean } = await client.call("progress.job", "cancel", { reason: "late" });
const served = client.serve("progress.job", { cancel: (params, caller) => ({ params, caller }) });
await served.ready;
client.close();
console.log(state, off, last, users, cancelled, new ConnectionLost("…").message);
