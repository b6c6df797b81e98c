/**
 * The client of heliograph for browsers and Node: an ES module, no dependencies, no build step. Types and what each
 * call promises are in heliograph.d.ts, the protocol in docs/recovery.md and docs/closing.md of the engine.
 *
 * Four parts: `Positions` and `holds` are pure (what was seen, what a filter accepts), `Feed` is one subscription,
 * `Connection` one WebSocket from its handshake to its end, `Heliograph` keeps one of these open and owns the rest.
 */

const SUBPROTOCOL = "heliograph.v1.json";
const OPEN_TIMEOUT_MS = 10_000; // one attempt to connect, token and welcome included
const REQUEST_TIMEOUT_MS = 10_000;
const CALL_TIMEOUT_MS = 35_000; // the engine gives up after 30 s, and its answer says more
const PROBE_MS = 5_000; // for an answer to a ping, after the page was asleep or the network has changed
const BACKOFF_FIRST_MS = 500;
const BACKOFF_CAP_MS = 30_000;
const STABLE_MS = 10_000; // a connection that lasted this long was a success
const RENEWAL = 0.8; // of a token's life; then the function is asked for another
const RENEWAL_LEAST_MS = 500;
const LONGEST_TIMER_MS = 2 ** 31 - 1;
const MAX_WAITING = 1_000; // requests not answered; the next is refused
const ROUTES_CACHED = 10_000; // topics
const TOPICS_REMEMBERED = 50_000; // per subscription; those not seen for longest are forgotten first
const FINAL = new Map([
  [1008, "forbidden"],
  [4001, "unauthorized"],
  [4003, "forbidden"],
]);
const REPEATED = new Set(["unavailable", "rate_limited"]);
const RANK = new Map([
  ["critical", 0],
  ["high", 1],
  ["medium", 2],
  ["low", 3],
]);
const MEDIUM = 2; // what has no priority

/** The engine has refused a request; `code` says why, `field` which part of it. */
export class RequestError extends Error {
  constructor(code, message, field = null) {
    super(message);
    this.name = "RequestError";
    this.code = code;
    this.field = field;
  }
}

/** There is no connection, or it was lost before the answer: then the outcome is unknown. */
export class ConnectionLost extends Error {
  constructor(message) {
    super(message);
    this.name = "ConnectionLost";
  }
}

/** Join tokens to a topic, escaping what a token may not hold: `topic("note", "a.b *")` is `note.a%2Eb%20%2A`. */
export function topic(...tokens) {
  const escaped = tokens.map((token) => String(token).replace(/[^!#$&()+,\-/:;<=?@[\]^_`{|}~A-Za-z0-9]/gu, escape));
  if (escaped.length === 0 || escaped.includes("")) {
    throw new RequestError("invalid_topic", "a topic is one token or more, none of them empty", "topic");
  }
  return escaped.join(".");
}

function escape(character) {
  const left = { ".": "%2E", "*": "%2A", "'": "%27" }; // what encodeURIComponent does not touch
  return left[character] ?? encodeURIComponent(character);
}

// Pure ----------------------------------------------------------------------------------------------------------------

/** Whether a pattern matches a topic. */
function matches(pattern, name) {
  if (pattern === name) return true;
  const want = pattern.split(".");
  const have = name.split(".");
  if ((want[0] === "*" || want[0] === ">") && (have[0] === "system" || have[0] === "user")) return false;
  for (let i = 0; i < want.length; i++) {
    if (want[i] === ">") return have.length > i;
    if (i >= have.length || (want[i] !== "*" && want[i] !== have[i])) return false;
  }
  return want.length === have.length;
}

function isPattern(name) {
  return name.endsWith(">") || name.startsWith("*") || name.includes(".*");
}

/** Whether a subscription's `where` accepts an event; the engine's own rules. */
function holds(where, event) {
  const maps = Array.isArray(where) ? where : [where];
  return maps.some((map) => Object.entries(map).every(([name, spec]) => clauseHolds(valueOf(event, name), spec)));
}

/** A field's value; undefined, which JSON has not, where there is none. */
function valueOf(event, name) {
  if (name === "@type") return event.type ?? "message";
  if (name === "@key") return event.key ?? undefined;
  let value = event.data;
  for (const token of name.split(".")) {
    if (value === null || typeof value !== "object" || Array.isArray(value) || !Object.hasOwn(value, token)) {
      return undefined;
    }
    value = value[token];
  }
  return value;
}

function clauseHolds(value, spec) {
  if (Array.isArray(spec)) return satisfies(value, "in", spec);
  if (spec === null || typeof spec !== "object") return satisfies(value, "eq", spec);
  return Object.entries(spec).every(([operator, operand]) => satisfies(value, operator, operand));
}

function satisfies(value, operator, operand) {
  if (operator === "exists") return (value !== undefined) === operand;
  if (value === undefined) return false;
  const equal = (other) => value === other && (value === null || typeof value !== "object");
  switch (operator) {
    case "eq":
      return equal(operand);
    case "in":
      return operand.some(equal);
    case "not":
      return !(Array.isArray(operand) ? operand.some(equal) : equal(operand));
    default:
      return typeof value === typeof operand && ordered(compare(value, operand), operator);
  }
}

function ordered(difference, operator) {
  if (operator === "gt") return difference > 0;
  if (operator === "gte") return difference >= 0;
  if (operator === "lt") return difference < 0;
  return difference <= 0;
}

/** Below, at or above 0; NaN, which is in no order, for what is neither two numbers nor two strings. */
function compare(one, other) {
  if (typeof one === "number") return one === other ? 0 : one < other ? -1 : 1;
  if (typeof one !== "string") return NaN;
  const [left, right] = [Array.from(one), Array.from(other)]; // by code point; UTF-16 has another order
  const at = left.findIndex((character, i) => character !== right[i]);
  if (at < 0) return left.length - right.length;
  return at >= right.length ? 1 : left[at].codePointAt(0) - right[at].codePointAt(0);
}

/** Where a topic stands: `top` is the highest offset accounted for, `last` the last one seen per priority. */
class Mark {
  constructor(epoch, offset, connection) {
    this.epoch = epoch;
    this.top = offset;
    this.connection = connection;
    this.count = offset; // offsets accounted for: as many as `top` says, if none below it is still to come
    this.lost = 0; // the highest that was given up, though a recovery may bring it
    this.last = [offset, offset, offset, offset];
  }

  /** Offsets that will not come. A span that begins below `top` may hold some that came: it counts for none. */
  lose(from, to) {
    if (from > this.top) this.count += to - from + 1;
    this.top = Math.max(this.top, to);
    this.lost = Math.max(this.lost, to);
  }
}

/**
 * Which events of a topic a subscription has seen: tells duplicates, where to resume, and holes. Order is promised per
 * topic and priority, so a duplicate is an event at or below the last one of its own priority.
 *
 * `holes`: a jump in offsets after a reconnect means loss. `whole`: the first connection begins with the last event of
 * each topic, so a topic that is new after a reconnect has lost what came before its first event.
 */
class Positions {
  #holes;
  #whole;
  #capacity;
  #forgot = false; // some topic: what it lost will not be told
  #young = new Map();
  #old = new Map(); // two generations: least recently used at the cost of one map more
  #connection = 0;

  constructor(holes, whole, capacity = TOPICS_REMEMBERED) {
    this.#holes = holes;
    this.#whole = whole;
    this.#capacity = capacity;
  }

  /** A new connection that does not go on where the last one ended: first events show what was missed. */
  reconnected() {
    this.#connection += 1;
  }

  /** Whether an event is new, and the gap before it or null. */
  admit({ topic: name, epoch, offset, priority }) {
    const rank = RANK.get(priority) ?? MEDIUM;
    let mark = this.#mark(name);
    if (mark === undefined) {
      // Nothing is known of what came before: events of lower priority may still follow.
      mark = this.#keep(name, new Mark(epoch, 0, this.#connection));
      mark.top = mark.last[rank] = offset;
      mark.count = rank >= MEDIUM ? offset : 1; // an urgent one is likely to have overtaken
      const bornMeanwhile = this.#whole && this.#connection > 0 && !this.#forgot;
      return [true, bornMeanwhile && offset > 1 ? gapOf(name, epoch, 1, offset - 1, "disconnected") : null];
    }
    if (mark.epoch === epoch && offset <= mark.last[rank]) return [false, null];
    const gap = this.#hole(name, mark, epoch, offset - 1);
    if (mark.epoch !== epoch) mark = this.#keep(name, new Mark(epoch, 0, this.#connection));
    if (gap !== null) mark.lose(gap.from, gap.to);
    mark.connection = this.#connection;
    mark.last[rank] = offset;
    mark.top = Math.max(mark.top, offset);
    if (offset > mark.lost) mark.count += 1;
    return [true, gap];
  }

  /** A subscription begins after `offset`; what was lost since it last ended, or null. */
  start(name, epoch, offset) {
    const mark = this.#mark(name);
    if (mark !== undefined && mark.epoch === epoch && mark.top >= offset) {
      mark.connection = this.#connection;
      return null;
    }
    const gap = mark === undefined ? null : this.#hole(name, mark, epoch, offset);
    this.#keep(name, new Mark(epoch, offset, this.#connection));
    return gap;
  }

  /** The engine told of a gap: what is to be told is what was lost before it, then what is new of the gap itself. */
  skip(gap) {
    let mark = this.#mark(gap.topic);
    let hole = mark === undefined ? null : this.#hole(gap.topic, mark, gap.epoch, gap.from - 1);
    if (mark === undefined) {
      mark = this.#keep(gap.topic, new Mark(gap.epoch, 0, this.#connection));
      mark.top = mark.count = Math.max(0, gap.from - 1);
    } else if (mark.epoch !== gap.epoch) {
      mark = this.#keep(gap.topic, new Mark(gap.epoch, 0, this.#connection));
    } else if (this.#holes && gap.from <= gap.to && mark.count === mark.top && gap.from <= mark.top) {
      // Told to an overlapping subscription, or once more because the connection broke while it was told.
      if (gap.to <= mark.top) return [];
      gap = { ...gap, from: mark.top + 1 };
    }
    mark.connection = this.#connection;
    if (gap.reason === "epoch_changed") hole = null; // it says it all
    if (hole !== null) mark.lose(hole.from, hole.to);
    mark.lose(gap.from, gap.to);
    return hole === null ? [gap] : [hole, gap];
  }

  /** The position behind which one may resume; null if something below the last event may still come. */
  settled(name) {
    const mark = this.#young.get(name) ?? this.#old.get(name);
    return mark !== undefined && mark.count === mark.top ? { epoch: mark.epoch, offset: mark.top } : null;
  }

  #hole(name, mark, epoch, to) {
    // An epoch that changed is told by the engine before the topic's next event, but not again after a reconnect.
    if (mark.epoch !== epoch) return gapOf(name, epoch, 1, to, "epoch_changed");
    if (mark.connection === this.#connection) return null; // within a connection the engine tells its gaps itself
    return this.#holes && to > mark.top ? gapOf(name, epoch, mark.top + 1, to, "disconnected") : null;
  }

  #mark(name) {
    const mark = this.#young.get(name) ?? this.#old.get(name);
    return mark === undefined ? undefined : this.#keep(name, mark);
  }

  #keep(name, mark) {
    if (this.#young.size >= this.#capacity && !this.#young.has(name)) {
      for (const known of this.#old.keys()) {
        if (!this.#young.has(known) && known !== name) this.#forgot = true;
      }
      this.#old = this.#young;
      this.#young = new Map();
    }
    this.#young.set(name, mark);
    return mark;
  }
}

function gapOf(name, epoch, from, to, reason) {
  return { topic: name, epoch, from, to, reason };
}

/** Full jitter below a cap that doubles with each failure in a row, milliseconds. */
function backoff(failures) {
  return Math.random() * Math.min(BACKOFF_CAP_MS, BACKOFF_FIRST_MS * 2 ** (failures - 1));
}

function within(promise, milliseconds, what) {
  let timer;
  const late = new Promise((_, reject) => {
    const error = new ConnectionLost(`${what} took more than ${milliseconds / 1000} s`);
    timer = setTimeout(() => reject(error), milliseconds);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** A promise that may fail without anybody looking: whoever made it has reported that. */
function promised() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  made.promise.catch(() => {});
  return made;
}

// One subscription ----------------------------------------------------------------------------------------------------

class Feed {
  missed = 0;
  skipped = 0;
  closed = false;
  away = true; // the present connection has not accepted it
  resume = true; // from where it was, until the engine says that it cannot
  accepted = false;
  failures = 0;
  ready = promised();

  /** `call(callback, value)` calls what users wrote. */
  constructor(topics, callback, call, options) {
    const { where = null, snapshot = false, conflate = false, maxRate = null, window = 0, batch = false, ...others } =
      options;
    const { recover = true, onGap = null, ...unknown } = others;
    const [stray] = Object.keys(unknown);
    if (stray !== undefined) throw new RequestError("bad_request", `there is no option ${stray}`, stray);
    this.topics = topics;
    this.where = where;
    this.wanted = { where, snapshot, conflate, max_rate: maxRate, window, batch };
    this.identity = JSON.stringify(this.wanted);
    this.complete = where === null && !conflate && maxRate === null;
    this.filter = where === null ? "" : JSON.stringify(where);
    this.recover = recover;
    this.callback = callback;
    this.call = call;
    this.onGap = onGap;
    this.position = ""; // in the engine's whole log; all before it has come
    this.positions = new Positions(this.complete, this.complete && snapshot);
  }

  request() {
    const fields = { op: "subscribe", topics: this.topics };
    for (const [name, value] of Object.entries(this.wanted)) {
      if (value !== null && value !== false && value !== 0) fields[name] = value;
    }
    const since = this.resume ? this.since() : null;
    if (since !== null) fields.since = since;
    return fields;
  }

  /** What to resume after: offsets where they say it all, for they hold longer than a position; null: begin anew. */
  since() {
    if (!this.recover || !this.accepted) return null;
    if (this.complete && !this.topics.some(isPattern)) {
      const found = this.topics.map((name) => [name, this.positions.settled(name)]);
      if (found.every(([, at]) => at !== null)) return Object.fromEntries(found);
    }
    return this.position || null;
  }

  /**
   * Whether it takes events of a topic. Not between a reconnect and the engine's answer: an event that comes meanwhile
   * for another subscription would make those before it, which are still to be recovered, look like duplicates.
   */
  wants(name) {
    return !this.closed && !this.away && this.topics.some((pattern) => matches(pattern, name));
  }

  /** The engine has accepted it: events from here on are ours. */
  subscribed(answer) {
    this.failures = 0;
    this.away = false;
    const recovered = answer.recovered ?? null;
    if (this.accepted && !recovered) this.positions.reconnected();
    this.accepted = true;
    this.ready.resolve();
    if (recovered !== null) return; // what was missed follows, and gaps that say what does not
    // The last events of a snapshot are still to come: only a later position has them behind it.
    this.position = this.wanted.snapshot ? "" : answer.position ?? "";
    for (const [name, at] of Object.entries(answer.positions ?? {})) {
      const offset = this.wanted.snapshot ? Math.max(0, at.offset - 1) : at.offset;
      const gap = this.positions.start(name, at.epoch, offset);
      if (gap !== null) this.tell(gap);
    }
  }

  lost() {
    this.away = true;
    this.resume = true;
  }

  event(event) {
    if (!event.epoch) return this.call(this.callback, event); // it has no place yet, and comes again with one
    const [fresh, gap] = this.positions.admit(event);
    if (gap !== null) this.tell(gap);
    if (fresh && !this.closed) this.call(this.callback, event);
  }

  gap(gap) {
    for (const lost of this.positions.skip(gap)) this.tell(lost);
  }

  tell(gap) {
    if (this.closed) return;
    this.missed += Math.max(0, gap.to - gap.from + 1);
    if (this.onGap !== null) this.call(this.onGap, gap);
  }

  /** What users hold. */
  handle(close) {
    const feed = this;
    return {
      get topics() {
        return [...feed.topics];
      },
      get missed() {
        return feed.missed;
      },
      get skipped() {
        return feed.skipped;
      },
      get closed() {
        return feed.closed;
      },
      ready: feed.ready.promise,
      close,
    };
  }
}

// One WebSocket -------------------------------------------------------------------------------------------------------

/** From its handshake to its end. `owner`: opened(session), message(message), lost(error, bye), report(error). */
class Connection {
  #socket;
  #owner;
  #url;
  #token;
  #bye = null;
  #refusal = null;
  #session = null;
  #heard = performance.now();
  #ticks = 0; // since it was asked for a sign of life
  #ids = 0;
  #own = new Map(); // requests of the connection itself
  #timers = new Set();
  #done = false;
  openedAt = 0;

  constructor(WebSocket, url, token, owner) {
    this.#owner = owner;
    this.#url = url;
    this.#token = token;
    this.#socket = new WebSocket(url, [SUBPROTOCOL]); // may throw: not from this page, ever
    this.#later(OPEN_TIMEOUT_MS, () => {
      if (this.#session === null) this.lose(new ConnectionLost(`${url}: no answer within ${OPEN_TIMEOUT_MS / 1000} s`));
    });
    this.#socket.onmessage = ({ data }) => this.#received(data);
    this.#socket.onerror = () => {}; // browsers say nothing here, and `close` follows
    this.#socket.onclose = ({ code, reason }) => this.#closed(code, reason);
  }

  /** Hand a message, as JSON, to the socket; what it takes is bounded by who asks. */
  send(text) {
    this.#socket.send(text);
  }

  /** Ask for a sign of life at once: the page was asleep, or the network has changed. */
  probe() {
    if (this.#session === null) return;
    const asked = performance.now();
    this.#ask({ op: "ping" });
    this.#later(PROBE_MS, () => {
      if (this.#heard > asked) return;
      if (performance.now() - asked > 2 * PROBE_MS) this.probe(); // asleep meanwhile: the answer may wait behind us
      else this.lose(new ConnectionLost(`${this.#url} is silent`));
    });
  }

  /** Send another token before the present one ends; what fails is tried again, at the end the engine closes. */
  async renew(fetchToken, expires) {
    const now = await this.#ask({ op: "ping" }).then(({ ts }) => ts, () => Date.now() / 1000); // the engine's clock
    const delay = Math.max(RENEWAL_LEAST_MS, 1000 * RENEWAL * (expires - now));
    this.#later(Math.min(delay, LONGEST_TIMER_MS), async () => {
      try {
        const token = await fetchToken();
        if (this.#done) return;
        ({ expires } = await this.#ask({ op: "auth", token }));
      } catch (error) {
        if (!this.#done) this.#owner.report(error);
      }
      if (!this.#done) this.renew(fetchToken, expires);
    });
  }

  /** The end, politely where there is still somebody; nothing more is told. */
  close() {
    this.#end();
    this.#socket.close(1000);
  }

  lose(error) {
    if (this.#done) return;
    this.close();
    this.#owner.lost(error, this.#bye);
  }

  #end() {
    this.#done = true;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#socket.onmessage = this.#socket.onclose = null;
  }

  #later(milliseconds, action) {
    if (this.#done) return;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      action();
    }, milliseconds);
    this.#timers.add(timer);
  }

  #ask(request) {
    const id = `c${++this.#ids}`;
    const asked = promised();
    this.#own.set(id, asked);
    this.send(JSON.stringify({ ...request, id }));
    return asked.promise;
  }

  #closed(code, reason) {
    this.#end();
    code = this.#bye?.code ?? code;
    const why = `${code} ${this.#bye?.reason ?? reason}`.trim();
    let final = FINAL.get(code);
    if (final === undefined && this.#bye?.reconnect === false) final = "forbidden";
    if (final !== undefined) {
      const detail = this.#refusal?.message ?? why;
      this.#owner.lost(new RequestError(final, `the engine closed the connection: ${detail}`), this.#bye);
    } else {
      const what = this.#session === null ? "no connection" : "the connection was lost";
      this.#owner.lost(new ConnectionLost(`${this.#url}: ${what}: ${why}`), this.#bye);
    }
  }

  #received(data) {
    this.#heard = performance.now();
    let message;
    try {
      message = Object(JSON.parse(data));
    } catch {
      return this.#owner.report(new Error("ignored a message of the engine that is not JSON"));
    }
    try {
      if (message.op === "bye") this.#bye = message;
      else if (message.op === "welcome") this.#welcomed(message);
      else if (typeof message.id === "string" && this.#own.has(message.id)) this.#answered(message);
      else this.#owner.message(message);
    } catch (error) {
      this.#owner.report(error); // a message that lacks what it must have; thrown from here it would end Node
    }
  }

  #answered(message) {
    const { resolve, reject } = this.#own.get(message.id);
    this.#own.delete(message.id);
    if (message.op === "ok") resolve(message);
    else reject(new RequestError(message.code, message.message, message.field));
  }

  #welcomed(welcome) {
    if (welcome.protocol !== 1) {
      const text = `${this.#url} speaks protocol ${welcome.protocol}, this client speaks 1`;
      return this.lose(new RequestError("unsupported", text));
    }
    if (welcome.auth_within === undefined) return this.#opened(welcome);
    if (!this.#token) return this.lose(new RequestError("unauthorized", `${this.#url} wants a token`));
    this.#ask({ op: "auth", token: this.#token }).then(
      ({ user, expires }) => this.#done || this.#opened({ ...welcome, user, expires }),
      (error) => (this.#refusal = error), // `bye` follows
    );
  }

  #opened(session) {
    this.#session = session;
    this.openedAt = performance.now();
    const silence = (session.ping_interval ?? 25) * 1500;
    const tick = () => {
      this.#later(silence / 6, tick);
      if (performance.now() - this.#heard < silence) this.#ticks = 0;
      else if (this.#ticks++ === 0) this.#ask({ op: "ping" });
      // Two ticks of grace: of a page that was frozen the first one may come before the messages that wait for it.
      else if (this.#ticks > 2) this.lose(new ConnectionLost(`${this.#url} is silent`));
    };
    this.#later(silence / 6, tick);
    this.#owner.opened(session);
  }
}

// The client ----------------------------------------------------------------------------------------------------------

export class Heliograph {
  #url;
  #token;
  #WebSocket;
  #timeout;
  #state = "connecting";
  #failure = null;
  #connection = null; // once it is open
  #opening = null;
  #failures = 0; // to connect, in a row
  #timer = null; // of the next attempt
  #shown = ""; // the token of this connection
  #refused = null; // that token: the one after it is another, and the last try
  #diagnosed = false;
  #ids = 0;
  #most = Infinity; // bytes of a message that the engine takes
  #asked = new Map(); // what this connection was asked
  #requests = new Set(); // what users wait for
  #feeds = new Set();
  #held = new Set(); // patterns that this session has asked for
  #given = new Set(); // patterns that the engine has subscribed it to by itself
  #routes = new Map();
  #served = new Map();
  #listeners = { state: new Set(), error: new Set(), session: new Set() };
  #onWake = (event) => this.#wake(event.type);

  constructor(url, { token = null, WebSocket = globalThis.WebSocket, requestTimeout = REQUEST_TIMEOUT_MS } = {}) {
    if (typeof WebSocket !== "function") {
      const text = "there is no WebSocket here; give one: new Heliograph(url, { WebSocket })";
      throw new RequestError("unsupported", text, "WebSocket");
    }
    this.#url = address(url);
    this.#token = token;
    this.#WebSocket = WebSocket;
    this.#timeout = requestTimeout;
    this.#watch("addEventListener");
    queueMicrotask(() => this.#connect()); // who has just made it can still listen to everything
  }

  get state() {
    return this.#state;
  }

  /** Call `listener` at each change of state, error or session; returns a function that ends it. */
  on(name, listener) {
    const listeners = this.#listeners[name];
    if (listeners === undefined) throw new RequestError("bad_request", `there is no event ${name}`, "name");
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  close() {
    this.#end(null);
  }

  // Requests

  subscribe(topics, callback, options = {}) {
    this.#checkOpen();
    const names = [...new Set([topics].flat())];
    if (names.length === 0) throw new RequestError("bad_request", "name at least one topic or pattern", "topics");
    const feed = new Feed(names, callback, (called, value) => this.#guard(called, value), options);
    for (const other of this.#feeds) {
      const shared = other.topics.find((name) => names.includes(name));
      if (shared !== undefined && other.identity !== feed.identity) {
        const text = `${shared} is subscribed to with other options by this client; use another one`;
        throw new RequestError("conflict", text, "topics");
      }
    }
    this.#feeds.add(feed);
    if (this.#connection !== null) this.#subscribe(feed);
    return feed.handle(() => this.#leave(feed));
  }

  async publish(topic, data, { type, key, priority, idempotencyKey } = {}) {
    const json = JSON.stringify(data); // also what a repetition sends, whatever becomes of `data`
    if (json === undefined) throw new RequestError("bad_request", "nothing that JSON has", "data");
    const fields = { op: "publish", topic, data: JSON.parse(json), type, key, priority };
    if (idempotencyKey !== undefined) fields.idempotency_key = idempotencyKey;
    const answer = await this.#request(fields, { repeat: idempotencyKey !== undefined });
    return answer.pending ? null : { epoch: answer.epoch, offset: answer.offset };
  }

  async snapshot(topics) {
    return (await this.#request({ op: "snapshot", topics: [topics].flat() })).events;
  }

  async history(topic, { limit, since, onGap = null } = {}) {
    if (since) since = { epoch: since.epoch, offset: since.offset }; // of an event, too
    const { events, gap = null } = await this.#request({ op: "history", topic, limit, since });
    if (gap !== null && onGap !== null) this.#guard(onGap, gap);
    return events;
  }

  async presence(topic) {
    return (await this.#request({ op: "presence", topic })).users;
  }

  async call(topic, method, params = {}, { timeout = CALL_TIMEOUT_MS } = {}) {
    return (await this.#request({ op: "call", topic, method, params }, { repeat: false, timeout })).result;
  }

  serve(topic, methods) {
    this.#checkOpen();
    if (this.#served.has(topic)) throw new RequestError("conflict", `this client serves ${topic} already`, "topic");
    const served = { topic, methods: new Map(Object.entries(methods)), ready: promised(), failures: 0 };
    this.#served.set(topic, served);
    if (this.#connection !== null) this.#serve(served);
    const close = () => {
      if (this.#served.get(topic) !== served) return;
      this.#served.delete(topic);
      served.ready.reject(new ConnectionLost("it is no longer served"));
      if (this.#connection !== null) this.#ask({ op: "serve", topic, methods: [] });
    };
    return { topic, ready: served.ready.promise, close };
  }

  /** Until it is answered or its time is over, also over several connections where it may be repeated. */
  #request(fields, { repeat = true, timeout = this.#timeout } = {}) {
    return new Promise((resolve, reject) => {
      this.#checkOpen();
      if (this.#requests.size >= MAX_WAITING) {
        throw new RequestError("limit_exceeded", `${MAX_WAITING} requests wait for their answers already`);
      }
      const request = { fields, repeat, insist: fields.idempotency_key !== undefined, sent: false, failures: 0 };
      request.refused = null;
      request.settle = (settled, value) => {
        clearTimeout(request.timer);
        this.#requests.delete(request);
        settled(value);
      };
      request.resolve = (answer) => request.settle(resolve, answer);
      request.reject = (error) => request.settle(reject, error);
      request.timer = setTimeout(() => {
        const what = request.sent ? "answer; outcome unknown" : "connection";
        const late = new ConnectionLost(`${this.#url}: after ${timeout / 1000} s no ${what}`);
        request.reject(request.refused ?? late);
      }, timeout);
      this.#requests.add(request);
      if (this.#connection !== null) this.#dispatch(request);
    });
  }

  #dispatch(request) {
    request.sent = true;
    this.#ask(request.fields, request.resolve, (error) => {
      if (!request.insist || error.code !== "unavailable") return request.reject(error);
      request.sent = false;
      request.refused = error;
      this.#again(request, () => !request.sent && this.#requests.has(request) && this.#dispatch(request));
    });
  }

  /** Ask this connection; whoever outlives it asks the next one. What cannot be sent is refused at once. */
  #ask(fields, onAnswer = () => {}, onRefusal = (error) => this.#report(error)) {
    const id = ++this.#ids;
    let text;
    try {
      text = encoded(fields, id, this.#most);
    } catch (error) {
      return onRefusal(error);
    }
    this.#asked.set(id, { onAnswer, onRefusal });
    this.#connection.send(text);
  }

  /** Do something once more after a pause, if the connection is still the same by then. */
  #again(what, action) {
    const connection = this.#connection;
    setTimeout(() => connection === this.#connection && action(), backoff(++what.failures));
  }

  // Subscriptions

  #subscribe(feed) {
    for (const name of feed.topics) this.#held.add(name);
    const fields = feed.request();
    const accepted = (answer) => {
      this.#routes.clear();
      if (!feed.closed) feed.subscribed(answer);
    };
    this.#ask(fields, accepted, (error) => {
      if (feed.closed) return;
      if (fields.since !== undefined && error.field?.startsWith("since")) {
        feed.resume = false; // an engine without history; the first event of each topic shows the hole
        this.#subscribe(feed);
      } else if (REPEATED.has(error.code)) {
        this.#again(feed, () => feed.closed || this.#subscribe(feed));
      } else {
        this.#endFeed(feed, error);
      }
    });
  }

  #leave(feed) {
    if (feed.closed) return;
    const gone = this.#endFeed(feed, null);
    if (gone.length > 0 && this.#connection !== null) this.#ask({ op: "unsubscribe", topics: gone });
  }

  /** It gets nothing more; returns the patterns that are now for nobody. */
  #endFeed(feed, failure) {
    feed.closed = true;
    this.#feeds.delete(feed);
    this.#routes.clear();
    feed.ready.reject(failure ?? new ConnectionLost("the subscription was closed"));
    if (failure !== null) this.#report(failure);
    const wanted = new Set([...this.#feeds].flatMap((other) => other.topics));
    const gone = feed.topics.filter((name) => this.#held.has(name) && !wanted.has(name));
    for (const name of gone) this.#held.delete(name);
    return gone.filter((name) => !this.#given.has(name));
  }

  #to(name) {
    let route = this.#routes.get(name);
    if (route === undefined) {
      if (this.#routes.size >= ROUTES_CACHED) this.#routes.clear();
      const feeds = [...this.#feeds].filter((feed) => feed.wants(name));
      const given = [...this.#given].some((pattern) => matches(pattern, name));
      const filters = new Set(feeds.map((feed) => feed.filter));
      if (given) filters.add("");
      route = { feeds, shared: filters.size > 1 }; // shared: an event may come for one and not for another
      this.#routes.set(name, route);
    }
    return route;
  }

  #deliver(event) {
    const { feeds, shared } = this.#to(event.topic);
    for (const feed of feeds) {
      if (!feed.closed && (!shared || feed.where === null || holds(feed.where, event))) feed.event(event);
    }
  }

  #message(message) {
    switch (message.op) {
      case "event":
        return this.#deliver(message);
      case "events":
        return message.events.forEach((event) => this.#deliver(event));
      case "ok":
      case "error":
        return this.#answered(message);
      case "gap":
        return this.#to(message.topic).feeds.forEach((feed) => feed.gap(gapFrom(message)));
      case "skipped":
        return this.#to(message.topic).feeds.forEach((feed) => (feed.skipped += message.count));
      case "position":
        return this.#feeds.forEach((feed) => feed.away || (feed.position = message.position));
      case "call":
        return void this.#called(message);
      case "subscribed":
        message.topics.forEach((name) => this.#given.add(name));
        return this.#routes.clear();
      case "unsubscribed":
        return this.#unsubscribed(new Set(message.topics));
      default: // an older client works with a newer engine
    }
  }

  #answered(message) {
    const asked = this.#asked.get(message.id);
    this.#asked.delete(message.id);
    if (message.op === "ok") return asked?.onAnswer(message);
    const error = new RequestError(message.code, message.message, message.field);
    return asked === undefined ? this.#report(error) : asked.onRefusal(error);
  }

  /** An operator, or a token that allows less, has ended subscriptions; `left` are those that go on. */
  #unsubscribed(left) {
    const gone = new Set([...this.#held].filter((name) => !left.has(name)));
    for (const name of this.#given) if (!left.has(name)) this.#given.delete(name);
    for (const name of gone) this.#held.delete(name);
    this.#routes.clear();
    for (const feed of [...this.#feeds]) {
      const lost = feed.topics.filter((name) => gone.has(name));
      feed.topics = feed.topics.filter((name) => !gone.has(name));
      if (feed.topics.length === 0) {
        const text = `the engine has ended the subscription to ${lost.join(", ")}`;
        this.#endFeed(feed, new RequestError("forbidden", text));
      }
    }
  }

  // Calls that are answered here

  #serve(served) {
    const { topic: name, methods } = served;
    this.#ask({ op: "serve", topic: name, methods: [...methods.keys()] }, served.ready.resolve, (error) => {
      if (this.#served.get(name) !== served) return;
      if (REPEATED.has(error.code)) {
        return this.#again(served, () => this.#served.get(name) === served && this.#serve(served));
      }
      this.#served.delete(name);
      served.ready.reject(error);
      this.#report(error);
    });
  }

  async #called({ call, topic: name, method, params, user = null }) {
    const connection = this.#connection;
    let answer;
    try {
      const called = this.#served.get(name)?.methods.get(method);
      if (called === undefined) throw new RequestError("not_found", `${name} has no method ${method} here`, "method");
      answer = { result: (await called(params, user)) ?? null };
    } catch (error) {
      if (error instanceof RequestError) {
        answer = { error: { code: error.code, message: error.message, field: error.field } };
      } else {
        answer = { error: { code: "internal", message: `${method} failed` } }; // not the error: it may hold anything
        this.#report(error);
      }
    }
    // On another connection nobody waits for it: its caller has been told that the outcome is unknown.
    if (connection !== this.#connection || connection === null) return;
    this.#ask({ op: "result", call, ...answer }, undefined, (refusal) => {
      this.#report(refusal);
      if (REPEATED.has(refusal.code)) return; // the engine has told the caller
      const code = refusal.code === "limit_exceeded" ? refusal.code : "internal";
      this.#ask({ op: "result", call, error: { code, message: `${method}: its answer could not be sent` } });
    });
  }

  // The connection's keeper

  async #connect() {
    if (this.#state === "closed") return;
    clearTimeout(this.#timer);
    this.#timer = null;
    const attempt = (this.#opening = {}); // a later one, or the end, takes its place
    this.#become("connecting");
    if (attempt !== this.#opening) return; // a listener has closed the client
    let token;
    try {
      token = await this.#fetchToken();
    } catch (error) {
      // Most likely the service that mints tokens is away, which passes as a lost connection does.
      if (attempt !== this.#opening) return;
      this.#report(error);
      return this.#retry(new ConnectionLost("the token function failed"), null, 0);
    }
    if (attempt !== this.#opening) return;
    if (this.#refused !== null && token === this.#shown) return this.#end(this.#refused);
    this.#shown = token;
    const owner = {
      opened: (session) => this.#opened(connection, session),
      message: (message) => this.#message(message),
      lost: (error, bye) => this.#lost(connection, error, bye),
      report: (error) => this.#report(error),
    };
    let connection;
    try {
      connection = this.#opening = new Connection(this.#WebSocket, this.#url, token, owner);
    } catch (error) {
      this.#end(new RequestError("bad_request", `${this.#url}: ${error.message}`, "url"));
    }
  }

  async #fetchToken() {
    if (typeof this.#token !== "function") return this.#token ?? "";
    return (await within(Promise.resolve(this.#token()), OPEN_TIMEOUT_MS, "the token function")) ?? "";
  }

  #opened(connection, session) {
    this.#connection = connection;
    this.#most = session.limits?.message_bytes ?? Infinity;
    this.#refused = null;
    this.#diagnosed = false;
    if (typeof this.#token === "function" && typeof session.expires === "number") {
      connection.renew(() => this.#fetchToken(), session.expires);
    }
    this.#served.forEach((served) => this.#serve(served));
    this.#feeds.forEach((feed) => this.#subscribe(feed));
    this.#requests.forEach((request) => this.#dispatch(request));
    this.#become("open");
    const { session: id, node, server, user = null, limits = {} } = session;
    this.#tell("session", { session: id, node, server, user, limits });
  }

  #lost(connection, error, bye) {
    const lasted = this.#connection === null ? 0 : performance.now() - connection.openedAt;
    const wasOpen = this.#connection !== null;
    this.#connection = this.#opening = null;
    this.#asked.clear();
    this.#held.clear();
    this.#given.clear();
    this.#routes.clear();
    this.#feeds.forEach((feed) => feed.lost());
    for (const request of [...this.#requests]) {
      if (!request.sent) continue;
      request.sent = false;
      if (!request.repeat) request.reject(new ConnectionLost(`${error.message}; outcome unknown`));
    }
    if (error instanceof RequestError) {
      const another = error.code === "unauthorized" && typeof this.#token === "function" && this.#refused === null;
      if (!another) return this.#end(error);
      this.#refused = error; // another token may be let in, once
    } else if (!wasOpen) {
      this.#diagnose();
    }
    this.#retry(error, bye, lasted);
  }

  #retry(why, bye, lasted) {
    this.#opening = null;
    this.#failures = lasted >= STABLE_MS ? 1 : this.#failures + 1;
    const known = this.#failures === 1 && typeof bye?.reconnect_in === "number"; // the engine says when it will be back
    const delay = known ? Math.random() * bye.reconnect_in * 1000 : backoff(this.#failures);
    this.#timer = setTimeout(() => this.#connect(), delay);
    this.#become("waiting", why, delay / 1000);
  }

  /** Browsers do not tell a page why there is no WebSocket; that the server answers at all can be found out. */
  async #diagnose() {
    const page = globalThis.location?.origin;
    if (this.#diagnosed || page === undefined) return;
    this.#diagnosed = true;
    try {
      await fetch(this.#url.replace(/^ws/, "http"), { mode: "no-cors", cache: "no-store" });
    } catch {
      return; // nobody is there
    }
    if (this.#connection !== null || this.#state === "closed") return;
    const text =
      `${this.#url} answers, but gives this page no WebSocket. Most likely it refuses pages of ${page} (HTTP 403): ` +
      `name that origin in the engine's configuration, [server] origins = ["${page}"]`;
    this.#report(new RequestError("forbidden", text, "Origin"));
  }

  #wake(type) {
    if (type === "visibilitychange" && globalThis.document?.visibilityState !== "visible") return;
    if (this.#connection !== null) this.#connection.probe();
    else if (this.#state === "waiting" && type !== "offline") this.#connect();
  }

  #watch(how) {
    for (const name of ["online", "offline", "pageshow"]) globalThis[how]?.(name, this.#onWake);
    for (const name of ["visibilitychange", "resume"]) globalThis.document?.[how](name, this.#onWake);
  }

  #end(failure) {
    if (this.#state === "closed") return;
    this.#failure = failure;
    clearTimeout(this.#timer);
    this.#watch("removeEventListener");
    if (this.#opening instanceof Connection) this.#opening.close();
    this.#connection = this.#opening = null;
    this.#become("closed", failure ?? undefined);
    const gone = failure ?? new ConnectionLost("the client is closed");
    for (const request of [...this.#requests]) request.reject(gone);
    for (const feed of [...this.#feeds]) {
      feed.closed = true;
      feed.ready.reject(gone);
    }
    for (const served of this.#served.values()) served.ready.reject(gone);
    this.#feeds.clear();
    this.#served.clear();
    this.#routes.clear();
    if (failure !== null) this.#report(failure);
  }

  #checkOpen() {
    if (this.#state === "closed") throw this.#failure ?? new ConnectionLost("the client is closed");
  }

  #become(state, why, seconds) {
    if (state === this.#state && why === undefined && state !== "connecting") return;
    this.#state = state;
    this.#tell("state", state, why, seconds);
  }

  #tell(name, ...values) {
    for (const listener of this.#listeners[name]) this.#guard(listener, ...values);
  }

  /** Call what users wrote: what it throws is reported, and harms nobody else. */
  #guard(called, ...values) {
    try {
      const returned = called(...values);
      if (typeof returned?.then === "function") returned.then(undefined, (error) => this.#report(error));
    } catch (error) {
      this.#report(error);
    }
  }

  #report(error) {
    const listeners = this.#listeners.error;
    if (listeners.size === 0) return console.error("heliograph:", error);
    for (const listener of listeners) {
      try {
        listener(error);
      } catch (worse) {
        console.error("heliograph:", worse);
      }
    }
  }
}

/** A request as it is sent; a RequestError for what has no JSON, or more than `most` bytes of it. */
function encoded(fields, id, most) {
  let text;
  try {
    text = JSON.stringify({ ...fields, id });
  } catch (error) {
    throw new RequestError("bad_request", `${fields.op}: it has no JSON: ${error.message}`);
  }
  // Three bytes at most for a unit of UTF-16: what is short need not be counted.
  const bytes = text.length * 3 <= most ? 0 : new TextEncoder().encode(text).length;
  if (bytes <= most) return text;
  throw new RequestError("limit_exceeded", `${fields.op}: it has ${bytes} bytes, the engine takes ${most} in a message`);
}

function address(url) {
  let found;
  try {
    found = new URL(url, globalThis.location?.href);
  } catch {
    throw new RequestError("bad_request", `not an address: ${url}`, "url");
  }
  found.protocol = found.protocol.replace(/^http/, "ws"); // a path is one of the page's own server
  if (!/^wss?:$/.test(found.protocol)) {
    throw new RequestError("bad_request", `not an address of a WebSocket: ${url}`, "url");
  }
  found.hash = "";
  return found.href;
}

function gapFrom({ topic: name, epoch, from, to, reason }) {
  return gapOf(name, epoch, from, to, reason);
}
