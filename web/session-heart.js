// @ts-check
/**
 * `<session-heart>`: keeps the session of this page alive, and shows that it does.
 *
 * Each beat of the server is one animation that ends by itself, so a heart that moves tells the
 * truth: one drawn by an endless animation would go on beating for a session that is dead.
 */

import { hold, SessionEvent } from "./keepalive.js";

const BEAT = 1_000; // 500 ms in, 500 ms out
const BEATING = { transform: ["scale(1)", "scale(1.22)", "scale(1)"] };
const STILL = { opacity: [1, 0.7, 1] }; // never as pale as a heart that waits

const WHOLE =
  "M12 20.6C6.3 16.5 2.2 12.9 2.2 8.6c0-3 2.3-5.3 5.2-5.3 1.9 0 3.6 1 4.6 2.6 1-1.6 2.7-2.6 4.6-2.6 2.9 0 5.2 2.3 5.2 5.3 0 4.3-4.1 7.9-9.8 12z";
const HALVES = [
  {
    d: "M12 20.6C6.3 16.5 2.2 12.9 2.2 8.6c0-3 2.3-5.3 5.2-5.3 1.9 0 3.6 1 4.6 2.6l-1.9 3.5 3.2 2.6-3.1 3.4z",
    transform: "translate(-.3) rotate(-9 12 20.64)",
    stroke: "none",
  },
  {
    d: "M12 20.6l-1.8-5.2 3.1-3.4-3.2-2.6 1.9-3.5c1-1.6 2.7-2.6 4.6-2.6 2.9 0 5.2 2.3 5.2 5.3 0 4.3-4.1 7.9-9.8 12z",
    transform: "translate(.3) rotate(9 12 20.64)",
    stroke: "none",
  },
];

const CSS = `
:host {
  position: fixed; z-index: 2147483647;
  inset: var(--heart-inset, var(--heart-top, 1rem) var(--heart-right, 1rem) auto auto);
  display: inline-block; inline-size: var(--heart-size, 2rem); block-size: var(--heart-size, 2rem);
  color: var(--heart-color, #e11d2e); pointer-events: none;
}
:host([hidden]) { display: none; }
svg { display: block; inline-size: 100%; block-size: 100%; overflow: visible; fill: currentColor; transition: opacity .3s; }
[part=heart] { transform-origin: 50% 55%; stroke: currentColor; stroke-width: 1.4; stroke-linejoin: round; }
:host(:is([state=idle], [state=connecting], [state=waiting], [state=frozen])) svg { opacity: .38; }
:host([state=offline]) [part=heart] { fill: none; }
:host([state=warning]) { color: var(--heart-color-warning, #d97706); }
:host(:is([state=ended], [state=offline])) { color: var(--heart-color-down, #6b7280); }
[part=label] {
  position: absolute; inset: 50% calc(100% + .5rem) auto auto; translate: 0 -50%;
  padding: .3em .75em; border-radius: 1em; background: #27272a; color: #fff;
  font: 500 .8125rem/1.35 system-ui, sans-serif; white-space: nowrap;
}
[part=label]:empty { display: none; }
`;

const EVENTS = ["beat", "statechange", "warning", "end", "push"].map((name) => `session-${name}`);
const ALIVE = ["open", "polling", "following"];

/** @type {CSSStyleSheet | undefined} */
let sheet;

// Node has no elements; importing there shall still work.
const Base = /** @type {typeof HTMLElement} */ (globalThis.HTMLElement ?? class {});

/**
 * @attr {string} src - where the server answers, such as `/keepalive/`; by default where this module came from
 * @attr {boolean} share - let one tab's socket do for all tabs of this browser
 * @attr {boolean} frames - input in frames of the same origin counts as the user's, too
 * @attr {boolean} no-motion - fade once instead of beating, as for people who prefer reduced motion
 * @attr {string} state - read only: a state of the connection, or `warning`; also as `:state()`
 * @fires {import("./keepalive.js").SessionBeatEvent} session-beat
 * @fires {import("./keepalive.js").SessionStateChangeEvent} session-statechange
 * @fires {import("./keepalive.js").SessionWarningEvent} session-warning
 * @fires {import("./keepalive.js").SessionEndEvent} session-end
 * @fires {import("./keepalive.js").SessionPushEvent} session-push
 * @csspart heart - the shape
 * @csspart label - the words that come with a warning and an end
 * @cssprop --heart-color - while the session lives
 * @cssprop --heart-color-warning - while a deadline is near
 * @cssprop --heart-color-down - while offline, and after the end
 * @cssprop --heart-size
 * @cssprop --heart-top
 * @cssprop --heart-right
 * @cssprop --heart-inset - instead of top and right, to sit in another corner
 */
export class SessionHeart extends Base {
  static observedAttributes = ["src", "share", "frames"];

  /** The words for states and for reasons of an end; replace them to speak another language.
   * @type {Record<string, string>} */
  static words = {
    idle: "Session not watched",
    connecting: "Connecting",
    open: "Session alive",
    polling: "Session alive",
    following: "Session alive",
    waiting: "Reconnecting",
    offline: "Offline",
    frozen: "Paused",
    warning: "Session ends soon",
    ended: "Session over",
    "ended-idle": "Signed out: no activity",
    "ended-absolute": "Signed out: time is up",
    "ended-logout": "Signed out",
    "ended-revoked": "Signed out by the site",
    "ended-evicted": "Closed: too many are open",
    "ended-unknown": "Not signed in",
  };

  #internals = this.attachInternals();
  #whole = svg("path", { d: WHOLE });
  #shape = svg("g", { part: "heart" }, this.#whole);
  // The role is the picture's and not the host's: what is inside an img is hidden from
  // assistive technology, and the label must not be.
  #svg = svg("svg", { viewBox: "0 0 24 24", role: "img" }, this.#shape);
  #label = document.createElement("span");
  /** @type {Animation | undefined} */
  #animation;
  /** @type {ReturnType<typeof hold> | null} */
  #hold = null;
  #listening = new AbortController();

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    if (!sheet) {
      sheet = new CSSStyleSheet(); // allowed by a strict style-src, as <style> is not
      sheet.replaceSync(CSS);
    }
    root.adoptedStyleSheets = [sheet];
    this.#label.setAttribute("part", "label");
    this.#label.setAttribute("role", "status");
    root.append(this.#svg, this.#label);
  }

  /** The connection behind this heart, shared with the others of the page; `null` out of a page. */
  get keepalive() {
    return this.#hold?.keepalive ?? null;
  }

  /** The connection's state, or `warning` while one stands and the session lives. */
  get state() {
    const { state, warning } = this.keepalive ?? { state: "idle", warning: null };
    return warning && ALIVE.includes(state) ? "warning" : state;
  }

  get src() {
    return this.getAttribute("src") ?? "";
  }

  set src(value) {
    this.setAttribute("src", value);
  }

  get noMotion() {
    return this.hasAttribute("no-motion");
  }

  set noMotion(value) {
    this.toggleAttribute("no-motion", value);
  }

  /**
   * Beat once a second, 500 ms in and 500 ms out. While beating, go on until that many beats more
   * are done; two calls never add up. Where motion is not wanted the heart fades once, gently, however many times.
   *
   * @param {number} [times]
   */
  beat(times = 2) {
    if (!(times >= 1)) return;
    const still = this.noMotion || matchMedia("(prefers-reduced-motion: reduce)").matches;
    const { effect, currentTime, playState } = this.#animation ?? {};
    if (effect && playState === "running" && !still) {
      const begun = Math.ceil(Number(currentTime) / BEAT);
      const asked = Number(effect.getTiming().iterations);
      effect.updateTiming({ iterations: Math.max(asked, begun + Math.floor(times)) });
      return;
    }
    this.#animation?.cancel();
    this.#animation = this.#shape.animate(still ? STILL : BEATING, {
      duration: BEAT,
      easing: "ease-in-out",
      iterations: still ? 1 : Math.floor(times),
    });
  }

  connectedCallback() {
    if (!this.#hold) this.#attach();
  }

  disconnectedCallback() {
    // A node that is moved leaves and comes back within one task; its socket shall not notice.
    queueMicrotask(() => this.isConnected || this.#detach());
  }

  /** @param {string} _name @param {string | null} before @param {string | null} now */
  attributeChangedCallback(_name, before, now) {
    if (!this.#hold || before === now) return;
    this.#detach();
    this.#attach();
  }

  #attach() {
    this.#hold = hold(this.src, { share: this.hasAttribute("share"), frames: this.hasAttribute("frames") });
    const { signal } = (this.#listening = new AbortController());
    for (const type of EVENTS) this.#hold.keepalive.addEventListener(type, (event) => this.#pass(event), { signal });
    this.#show();
  }

  #detach() {
    this.#listening.abort();
    this.#hold?.release();
    this.#hold = null;
    this.#show();
  }

  /** @param {any} event of the connection: shown, and told again on the page */
  #pass({ type, fields }) {
    this.#show();
    if (type === "session-beat") this.beat(fields.times);
    this.dispatchEvent(new SessionEvent(type, fields));
  }

  /** Said when the state changes, never per beat: a screen reader shall not read out a pulse. */
  #show() {
    const { state } = this;
    if (this.getAttribute("state") === state) return;
    const { words } = SessionHeart;
    const ended = state === "ended";
    this.setAttribute("state", state);
    try {
      this.#internals.states.clear();
      this.#internals.states.add(state);
    } catch {
      // Older Safari has no custom states, and older Chromium other names for them.
    }
    if (ended) this.#animation?.cancel();
    this.#shape.replaceChildren(...(ended ? HALVES.map((half) => svg("path", half)) : [this.#whole]));
    this.#svg.setAttribute("aria-label", words[state]);
    const reason = words[`ended-${this.keepalive?.reason}`] ?? words.ended;
    this.#label.textContent = ended ? reason : state === "warning" ? words.warning : "";
  }
}

/**
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag @param {Record<string, string>} attributes @param {Node[]} children
 * @returns {SVGElementTagNameMap[Tag]}
 */
function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
