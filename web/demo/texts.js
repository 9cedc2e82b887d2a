// @ts-check
/** What the demo page says: it follows from what the page has been told, and claims no more. */

/**
 * @typedef {object} Known
 * @property {string} state of the heart
 * @property {string | null} mode as the server's `hello` named it
 * @property {number | null} expiresIn seconds until the nearer deadline, as last heard
 */

/** The state in a word or two.
 * @type {Record<string, string>} */
export const STATE = {
  idle: "Not connected",
  connecting: "Connecting…",
  open: "Alive",
  polling: "Alive, by HTTP",
  following: "Alive, through another tab",
  waiting: "Reconnecting…",
  offline: "Offline",
  frozen: "Paused",
  warning: "Ending soon",
  ended: "Over",
};

/** What keeps the session alive.
 * @type {Record<string, string>} */
export const MODE = {
  presence: "an open page keeps the session alive",
  activity: "your input keeps the session alive; an open page does not",
  observe: "requests of the app keep the session alive; an open page does not",
};

/** @type {Record<string, string>} */
const OPEN = {
  presence: "Leave this page open: the session stays. Close it, and the idle timeout runs.",
  activity:
    "Use any tab of this site, and the session stays. Pause for the idle timeout, and it ends, open page or not.",
  observe: "This page looks on. Reload it now and then: such a request of the app makes the session stay.",
};

/** @type {Record<string, string>} */
const IDLE = {
  presence: "No page was heard of for longer than the idle timeout.",
  activity: "There was no input of yours for longer than the idle timeout.",
  observe: "The app was not asked for anything for longer than the idle timeout.",
};

/** @type {Record<string, [string, string]>} */
const OVER = {
  absolute: ["Time is up", "The session reached its longest life. However active you are, it ends then."],
  logout: ["You signed out", "Signing out in one page or window ends the session in all of them."],
  revoked: [
    "Signed out by the site",
    "The site has ended this session. If you do not know why, ask its operator.",
  ],
  evicted: [
    "Signed in elsewhere",
    "Too many sessions were open under this name, and this one was the oldest.",
  ],
  unknown: ["Please sign in again", "The server does not know this session."],
};

/** The sentence under the headline.
 * @param {Known} known */
export function summary({ state, mode, expiresIn }) {
  const past = expiresIn === 0;
  switch (state) {
    case "open":
    case "following":
      return OPEN[mode ?? ""] ?? "";
    case "polling":
      return "WebSockets are blocked here, so each ping is an HTTP request.";
    case "warning":
      return "The session is near its end.";
    case "connecting":
    case "waiting":
      if (expiresIn === null) return "Connecting to the server.";
      if (past) return "The connection is lost, and the session’s time has run out. The server will tell.";
      return "The connection is lost. That signs nobody out: the page keeps trying.";
    case "offline":
      if (past) return "The network is gone, and the session’s time has run out. The server will tell.";
      return "The network is gone. That signs nobody out: the page comes back with it.";
    case "ended":
      return "The session is over. What you see is what was here before.";
    default:
      return "";
  }
}

/**
 * What a warning says, and what can be done about it: the name of a button, or nothing.
 *
 * @param {{why: string, extendable: boolean}} warning
 * @param {string | null} mode
 * @param {string} left the time that remains, as people read it
 * @returns {{text: string, button: string}}
 */
export function warning({ why, extendable }, mode, left) {
  if (why === "absolute")
    return { text: `The session ends in ${left}. Nothing can extend it: save your work.`, button: "" };
  if (mode === "observe" || !extendable)
    return { text: `The session ends in ${left} unless the app is used.`, button: "Reload the page" };
  return { text: `The session ends in ${left}.`, button: "Stay signed in" };
}

/**
 * Why the session is over: a title and a sentence.
 *
 * @param {string} reason
 * @param {string | null} mode
 * @returns {[string, string]}
 */
export function over(reason, mode) {
  if (reason !== "idle") return OVER[reason] ?? OVER.unknown;
  const why = IDLE[mode ?? ""] ?? "The session was not used for longer than the idle timeout.";
  return [mode === "observe" ? "Not used for too long" : "You were away", why];
}
