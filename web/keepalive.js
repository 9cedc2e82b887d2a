// @ts-check
/**
 * Runs what the machine decides: the socket, the POST, one timer, and the page's own signs of life.
 */

import { initial, MESSAGES, nearest, next } from "./machine.js";
import { Tabs } from "./tabs.js";

/** @typedef {import("./machine.js").State} State */
/** @typedef {import("./machine.js").Context} Context */
/** @typedef {import("./machine.js").Effect} Effect */
/** @typedef {import("./machine.js").Event} Fact */

const SUBPROTOCOL = "keepalive.v1";
const GOODBYE = 1_000; // a close code, and so is the next
const RETURNING = 4_000;
const MAX_MESSAGE = 4_096; // bytes; the server refuses more
const POST_TIMEOUT = 10_000;
const LONGEST_TIMER = 3_600_000; // setTimeout takes 31 bits and fires at once beyond

// A person's own doing; a screen reader may press by a mere `click`. Not `scroll`: a script that scrolls fires it as
// trusted, too.
const INPUT = ["pointerdown", "pointermove", "keydown", "wheel", "click"];
const INPUT_EVERY = 1_000;

/**
 * What a page hears of its session; the fields are those of its type.
 *
 * @typedef {SessionEvent & {n: number, expiresIn: number, endsIn: number | null, times: number, data: any}} SessionBeatEvent
 *   session-beat: the store has confirmed that the session lives; times in seconds
 * @typedef {SessionEvent & {state: State, previous: State, known: boolean}} SessionStateChangeEvent
 *   session-statechange: the connection is in another state, the page knows more or less than before, or
 *   a warning is past
 * @typedef {SessionEvent & {expiresIn: number, why: string, extendable: boolean}} SessionWarningEvent
 *   session-warning: a deadline is near; `extendable` tells whether anyone can move it
 * @typedef {SessionEvent & {reason: string, login: string | null}} SessionEndEvent
 *   session-end: the session is over; `login` is where to sign in, if the server says
 * @typedef {SessionEvent & {data: any}} SessionPushEvent
 *   session-push: the app has something for this session
 */
export class SessionEvent extends Event {
  /** @param {string} type @param {object} [fields] */
  constructor(type, fields = {}) {
    super(type, { bubbles: true, composed: true });
    this.fields = fields;
    Object.assign(this, fields);
  }
}

/**
 * Keeps the session of this page alive while started.
 *
 * @fires SessionBeatEvent - session-beat
 * @fires SessionStateChangeEvent - session-statechange
 * @fires SessionWarningEvent - session-warning
 * @fires SessionEndEvent - session-end
 * @fires SessionPushEvent - session-push
 * @fires SessionEvent - session-elsewhere: after an end, another tab of this browser has a session; said once, and
 *   not after an eviction
 */
export class Keepalive extends EventTarget {
  /** A function whose result, a plain object or nothing, rides on each ping.
   * @type {(() => Record<string, unknown> | null | undefined) | null} */
  data = null;
  /** Whether one tab's socket may do for all tabs of this browser; counts when started. */
  share = false;
  /** Whether input in frames of the same origin counts as the user's, too; counts when started. */
  frames = false;

  #context = initial;
  /** @type {Fact[]} */
  #facts = [];
  /** @type {WebSocket | null} */
  #socket = null;
  /** What this page calls itself, until it says goodbye. @type {string | null} */
  #id = null;
  #pageListening = new AbortController();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #lastInput = -Infinity;
  /** Whether a session of another tab is news after an end. It is once, until there is one here again: whoever
   * cannot go on shall not try at each beat of the others. And whoever was evicted could only evict the next. */
  #hopes = true;
  /** @type {import("./sharing.js").Sharing | undefined} */
  #sharing;
  #base;
  #env;
  #tabs;

  /**
   * @param {object} [options]
   * @param {string | URL} [options.src] where the server answers, such as `/keepalive/`; by default
   *   where this module came from
   * @param {boolean} [options.share]
   * @param {boolean} [options.frames]
   * @param {typeof globalThis} [options.env] the window to live in; tests bring their own
   */
  constructor({ src, share = false, frames = false, env = globalThis } = {}) {
    super();
    this.share = share;
    this.frames = frames;
    this.#base = baseOf(src, env);
    this.#env = env;
    this.#tabs = new Tabs(`keepalive:${this.#base}`, env, (message) => this.#overhear(message));
  }

  /** Connect and stay connected; after an end, try again. Does nothing while started. */
  start() {
    const [visit] = this.#env.performance?.getEntriesByType("navigation") ?? [];
    // What history brings back may be older than the end of its session.
    const fresh = this.state === "idle" && /** @type {any} */ (visit)?.type !== "back_forward";
    this.#dispatch({ type: "start", fresh, share: this.share });
  }

  /** Leave quietly. The session goes on until its idle timeout. */
  stop() {
    this.#dispatch({ type: "stop" });
  }

  /** Ask the server now instead of at the next interval or attempt, for "stay signed in" and the like.
   * @param {Event} [event] what says so; if it is a person's doing, it counts as input */
  ping(event) {
    if (event) this.#feel(event);
    this.#dispatch({ type: "nudge" });
  }

  /** @returns {State} of the connection that this page's session hangs on; `following` while another
   *   tab has it and all is well */
  get state() {
    const { state, led } = this.#context;
    return state === "following" && led !== "open" ? led : state;
  }

  /** Whether the session is known to live. It is not after a long sleep, a freeze or on a page from history, nor
   * when the deadline has passed without a word, until the server has spoken. */
  get known() {
    return this.#context.known;
  }

  /** Stands for the user, and for no other; `null` while unknown. */
  get who() {
    return this.#context.who;
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

  /** Where to sign in again, as the end said, or `null`. */
  get login() {
    return this.#context.login;
  }

  get #now() {
    return this.#env.Date.now();
  }

  /** @param {number} at */
  #left(at) {
    return isNaN(at) ? null : Math.max(0, at - this.#now) / 1_000;
  }

  /** Facts that come up while effects run, say from a listener that calls `stop()`, wait their turn.
   * @param {Fact} fact */
  #dispatch(fact) {
    if (this.#facts.push(fact) > 1) return;
    try {
      for (const each of this.#facts) this.#take(each);
    } finally {
      this.#facts = [];
    }
  }

  /** @param {Fact} fact */
  #take(fact) {
    const { Math, navigator } = this.#env;
    const { state: previous, known: knew, warning: warned } = this;
    const was = this.#context.state;
    const env = {
      now: this.#now,
      random: Math.random(),
      online: navigator.onLine !== false,
      visible: this.#visible,
    };
    const { context, effects } = next(this.#context, fact, env);
    const is = (this.#context = context).state;
    if (!isWatching(is)) this.#pageListening.abort();
    else if (!isWatching(was)) this.#watch();
    this.#tabs.take(is);
    this.#arm();
    for (const effect of effects) this.#run(effect);
    this.#sharing?.take(context, fact); // who ends passes that on before the lead
    const { state, known, warning } = this;
    const isPast = warned && !warning; // by what another tab told, it may be, with no beat to show it
    if (state === previous && known === knew && !isPast) return;
    this.dispatchEvent(new SessionEvent("session-statechange", { state, previous, known }));
  }

  #arm() {
    const { setTimeout, clearTimeout } = this.#env;
    clearTimeout(this.#timer);
    const delay = nearest(this.#context) - this.#now;
    if (delay < Infinity)
      this.#timer = setTimeout(() => this.#dispatch({ type: "tick" }), Math.min(delay, LONGEST_TIMER));
  }

  /** @param {Effect} effect */
  #run(effect) {
    switch (effect.type) {
      case "connect":
        return this.#connect();
      case "drop":
        return this.#drop(effect.returns);
      case "send":
        return this.#socket?.send(this.#ping(effect));
      case "post":
        return this.#post(effect);
      case "request":
        return this.#request();
      case "steal":
        return this.#sharing?.steal();
      case "emit":
        return this.#emit(effect.message);
    }
  }

  /** Where to say what, as this page. @param {string} name */
  #url(name) {
    // An insecure page has no randomUUID().
    this.#id ??= this.#env.crypto.getRandomValues(new Uint32Array(3)).join("-");
    return new URL(`${name}?page=${this.#id}`, this.#base);
  }

  #connect() {
    const url = this.#url("ws").href.replace("http", "ws"); // older browsers take no other
    try {
      const socket = (this.#socket = new this.#env.WebSocket(url, SUBPROTOCOL));
      socket.onmessage = ({ data }) => this.#hear(data);
      socket.onclose = ({ code }) => this.#dispatch({ type: "closed", code });
      socket.onerror = () => this.#dispatch({ type: "error" });
    } catch {
      // A policy forbids it: Firefox throws, and everybody does for ws: from an https: page.
      this.#dispatch({ type: "closed", code: 1006 });
    }
  }

  /** @param {boolean} returns whether this page will want a socket again; if not, that is its goodbye */
  #drop(returns) {
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onmessage = socket.onclose = socket.onerror = null;
      // Also while it connects: Firefox opens one socket to a host at a time, and the next would wait.
      if (socket.readyState < 2) socket.close(returns ? RETURNING : GOODBYE);
      // An id is gone with its goodbye, which the server may hear later than what comes after it. By
      // POST there is none: whoever polls keeps its id, for the socket that says goodbye at last.
      if (!returns) this.#id = null;
    }
  }

  /** Answered before this returns: a hidden page gets its messages in time, but not its timers.
   * @param {unknown} text */
  #hear(text) {
    const message = parse(text);
    if (message) this.#dispatch(message);
  }

  /** @param {{n: number, visible: boolean}} what @returns {string} */
  #ping({ n, visible }) {
    const idle = Math.max(0, this.#now - this.#lastInput) / 1_000;
    const ping = { type: "ping", n, idle: isFinite(idle) ? idle : undefined, visible };
    try {
      const text = JSON.stringify({ ...ping, data: this.data?.() ?? undefined });
      const size = new TextEncoder().encode(text).length;
      if (size <= MAX_MESSAGE) return text;
      throw new RangeError(`data makes a ping of ${size} bytes; keep it under ${MAX_MESSAGE}`);
    } catch (error) {
      this.#env.reportError(error);
    }
    return JSON.stringify(ping); // the session matters more than what rides on it
  }

  /** @param {{n: number, visible: boolean}} what */
  async #post(what) {
    let message;
    try {
      const response = await this.#env.fetch(this.#url("heartbeat"), {
        method: "POST",
        body: this.#ping(what),
        headers: { "Content-Type": "application/json" },
        cache: "no-store",
        signal: AbortSignal.timeout(POST_TIMEOUT),
      });
      message = parse(await response.text());
    } catch {
      // No answer; the machine tries again.
    }
    this.#dispatch({ type: "posted", n: what.n, message });
  }

  /** Let the page know, and the other tabs. Of an end they convince themselves: theirs may be another session.
   * @param {Fact} message */
  #emit(message) {
    const { type, n, times = 2, why, extendable, reason, login = null, data = null } = message;
    const { expires_in: expiresIn, ends_in: endsIn = null } = message;
    this.#hopes = type === "beat" || (this.#hopes && reason !== "evicted");
    if (!message.relayed) {
      const { who, expiresAt, endsAt } = this.#context;
      this.#sharing?.relay(message);
      if (type === "beat") this.#tabs.say({ type: "told", who, expiresAt, endsAt });
      if (type === "end") this.#tabs.say({ type: "nudge" });
    }
    const fields = {
      beat: { n, expiresIn, endsIn, times, data },
      warning: { expiresIn, why, extendable },
      end: { reason, login },
      push: { data },
    }[type];
    this.dispatchEvent(new SessionEvent(`session-${type}`, fields));
  }

  get #visible() {
    return this.#env.document.visibilityState === "visible";
  }

  /** Ask the tab that leads to ping, once this one takes part. Where it cannot, it has a socket of its own. */
  async #request() {
    try {
      const { Sharing } = await import("./sharing.js");
      this.#sharing ??= new Sharing(this, this.#tabs, this.#env, (message) => this.#overhear(message));
      this.#sharing.take(this.#context);
      this.#sharing.request();
    } catch {
      this.#dispatch({ type: "lead", share: false });
    }
  }

  /** @param {Fact} heard of another tab, or of the lock that makes a tab lead */
  #overhear(heard) {
    const { state } = this.#context;
    if (heard.type === "input") {
      this.#lastInput = Math.max(this.#lastInput, Math.min(heard.at, this.#now));
    } else if (heard.type === "relay" || heard.type === "request") {
      this.#sharing?.answer(heard);
    } else if (heard.type === "told" && state === "ended") {
      if (this.#hopes) this.dispatchEvent(new SessionEvent("session-elsewhere"));
      this.#hopes = false;
    } else {
      this.#dispatch(heard);
    }
  }

  /** Listen to the page. No `unload` and no `beforeunload`: they cost the back/forward cache. */
  #watch() {
    this.#pageListening = new AbortController();
    const { signal } = this.#pageListening;
    const window = this.#env;
    const { document } = window;
    // Captured, a window has its document's events, too: all but `load`.
    /** @param {EventTarget} target @param {string} type @param {(event: any) => void} listener */
    const on = (target, type, listener) =>
      target.addEventListener(type, listener, { signal, passive: true, capture: true });
    const wake = () => this.#dispatch({ type: "wake" });
    for (const type of ["freeze", "pagehide", "online", "offline"])
      on(window, type, () => this.#dispatch({ type }));
    on(window, "resume", wake);
    on(window, "pageshow", ({ persisted }) => persisted && wake());
    on(window, "visibilitychange", () => this.#visible && wake());
    /** @param {EventTarget | null} [target] */
    const feel = (target) => {
      for (const type of INPUT) if (target) on(target, type, (event) => this.#feel(event));
    };
    feel(window);
    if (!this.frames) return;
    /** @param {{target: any}} event */
    const enter = ({ target }) => {
      try {
        feel(target.contentWindow);
      } catch {
        // Another origin's: what the user does there is not ours to know.
      }
    };
    on(document, "load", enter);
    for (const target of document.querySelectorAll("iframe")) enter({ target });
  }

  /** @param {any} event */
  #feel(event) {
    if (!event.isTrusted) return;
    // A pointer at rest "moves" when the page does, by nothing.
    if (event.type === "pointermove" && !event.movementX && !event.movementY) return;
    const now = this.#now;
    const quiet = now - this.#lastInput;
    if (quiet >= 0 && quiet < INPUT_EVERY) return;
    this.#lastInput = now;
    this.#tabs.say({ type: "input", at: now });
    // The user is back: say so at once.
    if (quiet > this.#context.interval || this.warning?.extendable) this.#dispatch({ type: "nudge" });
  }
}

/** @param {import("./machine.js").State} state */
const isWatching = (state) => state !== "idle" && state !== "ended";

/** @param {unknown} text @returns {Fact | undefined} a message of the server, or nothing */
function parse(text) {
  try {
    const message = JSON.parse(String(text));
    if (MESSAGES.includes(message.type)) return message;
  } catch {
    // No message at all.
  }
  return undefined;
}

/** Where the server answers, as an absolute URL that ends in a slash.
 * @param {string | URL | null | undefined} src @param {typeof globalThis} env */
export function baseOf(src, env = globalThis) {
  const base = src ? new URL(src, env.document?.baseURI) : new URL("../", import.meta.url);
  if (!base.pathname.endsWith("/")) base.pathname += "/";
  return base;
}

/** The connections that the elements of this page share, by where the server answers, and the ways out of them.
 * @type {Map<string, {keepalive: Keepalive, holders: Set<() => void>}>} */
const held = new Map();

/**
 * The connection of this page to a server: one for all who hold it, started by the first of them and
 * stopped by the last.
 *
 * @param {string | null} [src] as for `Keepalive`
 * @param {{share?: boolean, frames?: boolean}} [options] what one holder wants, all get
 * @returns {{keepalive: Keepalive, release: () => void}}
 */
export function hold(src, { share = false, frames = false } = {}) {
  const key = baseOf(src).href;
  const entry = held.get(key) ?? { keepalive: new Keepalive({ src: key }), holders: new Set() };
  const { keepalive, holders } = entry;
  const release = () => {
    if (!holders.delete(release) || holders.size) return;
    keepalive.stop();
    held.delete(key);
  };
  held.set(key, entry);
  holders.add(release);
  if ((share && !keepalive.share) || (frames && !keepalive.frames)) {
    keepalive.share ||= share;
    keepalive.frames ||= frames;
    if (keepalive.state !== "ended") keepalive.stop();
  }
  if (keepalive.state === "idle") keepalive.start();
  return { keepalive, release };
}
