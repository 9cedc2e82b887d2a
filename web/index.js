// @ts-check
/** Everything, and nothing happens on import; `session-keepalive/define` registers the element. */

export {
  Keepalive,
  SessionBeatEvent,
  SessionEndEvent,
  SessionPushEvent,
  SessionStateChangeEvent,
  SessionWarningEvent,
} from "./keepalive.js";
export { SessionHeart } from "./session-heart.js";
