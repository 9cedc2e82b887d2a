// @ts-check
/** Everything, and nothing happens on import; `session-keepalive/define` registers the element. */

export * from "./keepalive.js";
export { SessionHeart } from "./session-heart.js";
