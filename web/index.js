// @ts-check
/** Everything, and nothing happens on import; `/define` registers the heart, `/define-guard` the guard. */

export { hold, Keepalive, SessionEvent } from "./keepalive.js";
export { SessionGuard } from "./session-guard.js";
export { SessionHeart } from "./session-heart.js";

/** @typedef {import("./elements.js").SessionEventMap} SessionEventMap the types of the events by name */
