// Requests to the admin API: with the key, each answer counted, and one poll at a time.

const KEY = "heliograph-key"; // in sessionStorage: it goes with the tab
const TIMEOUT = 15_000; // ms that an answer may take

/** A refusal, or no answer (`status` 0). */
export class AdminError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export class Admin {
  requests = 0;
  bytes = 0;

  /** `askForKey(refused)`: a key, or null where the operator has none; asked once, however many requests wait. */
  constructor(askForKey) {
    this.#askForKey = askForKey;
  }

  #askForKey;
  #asking = null;

  get(path) {
    return this.#request("GET", path);
  }

  post(path, body = {}) {
    return this.#request("POST", path, body);
  }

  delete(path) {
    return this.#request("DELETE", path);
  }

  async #request(method, path, body) {
    for (;;) {
      const key = sessionStorage.getItem(KEY);
      const { status, content } = await this.#once(method, path, body, key);
      if (status < 400) return content;
      const { code = "internal", message = `status ${status}` } = content?.error ?? {};
      if (status !== 401) throw new AdminError(status, code, message);
      // Another request may have got a key meanwhile.
      if (key === sessionStorage.getItem(KEY) && !(await this.#newKey(key))) throw new AdminError(status, code, message);
    }
  }

  async #newKey(refused) {
    this.#asking ??= this.#askForKey(refused !== null).finally(() => (this.#asking = null));
    const key = await this.#asking;
    if (!key) return false;
    sessionStorage.setItem(KEY, key);
    return true;
  }

  async #once(method, path, body, key) {
    const headers = {};
    if (key !== null) headers.Authorization = `Bearer ${key}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    this.requests++;
    try {
      const response = await fetch(path, {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        cache: "no-store",
        signal: AbortSignal.timeout(TIMEOUT),
      });
      const text = await response.text();
      this.bytes += text.length;
      return { status: response.status, content: text ? JSON.parse(text) : null };
    } catch {
      throw new AdminError(0, "unavailable", "the admin port does not answer");
    }
  }
}
