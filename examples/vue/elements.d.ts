/** Tells Vue's templates of the elements: their attributes, and their events as `@session-beat` and so on. */

import type { HTMLAttributes } from "vue";
import type { SessionEventMap, SessionGuard, SessionHeart } from "session-keepalive";

type Heart = { src?: string; share?: boolean; frames?: boolean; noMotion?: boolean };
type Guard = { src?: string; login?: string; frame?: boolean; logout?: string };
type Camel<Name> = Name extends `${infer A}-${infer B}` ? `${Capitalize<A>}${Capitalize<B>}` : Name;
type Listeners = {
  [Type in keyof SessionEventMap as `on${Camel<Type>}`]?: (event: SessionEventMap[Type]) => void;
};
type Element<Class, Attributes> = new () => Class & { $props: HTMLAttributes & Attributes & Listeners };

declare module "vue" {
  interface GlobalComponents {
    SessionHeart: Element<SessionHeart, Heart>;
    SessionGuard: Element<SessionGuard, Guard>;
  }
}
