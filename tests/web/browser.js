/** A browser of the tests' own making: no network, and time passes when told to. */

import assert from "node:assert/strict";
import events from "node:events";

import { Keepalive } from "../../web/keepalive.js";
import "../../web/sharing.js"; // so that it is there when a page asks for it

events.defaultMaxListeners = 20; // a page has a dozen, and they all go with one signal

export const HELLO = {
  type: "hello",
  interval: 25,
  idle_timeout: 1800,
  expires_in: 1700,
  ends_in: 40_000,
  warn_before: 60,
  mode: "presence",
  spread: 3,
};
export const BEAT = { type: "beat", n: 1, expires_in: 1800, ends_in: 40_000 };

/** Listeners that a test can call with any event, trusted ones too. */
export class Target {
  listeners = new Set();

  addEventListener(type, listener, { signal } = {}) {
    if (signal?.aborted) return;
    const entry = { type, listener };
    this.listeners.add(entry);
    signal?.addEventListener("abort", () => this.listeners.delete(entry));
  }

  fire(type, fields = {}) {
    for (const entry of [...this.listeners]) {
      if (entry.type === type && this.listeners.has(entry))
        entry.listener({ type, isTrusted: true, ...fields });
    }
  }
}

class Socket {
  readyState = 0;
  sent = [];
  closed = [];

  fire(type, fields) {
    this[`on${type}`]?.(fields);
  }

  send(text) {
    assert.equal(this.readyState, 1, "send() before open throws");
    this.sent.push(JSON.parse(text));
  }

  close(code) {
    this.readyState = 2;
    this.closed.push(code);
  }

  /** The server speaks. */
  say(...messages) {
    if (this.readyState === 0) {
      this.readyState = 1;
      this.fire("open");
    }
    for (const message of messages)
      this.fire("message", { data: typeof message === "string" ? message : JSON.stringify(message) });
    return this;
  }

  /** The connection is gone. */
  lose(code = 1006) {
    this.readyState = 3;
    this.fire("close", { code });
  }
}

/** Web Locks, of one name (W3C Web Locks API §4). */
class Locks {
  #holder = null;
  #queue = [];

  request(_name, { signal, steal = false }, callback) {
    return new Promise((resolve, reject) => {
      const place = { callback, resolve, reject };
      const abort = () => new DOMException("", "AbortError");
      if (signal?.aborted) return reject(abort());
      signal?.addEventListener("abort", () => {
        if (!this.#queue.includes(place)) return;
        this.#queue.splice(this.#queue.indexOf(place), 1);
        reject(abort());
      });
      if (steal) {
        this.#holder?.reject(abort());
        this.#holder = null;
        this.#queue.unshift(place);
      } else this.#queue.push(place);
      queueMicrotask(() => this.#grant());
    });
  }

  async #grant() {
    if (this.#holder || !this.#queue.length) return;
    const place = (this.#holder = this.#queue.shift());
    const result = await place.callback();
    if (this.#holder !== place) return; // stolen
    this.#holder = null;
    place.resolve(result);
    this.#grant();
  }
}

/** All tabs of one browser have the same clock, the same locks, and hear each other. */
export class Browser {
  now = 1_800_000_000_000;
  sockets = [];
  requests = [];
  answers = [];
  errors = [];
  timers = new Map();
  blocked = false;
  #channels = new Set();
  #locks = new Locks();
  #last = 0;

  /** @param {{secure?: boolean, navigation?: string}} [how] insecure pages have no locks */
  tab({ secure = true, navigation = "navigate" } = {}) {
    const browser = this;
    const window = new Target();
    const own = [];
    let hangs = false;
    Object.assign(window, {
      AbortSignal,
      TextEncoder,
      WebSocket: class extends Socket {
        constructor(url, protocol) {
          super();
          if (browser.blocked) throw new TypeError("blocked by policy");
          Object.assign(this, { url: String(url), protocol });
          browser.sockets.push(this);
          own.push(this);
        }
      },
      BroadcastChannel: class {
        constructor(name) {
          this.name = name;
          browser.#channels.add(this);
        }
        postMessage(message) {
          const data = structuredClone(message);
          for (const other of browser.#channels)
            if (other !== this && other.name === this.name) queueMicrotask(() => other.hear(data));
        }
        hear(data) {
          if (!hangs) this.onmessage?.({ data });
        }
        close() {
          this.onmessage = null;
          browser.#channels.delete(this);
        }
      },
      Date: { now: () => this.now },
      Math: Object.create(Math, { random: { value: () => 0.5 } }),
      crypto: { getRandomValues: (bytes) => crypto.getRandomValues(bytes) }, // no more, as on an insecure page
      navigator: { onLine: true, locks: secure ? this.#locks : undefined },
      performance: { getEntriesByType: () => [{ type: navigation }] },
      document: Object.assign(new Target(), {
        visibilityState: "visible",
        baseURI: "https://app.example/shop/",
        querySelectorAll: () => window.frames_ ?? [],
      }),
      setTimeout: (task, delay) => {
        const run = () => hangs || task();
        this.timers.set(++this.#last, { run, at: this.now + delay });
        return this.#last;
      },
      clearTimeout: (id) => this.timers.delete(id),
      reportError: (error) => this.errors.push(error),
      fetch: async (url, options) => {
        this.requests.push({ url: String(url), ...options, body: JSON.parse(options.body) });
        const answer = this.answers.shift();
        if (answer === undefined) throw new TypeError("no network");
        return { text: async () => (typeof answer === "string" ? answer : JSON.stringify(answer)) };
      },
    });
    const heard = [];
    const open = (options = {}) => {
      const keepalive = new Keepalive({ src: "/keepalive", env: window, ...options });
      for (const type of ["beat", "statechange", "warning", "end", "push", "elsewhere"]) {
        keepalive.addEventListener(`session-${type}`, (event) => heard.push(event));
      }
      return keepalive;
    };
    const said = (type) => heard.filter((event) => event.type === `session-${type}`);
    /** Its timers no longer run, and it hears nothing. */
    const hang = () => void (hangs = true);
    return { browser, window, open, hang, heard, said, socket: () => own.at(-1), sockets: own };
  }

  /** Let `seconds` pass with working timers, in all tabs. */
  async pass(seconds) {
    const until = this.now + seconds * 1_000;
    for (;;) {
      const due = [...this.timers].filter(([, { at }]) => at <= until).sort((a, b) => a[1].at - b[1].at)[0];
      if (!due) break;
      this.timers.delete(due[0]);
      this.now = Math.max(this.now, due[1].at);
      due[1].run();
      await settled();
    }
    this.now = until;
  }
}

export const settled = () => new Promise((resolve) => setImmediate(resolve));
