/** Tells React's JSX of the elements: their attributes, and their events as `onsession-beat` and so on. */

import type { DetailedHTMLProps, HTMLAttributes } from "react";
import type { SessionEventMap, SessionGuard, SessionHeart } from "session-keepalive";

type Listeners = {
  [Type in keyof SessionEventMap as `on${Type}`]?: (event: SessionEventMap[Type]) => void;
};
type Heart = { src?: string; share?: boolean; frames?: boolean; "no-motion"?: boolean };
type Guard = { src?: string; login?: string; frame?: boolean; logout?: string };
type Props<Class, Attributes> = DetailedHTMLProps<HTMLAttributes<Class>, Class> & Attributes & Listeners;

declare module "react" {
  namespace JSX {
    interface IntrinsicElements {
      "session-heart": Props<SessionHeart, Heart>;
      "session-guard": Props<SessionGuard, Guard>;
    }
  }
}
