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
 * 7. A page that shares is `following` until it is told to `lead`, for all or for itself alone: another tab
 *    has the socket, and its messages come as if they were the page's own.
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
 * @property {number} now when the last event was
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
 * @property {number} spread over how many ms to spread a first retry
 * @property {number} warnBefore ms
 * @property {string | null} mode
 * @property {string | null} who stands for the user
 * @property {boolean} known whether the session is known to live; false after a long sleep, a freeze, from
 *   history, or past the deadline, until the server speaks
 * @property {number} expiresAt the nearer deadline of the session, as the server last told; NaN while unknown,
 *   which is neither past nor to come
 * @property {number} endsAt the absolute one; NaN without
 * @property {Warning | null} warning
 * @property {string | null} reason why the session ended
 * @property {string | null} login where to sign in again
 */

/** @type {Readonly<Context>} */
export const initial = Object.freeze({
  state: "idle",
  deadlines: {},
  now: 0,
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
  spread: 3_000,
  warnBefore: 60_000,
  mode: null,
  who: null,
  known: false,
  expiresAt: NaN,
  endsAt: NaN,
  warning: null,
  reason: null,
  login: null,
});

/** The messages a server may send; nothing else it says becomes an event. */
export const MESSAGES = Object.freeze(["hello", "beat", "ask", "wait", "warning", "end", "push"]);

// By close code, from 4501 on.
const REASONS = ["idle", "absolute", "logout", "unknown", "evicted", "revoked"];

const GREETING = 10_000; // from opening the socket to `hello`
const PROBE = 5_000; // from waking up to an answer
const BROKEN = 1_000; // from `error` to a `close`: Chromium sends none when a policy blocks the socket
const STABLE = 5_000; // an open socket this old has proved itself
const ASLEEP = 90_000; // so late is no timer that is merely throttled: Chromium runs a hidden page's once a minute
const OFFLINE = 60_000; // navigator.onLine is only a hint, so try all the same
const GAP = 2_000; // between pings, and between attempts, that the user hastens
const LEAST_DELAY = 500;
const MOST_DELAY = 30_000;
const LEAST_INTERVAL = 1_000;
const BLOCKED = 2; // failures before a POST tells whether it is the server that is away, or only the socket
const REOPEN = 300_000; // a page that polls tries the socket now and then

/** @typedef {Context & Env & {effects: Effect[]}} Turn what is known, how the world is, and what to do: one event's working copy */
/** @typedef {(c: Turn, event: Event) => void} Action */
/** @typedef {{to?: State | ((c: Turn, event: Event) => State), do?: Action}} Row */

/** @type {Record<string, Row>} */
const LIVE = {
  stop: { to: "idle" },
  freeze: { to: "frozen" },
  pagehide: { to: "frozen" },
  follow: { to: "following" },
  posted: { to: afterPost, do: settle },
  told: { do: learn },
  shows: { do: (c) => void (c.shown = c.now) },
};

/** @type {Record<string, Row>} */
const SOCKET = {
  ...LIVE,
  end: { to: "ended", do: conclude },
  closed: { to: afterClose, do: conclude },
  error: { do: suspect },
  broken: { to: afterLoss },
};

/** @type {Record<string, Row>} */
const AWAY = {
  ...LIVE,
  retry: { to: "connecting" },
  wake: { to: "connecting" },
  online: { to: "connecting" },
  offline: { to: "offline" },
  nudge: { do: insist },
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
  waiting: { ...AWAY, retry: { to: (c) => (c.failures < BLOCKED ? "connecting" : "waiting"), do: knock } },
  offline: AWAY,
  polling: { ...AWAY, ping: { do: poll }, nudge: { do: hasten } },
  following: {
    ...LIVE,
    lead: { to: "connecting", do: (c, { share = true }) => void (c.share = share) },
    hello: { do: greet },
    beat: { do: confirm },
    warning: { do: warn },
    push: { do: tell },
    end: { to: "ended", do: conclude },
    led: { do: trust },
    nudge: { do: request },
    wake: { do: probe },
    jump: { do: probe },
    online: { do: probe },
    silence: { do: steal },
    unanswered: { do: steal },
  },
  frozen: { stop: { to: "idle" }, wake: { to: entrance, do: refresh } },
  ended: { stop: { to: "idle" }, start: { to: entrance, do: begin } },
};

/** What entering a state brings with it.
 * @type {Partial<Record<State, Action>>} */
const ENTER = {
  connecting(c) {
    c.effects.push({ type: "connect" });
    c.tried = c.now;
    c.deadlines.greeting = c.now + GREETING;
  },
  open(c) {
    c.deadlines.stable = c.now + STABLE;
    ping(c); // the first beat shows at once, and a page long away is kept
  },
  waiting(c) {
    c.deadlines.retry = c.now + delay(c);
  },
  offline(c) {
    c.deadlines.retry = c.now + inTime(c, OFFLINE);
  },
  polling(c) {
    c.deadlines.retry = c.now + REOPEN;
    post(c);
  },
  following(c) {
    c.led = "open";
    listen(c);
    request(c);
  },
};

// What a state is shows in what it listens to.

/** @param {State} state */
const isLive = (state) => "freeze" in TABLE[state];

/** @param {State} state */
const holdsSocket = (state) => "closed" in TABLE[state];

/** @param {State} state */
const hears = (state) => "beat" in TABLE[state];

/**
 * Take one event.
 *
 * @param {Readonly<Context>} context what was known; `initial` at first
 * @param {Event} event what happened
 * @param {Env} env when, and the rest of the world
 * @returns {{context: Context, effects: Effect[]}} what is known now, and what to do, in order
 */
export function next(context, event, env) {
  /** @type {Turn} */
  const c = { ...context, ...env, deadlines: { ...context.deadlines }, effects: [] };
  const late = c.now - nearest(context);
  if (c.now < context.now) carryBack(c, c.now - context.now);
  step(c, event);
  if (hears(c.state) && MESSAGES.includes(event.type)) listen(c);
  if (late > paceOf(c)) step(c, { type: "jump" }); // nothing has run here for so long
  for (let name = overdue(c); name; name = overdue(c)) {
    delete c.deadlines[name];
    step(c, { type: name });
  }
  if (isLive(c.state) && (late > ASLEEP || c.expiresAt <= c.now)) c.known = false;
  return { context: c, effects: c.effects };
}

/**
 * When the runner has to report the next `tick`, in ms on the page's clock; none while idle.
 *
 * @param {Readonly<Context>} context
 */
export const nearest = ({ deadlines, known, expiresAt, state }) =>
  Math.min(...Object.values(deadlines), (known && isLive(state) && expiresAt) || Infinity);

/** @type {Action} */
function step(c, event) {
  const from = c.state;
  const row = TABLE[from][event.type];
  if (!row) return;
  const to = typeof row.to === "function" ? row.to(c, event) : (row.to ?? from);
  if (to !== from) {
    c.state = to;
    c.deadlines = {};
    if (holdsSocket(from) && !holdsSocket(to)) {
      c.effects.push({ type: "drop", returns: event.type === "freeze" || "retry" in TABLE[to] });
    }
  }
  row.do?.(c, event);
  if (to !== from) ENTER[to]?.(c, event);
}

/** The first of the deadlines that have passed.
 * @param {Turn} c */
const overdue = ({ deadlines, now }) =>
  Object.keys(deadlines)
    .sort((a, b) => deadlines[a] - deadlines[b])
    .find((name) => deadlines[name] <= now);

/** The clock was set back: everything that was to come in a minute still comes in a minute.
 * @param {Turn} c @param {number} gap */
function carryBack(c, gap) {
  for (const name in c.deadlines) c.deadlines[name] += gap;
  for (const name of /** @type {const} */ (["pinged", "tried", "shown", "expiresAt", "endsAt"])) c[name] += gap;
}

// Where a lost socket leads.

/** @type {(c: Turn, event: Event) => State} */
function afterClose(c, event) {
  return event.code >= 4500 && event.code <= 4999 ? "ended" : afterLoss(c);
}

/** @type {(c: Turn) => State} */
function afterLoss(c) {
  c.failures += 1;
  if (!c.online) return "offline";
  return c.answered ? "polling" : "waiting";
}

/** @type {(c: Turn, event: Event) => State} */
function afterPost(c, { n, message }) {
  if (n !== c.posting) return c.state;
  if (message?.type === "end") return "ended";
  if (c.state === "waiting" && message?.type === "beat") return "connecting";
  return c.state === "polling" && !message ? "waiting" : c.state;
}

/** @type {(c: Turn, event: Event) => State} */
function entrance(c, { share = c.share }) {
  return share ? "following" : "connecting";
}

// What an event teaches.

/** @param {Turn} c */
function refresh(c) {
  c.failures = 0;
  c.answered = c.known = false;
  c.posting = 0; // an answer that still comes is about the past
}

/** @type {Action} */
function begin(c, event) {
  refresh(c);
  c.expiresAt = c.endsAt = NaN;
  c.warning = c.reason = c.login = null;
  c.known = event.fresh === true;
  c.share = event.share === true;
}

/** @type {Action} */
function greet(c, event) {
  c.answered = false;
  c.spread = ms(event.spread, c.spread);
  agree(c, event);
  remember(c, event);
}

/** The rules of the session, which come with a hello, and with a beat over HTTP.
 * @type {Action} */
function agree(c, event) {
  c.who = event.who ?? null;
  c.interval = Math.max(LEAST_INTERVAL, ms(event.interval, c.interval));
  c.hiddenInterval = Math.max(c.interval, ms(event.hidden_interval, 0));
  c.warnBefore = ms(event.warn_before, c.warnBefore);
  c.mode = event.mode ?? null;
}

/** @type {Action} */
function confirm(c, event) {
  delete c.deadlines.unanswered;
  remember(c, event);
  tell(c, event);
  if (event.renew === true && c.state === "open") post(c);
}

/** @type {Action} */
function remember(c, event) {
  believe(c, c.now + ms(event.expires_in, 0), c.now + ms(event.ends_in, NaN));
}

/** Another tab of the same user has had a beat: its session is this one.
 * @type {Action} */
function learn(c, { who, expiresAt, endsAt }) {
  if (who === c.who && expiresAt > c.expiresAt) believe(c, expiresAt, endsAt);
}

/** @param {Turn} c @param {number} expiresAt @param {number} endsAt */
function believe(c, expiresAt, endsAt) {
  c.expiresAt = expiresAt;
  c.endsAt = endsAt;
  c.known = true;
  if (expiresAt - c.now > c.warnBefore) c.warning = null;
}

/** @type {Action} */
function defer(c, event) {
  delete c.deadlines.unanswered;
  c.deadlines.ping = c.now + Math.max(LEAST_DELAY, ms(event.retry_in, c.interval)) * (1 + c.random / 10);
}

/** @type {Action} */
function warn(c, event) {
  c.expiresAt = c.now + ms(event.expires_in, 0);
  c.warning = { why: event.why, extendable: event.extendable };
  tell(c, event);
}

/** @type {Action} */
function tell(c, message) {
  c.effects.push({ type: "emit", message });
}

/** @type {Action} */
function conclude(c, event) {
  if (c.state !== "ended") return;
  const message = event.type === "end" ? event : { type: "end", reason: REASONS[event.code - 4501] ?? "unknown" };
  c.reason = message.reason;
  c.login = message.login ?? null;
  c.warning = null;
  believe(c, c.now, c.now);
  tell(c, message);
}

/** @param {Turn} c */
function suspect(c) {
  c.deadlines.broken = c.now + BROKEN;
}

// What the page says.

/** @param {Turn} c @param {"send" | "post"} type */
function say(c, type) {
  c.pinged = c.now;
  c.effects.push({ type, n: ++c.n, visible: isSeen(c) });
}

/** @param {Turn} c */
function ping(c) {
  c.deadlines.ping = nextPing(c);
  say(c, "send");
}

/** @param {Turn} c */
function post(c) {
  if (c.posting) return;
  say(c, "post");
  c.posting = c.n;
}

/** One POST at a time: a ping that comes due meanwhile waits for it.
 * @param {Turn} c */
function poll(c) {
  if (c.posting) c.deadlines.ping = c.now + LEAST_DELAY;
  else post(c);
}

/** While only the socket fails, a POST knows whether the server is there.
 * @param {Turn} c */
function knock(c) {
  if (c.state !== "waiting") return;
  c.tried = c.now;
  c.deadlines.retry = c.now + MOST_DELAY; // the answer says when; this tells that a sleep came between
  post(c);
}

/** @param {Turn} c */
function request(c) {
  c.effects.push({ type: "request" });
}

/** The tab that leads says how it fares: it is there. One that polls may take its time to answer.
 * @type {Action} */
function trust(c, { state }) {
  c.led = state;
  if (state === "polling") delete c.deadlines.unanswered;
  listen(c);
}

/** The tab that leads is gone without a word. A hidden page leaves that to one that shows.
 * @param {Turn} c */
function steal(c) {
  listen(c);
  if (c.visible) c.effects.push({ type: "steal" });
}

/** @param {Turn} c */
function hasten(c) {
  bringForward(c, "ping", c.pinged + GAP);
}

/** A user does not wait for a back-off.
 * @param {Turn} c */
function insist(c) {
  bringForward(c, "retry", c.tried + GAP);
}

/** @param {Turn} c @param {string} deadline @param {number} at */
function bringForward(c, deadline, at) {
  c.deadlines[deadline] = Math.min(c.deadlines[deadline] ?? Infinity, at);
}

/** @type {Action} */
function probe(c, event) {
  if (event.type === "jump" || c.deadlines.silence <= c.now) c.known = false;
  listen(c);
  c.deadlines.unanswered = c.now + PROBE;
  (c.state === "open" ? hasten : request)(c);
}

/** A POST is done. Beside an open socket it only brought a cookie; without one it is the ping.
 * @type {Action} */
function settle(c, { n, message }) {
  if (n !== c.posting) return;
  c.posting = 0;
  if (c.state === "ended") conclude(c, message);
  else if (message?.type === "beat" && !hears(c.state)) {
    c.answered = true;
    agree(c, message);
    confirm(c, message);
    foresee(c, message);
  } else if (c.state === "polling") {
    defer(c, message);
  } else if (c.state === "waiting") {
    c.failures += 1;
    c.answered = false;
    c.deadlines.retry = c.now + Math.max(delay(c), ms(message?.retry_in, 0));
  }
}

/** Nobody can call a page that polls, so it warns itself; and it asks when a warning comes due, by the
 * deadline that a ping does not move.
 * @type {Action} */
function foresee(c, { expires_in, ends_in }) {
  const due = (c.mode === "presence" ? c.endsAt : c.expiresAt) - c.warnBefore;
  if (c.state === "polling") {
    bringForward(c, "ping", nextPing(c)); // one that was asked for meanwhile comes first
    if (due > c.now) bringForward(c, "ping", Math.max(due, c.now + LEAST_INTERVAL));
  }
  const why = ends_in <= expires_in ? "absolute" : "idle";
  if (c.warning?.why === why || ms(expires_in, 0) > c.warnBefore) return;
  warn(c, { type: "warning", expires_in, why, extendable: why === "idle" && c.mode !== "observe" });
}

// Small parts.

/** Seconds of the wire to ms, if they are any.
 * @param {unknown} seconds @param {number} otherwise in ms */
function ms(seconds, otherwise) {
  return typeof seconds === "number" && seconds >= 0 ? seconds * 1_000 : otherwise;
}

/** The server spoke: by when it has to again.
 * @param {Turn} c */
function listen(c) {
  c.deadlines.silence = c.now + 2 * paceOf(c) + 5_000;
}

/** Whether the page shows, or is pinging for one that does. Such a page says so at each beat; one that has
 * said nothing for as long as a server may is hidden, or gone.
 * @param {Turn} c */
function isSeen(c) {
  return c.visible || (c.share && c.state !== "following" && c.now - c.shown < 2 * c.interval + 5_000);
}

/** @param {Turn} c */
const paceOf = (c) => (isSeen(c) ? c.interval : c.hiddenInterval);

/** ±10 %, so that pages which came together do not stay together.
 * @param {Turn} c */
const nextPing = (c) => c.now + paceOf(c) * (0.9 + 0.2 * c.random);

/** Full jitter. A first loss is likely everybody's, so the server says over how long to spread it.
 * @param {Turn} c */
function delay(c) {
  const most = c.failures <= 1 ? c.spread : Math.min(MOST_DELAY, 1_000 * 2 ** (c.failures - 1));
  return Math.max(LEAST_DELAY, inTime(c, most) * c.random);
}

/** A pause that leaves half of what remains of the session: to come back after its end saves nothing.
 * @param {Turn} c @param {number} pause in ms */
function inTime(c, pause) {
  const left = c.expiresAt - c.now;
  return left > 0 ? Math.max(LEAST_DELAY, Math.min(pause, left / 2)) : pause;
}
