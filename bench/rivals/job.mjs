// What the rivals on Node have in common: the sessions in memory, their deadlines, and the words.

import { readFileSync } from "node:fs";
import { join } from "node:path";

const BACKLOG = 4096;
const POLICY = { interval: 25, idle_timeout: 1800, warn_before: 60, mode: "presence", spread: 3 };
const ABSOLUTE = 43200;
const COOKIE = /(?:^|;\s*)sid=([^;]*)/;

const ids = new Set(readFileSync(join(process.argv[2], "ids"), "utf8").trim().split("\n"));
const live = new Map();
const now = () => performance.now() / 1000;
const round = (seconds) => Math.round(seconds * 1000) / 1000;

class Session {
  constructor() {
    this.idleAt = now() + POLICY.idle_timeout;
    this.endsAt = now() + ABSOLUTE;
  }

  /** Moves the idle deadline; what remains, in seconds. */
  touch() {
    const time = now();
    this.idleAt = Math.min(time + POLICY.idle_timeout, this.endsAt);
    return { expires_in: round(this.idleAt - time), ends_in: round(this.endsAt - time) };
  }

  beat(n) {
    return { type: "beat", n, ...this.touch() };
  }

  hello() {
    return { type: "hello", ...POLICY, ...this.touch() };
  }
}

/** The session of a page that wants to connect, by its Cookie header; undefined if there is none. */
export function admit(cookies) {
  const id = COOKIE.exec(cookies ?? "")?.[1];
  if (!ids.has(id)) return undefined;
  if (!live.has(id)) live.set(id, new Session());
  return live.get(id);
}

/** Listens on a free port of the loopback interface, and prints it; until standard input ends. */
export function listen(server) {
  process.stdin.on("end", () => process.exit()).resume();
  server.listen({ port: 0, host: "127.0.0.1", backlog: BACKLOG }, () => console.log(server.address().port));
}
