/** Types of the client, and what each call promises. */

export type Priority = "low" | "medium" | "high" | "critical";

/** `connecting`: an attempt is under way. `waiting`: for the next one. `closed`: for good. */
export type State = "connecting" | "open" | "waiting" | "closed";

export type ErrorCode =
  | "bad_request"
  | "invalid_topic"
  | "invalid_filter"
  | "unauthorized"
  | "forbidden"
  | "not_found"
  | "conflict"
  | "limit_exceeded"
  | "rate_limited"
  | "unavailable"
  | "unsupported"
  | "internal";

/** Refused: by the engine, by who serves a call, or by this client before anything was sent. */
export class RequestError extends Error {
  constructor(code: ErrorCode, message: string, field?: string | null);
  readonly code: ErrorCode;
  /** Which part of the request is at fault, `topics[0]`. */
  readonly field: string | null;
}

/** There is no connection, or it was lost before the answer: then the outcome is unknown. */
export class ConnectionLost extends Error {}

/** Join tokens to a topic, escaping what a token may not hold: `topic("note", "a.b *")` is `note.a%2Eb%20%2A`. */
export function topic(...tokens: (string | number)[]): string;

/** A place in a topic: offsets rise by one within an epoch. */
export interface Position {
  epoch: string;
  offset: number;
}

/** An event. One object may go to several subscriptions: do not change it. */
export interface HeliographEvent<T = any> {
  readonly topic: string;
  readonly type: string;
  /** JSON numbers are JavaScript's here: more than 15 digits are rounded. */
  readonly data: T;
  /** With `offset` its place in the topic; neither is there while an engine without its Redis keeps it back. */
  readonly epoch: string;
  readonly offset: number;
  /** Unix seconds when the engine accepted it. */
  readonly ts: number;
  readonly key?: string;
  readonly priority?: Priority;
  /** Unix seconds of its source. */
  readonly source_ts?: number;
}

/** Events `from` to `to` that will not come. Where `to` is below `from`, nobody knows how many. */
export interface Gap {
  readonly topic: string;
  readonly epoch: string;
  readonly from: number;
  readonly to: number;
  readonly reason: "slow" | "rate_limited" | "overflow" | "history_expired" | "epoch_changed" | "disconnected";
}

export type Scalar = string | number | boolean | null;

export interface Conditions {
  eq?: Scalar;
  in?: Scalar[];
  not?: Scalar | Scalar[];
  gt?: number | string;
  gte?: number | string;
  lt?: number | string;
  lte?: number | string;
  exists?: boolean;
}

/** Fields of `data` (dots go deeper), `@type` and `@key` that must all hold. */
export type Where = Record<string, Scalar | Scalar[] | Conditions>;

export interface SubscribeOptions {
  /** Only such events; of a list any map may hold. */
  where?: Where | Where[];
  /** First the last event of each topic; after a reconnect only where what was missed cannot be had. */
  snapshot?: boolean;
  /** Of what waits in the engine, only the newest per key. */
  conflate?: boolean;
  /** Events per second and key, per topic where there is no key. */
  maxRate?: number;
  /** Seconds, up to 1, for which the engine collects events and sends them together. */
  window?: number;
  /** What is sent together comes as one message: costs less, changes nothing else. */
  batch?: boolean;
  /** After a reconnect first what was missed (default). Without it what comes is current at once. */
  recover?: boolean;
  /** Called where events are missing, before the next event of that topic. */
  onGap?: (gap: Gap) => unknown;
}

export interface Subscription {
  /** The patterns still subscribed to. */
  readonly topics: string[];
  /** Events lost so far, as far as known. */
  readonly missed: number;
  /** Events conflated away so far. */
  readonly skipped: number;
  readonly closed: boolean;
  /** Resolves when the engine has accepted it for the first time; rejects if it is refused or closed before. */
  readonly ready: Promise<void>;
  /** From here on nothing is called any more. */
  close(): void;
}

export interface PublishOptions {
  /** Default `message`. */
  type?: string;
  key?: string;
  priority?: Priority;
  /**
   * Up to 128 characters, `crypto.randomUUID()`. The publish is repeated with it after a lost connection and while the
   * engine is `unavailable`; within 5 minutes the engine accepts one event of a topic and key.
   */
  idempotencyKey?: string;
}

export interface HistoryOptions {
  /** Up to 1,000; default 100. */
  limit?: number;
  /** The first events after it; without it the last ones. */
  since?: Position;
  /** Called if some of what was asked for is no longer kept. */
  onGap?: (gap: Gap) => unknown;
}

/**
 * A method that is served: gets the call's params and the caller's user, null without one. What it throws is the
 * caller's error: a RequestError as it is, anything else as `internal`, without its text.
 */
export type Method = (params: any, caller: string | null) => unknown;

export interface Served {
  readonly topic: string;
  /** Resolves when the engine sends calls here; rejects if it refuses, or it is closed before. */
  readonly ready: Promise<void>;
  close(): void;
}

export interface Session {
  /** The engine's name for it. */
  readonly session: string;
  readonly node: string;
  readonly server: string;
  /** Whose token it is; null where no tokens are asked for. */
  readonly user: string | null;
  readonly limits: Record<string, unknown>;
}

export interface Options {
  /** A token, or a function that makes or fetches one: called for each connection and before a token ends. */
  token?: string | (() => string | Promise<string>) | null;
  /** For Node before 22, the class of the package `ws`. */
  WebSocket?: new (url: string, protocols: string[]) => any;
  /** Milliseconds that a request may take, waiting for a connection included; default 10,000. */
  requestTimeout?: number;
}

/**
 * A connection to the engine that comes back by itself until `close()`. It begins at once.
 *
 * Events of a subscription come in order per topic and priority, none twice. After a loss of the connection what was
 * missed comes first, as far as the engine's history reaches; what is known to be lost is told by `onGap`. Callbacks
 * that throw, or return a promise that rejects, are reported by `error` and harm nothing else.
 *
 * Requests wait for a connection, at most 1,000 of them. After a lost connection they are repeated, but `call` and a
 * `publish` without `idempotencyKey`: these reject with ConnectionLost, the outcome is unknown.
 */
export class Heliograph {
  /** `url`: `wss://HOST/ws`, or `/ws` for the server that the page is from. */
  constructor(url: string | URL, options?: Options);

  readonly state: State;

  /** Each change of state, with why the last was left, and while waiting how long; returns a function that ends it. */
  on(name: "state", listener: (state: State, why?: Error, seconds?: number) => unknown): () => void;
  /** What nobody waits for: errors of callbacks, refused subscriptions, the end for good. Unheard: to the console. */
  on(name: "error", listener: (error: unknown) => unknown): () => void;
  /** Each new session. */
  on(name: "session", listener: (session: Session) => unknown): () => void;

  /**
   * Each event of these topics or patterns that the client receives and `where` accepts.
   *
   * @throws RequestError `conflict`: a pattern that this client has subscribed to with other options.
   */
  subscribe<T = any>(
    topics: string | readonly string[],
    callback: (event: HeliographEvent<T>) => unknown,
    options?: SubscribeOptions,
  ): Subscription;

  /** Its place, when the engine has accepted it; null while an engine without its Redis keeps it back. */
  publish(topic: string, data: unknown, options?: PublishOptions): Promise<Position | null>;

  /** The last event of each of these topics that has one. */
  snapshot<T = any>(topics: string | readonly string[]): Promise<HeliographEvent<T>[]>;

  /** Events of a topic, oldest first. */
  history<T = any>(topic: string, options?: HistoryOptions): Promise<HeliographEvent<T>[]>;

  /** The users that are subscribed to exactly this topic. */
  presence(topic: string): Promise<string[]>;

  /** What whoever serves the topic answers; `timeout` in milliseconds, default 35,000. */
  call<T = any>(topic: string, method: string, params?: unknown, options?: { timeout?: number }): Promise<T>;

  /** Answer calls of these methods of a topic, also after each reconnect, until `close()` of what is returned. */
  serve(topic: string, methods: Record<string, Method>): Served;

  /** End for good: nothing is called any more, what waits rejects with ConnectionLost. */
  close(): void;
}
