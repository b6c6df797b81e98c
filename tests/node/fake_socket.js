/* A WebSocket whose other end is a test, and a client on it. */
"use strict";

class FakeSocket {
  static all = [];

  constructor(url, protocols) {
    Object.assign(this, { url, protocols, sent: [], closed: null });
    FakeSocket.all.push(this);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close(code) {
    this.closed = code;
  }

  /** The engine says something; with `id` of the last request of an op it answers that. */
  say(...messages) {
    for (const message of messages) this.onmessage?.({ data: JSON.stringify(message) });
  }

  welcome(more = {}) {
    this.say({ op: "welcome", protocol: 1, session: "s", node: "n", server: "x", ping_interval: 25, ...more });
  }

  answer(op, more = {}) {
    this.say({ op: "ok", id: this.of(op).at(-1).id, ...more });
  }

  refuse(op, code, field = null) {
    this.say({ op: "error", id: this.of(op).at(-1).id, code, message: `${op} refused`, field });
  }

  end(code, bye = null) {
    if (bye !== null) this.say({ op: "bye", code, reconnect: true, ...bye });
    this.onclose?.({ code, reason: "" });
  }

  of(op) {
    return this.sent.filter((message) => message.op === op);
  }
}

async function until(condition) {
  const deadline = performance.now() + 20_000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`not so within 20 s: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** `await socket(1)` is the client's first one, once it is there. */
async function socket(number) {
  await until(() => FakeSocket.all.length >= number);
  return FakeSocket.all[number - 1];
}

/** A client whose errors and states are kept; sockets are counted anew. */
function fakeClient(options = {}) {
  FakeSocket.all = [];
  const client = new Heliograph("ws://engine/ws", { WebSocket: FakeSocket, ...options });
  const errors = [];
  const states = [];
  client.on("error", (error) => errors.push(error));
  client.on("state", (state) => states.push(state));
  return { client, errors, states };
}

async function openFake(options = {}, welcome = {}) {
  const made = fakeClient(options);
  const first = await socket(1);
  first.welcome(welcome);
  return { ...made, first };
}

function event(topic, offset, more = {}) {
  return { op: "event", topic, type: "message", epoch: "e", offset, ts: 1, data: null, ...more };
}

/** What a promise comes to, as something that a test can read. */
function outcome(promise) {
  return promise.then(
    (value) => ({ value: value ?? null }),
    (error) => ({ name: error.name, code: error.code ?? null, message: error.message, field: error.field ?? null }),
  );
}
