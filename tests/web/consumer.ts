/** A page in TypeScript that has installed the package: compiled with the published types, never run. */

import { hold, Keepalive, SessionHeart, type SessionEventMap } from "session-keepalive";
import { initial, next } from "session-keepalive/machine";
import "session-keepalive/define";
import "session-keepalive/define-guard";

const heart = document.querySelector("session-heart")!;
heart.beat(3);
heart.addEventListener("session-beat", ({ expiresIn, endsIn }) => [expiresIn.toFixed(), endsIn?.toFixed()]);
heart.addEventListener("session-warning", ({ why, extendable }) => extendable || why.trim());
// @ts-expect-error: a beat has no reason
heart.addEventListener("session-beat", ({ reason }) => reason);
// @ts-expect-error: it is a number, or null without an absolute timeout
heart.addEventListener("session-beat", ({ endsIn }) => endsIn.toFixed());
// @ts-expect-error: times are numbers
heart.beat("twice");
// @ts-expect-error: the server alone decides
heart.state = "open";

// The events bubble up to the window.
document.addEventListener("session-end", ({ reason, login }) => login ?? reason.trim());
addEventListener("session-push", ({ data, target }) => [data.price, target]);
document.createElement("session-guard").addEventListener("session-resume", ({ target }) => target);
// @ts-expect-error: there is no such element
document.createElement("session-heart").guard;

const keepalive: Keepalive | null = heart.keepalive;
keepalive?.addEventListener("session-statechange", ({ state, known }) => known && state === "polling");
// @ts-expect-error: there is no such state
keepalive?.addEventListener("session-statechange", ({ state }) => state === "happy");
if (keepalive) keepalive.data = () => ({ view: location.pathname });
// @ts-expect-error: what rides on a ping is an object
if (keepalive) keepalive.data = () => "view";
const left: number | null = hold("/keepalive/").keepalive.expiresIn;

SessionHeart.words.open = "Sitzung lebt";
const show = (event: SessionEventMap["session-beat"]): number | null => event.endsIn ?? left;
const { context } = next(initial, { type: "start" }, { now: 0, random: 0.5, online: true, visible: true });
show satisfies (event: SessionEventMap["session-beat"]) => number | null;
context.state satisfies Keepalive["state"];
