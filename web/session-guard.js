// @ts-check
/**
 * `<session-guard>`: warns before the session of this page ends, and lets its user sign in again in
 * place, with everything that was typed still there.
 *
 * It decides nothing. A warning stands as long as the connection says so, and an end until the store
 * confirms a session again. What the user sees of both is in guard-dialog.js.
 */

import { hold, SessionEvent } from "./keepalive.js";

/** @typedef {import("./keepalive.js").Keepalive} Keepalive */
/** @typedef {{reason: string | null, login: string | null}} End */

const PAGE_CSS = `
[data-session=ended] :is([data-private], [data-private] *) { visibility: hidden !important; }
[data-session=unknown] [data-private] { filter: blur(.5rem) !important; }
`;

/** @type {CSSStyleSheet | undefined} */
let sheet;

// Node has no elements; importing there shall still work.
const Base = /** @type {typeof HTMLElement} */ (globalThis.HTMLElement ?? class {});

/**
 * One a page, on pages that need a session, straight in `<body>`. It marks `<html data-session>` as
 * `alive`, `warning`, `unknown` (after a long sleep, a freeze, from history, or past the deadline, until
 * the server has spoken) or `ended`; and it looks after what the page marks:
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
  /** Whose session lived here; `undefined` before any did.
   * @type {string | null | undefined} */
  #who;
  /** Stands until a session is confirmed.
   * @type {End | null} */
  #end = null;
  /** @type {HTMLElement[]} */
  #covered = [];
  /** @type {import("./guard-dialog.js").GuardDialog | undefined} */
  #dialog;
  /** @type {typeof import("./kept-forms.js") | undefined} */
  #forms;

  constructor() {
    super();
    this.attachShadow({ mode: "open" });
  }

  /** The connection behind this element, shared with the others of the page; `null` out of a page. */
  get keepalive() {
    return this.#held?.keepalive ?? null;
  }

  connectedCallback() {
    if (this.#held) return;
    if (!sheet) {
      sheet = new CSSStyleSheet(); // allowed by a strict style-src, as <style> is not
      sheet.replaceSync(PAGE_CSS);
      document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
    }
    const { keepalive } = (this.#held = hold(this.getAttribute("src")));
    const { signal } = (this.#listening = new AbortController());
    const show = () => this.#show();
    const retry = () => this.#end && keepalive.start();
    keepalive.addEventListener("session-beat", () => this.#confirm(keepalive), { signal });
    keepalive.addEventListener("session-end", () => this.#conclude(keepalive), { signal });
    keepalive.addEventListener("session-warning", show, { signal });
    keepalive.addEventListener("session-statechange", show, { signal });
    keepalive.addEventListener("session-elsewhere", retry, { signal });
    addEventListener("focus", retry, { signal });
    addEventListener("pagehide", () => this.#end && this.#keep(), { signal });
    if (keepalive.state === "ended") this.#conclude(keepalive);
    else if (keepalive.expiresIn) this.#confirm(keepalive);
    else this.#show();
  }

  disconnectedCallback() {
    this.#dialog?.close();
    // A node that is moved leaves and comes back within one task; its socket shall not notice.
    queueMicrotask(() => {
      if (!this.isConnected) {
        this.#listening.abort();
        this.#held?.release();
        this.#held = this.#end = null;
        this.#who = undefined;
      }
      this.#show();
    });
  }

  /** The store has said that a session lives. Whose is it?
   * @param {Keepalive} keepalive */
  async #confirm({ who }) {
    const before = this.#who;
    const resumed = this.#end;
    if (resumed ? who !== (before ?? null) : who && before && who !== before) return startOver();
    this.#who = who ?? before ?? null;
    this.#end = null;
    this.#show();
    if (resumed) this.dispatchEvent(new SessionEvent("session-resume"));
    this.#prepare();
    try {
      // Fetched ahead: at the end there may be no network.
      if (document.querySelector("form[data-keep]") || "session-guard" in sessionStorage)
        this.#forms ??= await import("./kept-forms.js");
      if (before === undefined || resumed) this.#forms?.giveBack(this.#who);
    } catch {
      // Storage is forbidden or the network gone, so nothing is kept.
    }
  }

  /** What ended first is why; each failed attempt to go on is another end.
   * @param {Keepalive} keepalive */
  #conclude({ reason, login }) {
    (this.#end ??= { reason, login }).login ??= login;
    this.#show();
    this.#prepare();
    this.#keep();
  }

  /** Who signs out leaves nothing behind, and where no session has lived nothing was typed in one. */
  #keep() {
    if (this.#end?.reason === "logout") this.#forms?.forget();
    else if (this.#who !== undefined) this.#forms?.keep(this.#who);
  }

  /** Have a dialog, which nobody needs before the server has spoken. By the time that it is needed there may
   * be no network, or a new release without that file: then what is private is hidden all the same. */
  async #prepare() {
    const module = await import("./guard-dialog.js").catch(() => null);
    if (module) this.#dialog ??= new module.GuardDialog(this);
    this.#show();
  }

  #show() {
    const { keepalive } = this;
    const { dataset } = document.documentElement;
    const ended = this.#end;
    if (!keepalive) delete dataset.session;
    else if (ended) dataset.session = "ended";
    else dataset.session = !keepalive.known ? "unknown" : keepalive.warning ? "warning" : "alive";
    // What is covered neither keeps the focus nor takes it back: the dialog opens before, and closes after.
    if (!ended) this.#uncover();
    this.#dialog?.show(this.#end);
    if (ended) this.#cover();
  }

  #cover() {
    const found = document.querySelectorAll("[data-private]:not([inert])");
    this.#covered.push(.../** @type {NodeListOf<HTMLElement>} */ (found));
    for (const element of this.#covered) element.inert = true;
  }

  #uncover() {
    for (const element of this.#covered) element.inert = false;
    this.#covered = [];
  }
}

/** Another user's page must not go on as this one's, nor may a browser fill in again what was typed. */
function startOver() {
  try {
    // A control's name may stand in for anything that a form has, and a form's for what a document has.
    const { reset } = HTMLFormElement.prototype;
    for (const form of document.querySelectorAll("form")) reset.call(form);
  } finally {
    location.reload();
  }
}
