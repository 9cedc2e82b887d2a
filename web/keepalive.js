// @ts-check
/**
 * Runs what the machine decides: the socket, the POST, one timer, and the page's own signs of life.
 */

import { initial, MESSAGES, nearest, next } from "./machine.js";

/** @typedef {import("./machine.js").Context} Context */
/** @typedef {import("./machine.js").Effect} Effect */
/** @typedef {import("./machine.js").Event} Fact */

const SUBPROTOCOL = "keepalive.v1";
const MAX_MESSAGE = 4_096; // bytes; the server refuses more
const POST_TIMEOUT = 10_000;
const LONGEST_TIMER = 3_600_000; // setTimeout takes 31 bits and fires at once beyond

// A person's own doing. Not `scroll`: a script that scrolls fires it as trusted, too.
const INPUT = ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"];
const INPUT_EVERY = 1_000;

const UP = { bubbles: true, composed: true };

/** The store has confirmed: the session lives. */
export class SessionBeatEvent extends Event {
  /** @param {{n: number, expiresIn: number, endsIn: number | null, times: number, data: any}} fields times in seconds */
  constructor({ n, expiresIn, endsIn, times, data }) {
    super("session-beat", UP);
    this.n = n;
    this.expiresIn = expiresIn;
    this.endsIn = endsIn;
    this.times = times;
    this.data = data;
  }
}

/** The connection is in another state. */
export class SessionStateChangeEvent extends Event {
  /** @param {{state: import("./machine.js").State, previous: import("./machine.js").State}} fields */
  constructor({ state, previous }) {
    super("session-statechange", UP);
    this.state = state;
    this.previous = previous;
  }
}

/** A deadline is near; `extendable` tells whether anyone can move it. */
export class SessionWarningEvent extends Event {
  /** @param {{expiresIn: number, why: string, extendable: boolean}} fields time in seconds */
  constructor({ expiresIn, why, extendable }) {
    super("session-warning", UP);
    this.expiresIn = expiresIn;
    this.why = why;
    this.extendable = extendable;
  }
}

/** The session is over; `login` is where to sign in, if the server says. */
export class SessionEndEvent extends Event {
  /** @param {{reason: string, login: string | null}} fields */
  constructor({ reason, login }) {
    super("session-end", UP);
    this.reason = reason;
    this.login = login;
  }
}

/** The app has something for this session. */
export class SessionPushEvent extends Event {
  /** @param {{data: any}} fields */
  constructor({ data }) {
    super("session-push", UP);
    this.data = data;
  }
}

/**
 * Keeps the session of this page alive while started.
 *
 * @fires SessionBeatEvent
 * @fires SessionStateChangeEvent
 * @fires SessionWarningEvent
 * @fires SessionEndEvent
 * @fires SessionPushEvent
 */
export class Keepalive extends EventTarget {
  /** A function whose result, a plain object or nothing, rides on each ping.
   * @type {(() => Record<string, unknown> | null | undefined) | null} */
  data = null;

  #context = initial;
  /** @type {Fact[]} */
  #facts = [];
  #busy = false;
  /** @type {WebSocket | null} */
  #socket = null;
  #socketListening = new AbortController();
  #pageListening = new AbortController();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {number | null} */
  #lastInput = null;
  #base;
  #env;

  /**
   * @param {object} [options]
   * @param {string | URL} [options.src] where the server answers, such as `/keepalive/`; by default
   *   where this module came from
   * @param {typeof globalThis} [options.env] the window to live in; tests bring their own
   */
  constructor({ src, env = globalThis } = {}) {
    super();
    this.#base = baseOf(src, env);
    this.#env = env;
  }

  /** Connect and stay connected; after an end, try again. Does nothing while started. */
  start() {
    this.#dispatch({ type: "start" });
  }

  /** Leave quietly. The session goes on until its idle timeout. */
  stop() {
    this.#dispatch({ type: "stop" });
  }

  /** Ask the server now instead of at the next interval or attempt, for "stay signed in" and the like. */
  ping() {
    this.#dispatch({ type: "nudge" });
  }

  get state() {
    return this.#context.state;
  }

  /** What a ping may do to the idle deadline, as the server's `hello` said; `null` before. */
  get mode() {
    return this.#context.mode;
  }

  /** Seconds until the session ends unless something extends it; `null` while unknown. */
  get expiresIn() {
    return this.#left(this.#context.expiresAt);
  }

  /** Seconds until the session ends whatever happens; `null` while unknown or without such a limit. */
  get endsIn() {
    return this.#left(this.#context.endsAt);
  }

  /** The warning that stands, or `null`. */
  get warning() {
    return this.#context.warning;
  }

  /** Why the session ended, or `null`. */
  get reason() {
    return this.#context.reason;
  }

  /** @param {number | null} at */
  #left(at) {
    return at === null ? null : Math.max(0, at - this.#env.Date.now()) / 1_000;
  }

  /** Facts that come up while effects run, say from a listener that calls `stop()`, wait their turn.
   * @param {Fact} fact */
  #dispatch(fact) {
    this.#facts.push(fact);
    if (this.#busy) return;
    this.#busy = true;
    try {
      for (let head = this.#facts.shift(); head; head = this.#facts.shift()) this.#take(head);
    } finally {
      this.#busy = false;
    }
  }

  /** @param {Fact} fact */
  #take(fact) {
    const { Date, Math, navigator } = this.#env;
    const previous = this.#context.state;
    const env = { now: Date.now(), random: Math.random(), online: navigator.onLine !== false };
    const { context, effects } = next(this.#context, fact, env);
    const { state } = (this.#context = context);
    if (!isWatching(state)) this.#pageListening.abort();
    else if (!isWatching(previous)) this.#watch();
    this.#arm();
    for (const effect of effects) this.#run(effect);
    if (state !== previous) this.dispatchEvent(new SessionStateChangeEvent({ state, previous }));
  }

  #arm() {
    const { Date, Math, setTimeout, clearTimeout } = this.#env;
    clearTimeout(this.#timer);
    const at = nearest(this.#context);
    if (at === Infinity) return;
    const delay = Math.min(Math.max(at - Date.now(), 0), LONGEST_TIMER);
    this.#timer = setTimeout(() => this.#dispatch({ type: "tick" }), delay);
  }

  /** @param {Effect} effect */
  #run(effect) {
    switch (effect.type) {
      case "connect":
        return this.#connect();
      case "drop":
        return this.#drop();
      case "send":
        return this.#socket?.send(this.#ping(effect.n));
      case "post":
        return void this.#post(effect.n);
      case "emit":
        return this.#emit(effect.message);
    }
  }

  #connect() {
    const url = new URL("ws", this.#base);
    url.protocol = url.protocol.replace("http", "ws"); // older browsers take no other
    this.#socketListening = new AbortController();
    const { signal } = this.#socketListening;
    try {
      this.#socket = new this.#env.WebSocket(url, SUBPROTOCOL);
    } catch {
      // A policy forbids it: Firefox throws, and everybody does for ws: from an https: page.
      this.#dispatch({ type: "closed", code: 1006 });
      return;
    }
    this.#socket.addEventListener("message", ({ data }) => this.#hear(data), { signal });
    this.#socket.addEventListener("close", ({ code }) => this.#dispatch({ type: "closed", code }), {
      signal,
    });
    this.#socket.addEventListener("error", () => this.#dispatch({ type: "error" }), { signal });
  }

  #drop() {
    this.#socketListening.abort();
    const socket = this.#socket;
    this.#socket = null;
    if (socket?.readyState === 1) socket.close(1_000);
    // Safari fails on close() while connecting.
    else if (socket?.readyState === 0)
      socket.addEventListener("open", () => socket.close(1_000), { once: true });
  }

  /** Answered before this returns: a hidden page gets its messages in time, but not its timers.
   * @param {unknown} text */
  #hear(text) {
    const message = parse(text);
    if (message) this.#dispatch(message);
  }

  /** @param {number} n @returns {string} */
  #ping(n) {
    const { Date, document, TextEncoder, reportError } = this.#env;
    const idle = this.#lastInput === null ? undefined : Math.max(0, Date.now() - this.#lastInput) / 1_000;
    const ping = { type: "ping", n, idle, visible: document.visibilityState === "visible" };
    try {
      const text = JSON.stringify({ ...ping, data: this.data?.() ?? undefined });
      const size = new TextEncoder().encode(text).length;
      if (size <= MAX_MESSAGE) return text;
      reportError(new RangeError(`data makes a ping of ${size} bytes; keep it under ${MAX_MESSAGE}`));
    } catch (error) {
      reportError(error);
    }
    return JSON.stringify(ping); // the session matters more than what rides on it
  }

  /** @param {number} n */
  async #post(n) {
    const { AbortSignal, fetch } = this.#env;
    let message = null;
    try {
      const response = await fetch(new URL("heartbeat", this.#base), {
        method: "POST",
        body: this.#ping(n),
        headers: { "Content-Type": "application/json" },
        cache: "no-store",
        signal: AbortSignal.timeout(POST_TIMEOUT),
      });
      message = parse(await response.text());
    } catch {
      // No answer; the machine tries again.
    }
    this.#dispatch({ type: "posted", n, message });
  }

  /** @param {Fact} message */
  #emit(message) {
    const {
      type,
      expires_in: expiresIn,
      ends_in: endsIn = null,
      reason,
      login = null,
      data = null,
    } = message;
    const { n, times = 2, why, extendable } = message;
    if (type === "beat") this.dispatchEvent(new SessionBeatEvent({ n, expiresIn, endsIn, times, data }));
    if (type === "warning") this.dispatchEvent(new SessionWarningEvent({ expiresIn, why, extendable }));
    if (type === "end") this.dispatchEvent(new SessionEndEvent({ reason, login }));
    if (type === "push") this.dispatchEvent(new SessionPushEvent({ data }));
  }

  /** Listen to the page. No `unload` and no `beforeunload`: they cost the back/forward cache. */
  #watch() {
    this.#pageListening = new AbortController();
    const { signal } = this.#pageListening;
    const { document } = this.#env;
    /** @param {EventTarget} target @param {string} type @param {(event: any) => void} listener */
    const on = (target, type, listener) =>
      target.addEventListener(type, listener, { signal, passive: true, capture: true });
    const freeze = () => this.#dispatch({ type: "freeze" });
    const wake = () => {
      this.#dispatch({ type: "thaw" }); // Safari may thaw a page that it never told to freeze,
      this.#dispatch({ type: "wake" }); // so both are said, and one of them counts.
    };
    on(document, "freeze", freeze);
    on(document, "resume", wake);
    on(this.#env, "pagehide", freeze);
    on(this.#env, "pageshow", ({ persisted }) => persisted && wake());
    on(document, "visibilitychange", () => {
      if (document.visibilityState === "visible") this.#dispatch({ type: "wake" });
    });
    on(this.#env, "online", () => this.#dispatch({ type: "online" }));
    on(this.#env, "offline", () => this.#dispatch({ type: "offline" }));
    for (const type of INPUT) on(this.#env, type, (event) => this.#feel(event));
  }

  /** @param {PointerEvent} event */
  #feel(event) {
    if (!event.isTrusted) return;
    // A pointer at rest "moves" when the page does, by nothing.
    if (event.type === "pointermove" && !event.movementX && !event.movementY) return;
    const now = this.#env.Date.now();
    const quiet = this.#lastInput === null ? Infinity : now - this.#lastInput;
    if (quiet >= 0 && quiet < INPUT_EVERY) return;
    this.#lastInput = now;
    // The user is back: say so at once.
    if (quiet > this.#context.interval || this.warning?.extendable) this.#dispatch({ type: "nudge" });
  }
}

/** @param {import("./machine.js").State} state */
const isWatching = (state) => state !== "idle" && state !== "ended";

/** @param {unknown} text @returns {Fact | null} a message of the server, or nothing */
function parse(text) {
  try {
    const message = JSON.parse(String(text));
    return MESSAGES.includes(message.type) ? message : null;
  } catch {
    return null;
  }
}

/** Where the server answers, as an absolute URL that ends in a slash.
 * @param {string | URL | null | undefined} src @param {typeof globalThis} env */
export function baseOf(src, env = globalThis) {
  const base = src ? new URL(src, env.document?.baseURI) : new URL("../", import.meta.url);
  if (!base.pathname.endsWith("/")) base.pathname += "/";
  return base;
}
