// @ts-check
/**
 * What the user sees of `<session-guard>`: the warning with its countdown, and the way back in after
 * the end.
 */

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

/** @type {CSSStyleSheet | undefined} */
let sheet;

export class GuardDialog {
  #guard;
  /** Why a sign-in is needed, while it is.
   * @type {import("./session-guard.js").End | null} */
  #end = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #language = "en";
  #words = ENGLISH;
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
  /** Where the user signs in, and which address that showed last.
   * @type {Window | null} */
  #desk = null;
  #address = "";

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

  /** @param {import("./session-guard.js").SessionGuard} guard */
  constructor(guard) {
    this.#guard = guard;
    const root = /** @type {ShadowRoot} */ (guard.shadowRoot);
    if (!sheet) {
      sheet = new CSSStyleSheet(); // allowed by a strict style-src, as <style> is not
      sheet.replaceSync(CSS);
    }
    root.adoptedStyleSheets = [sheet];
    root.append(this.#dialog);
    this.#primary.onclick = (event) => this.#act(event);
    // Escape, or "back" on a phone. It never hides a warning that runs on: whoever presses it is here,
    // so it does what the button does. Once the session is over there is nothing behind to go back to,
    // and it does nothing; older browsers ask `closedby` in vain.
    this.#dialog.oncancel = (event) => {
      event.preventDefault();
      if (!this.#end) this.#act(event);
    };
    this.#dialog.onclose = () => this.show(this.#end); // a browser obeys a second Escape at once
    this.#translate(); // while there is a network
  }

  /** Show how things stand.
   * @param {import("./session-guard.js").End | null} end */
  show(end) {
    clearTimeout(this.#timer);
    this.#end = end;
    const { keepalive } = this.#guard;
    const warning = end ? null : keepalive?.warning;
    const left = keepalive?.expiresIn ?? 0;
    if (!end) this.#rise();
    else if (this.#desk) this.#watch();
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
      this.#subject = undefined;
      this.close();
    }
    this.#count(warning ? left : null);
    if (warning || this.#desk) this.#timer = setTimeout(() => this.show(this.#end), 1_000 * (left % 1 || 1));
  }

  close() {
    this.#dialog.close();
  }

  /** What the one button does that helps.
   * @param {Event} event */
  #act(event) {
    const { keepalive } = this.#guard;
    const warning = keepalive?.warning;
    if (this.#end) this.#signIn(this.#guard.getAttribute("login") ?? this.#end.login);
    else if (warning?.extendable) keepalive?.ping(event);
    else this.#dismissed = warning?.why;
    this.show(this.#end);
  }

  /** @param {string | null} login */
  #signIn(login) {
    if (!login) return location.reload(); // such a page knows where it sends those without a session
    if (this.#desk) return this.#desk.focus();
    this.#address = new URL(login, document.baseURI).href;
    if (this.#guard.hasAttribute("frame")) {
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
    this.#guard.keepalive?.start();
  }

  /** Leave the desk. */
  #rise() {
    this.#desk?.close();
    this.#desk = null;
    this.#frame.removeAttribute("src");
  }

  /** @param {string} subject @param {Key} help @param {Key | ""} note */
  #open(subject, help, note) {
    const ended = help === "login";
    this.#say(this.#title, ended ? "ended-title" : "warning-title");
    this.#say(this.#text, subject in ENGLISH ? /** @type {Key} */ (subject) : "ended-unknown");
    this.#say(this.#help, help);
    this.#say(this.#note, note);
    this.#say(this.#leave, "logout");
    const logout = this.#guard.getAttribute("logout");
    this.#logout.hidden = ended || !logout;
    this.#logout.action = logout ?? "";
    if (this.#dialog.open && this.#subject === subject) return;
    this.#subject = subject;
    this.#translate();
    this.#dialog.setAttribute("closedby", ended ? "none" : "closerequest");
    this.#dialog.close(); // another subject is another dialog, to be read out as such
    this.#dialog.showModal();
    // To stay is harmless. Any other button must not take a key that was meant for what lies behind.
    (help === "stay" ? this.#primary : this.#heading).focus();
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
      this.#spoken.textContent = (this.#guard.getAttribute("spoken") ?? this.#words.spoken).replace(
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
    const near = /** @type {HTMLElement} */ (this.#guard.closest("[lang]") ?? document.documentElement);
    const [language] = near.lang.toLowerCase().split("-");
    if (language === this.#language) return;
    const words = language && (await import("./words.js").catch(() => null))?.WORDS[language];
    [this.#language, this.#words] = words ? [language, words] : ["en", ENGLISH];
    this.#dialog.lang = this.#language;
    this.show(this.#end);
  }
}

// The countdown.

/** The last moment worth telling that a countdown has come to: 10, 20, 30 seconds, or whole minutes.
 * @param {number} left in seconds */
const momentOf = (left) => [10, 20, 30].find((moment) => left <= moment) ?? Math.ceil(left / 60) * 60;

/** @param {number} seconds */
const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;

/** @param {Window | null} desk @returns {string} what it shows; nothing once it is closed */
function addressOf(desk) {
  try {
    return !desk || desk.closed ? "" : desk.location.href;
  } catch {
    return "elsewhere"; // another origin's
  }
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
