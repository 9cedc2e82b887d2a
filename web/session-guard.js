// @ts-check
/**
 * `<session-guard>`: warns before the session of this page ends, and lets its user sign in again in
 * place, with everything that was typed still there.
 *
 * It decides nothing. A warning stands as long as the connection says so, and an end until the store
 * confirms a session again.
 */

import { hold, SessionEvent } from "./keepalive.js";

/** What is said, by the name of the slot that replaces it; other languages are in words.js. */
export const ENGLISH = {
  "warning-title": "Your session is about to end",
  "warning-idle": "There has been no activity for a while. Do you want to stay signed in?",
  "warning-observe": "Only using the application keeps the session. Please save your work now.",
  "warning-absolute": "It nears its time limit, which cannot be extended. Please save your work now.",
  stay: "Stay signed in",
  ok: "OK",
  logout: "Sign out",
  offline: "There is no connection at the moment. Trying again.",
  spoken: "Your session ends in {time}.",
  "ended-title": "You are signed out",
  "ended-idle": "There was no activity for too long.",
  "ended-absolute": "The session reached the longest time it may last.",
  "ended-logout": "You signed out here or in another window.",
  "ended-revoked": "The site ended the session.",
  "ended-evicted": "Too many pages or sessions were open, and this was the oldest.",
  "ended-unknown": "There is no session for this page any more.",
  login: "Sign in again",
  "signing-in": "Sign in in the other window. Then you can go on here.",
};

/** @typedef {keyof typeof ENGLISH} Key */

const CSS = `
dialog {
  box-sizing: border-box; inline-size: min(27rem, 100% - 2rem); padding: 1.75rem;
  border: 1px solid #8886; border-radius: var(--guard-radius, .9rem); box-shadow: 0 1.5rem 4rem #0006;
  background: var(--guard-background, Canvas); color: var(--guard-color, CanvasText);
  font-size: 1rem; line-height: 1.5; text-align: start;
}
::backdrop { background: var(--guard-backdrop, #0009); }
h2, p { margin: 0; }
h2 { font-size: 1.3rem; line-height: 1.25; outline: none; }
h2, [part=text] { margin-block-end: .6rem; }
[part=time] { font-size: 2.75rem; font-weight: 700; font-variant-numeric: tabular-nums; }
[part=spoken] { position: absolute; inline-size: 1px; overflow: hidden; clip-path: inset(50%); }
[part=buttons] { display: flex; flex-wrap: wrap; gap: 0 .75rem; }
form, button { flex: auto; display: flex; }
button {
  justify-content: center; margin-block-start: .75rem; padding: .65rem 1rem; cursor: pointer;
  font: inherit; font-weight: 600; color: inherit; background: none;
  border: 1px solid #888; border-radius: var(--guard-radius, .6rem);
}
[part~=primary] { background: var(--guard-accent, CanvasText); color: var(--guard-accent-color, Canvas); }
@media (forced-colors: active) { [part~=primary] { background: none; color: inherit; border-width: 3px; } }
:is(button, iframe):focus-visible { outline: 3px solid var(--guard-color, CanvasText); outline-offset: 3px; }
iframe { inline-size: 100%; block-size: 60vh; border: 0; border-radius: .3rem; }
[hidden] { display: none; }
`;

const PAGE_CSS = `
[data-session=ended] :is([data-private], [data-private] *) { visibility: hidden !important; }
[data-session=unknown] [data-private] { filter: blur(.5rem) !important; }
`;

/** @type {CSSStyleSheet | undefined} */
let sheet;
/** @type {CSSStyleSheet | undefined} */
let pageSheet;

// Node has no elements; importing there shall still work.
const Base = /** @type {typeof HTMLElement} */ (globalThis.HTMLElement ?? class {});

/**
 * One a page, on pages that need a session, straight in `<body>`. It marks `<html data-session>` as
 * `alive`, `warning`, `unknown` (after a wake-up, or past the deadline, until the server has spoken)
 * or `ended`; and it looks after what the page marks:
 *
 * - `data-private`: is blurred while unknown, and covered and inert once the session is over.
 * - `<form data-keep>` with an id or a name: what was typed is kept over a sign-in that leaves the
 *   page, for the same user in the same tab. Passwords, codes, cards, files, hidden fields and what is
 *   under `data-keep="off"` are not, nor is anything after a sign-out; `contenteditable` never is.
 *
 * Each text is a slot, but for `spoken`, which nobody sees. The language is the nearest `lang`.
 *
 * @attr {string} src - where the server answers; by default where this module came from
 * @attr {string} login - where to sign in again; by default what the server says, else the page itself
 * @attr {boolean} frame - sign in in a frame of the dialog instead of a popup
 * @attr {string} logout - where a POST signs out; without it the warning offers no "Sign out"
 * @attr {string} spoken - read out at 60, 30, 20 and 10 s; `{time}` stands for what remains
 * @fires {SessionEvent} session-resume - signed in again in place; time for a fresh CSRF token
 * @slot warning-title
 * @slot warning-idle - for lack of activity
 * @slot warning-observe - the same, where only requests of the app count
 * @slot warning-absolute - nothing can extend the session
 * @slot stay - a button's text
 * @slot ok - a button's text
 * @slot logout - a button's text
 * @slot offline - while no connection carries a "stay signed in"
 * @slot ended-title
 * @slot ended-idle
 * @slot ended-absolute
 * @slot ended-logout
 * @slot ended-revoked
 * @slot ended-evicted
 * @slot ended-unknown
 * @slot login - a button's text
 * @slot signing-in - while a popup is open
 * @csspart dialog
 * @csspart title
 * @csspart text
 * @csspart time - the countdown
 * @csspart note - what is the matter just now
 * @csspart frame
 * @csspart buttons
 * @csspart button - each of them
 * @csspart primary - the one that helps
 * @cssprop --guard-background
 * @cssprop --guard-color
 * @cssprop --guard-accent - behind the primary button
 * @cssprop --guard-accent-color - its text
 * @cssprop --guard-backdrop
 * @cssprop --guard-radius
 */
export class SessionGuard extends Base {
  /** @type {ReturnType<typeof hold> | null} */
  #held = null;
  #listening = new AbortController();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #language = "en";
  #words = ENGLISH;
  /** Whose session lived here; `undefined` before any did.
   * @type {string | null | undefined} */
  #who;
  /** Stands until a session is confirmed.
   * @type {{reason: string | null, login: string | null} | null} */
  #end = null;
  /** Why there was the warning that the user has acknowledged.
   * @type {string | undefined} */
  #dismissed;
  /** What the dialog is open for.
   * @type {string | undefined} */
  #subject;
  /** The moment that the countdown has come to; 0 before the first. */
  #moment = 0;
  /** The title with the countdown, while there is one, and the page's own. */
  #shown = "";
  #own = "";
  /** @type {HTMLElement[]} */
  #covered = [];
  /** Where the user signs in, and which address that showed last.
   * @type {Window | null} */
  #desk = null;
  #address = "";
  /** @type {typeof import("./kept-forms.js") | undefined} */
  #forms;

  #title = make("slot");
  #text = make("slot");
  #time = make("p", { part: "time", id: "time", role: "timer" });
  #note = make("slot");
  #spoken = make("p", { part: "spoken", role: "status" });
  #frame = make("iframe", { part: "frame", "aria-labelledby": "title" });
  #help = make("slot");
  #leave = make("slot");
  #heading = make("h2", { part: "title", id: "title", tabindex: "-1" }, this.#title);
  #primary = make("button", { part: "button primary" }, this.#help);
  #logout = make("form", { method: "post" }, make("button", { part: "button" }, this.#leave));
  #dialog = make(
    "dialog",
    { part: "dialog", role: "alertdialog", "aria-labelledby": "title", "aria-describedby": "text time" },
    this.#heading,
    make("p", { part: "text", id: "text" }, this.#text),
    this.#time,
    make("p", { part: "note", role: "status" }, this.#note),
    this.#spoken,
    this.#frame,
    make("div", { part: "buttons" }, this.#primary, this.#logout),
  );

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [(sheet ??= sheetOf(CSS))];
    root.append(this.#dialog);
    this.#primary.onclick = () => this.#act();
    // Escape, or "back" on a phone. It never hides a warning that runs on: whoever presses it is here,
    // so it does what the button does. Once the session is over there is nothing behind to go back to,
    // and it does nothing; older browsers ask `closedby` in vain.
    this.#dialog.oncancel = (event) => {
      event.preventDefault();
      if (!this.#end) this.#act();
    };
    this.#dialog.onclose = () => this.#show(); // a browser obeys a second Escape at once
  }

  /** The connection behind this element, shared with the others of the page; `null` out of a page. */
  get keepalive() {
    return this.#held?.keepalive ?? null;
  }

  connectedCallback() {
    if (this.#held) return;
    if (!pageSheet) {
      pageSheet = sheetOf(PAGE_CSS);
      document.adoptedStyleSheets = [...document.adoptedStyleSheets, pageSheet];
    }
    const { keepalive } = (this.#held = hold(this.getAttribute("src")));
    this.#listening = new AbortController();
    const { signal } = this.#listening;
    const show = () => this.#show();
    const conclude = () => this.#conclude();
    const confirm = () => this.#confirm();
    const retry = () => this.#end && keepalive.start();
    keepalive.addEventListener("session-beat", confirm, { signal });
    keepalive.addEventListener("session-end", conclude, { signal });
    keepalive.addEventListener("session-warning", show, { signal });
    keepalive.addEventListener("session-statechange", show, { signal });
    keepalive.addEventListener("session-elsewhere", retry, { signal });
    addEventListener("focus", retry, { signal });
    addEventListener("pagehide", () => this.#end && this.#keep(), { signal });
    this.#translate(); // while there is a network
    if (keepalive.state === "ended") this.#conclude();
    else if (keepalive.expiresIn) this.#confirm();
    else this.#show();
  }

  disconnectedCallback() {
    this.#dialog.close();
    // A node that is moved leaves and comes back within one task; its socket shall not notice.
    queueMicrotask(() => {
      if (!this.isConnected) {
        this.#listening.abort();
        this.#held?.release();
        this.#held = this.#end = null;
        this.#who = undefined;
        this.#rise();
      }
      this.#show();
    });
  }

  /** The store has said that a session lives. Whose is it? */
  async #confirm() {
    const who = this.keepalive?.who ?? null;
    const before = this.#who;
    const resumed = this.#end;
    if (resumed ? who !== (before ?? null) : who && before && who !== before) return startOver();
    this.#who = who ?? before ?? null;
    this.#end = null;
    if (resumed) this.#rise();
    this.#show();
    if (resumed) this.dispatchEvent(new SessionEvent("session-resume"));
    try {
      // Fetched ahead: at the end there may be no network.
      if (document.querySelector("form[data-keep]") || "session-guard" in sessionStorage)
        this.#forms ??= await import("./kept-forms.js");
      if (before === undefined || resumed) this.#forms?.giveBack(this.#who);
    } catch {
      // Storage is forbidden or the network gone, so nothing is kept.
    }
  }

  /** What ended first is why; each failed attempt to go on is another end. */
  #conclude() {
    const { reason = null, login = null } = this.keepalive ?? {};
    this.#end = { reason: this.#end?.reason ?? reason, login: login ?? this.#end?.login ?? null };
    this.#keep();
    this.#show();
  }

  /** Who signs out leaves nothing behind, and where no session has lived nothing was typed in one. */
  #keep() {
    if (this.#end?.reason === "logout") this.#forms?.forget();
    else if (this.#who !== undefined) this.#forms?.keep(this.#who);
  }

  /** What the one button does that helps. */
  #act() {
    const warning = this.keepalive?.warning;
    if (this.#end) this.#signIn(this.getAttribute("login") ?? this.#end.login);
    else if (warning?.extendable) this.keepalive?.ping();
    else this.#dismissed = warning?.why;
    this.#show();
  }

  /** @param {string | null} login */
  #signIn(login) {
    if (!login) return location.reload(); // such a page knows where it sends those without a session
    if (this.#desk) return this.#desk.focus();
    this.#address = new URL(login, document.baseURI).href;
    if (this.hasAttribute("frame")) {
      this.#frame.src = login;
      this.#desk = this.#frame.contentWindow;
    } else {
      this.#desk = open(login, "session-guard", "popup,width=480,height=720");
      if (!this.#desk) location.assign(login);
    }
  }

  /** Another address in the window, or none any more, may mean that someone has signed in. */
  #watch() {
    const address = addressOf(this.#desk);
    if (address === this.#address || address === "about:blank") return;
    this.#address = address;
    if (!address) this.#desk = null;
    this.keepalive?.start();
  }

  /** Leave the desk. */
  #rise() {
    this.#desk?.close();
    this.#desk = null;
    this.#frame.removeAttribute("src");
  }

  #show() {
    clearTimeout(this.#timer);
    const { keepalive } = this;
    const { dataset } = document.documentElement;
    const end = this.#end;
    const warning = !end && keepalive?.warning;
    const left = keepalive?.expiresIn ?? 0;
    if (keepalive)
      dataset.session = end ? "ended" : !keepalive.known ? "unknown" : warning ? "warning" : "alive";
    else delete dataset.session;
    if (this.#desk) this.#watch();
    if (!warning) this.#dismissed = undefined;

    if (end) {
      const framed = this.#frame.hasAttribute("src");
      this.#frame.hidden = !framed;
      this.#primary.hidden = framed;
      this.#open(`ended-${end.reason}`, "login", this.#desk && !framed ? "signing-in" : "");
    } else if (warning && warning.why !== this.#dismissed) {
      const why = warning.extendable || warning.why === "absolute" ? warning.why : "observe";
      this.#frame.hidden = true;
      this.#primary.hidden = false;
      const away = keepalive?.state === "offline" || keepalive?.state === "waiting";
      this.#open(`warning-${why}`, warning.extendable ? "stay" : "ok", away ? "offline" : "");
    } else {
      this.#cover(false);
      this.#subject = undefined;
      this.#dialog.close();
    }
    this.#count(warning ? left : null);
    if (warning || this.#desk) this.#timer = setTimeout(() => this.#show(), 1_000 * (left % 1 || 1));
  }

  /** @param {string} subject @param {Key} help @param {Key | ""} note */
  #open(subject, help, note) {
    const ended = help === "login";
    this.#say(this.#title, ended ? "ended-title" : "warning-title");
    this.#say(this.#text, subject in ENGLISH ? /** @type {Key} */ (subject) : "ended-unknown");
    this.#say(this.#help, help);
    this.#say(this.#note, note);
    this.#say(this.#leave, "logout");
    const logout = this.getAttribute("logout");
    this.#logout.hidden = ended || !logout;
    this.#logout.action = logout ?? "";
    if (this.#dialog.open && this.#subject === subject) return;
    this.#subject = subject;
    this.#translate();
    this.#dialog.setAttribute("closedby", ended ? "none" : "closerequest");
    this.#dialog.close(); // another subject is another dialog, to be read out as such
    this.#dialog.showModal();
    this.#cover(ended);
    // To stay is harmless. Any other button must not take a key that was meant for what lies behind.
    (help === "stay" ? this.#primary : this.#heading).focus();
  }

  /** @param {boolean} covered */
  #cover(covered) {
    for (const element of this.#covered) element.inert = false;
    const found = covered ? document.querySelectorAll("[data-private]:not([inert])") : [];
    this.#covered = /** @type {HTMLElement[]} */ ([...found]);
    for (const element of this.#covered) element.inert = true;
  }

  /** @param {number | null} left seconds of the countdown, or none */
  #count(left) {
    if (document.title !== this.#shown) this.#own = document.title; // or the app has changed it meanwhile
    this.#time.hidden = left === null;
    if (left === null) {
      if (this.#shown) document.title = this.#own;
      this.#shown = this.#time.ariaLabel = this.#spoken.textContent = "";
      this.#moment = 0;
      return;
    }
    const seconds = Math.ceil(left);
    const moment = momentOf(left);
    this.#time.textContent = clock(seconds);
    this.#time.ariaLabel = this.#spell(seconds);
    // Some screen readers say each change of a title: by the second it counts where it is not seen.
    document.title = `${document.hidden ? clock(seconds) : `≤ ${clock(moment)}`} · ${this.#own}`;
    this.#shown = document.title;
    if (moment <= 60 && (this.#moment ? moment !== this.#moment : moment === seconds))
      this.#spoken.textContent = (this.getAttribute("spoken") ?? this.#words.spoken).replace(
        "{time}",
        this.#spell(moment),
      );
    this.#moment = moment;
  }

  /** @param {HTMLSlotElement} slot @param {Key | ""} key */
  #say(slot, key) {
    const text = key && this.#words[key];
    slot.name = key || "none"; // the unnamed slot would take what belongs nowhere
    if (slot.textContent !== text) slot.textContent = text;
  }

  /** @param {number} seconds */
  #spell(seconds) {
    /** @param {number} count @param {string} unit */
    const say = (count, unit) =>
      count.toLocaleString(this.#language, { style: "unit", unit, unitDisplay: "long" });
    if (seconds <= 60) return say(seconds, "second");
    return `${say(Math.floor(seconds / 60), "minute")} ${say(seconds % 60, "second")}`;
  }

  async #translate() {
    const near = /** @type {HTMLElement} */ (this.closest("[lang]") ?? document.documentElement);
    const [language] = near.lang.toLowerCase().split("-");
    if (language === this.#language) return;
    const words = language && (await import("./words.js").catch(() => null))?.WORDS[language];
    [this.#language, this.#words] = words ? [language, words] : ["en", ENGLISH];
    this.#dialog.lang = this.#language;
    this.#show();
  }
}

// The countdown.

/** The last moment worth telling that a countdown has come to: 10, 20, 30 seconds, or whole minutes.
 * @param {number} left in seconds */
const momentOf = (left) => [10, 20, 30].find((moment) => left <= moment) ?? Math.ceil(left / 60) * 60;

/** @param {number} seconds */
const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;

/** Another user's page must not go on as this one's, nor may a browser fill in again what was typed. */
function startOver() {
  for (const form of document.forms) form.reset();
  location.reload();
}

/** @param {Window | null} desk @returns {string} what it shows; nothing once it is closed */
function addressOf(desk) {
  try {
    return !desk || desk.closed ? "" : desk.location.href;
  } catch {
    return "elsewhere"; // another origin's
  }
}

/** Allowed by a strict style-src, as `<style>` is not.
 * @param {string} css */
function sheetOf(css) {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(css);
  return sheet;
}

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag @param {Record<string, string>} [attributes] @param {Node[]} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
