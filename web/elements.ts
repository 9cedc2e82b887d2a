/** What TypeScript knows of a page that has the elements: their tags, and the types of their events. */

import type {
  SessionBeatEvent,
  SessionEndEvent,
  SessionEvent,
  SessionPushEvent,
  SessionStateChangeEvent,
  SessionWarningEvent,
} from "./keepalive.js";
import type { SessionGuard } from "./session-guard.js";
import type { SessionHeart } from "./session-heart.js";

export interface SessionEventMap {
  "session-beat": SessionBeatEvent;
  "session-statechange": SessionStateChangeEvent;
  "session-warning": SessionWarningEvent;
  "session-end": SessionEndEvent;
  "session-push": SessionPushEvent;
  "session-elsewhere": SessionEvent;
  "session-resume": SessionEvent;
}

declare module "./keepalive.js" {
  interface Keepalive {
    addEventListener<Type extends keyof SessionEventMap>(
      type: Type,
      listener: (this: Keepalive, event: SessionEventMap[Type]) => void,
      options?: boolean | AddEventListenerOptions,
    ): void;
    addEventListener(
      type: string,
      listener: EventListenerOrEventListenerObject | null,
      options?: boolean | AddEventListenerOptions,
    ): void;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    "session-heart": SessionHeart;
    "session-guard": SessionGuard;
  }
  // Of elements, of the document and of the window, for the events bubble.
  interface GlobalEventHandlersEventMap extends SessionEventMap {}
}
