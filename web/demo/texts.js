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
      return "The session is over. What went over the wire is covered until somebody signs in again.";
    default:
      return "";
  }
}
