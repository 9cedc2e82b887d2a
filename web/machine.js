// @ts-check
/**
 * The life of one page's connection, as a pure function: facts in, decisions out.
 *
 * Rules:
 * 1. Everything that decides lives here; everything that acts (sockets, timers, the DOM) lives in
 *    keepalive.js, which runs the effects and reports facts as events.
 * 2. `TABLE` is the whole state machine. What it does not list changes nothing.
 * 3. Deadlines are data (`context.deadlines`), named like the event they become. Each belongs to
 *    its state: leaving the state forgets it. The runner keeps one timer, for the nearest.
 * 4. An event is heard before deadlines are checked, so that a late message still disproves a
 *    silence. Browsers run a hidden page's timers late, and a sleeping computer's not at all.
 * 5. `connecting` and `open` hold the one socket; entering `connecting` opens it, leaving both drops it.
 * 6. Only the server ends a session. No network, no answer, no clock and no other tab does.
 * 7. A page that shares is `following` until it is told to `lead`: another tab has the socket, and its
 *    messages come as if they were the page's own.
 */

/** @typedef {"idle" | "connecting" | "open" | "waiting" | "offline" | "polling" | "following" | "frozen" | "ended"} State */
/** @typedef {{type: string, [field: string]: any}} Event a fact: a message of the server, or what the page met */
/** @typedef {{now: number, random: number, online: boolean, visible: boolean}} Env wall clock in ms, a number in [0, 1), navigator.onLine, whether the page shows */
/** @typedef {{why: string, extendable: boolean}} Warning */
/**
 * @typedef {{type: "connect"} | {type: "drop", returns: boolean} | {type: "send" | "post", n: number, visible: boolean}
 *   | {type: "emit", message: Event} | {type: "request"} | {type: "steal"}} Effect
 *   open the socket; let go of it, for a while or for good; ping over it; ping over HTTP; tell the page;
 *   ask the tab that leads to ping; lead in its place
 */
/**
 * @typedef {object} Context what is known; times are ms on the page's own clock
 * @property {State} state
 * @property {Record<string, number>} deadlines event name to the time at which it happens by itself
 * @property {number} seen when the last event was
 * @property {number} n the number of the last ping
 * @property {number} pinged when it left
 * @property {number} tried when the server was last tried
 * @property {number} failures attempts in a row that did not hold
 * @property {boolean} answered whether a POST was answered where the socket was not
 * @property {number} posting the number of the ping that a POST carries just now, or 0
 * @property {boolean} share whether another tab may have the socket
 * @property {State} led the state of the tab that leads
 * @property {number} shown when another tab, one of those that share, last said that it shows
 * @property {number} interval ms between pings
 * @property {number} hiddenInterval the same while nobody sees the page
 * @property {number} pace whichever of these counts
 * @property {number} spread over how many ms to spread a first retry
 * @property {number} warnBefore ms
 * @property {string | null} mode
 * @property {string | null} who stands for the user
 * @property {boolean} known whether the session is known to live; false from when the page wakes, or the deadline passes, until the server speaks
 * @property {number | null} expiresAt the nearer deadline of the session, as the server last told
 * @property {number | null} endsAt the absolute one
 * @property {Warning | null} warning
 * @property {string | null} reason why the session ended
 * @property {string | null} login where to sign in again
 */

/** @type {Readonly<Context>} */
export const initial = Object.freeze({
  state: "idle",
  deadlines: {},
  seen: 0,
  n: 0,
  pinged: 0,
  tried: 0,
  failures: 0,
  answered: false,
  posting: 0,
  share: false,
  led: "open",
  shown: -Infinity,
  interval: 25_000,
  hiddenInterval: 25_000,
  pace: 25_000,
  spread: 3_000,
  warnBefore: 60_000,
  mode: null,
  who: null,
  known: false,
  expiresAt: null,
  endsAt: null,
  warning: null,
  reason: null,
  login: null,
});

/** The messages a server may send; nothing else it says becomes an event. */
export const MESSAGES = Object.freeze(["hello", "beat", "ask", "wait", "warning", "end", "push"]);
const HEARD = [...MESSAGES, "led"];

// By close code, from 4501 on.
const REASONS = ["idle", "absolute", "logout", "unknown", "evicted", "revoked"];

const GREETING = 10_000; // from opening the socket to `hello`
const PROBE = 5_000; // from waking up to an answer
const BROKEN = 1_000; // from `error` to a `close`: Chromium sends none when a policy blocks the socket
const STABLE = 5_000; // an open socket this old has proved itself
const OFFLINE = 60_000; // navigator.onLine is only a hint, so try all the same
const GAP = 2_000; // between pings, and between attempts, that the user hastens
const LEAST_DELAY = 500;
const MOST_DELAY = 30_000;
const BLOCKED = 2; // failures before a POST tells whether it is the server that is away, or only the socket
const REOPEN = 300_000; // a page that polls tries the socket now and then

/** @typedef {(c: Context, event: Event, env: Env, effects: Effect[]) => void} Action */
/** @typedef {{to?: State | ((c: Context, event: Event, env: Env) => State), do?: Action}} Row */

/** @type {Record<string, Row>} */
const LIVE = {
  stop: { to: "idle" },
  freeze: { to: "frozen" },
  pagehide: { to: "frozen" },
  follow: { to: "following" },
  posted: { to: afterPost, do: settle },
  told: { do: learn },
  shows: { do: (c, _event, { now }) => void (c.shown = now) },
};

/** @type {Record<string, Row>} */
const SOCKET = {
  ...LIVE,
  end: { to: "ended", do: conclude },
  closed: { to: afterClose, do: conclude },
  error: { do: suspect },
  broken: { to: afterLoss },
};

/** @type {Record<State, Record<string, Row>>} */
export const TABLE = {
  idle: { start: { to: entrance, do: begin } },
  connecting: { ...SOCKET, hello: { to: "open", do: greet }, greeting: { to: afterLoss } },
  open: {
    ...SOCKET,
    beat: { do: confirm },
    ask: { do: ping },
    wait: { do: defer },
    warning: { do: warn },
    push: { do: tell },
    ping: { do: ping },
    nudge: { do: hasten },
    stable: { do: (c) => void (c.failures = 0) },
    wake: { do: probe },
    jump: { do: probe },
    online: { do: probe },
    offline: { do: probe },
    silence: { to: afterLoss },
    unanswered: { to: afterLoss },
  },
  waiting: {
    ...LIVE,
    retry: { to: (c) => (c.failures < BLOCKED ? "connecting" : "waiting"), do: knock },
    wake: { to: "connecting" },
    jump: { to: "connecting" },
    online: { to: "connecting" },
    offline: { to: "offline" },
    nudge: { do: insist },
  },
  offline: {
    ...LIVE,
    retry: { to: "connecting" },
    wake: { to: "connecting" },
    jump: { to: "connecting" },
    online: { to: "connecting" },
    nudge: { do: insist },
  },
  polling: {
    ...LIVE,
    ping: { do: poll },
    nudge: { do: hasten },
    retry: { to: "connecting" },
    wake: { to: "connecting" },
    online: { to: "connecting" },
    offline: { to: "offline" },
  },
  following: {
    ...LIVE,
    lead: { to: "connecting" },
    hello: { do: greet },
    beat: { do: confirm },
    warning: { do: warn },
    push: { do: tell },
    end: { to: "ended", do: conclude },
    led: { do: (c, { state }) => void (c.led = state) },
    nudge: { do: request },
    wake: { do: probe },
    jump: { do: probe },
    online: { do: probe },
    silence: { do: steal },
    unanswered: { do: steal },
  },
  frozen: { stop: { to: "idle" }, thaw: { to: entrance, do: refresh } },
  ended: { stop: { to: "idle" }, start: { to: entrance, do: begin } },
};

/** What entering a state brings with it.
 * @type {Partial<Record<State, Action>>} */
const ENTER = {
  connecting(c, _event, { now }, effects) {
    effects.push({ type: "connect" });
    c.tried = now;
    c.deadlines.greeting = now + GREETING;
  },
  open(c, event, env, effects) {
    c.deadlines.stable = env.now + STABLE;
    ping(c, event, env, effects); // the first beat shows at once, and a page long away is kept
  },
  waiting(c, _event, env) {
    c.deadlines.retry = env.now + delay(c, env);
  },
  offline(c, _event, env) {
    c.deadlines.retry = env.now + inTime(c, env, OFFLINE);
  },
  polling(c, event, env, effects) {
    c.deadlines.retry = env.now + REOPEN;
    post(c, event, env, effects);
  },
  following(c, event, env, effects) {
    c.led = "open";
    listen(c, env);
    request(c, event, env, effects);
  },
};

/** @param {State} state */
const holdsSocket = (state) => state === "connecting" || state === "open";

/**
 * Take one event.
 *
 * @param {Readonly<Context>} context what was known; `initial` at first
 * @param {Event} event what happened
 * @param {Env} env when, and the rest of the world
 * @returns {{context: Context, effects: Effect[]}} what is known now, and what to do, in order
 */
export function next(context, event, env) {
  const c = { ...context, deadlines: { ...context.deadlines } };
  /** @type {Effect[]} */
  const effects = [];
  const gap = env.now - c.seen;
  const late = env.now - nearest(context);
  c.seen = env.now;
  c.pace = paceOf(c, env);
  if (gap < 0) carryBack(c, gap);
  step(c, event, env, effects);
  if (hears(c.state) && HEARD.includes(event.type)) listen(c, env);
  if (late > c.pace) step(c, { type: "jump" }, env, effects); // nothing has run here for so long
  for (let name = overdue(c, env.now); name; name = overdue(c, env.now)) {
    delete c.deadlines[name];
    step(c, { type: name }, env, effects);
  }
  if (isLive(c.state) && c.expiresAt !== null && c.expiresAt <= env.now) c.known = false;
  return { context: c, effects };
}

/**
 * When the runner has to report the next `tick`, in ms on the page's clock; none while idle.
 *
 * @param {Readonly<Context>} context
 */
export const nearest = ({ deadlines, known, expiresAt, state }) =>
  Math.min(...Object.values(deadlines), (known && isLive(state) && expiresAt) || Infinity);

/** @type {Action} */
function step(c, event, env, effects) {
  const row = TABLE[c.state][event.type];
  if (!row) return;
  const from = c.state;
  const to = typeof row.to === "function" ? row.to(c, event, env) : (row.to ?? from);
  if (to !== from) {
    c.state = to;
    c.deadlines = {};
    if (holdsSocket(from) && !holdsSocket(to)) {
      effects.push({ type: "drop", returns: event.type === "freeze" || "retry" in TABLE[to] });
    }
  }
  row.do?.(c, event, env, effects);
  if (to !== from) ENTER[to]?.(c, event, env, effects);
}

/** @param {State} state */
const isLive = (state) => !["idle", "frozen", "ended"].includes(state);

/** @param {State} state */
const hears = (state) => state === "open" || state === "following";

/** @param {Context} c @param {number} now */
function overdue(c, now) {
  const [name, at] = Object.entries(c.deadlines).reduce((a, b) => (b[1] < a[1] ? b : a), ["", Infinity]);
  return at <= now ? name : "";
}

/** The clock was set back: everything that was to come in a minute still comes in a minute.
 * @param {Context} c @param {number} gap */
function carryBack(c, gap) {
  for (const name in c.deadlines) c.deadlines[name] += gap;
  c.pinged += gap;
  c.tried += gap;
  c.shown += gap;
  if (c.expiresAt !== null) c.expiresAt += gap;
  if (c.endsAt !== null) c.endsAt += gap;
}

// Where a lost socket leads.

/** @type {(c: Context, event: Event, env: Env) => State} */
function afterClose(c, event, env) {
  return event.code >= 4500 && event.code <= 4999 ? "ended" : afterLoss(c, event, env);
}

/** @type {(c: Context, event: Event, env: Env) => State} */
function afterLoss(c, _event, { online }) {
  c.failures += 1;
  if (!online) return "offline";
  return c.answered ? "polling" : "waiting";
}

/** @type {(c: Context, event: Event) => State} */
function afterPost(c, { n, message }) {
  if (n !== c.posting) return c.state;
  if (message?.type === "end") return "ended";
  if (c.state === "waiting" && message?.type === "beat") return "connecting";
  return c.state === "polling" && !message ? "waiting" : c.state;
}

/** @type {(c: Context, event: Event) => State} */
function entrance(c, event) {
  return (event.share ?? c.share) ? "following" : "connecting";
}

// What an event teaches.

/** @type {Action} */
function refresh(c) {
  c.failures = 0;
  c.answered = c.known = false;
  c.posting = 0; // an answer that still comes is about the past
}

/** @type {Action} */
function begin(c, event, env, effects) {
  refresh(c, event, env, effects);
  c.expiresAt = c.endsAt = c.warning = c.reason = c.login = null;
  c.known = event.fresh === true;
  c.share = event.share === true;
}

/** @type {Action} */
function greet(c, event, env, effects) {
  c.answered = false;
  c.spread = ms(event.spread, c.spread);
  agree(c, event, env, effects);
  remember(c, event, env);
}

/** The rules of the session, which come with a hello, and with a beat over HTTP.
 * @type {Action} */
function agree(c, event, env) {
  c.who = event.who ?? null;
  c.interval = Math.max(1_000, ms(event.interval, c.interval));
  c.hiddenInterval = Math.max(c.interval, ms(event.hidden_interval, 0));
  c.pace = paceOf(c, env);
  c.warnBefore = ms(event.warn_before, c.warnBefore);
  c.mode = event.mode ?? null;
}

/** @type {Action} */
function confirm(c, event, env, effects) {
  delete c.deadlines.unanswered;
  remember(c, event, env);
  effects.push({ type: "emit", message: event });
  if (event.renew === true && c.state === "open") post(c, event, env, effects);
}

/** Another tab of the same user has had a beat: its session is this one.
 * @type {Action} */
function learn(c, { who, expiresAt, endsAt }, env) {
  if (who !== c.who || c.expiresAt === null || expiresAt <= c.expiresAt) return;
  believe(c, expiresAt, endsAt, env);
}

/** @type {Action} */
function defer(c, event, env) {
  delete c.deadlines.unanswered;
  c.deadlines.ping = env.now + Math.max(LEAST_DELAY, ms(event.retry_in, c.interval)) * (1 + env.random / 10);
}

/** @type {Action} */
function warn(c, event, env, effects) {
  c.expiresAt = env.now + ms(event.expires_in, 0);
  c.warning = { why: event.why, extendable: event.extendable };
  effects.push({ type: "emit", message: event });
}

/** @type {Action} */
function tell(_c, event, _env, effects) {
  effects.push({ type: "emit", message: event });
}

/** @type {Action} */
function conclude(c, event, _env, effects) {
  if (c.state !== "ended") return;
  const message = event.type === "end" ? event : { type: "end", reason: REASONS[event.code - 4501] ?? "unknown" };
  c.reason = message.reason;
  c.login = message.login ?? null;
  c.warning = null;
  c.known = true;
  effects.push({ type: "emit", message });
}

/** @type {Action} */
function suspect(c, _event, { now }) {
  c.deadlines.broken = now + BROKEN;
}

// What the page says.

/** @type {Action} */
function ping(c, _event, env, effects) {
  c.pinged = env.now;
  rest(c, env);
  effects.push({ type: "send", n: ++c.n, visible: isSeen(c, env) });
}

/** @type {Action} */
function post(c, _event, env, effects) {
  if (c.posting) return;
  c.pinged = env.now;
  c.posting = ++c.n;
  effects.push({ type: "post", n: c.n, visible: isSeen(c, env) });
}

/** One POST at a time: a ping that comes due meanwhile waits for it.
 * @type {Action} */
function poll(c, event, env, effects) {
  if (c.posting) c.deadlines.ping = env.now + LEAST_DELAY;
  else post(c, event, env, effects);
}

/** While only the socket fails, a POST knows whether the server is there.
 * @type {Action} */
function knock(c, event, env, effects) {
  if (c.state !== "waiting") return;
  c.tried = env.now;
  post(c, event, env, effects);
}

/** @type {Action} */
function request(_c, _event, _env, effects) {
  effects.push({ type: "request" });
}

/** The tab that leads is gone without a word. A hidden page leaves that to one that shows.
 * @type {Action} */
function steal(c, _event, env, effects) {
  listen(c, env);
  if (env.visible) effects.push({ type: "steal" });
}

/** @type {Action} */
function hasten(c, _event, { now }) {
  c.deadlines.ping = Math.min(c.deadlines.ping ?? Infinity, Math.max(now, c.pinged + GAP));
}

/** A user does not wait for a back-off.
 * @type {Action} */
function insist(c, _event, { now }) {
  c.deadlines.retry = Math.min(c.deadlines.retry ?? Infinity, Math.max(now, c.tried + GAP));
}

/** @type {Action} */
function probe(c, event, env, effects) {
  if (event.type === "jump" || c.deadlines.silence <= env.now) c.known = false;
  listen(c, env);
  c.deadlines.unanswered = env.now + PROBE;
  (c.state === "open" ? hasten : request)(c, event, env, effects);
}

/** A POST is done. Beside an open socket it only brought a cookie; without one it is the ping.
 * @type {Action} */
function settle(c, event, env, effects) {
  if (event.n !== c.posting) return;
  c.posting = 0;
  const { message } = event;
  if (c.state === "ended") conclude(c, message, env, effects);
  else if (c.state === "open" || c.state === "following") return;
  else if (message?.type === "beat") {
    c.answered = true;
    agree(c, message, env, effects);
    if (c.state === "polling") rest(c, env, c.deadlines.ping); // one that was asked for meanwhile comes first
    confirm(c, message, env, effects);
    foresee(c, message, env, effects);
  } else if (c.state === "polling") {
    defer(c, message, env, effects);
  } else if (c.state === "waiting") {
    c.failures += 1;
    c.answered = false;
    c.deadlines.retry = env.now + Math.max(delay(c, env), ms(message?.retry_in, 0));
  }
}

/** Nobody can call a page that polls, so it warns itself.
 * @type {Action} */
function foresee(c, event, env, effects) {
  if (c.warning || ms(event.expires_in, 0) > c.warnBefore) return;
  const absolute = event.ends_in <= event.expires_in;
  const why = absolute ? "absolute" : "idle";
  warn(c, { type: "warning", expires_in: event.expires_in, why, extendable: !absolute }, env, effects);
}

// Small parts.

/** Seconds of the wire to ms, if they are any.
 * @param {unknown} seconds @param {number} otherwise in ms */
function ms(seconds, otherwise) {
  return typeof seconds === "number" && seconds >= 0 ? seconds * 1_000 : otherwise;
}

/** @param {Context} c @param {Event} event @param {Env} env */
function remember(c, event, env) {
  const endsAt = typeof event.ends_in === "number" ? env.now + event.ends_in * 1_000 : null;
  believe(c, env.now + ms(event.expires_in, 0), endsAt, env);
}

/** @param {Context} c @param {number} expiresAt @param {number | null} endsAt @param {Env} env */
function believe(c, expiresAt, endsAt, { now }) {
  c.expiresAt = expiresAt;
  c.endsAt = endsAt;
  c.known = true;
  if (expiresAt - now > c.warnBefore) c.warning = null;
}

/** The server spoke: by when it has to again.
 * @param {Context} c @param {Env} env */
function listen(c, { now }) {
  c.deadlines.silence = now + 2 * c.pace + 5_000;
}

/** Whether the page shows, or is pinging for one that does. Such a page says so at each beat; one that has
 * said nothing for as long as a server may is hidden, or gone.
 * @param {Context} c @param {Env} env */
function isSeen(c, { now, visible }) {
  return visible || (c.share && c.state !== "following" && now - c.shown < 2 * c.interval + 5_000);
}

/** @param {Context} c @param {Env} env */
const paceOf = (c, env) => (isSeen(c, env) ? c.interval : c.hiddenInterval);

/** When the next ping is due: ±10 %, so that pages which came together do not stay together.
 * @param {Context} c @param {Env} env @param {number} [latest] */
function rest(c, { now, random }, latest = Infinity) {
  c.deadlines.ping = Math.min(latest, now + c.pace * (0.9 + 0.2 * random));
}

/** Full jitter. A first loss is likely everybody's, so the server says over how long to spread it.
 * @param {Context} c @param {Env} env */
function delay(c, env) {
  const most = c.failures <= 1 ? c.spread : Math.min(MOST_DELAY, 1_000 * 2 ** (c.failures - 1));
  return Math.max(LEAST_DELAY, inTime(c, env, most) * env.random);
}

/** A pause that leaves half of what remains of the session: to come back after its end saves nothing.
 * @param {Context} c @param {Env} env @param {number} pause in ms */
function inTime(c, { now }, pause) {
  const left = c.expiresAt === null ? 0 : c.expiresAt - now;
  return left > 0 ? Math.max(LEAST_DELAY, Math.min(pause, left / 2)) : pause;
}
