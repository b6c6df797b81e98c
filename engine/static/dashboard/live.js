// The page's own connection to the engine: what changes comes as events. None of them is asked to wait for the next
// (`maxRate`): its wait would be in the latency that the page shows.

import { Heliograph } from "/heliograph.js";

/** `on`: `{metrics, feed, alert, progress}`, called with events; `changed()`: state or reason is another. */
export class Live {
  events = 0;
  state = "waiting"; // connecting, open, waiting or closed: the client's word
  reason = null;
  retryAt = null; // performance.now() of the next attempt, where one is waited for
  #client = null;
  #socket = null;
  #on;
  #changed;

  constructor(on, changed) {
    this.#on = on;
    this.#changed = changed;
  }

  get socket() {
    return this.#socket;
  }

  /** Connect, and stay connected; `token()`: a promise of what lets the page in, null: nothing has to. */
  open(socket, token) {
    this.close();
    this.#socket = socket;
    const client = (this.#client = new Heliograph(socket, token === null ? {} : { token }));
    client.on("state", (...told) => client === this.#client && this.#become(...told));
    client.on("error", (error) => client === this.#client && this.#failed(error));
    this.#subscribe("system.metrics", this.#on.metrics);
    this.#subscribe("system.feeds.*", this.#on.feed);
    this.#subscribe("alert.>", this.#on.alert);
    this.#subscribe("progress.>", this.#on.progress, { snapshot: true });
  }

  close() {
    const client = this.#client;
    this.#client = null;
    client?.close();
  }

  /** A method of whoever serves a topic. */
  call(topic, method, params) {
    if (this.#client === null) return Promise.reject(new Error("the page is not connected"));
    return this.#client.call(topic, method, params);
  }

  #subscribe(pattern, handle, more = {}) {
    const subscription = this.#client.subscribe(
      pattern,
      (event) => {
        this.events++;
        handle(event);
      },
      { conflate: true, recover: false, ...more },
    );
    subscription.ready.catch(() => {}); // it was reported as an error
  }

  #become(state, why, seconds) {
    this.state = state;
    this.retryAt = seconds === undefined ? null : performance.now() + seconds * 1000;
    if (state === "open") this.reason = null;
    else if (why?.message) this.reason = why.message;
    this.#changed();
  }

  #failed(error) {
    this.reason = error.message;
    this.#changed();
  }
}
