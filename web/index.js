// @ts-check
/** Everything, and nothing happens on import; `session-keepalive/define` registers the element. */

export { hold, Keepalive, SessionEvent } from "./keepalive.js";
export { SessionHeart } from "./session-heart.js";
