/** The state machine of a page: its table, its scenarios, and what no order of events may break. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { initial, MESSAGES, nearest, next, TABLE } from "../../web/machine.js";

const HELLO = {
  type: "hello",
  interval: 25,
  idle_timeout: 1800,
  expires_in: 1700,
  ends_in: 40_000,
  warn_before: 60,
  mode: "presence",
  spread: 3,
};
const BEAT = { type: "beat", n: 1, expires_in: 1800, ends_in: 40_000 };
const BEGINNING = 1_800_000_000_000;

/** A page in a world of its own: time passes when told to, and timers fire as a browser's would. */
class Page {
  context = initial;
  now = BEGINNING;
  random = 0.5;
  online = true;
  visible = true;
  effects = [];

  tell(...events) {
    this.effects = [];
    for (const event of events) {
      const { now, random, online, visible } = this;
      const fact = typeof event === "string" ? { type: event } : event;
      const { context, effects } = next(this.context, fact, { now, random, online, visible });
      this.context = context;
      this.effects.push(...effects);
    }
    return this;
  }

  /** Let `seconds` pass with working timers. */
  pass(seconds) {
    const until = this.now + seconds * 1_000;
    const seen = [];
    for (let at = nearest(this.context); at <= until; at = nearest(this.context)) {
      this.now = Math.max(this.now, at);
      seen.push(...this.tell("tick").effects);
    }
    this.now = until;
    this.effects = seen;
    return this;
  }

  /** Let pass what is left until the next retry. */
  retry() {
    return this.pass((this.context.deadlines.retry - this.now) / 1_000);
  }

  /** Whatever it is trying comes to nothing. */
  fail() {
    const { posting } = this.context;
    return this.tell(posting ? posted(posting, null) : { type: "closed", code: 1006 });
  }

  /** Let `seconds` pass while nothing runs, as in sleep. */
  sleep(seconds) {
    this.now += seconds * 1_000;
    return this;
  }

  get state() {
    return this.context.state;
  }

  /** Effects since last told, as short words. */
  get did() {
    return this.effects.map((effect) => (effect.type === "emit" ? effect.message.type : effect.type));
  }
}

const posted = (n, message) => ({ type: "posted", n, message });
const START = { type: "start", fresh: true };

const opened = () => new Page().tell(START, HELLO, BEAT);
/** Its first POST, which told that only the socket fails, had the number 1. */
const polling = () => new Page().tell(START).fail().retry().fail().retry().tell(posted(1, BEAT)).fail();
const following = () => new Page().tell({ ...START, share: true }, HELLO, BEAT);

/** A page in each state. */
const IN = {
  idle: () => new Page(),
  connecting: () => new Page().tell("start"),
  open: opened,
  waiting: () => opened().tell({ type: "closed", code: 1006 }),
  offline: () => {
    const page = opened();
    page.online = false;
    return page.tell({ type: "closed", code: 1006 });
  },
  polling,
  following,
  frozen: () => opened().tell("freeze"),
  ended: () => opened().tell({ type: "end", reason: "logout" }),
};

const EVENTS = [
  "start",
  "stop",
  "freeze",
  "wake",
  "wake",
  "online",
  "offline",
  "nudge",
  "tick",
  "error",
  "jump",
  "nonsense",
  ...new Set(Object.values(TABLE).flatMap((row) => Object.keys(row))),
]
  .map((type) => ({ type }))
  .concat([
    HELLO,
    BEAT,
    { ...BEAT, renew: true },
    { type: "ask" },
    { type: "wait", n: 1, retry_in: 2, why: "store" },
    { type: "warning", expires_in: 60, why: "idle", extendable: true },
    { type: "push", data: 1 },
    { type: "end", reason: "idle" },
    { type: "beat" },
    { type: "hello", interval: "x", spread: null },
    { type: "start", share: true },
    { type: "led", state: "waiting" },
    { type: "told", who: null, expiresAt: BEGINNING + 9e6, endsAt: null },
    posted(1, null),
    posted(2, BEAT),
    posted(2, { type: "end", reason: "idle" }),
    ...[1000, 1001, 1006, 1009, 1011, 1012, 1013, 4001, 4004, 4499, 4500, 4501, 4506, 4999].map((code) => ({
      type: "closed",
      code,
    })),
  ]);

describe("the table", () => {
  test("knows every state it leads to", () => {
    for (const [state, row] of Object.entries(TABLE)) {
      assert.ok(state in IN, state);
      for (const { to } of Object.values(row)) if (typeof to === "string") assert.ok(to in TABLE, to);
    }
  });

  for (const [state, make] of Object.entries(IN)) {
    test(`${state} takes every event`, () => {
      for (const event of EVENTS) {
        const page = make();
        assert.equal(page.state, state);
        page.tell(event);
        assert.ok(page.state in TABLE, `${state} --${event.type}--> ${page.state}`);
        if (!(event.type in TABLE[state])) {
          assert.equal(page.state, state, `${event.type} is not in the row of ${state}`);
          assert.deepEqual(page.effects, []);
        }
      }
    });
  }

  test("every deadline is an event of the state that set it", () => {
    for (const [state, make] of Object.entries(IN)) {
      for (const event of EVENTS) {
        const { context } = make().tell(event);
        for (const name of Object.keys(context.deadlines))
          assert.ok(name in TABLE[context.state], `${state} ${event.type} ${name}`);
      }
    }
  });

  test("next() changes nothing it was given", () => {
    const { context } = opened();
    const before = structuredClone(context);
    for (const event of EVENTS) next(context, event, { now: BEGINNING + 90_000, random: 0.5, online: true, visible: true });
    assert.deepEqual(context, before);
  });
});

describe("a life in order", () => {
  test("connects, greets, pings at once, and pings on", () => {
    const page = new Page();
    assert.deepEqual(page.tell("start").did, ["connect"]);
    assert.deepEqual(page.tell(HELLO).effects, [{ type: "send", n: 1, visible: true }]);
    assert.equal(page.state, "open");
    assert.deepEqual(page.tell(BEAT).did, ["beat"]);
    assert.deepEqual(page.pass(24.9).did, []);
    assert.deepEqual(page.pass(0.1).effects, [{ type: "send", n: 2, visible: true }]);
  });

  for (const [random, due] of [
    [0, 22.5],
    [0.999999, 27.5],
  ]) {
    test(`pings every interval ±10 % (random ${random})`, () => {
      const page = new Page();
      page.random = random;
      page.tell("start", HELLO);
      assert.deepEqual(page.pass(due - 0.1).did, []);
      assert.deepEqual(page.pass(0.1).did, ["send"]);
    });
  }

  test("pings once a second at most, whatever interval hello names", () => {
    const page = new Page().tell("start", { ...HELLO, interval: 0 });
    assert.ok(page.pass(10).did.length <= 10);
  });

  test("answers an ask at once and starts the interval anew", () => {
    const page = opened().sleep(20).tell("ask");
    assert.deepEqual(page.did, ["send"]);
    assert.deepEqual(page.pass(24).did, []);
    assert.deepEqual(page.pass(1).did, ["send"]);
  });

  test("a nudge pings at once, but not more than every two seconds", () => {
    const page = opened().sleep(10);
    assert.deepEqual(page.tell("nudge").did, ["send"]);
    assert.deepEqual(page.tell("nudge", "nudge", "nudge").did, []);
    assert.deepEqual(page.pass(2).did, ["send"]);
  });

  test("a wait extends nothing and pings again in time", () => {
    const page = opened();
    const { expiresAt } = page.context;
    assert.deepEqual(page.sleep(1).tell({ type: "wait", n: 1, retry_in: 2, why: "store" }).did, []);
    assert.equal(page.context.expiresAt, expiresAt);
    assert.deepEqual(page.pass(1.9).did, []);
    assert.deepEqual(page.pass(0.4).did, ["send"]);
  });

  test("a beat tells the deadlines, in time of the page's own clock", () => {
    const { context } = opened().sleep(5).tell({ type: "beat", n: 2, expires_in: 7, ends_in: 9 });
    assert.equal(context.expiresAt, BEGINNING + 12_000);
    assert.equal(context.endsAt, BEGINNING + 14_000);
  });

  test("stop leaves quietly, and nothing more happens", () => {
    const page = opened();
    assert.deepEqual(page.tell("stop").did, ["drop"]);
    assert.equal(page.state, "idle");
    assert.deepEqual(page.pass(3_600).did, []);
  });
});

describe("a warning", () => {
  const warning = { type: "warning", expires_in: 60, why: "idle", extendable: true };

  test("is told, and stands until a beat proves it past", () => {
    const page = opened();
    assert.deepEqual(page.tell(warning).did, ["warning"]);
    page.tell({ ...BEAT, expires_in: 50 });
    assert.deepEqual(page.context.warning, { why: "idle", extendable: true });
    page.tell(BEAT);
    assert.equal(page.context.warning, null);
  });

  test("comes from the page itself while it polls, once", () => {
    const page = polling();
    const { n } = page.context;
    const near = { type: "beat", n, expires_in: 40, ends_in: 40 };
    assert.deepEqual(page.tell(posted(n, near)).did, ["beat", "warning"]);
    assert.deepEqual(page.context.warning, { why: "absolute", extendable: false });
    page.pass(25);
    assert.deepEqual(page.tell(posted(n + 1, { ...near, expires_in: 15, ends_in: 15 })).did, ["beat"]);
  });
});

/**
 * Let a page poll. Each try of the socket fails at once.
 *
 * @param {Page} page
 * @param {(now: number) => object} session what a beat tells at a time
 * @param {number} seconds how long
 * @returns {{pings: number[], warnings: {at: number}[]}} when it asked and was warned, in seconds from now
 */
function poll(page, session, seconds) {
  const began = page.now;
  const [pings, warnings] = [[], []];
  const since = () => (page.now - began) / 1_000;
  for (;;) {
    const { posting } = page.context;
    if (page.state === "connecting") page.fail();
    else if (posting) {
      pings.push(since());
      page.tell(posted(posting, { type: "beat", n: posting, ...session(page.now) }));
      for (const { message } of page.effects)
        if (message?.type === "warning") warnings.push({ at: since(), ...message });
    } else {
      page.now = Math.max(page.now, nearest(page.context));
      if (since() > seconds) return { pings, warnings };
      page.tell("tick");
    }
  }
}

describe("a page that polls and is not kept by it", () => {
  const RULES = { mode: "activity", interval: 25, warn_before: 25, hidden_interval: 600 };
  const until = (end, rules) => (now) => {
    const left = Math.max(0, end - now) / 1_000;
    return { ...RULES, ends_in: left + 9_000, ...rules, expires_in: left };
  };

  for (const [visible, warn_before, mode] of [
    [true, 25, "activity"],
    [true, 25, "observe"],
    [true, 60, "activity"],
    [false, 25, "activity"],
    [false, 60, "observe"],
  ])
    test(`is warned in time, whatever the phase: ${mode}, ${warn_before} s ahead, ${visible ? "in sight" : "hidden"}`, () => {
      for (let more = 1; more < 1_300; more += 4) {
        const page = polling();
        page.visible = visible;
        page.random = (more % 10) / 10;
        const lasts = warn_before + more;
        const session = until(page.now + lasts * 1_000, { warn_before, mode });
        const { warnings } = poll(page, session, lasts);
        assert.equal(warnings.length, 1, `of ${lasts} s`);
        const { at, why, extendable } = warnings[0];
        const left = lasts - at;
        assert.ok(left <= warn_before && left >= warn_before - 1, `${left} s left of ${lasts}`);
        assert.deepEqual([why, extendable], ["idle", mode === "activity"]);
      }
    });

  test("asks once for it, and goes on as before", () => {
    const page = polling();
    const { pings } = poll(page, until(page.now + 110_000), 160);
    assert.deepEqual(pings, [0, 25, 50, 75, 85, 110, 135, 160]);
  });

  test("is not warned if someone has extended the session meanwhile", () => {
    const page = polling();
    const began = page.now;
    const session = (now) => until(began + (now < began + 84_000 ? 110_000 : 999_000))(now);
    assert.deepEqual(poll(page, session, 300).warnings, []);
  });

  test("does not flood a server whose clock is slower", () => {
    const page = polling();
    const slow = (now) => ({ ...until(0)(now), ends_in: 9_000, expires_in: 25.001 });
    const { pings } = poll(page, slow, 60);
    for (const [i, at] of pings.entries()) if (i) assert.ok(at - pings[i - 1] >= 1, `${pings}`);
  });

  test("pings no more often for it where a ping extends the session", () => {
    for (const visible of [true, false]) {
      const page = polling();
      page.visible = visible;
      const kept = () => ({ ...RULES, mode: "presence", warn_before: 60, expires_in: 75, ends_in: 40_000 });
      const { pings, warnings } = poll(page, kept, 600);
      assert.equal(pings.length, visible ? 25 : 3, "and one after each try of the socket");
      assert.deepEqual(warnings, []);
    }
  });

  test("is warned in time of the absolute deadline, which no ping moves", () => {
    for (let lasts = 300; lasts < 350; lasts += 1) {
      const page = polling();
      const end = page.now + lasts * 1_000;
      const session = (now) => {
        const ends_in = Math.max(0, end - now) / 1_000;
        return { ...RULES, mode: "presence", warn_before: 60, expires_in: Math.min(75, ends_in), ends_in };
      };
      const { warnings } = poll(page, session, lasts);
      assert.equal(warnings.length, 1);
      const left = lasts - warnings[0].at;
      assert.ok(left <= 60 && left >= 59, `${left} s left of ${lasts}`);
      assert.deepEqual([warnings[0].why, warnings[0].extendable], ["absolute", false]);
    }
  });
});

describe("an end", () => {
  for (const [code, reason] of [
    [4501, "idle"],
    [4502, "absolute"],
    [4503, "logout"],
    [4504, "unknown"],
    [4505, "evicted"],
    [4506, "revoked"],
    [4777, "unknown"],
  ]) {
    test(`close code ${code} means ${reason}`, () => {
      const page = opened().tell({ type: "closed", code });
      assert.equal(page.state, "ended");
      assert.equal(page.context.reason, reason);
      assert.deepEqual(page.did, ["drop", "end"]);
    });
  }

  test("its message says why, whatever code follows", () => {
    const page = opened().tell({ type: "end", reason: "revoked" });
    assert.deepEqual(page.did, ["drop", "end"]);
    page.tell({ type: "closed", code: 4501 });
    assert.equal(page.context.reason, "revoked");
  });

  test("may be the first thing a page hears", () => {
    assert.equal(new Page().tell("start", { type: "end", reason: "unknown" }).state, "ended");
  });

  test("stays: only start leads out of it", () => {
    for (const event of EVENTS) {
      const page = IN.ended();
      page.pass(100).tell(event);
      if (event.type === "start" || event.type === "stop") continue;
      assert.equal(page.state, "ended", event.type);
      assert.deepEqual(page.effects, [], event.type);
    }
    const page = IN.ended().tell("start");
    assert.equal(page.state, "connecting");
    assert.equal(page.context.reason, null);
  });

  test("never follows from a lost network, however long", () => {
    const page = opened();
    page.online = false;
    page.tell("offline", { type: "closed", code: 1006 });
    for (let hour = 0; hour < 24; hour++) {
      page.pass(3_600);
      if (page.state === "connecting") page.fail();
      assert.notEqual(page.state, "ended");
    }
    page.online = true;
    assert.deepEqual(page.tell("online").did.at(-1), "connect");
  });
});

describe("coming back", () => {
  for (const code of [
    1000, 1001, 1002, 1006, 1009, 1011, 1012, 1013, 3000, 4000, 4001, 4002, 4003, 4004, 4499,
  ]) {
    test(`follows close code ${code}`, () => {
      const page = opened().tell({ type: "closed", code });
      assert.equal(page.state, "waiting");
      assert.deepEqual(page.pass(3).did, ["connect"]);
    });
  }

  test("the first retry is spread over what hello said, and is never at once", () => {
    const page = new Page().tell("start", { ...HELLO, spread: 20 }).pass(6);
    for (const [random, wait] of [
      [0, 0.5],
      [0.5, 10],
      [0.9, 18],
    ]) {
      page.random = random;
      const { deadlines } = next(page.context, { type: "closed", code: 1012 }, page).context;
      assert.equal(deadlines.retry - page.now, wait * 1_000);
    }
  });

  test("later retries back off to thirty seconds, with full jitter", () => {
    const page = opened();
    page.random = 0.999;
    const waits = [];
    for (let i = 0; i < 8; i++) {
      page.fail();
      waits.push((page.context.deadlines.retry - page.now) / 1_000);
      page.retry();
    }
    assert.deepEqual(waits.map(Math.round), [3, 2, 4, 8, 16, 30, 30, 30]);
    page.random = 0;
    assert.equal(page.fail().context.deadlines.retry - page.now, 500);
  });

  test("only a socket that held for five seconds resets the back-off", () => {
    const page = IN.waiting();
    page.retry().tell(HELLO).pass(4).fail();
    for (let i = 0; i < 2; i++) {
      page.retry().tell(posted(page.context.posting, BEAT), HELLO).pass(4).tell({ type: "closed", code: 1011 });
    }
    assert.equal(page.context.failures, 4);
    page.retry().tell(posted(page.context.posting, BEAT), HELLO).pass(5);
    assert.equal(page.context.failures, 0);
  });

  test("no hello within ten seconds counts as lost", () => {
    const page = IN.connecting();
    assert.deepEqual(page.pass(9.9).did, []);
    assert.deepEqual(page.pass(0.1).did, ["drop"]);
    assert.equal(page.state, "waiting");
  });

  test("silence for two intervals and five seconds counts as lost", () => {
    const page = opened();
    page.pass(54.9);
    assert.equal(page.state, "open");
    assert.deepEqual(page.pass(0.1).did, ["drop"]);
    assert.equal(page.state, "waiting");
  });

  test("any message breaks the silence, even one that a late timer would have missed", () => {
    const page = opened().sleep(49).tell({ type: "push", data: 1 }).sleep(49).tell("ask");
    assert.equal(page.state, "open");
    page.sleep(58).tell(BEAT); // the timer for silence was due 3 s ago, but had not run
    assert.equal(page.state, "open");
  });

  test("an error that no close follows is terminal after a second", () => {
    for (const make of [IN.connecting, IN.open]) {
      const page = make().tell("error");
      page.pass(0.9);
      assert.notEqual(page.state, "waiting");
      assert.deepEqual(page.pass(0.2).did, ["drop"]);
      assert.equal(page.state, "waiting");
    }
  });

  test("without a network it waits for one, and tries once a minute all the same", () => {
    const page = IN.offline();
    assert.deepEqual(page.pass(59).did, []);
    assert.deepEqual(page.pass(1).did, ["connect"]);
    assert.deepEqual(IN.offline().tell("online").did, ["connect"]);
    assert.equal(IN.waiting().tell("offline").state, "offline");
  });
});

describe("a user who will not wait", () => {
  test("cuts the back-off, and what is taken for a lost network", () => {
    for (const make of [IN.waiting, IN.offline]) {
      assert.deepEqual(make().sleep(0.1).tell("nudge").did, [], "the last attempt was just now");
      const page = make();
      page.random = 0.999;
      for (let i = 0; i < 6; i++) page.retry().fail();
      assert.ok(page.context.deadlines.retry - page.now > 25_000);
      assert.deepEqual(page.sleep(2).tell("nudge").did, [make === IN.waiting ? "post" : "connect"]);
    }
  });

  test("has a try every two seconds at most", () => {
    const page = IN.waiting();
    page.random = 0.999;
    for (let i = 0; i < 6; i++) page.retry().fail();
    const before = page.now;
    let tries = 0;
    while (page.now < before + 20_000) {
      page.pass(0.1).tell("nudge");
      if (page.context.posting) {
        tries += 1;
        page.fail();
      }
    }
    assert.ok(tries >= 9 && tries <= 10, `${tries}`);
  });

  test("does not put off a retry that is due sooner", () => {
    const page = IN.waiting();
    const { retry } = page.context.deadlines;
    assert.equal(page.tell("nudge").context.deadlines.retry, retry);
  });
});

describe("a session near its end", () => {
  const near = { type: "beat", n: 2, expires_in: 8, ends_in: 40_000 };

  test("is not slept over: a retry leaves half of what remains", () => {
    const page = opened().tell(near);
    page.random = 0.999;
    const waits = [];
    for (let left = 8; left > 0.5; left = (page.context.expiresAt - page.now) / 1_000) {
      page.fail();
      const wait = (page.context.deadlines.retry - page.now) / 1_000;
      assert.ok(wait <= Math.max(0.5, left / 2), `${wait} s of ${left} s`);
      waits.push(wait);
      page.retry();
    }
    assert.ok(waits.length >= 4, `${waits}`);
  });

  test("nor while the network seems to be gone", () => {
    const page = opened().tell(near);
    page.online = false;
    page.tell({ type: "closed", code: 1006 });
    assert.equal(page.context.deadlines.retry - page.now, 4_000);
  });

  test("nor between two polls that fail", () => {
    const page = polling().tell(posted(2, { ...near, expires_in: 35 }));
    page.random = 0.999;
    page.pass(27.5).fail();
    const left = page.context.expiresAt - page.now;
    assert.ok(left > 0 && page.context.deadlines.retry - page.now <= left / 2);
  });

  test("once past it has the usual back-off", () => {
    const page = opened().tell({ ...near, expires_in: 1 }).pass(2);
    page.random = 0.999;
    for (let i = 0; i < 7; i++) page.fail().retry();
    page.fail();
    assert.equal(Math.round((page.context.deadlines.retry - page.now) / 1_000), 30);
  });
});

describe("waking up", () => {
  test("probes an open socket and gives it five seconds", () => {
    const page = opened().sleep(10).tell("wake");
    assert.deepEqual(page.did, ["send"]);
    assert.deepEqual(page.pass(4.9).did, []);
    assert.deepEqual(page.pass(0.1).did, ["drop"]);
  });

  test("an answer ends the probe; an old ask from before the sleep does not", () => {
    const page = opened().sleep(10).tell("wake", "ask").pass(4).tell(BEAT).pass(10);
    assert.equal(page.state, "open");
    const lost = opened().sleep(10).tell("wake", { type: "push", data: 1 }).pass(5);
    assert.equal(lost.state, "waiting");
  });

  test("a clock that jumped more than two intervals is a wake, whatever event shows it", () => {
    const page = opened().sleep(3_600).tell("tick");
    assert.equal(page.state, "open");
    assert.ok(page.did.includes("send"));
    assert.equal(page.pass(5).state, "waiting");
    assert.deepEqual(IN.waiting().sleep(3_600).tell("tick").did, ["connect"]);
  });

  test("a clock set back delays nothing", () => {
    const page = opened();
    page.now -= 3_600_000;
    assert.deepEqual(page.tell("tick").did, []);
    assert.deepEqual(page.pass(25).did, ["send"]);
    assert.equal(page.context.expiresAt - page.now, 1_775_000);
    assert.equal(page.context.endsAt - page.now, 39_975_000);
  });

  test("skips the back-off", () => {
    for (const event of ["wake", "online"]) assert.deepEqual(IN.waiting().tell(event).did, ["connect"]);
  });
});

describe("letting go of the socket", () => {
  for (const [what, event, returns] of [
    ["stopping", "stop", false],
    ["another tab that leads", "follow", false],
    ["a page that is left", "pagehide", false],
    ["an end", { type: "end", reason: "logout" }, false],
    ["a page that is frozen", "freeze", true],
    ["a lost connection", { type: "closed", code: 1006 }, true],
  ]) {
    test(`${returns ? "for a while" : "for good"}: ${what}`, () => {
      const { effects } = opened().tell(event);
      assert.deepEqual(effects[0], { type: "drop", returns });
    });
  }

  test("for a while: silence, also without a network", () => {
    for (const online of [true, false]) {
      const page = opened();
      page.online = online;
      page.pass(60);
      const drops = page.effects.filter(({ type }) => type === "drop");
      assert.deepEqual(drops, [{ type: "drop", returns: true }]);
    }
  });
});

describe("freezing", () => {
  test("lets go of the socket and hears nothing until it wakes", () => {
    const page = opened();
    assert.deepEqual(page.tell("freeze").did, ["drop"]);
    for (const event of [
      "online",
      "offline",
      "nudge",
      "start",
      BEAT,
      HELLO,
      { type: "closed", code: 4501 },
    ]) {
      assert.deepEqual(page.tell(event).effects, []);
      assert.equal(page.state, "frozen");
    }
    assert.deepEqual(page.pass(3_600).did, []);
    assert.deepEqual(page.tell("wake").did, ["connect"]);
    assert.equal(page.context.failures, 0);
  });
});

describe("polling", () => {
  test("begins when a POST is answered and the socket is not, on the third attempt", () => {
    const page = new Page().tell(START).fail().retry();
    assert.deepEqual(page.fail().did, ["drop"]);
    assert.deepEqual(page.retry().effects, [{ type: "post", n: 1, visible: true }], "is it the server, or only the socket?");
    assert.deepEqual(page.tell(posted(1, BEAT)).did, ["beat", "connect"]);
    assert.deepEqual(page.fail().effects, [{ type: "drop", returns: true }, { type: "post", n: 2, visible: true }]);
    assert.equal(page.state, "polling");
  });

  test("begins on a page that had a socket before, too: a laptop moves", () => {
    const page = opened().fail().retry().fail().retry();
    page.tell(posted(page.context.posting, BEAT)).fail();
    assert.equal(page.state, "polling");
  });

  test("never begins while the server is away", () => {
    const page = IN.waiting();
    for (let i = 0; i < 10; i++) {
      page.retry().fail();
      assert.equal(page.state, "waiting");
    }
  });

  test("a server that comes back is greeted over the socket at once", () => {
    const page = IN.waiting().retry().fail().retry().fail().retry();
    assert.deepEqual(page.tell(posted(page.context.posting, BEAT)).did, ["beat", "connect"]);
    assert.equal(page.tell(HELLO).state, "open");
    assert.equal(page.fail().state, "waiting", "what was learnt of the socket then is past");
  });

  test("beats, and posts again an interval later", () => {
    const page = polling();
    assert.deepEqual(page.tell(posted(2, BEAT)).did, ["beat"]);
    assert.deepEqual(page.pass(24.9).did, []);
    assert.deepEqual(page.pass(0.1).effects, [{ type: "post", n: 3, visible: true }]);
  });

  test("goes by the rules that come with a beat over HTTP, for nobody has greeted it", () => {
    const rules = { interval: 5, hidden_interval: 20, warn_before: 3, mode: "activity", who: "5d" };
    const page = polling().tell(posted(2, { ...BEAT, ...rules }));
    const { mode, who, warnBefore } = page.context;
    assert.deepEqual([mode, who, warnBefore], ["activity", "5d", 3_000]);
    assert.deepEqual(page.pass(4.9).did, []);
    assert.deepEqual(page.pass(0.1).did, ["post"]);
    page.visible = false;
    assert.deepEqual(page.tell(posted(3, { ...BEAT, ...rules })).pass(19.9).did, []);
    assert.deepEqual(page.pass(0.1).did, ["post"]);
  });

  test("has one request under way at most", () => {
    assert.deepEqual(polling().sleep(5).tell("nudge", "nudge").did, []);
  });

  test("asks anew for input that came while a request was under way", () => {
    const page = polling().sleep(1).tell("nudge").pass(5);
    assert.deepEqual(page.did, []);
    assert.deepEqual(page.tell(posted(2, BEAT)).did, ["beat"]);
    assert.deepEqual(page.pass(0.5).effects, [{ type: "post", n: 3, visible: true }]);
    assert.deepEqual(page.tell(posted(3, BEAT)).pass(24.9).did, [], "once");
  });

  test("is over when nothing answers any more", () => {
    const page = polling().tell(posted(2, null));
    assert.equal(page.state, "waiting");
    assert.deepEqual(page.retry().did, ["post"]);
  });

  test("does as a wait says", () => {
    const page = polling().tell(posted(2, { type: "wait", n: 2, retry_in: 1, why: "store" }));
    assert.equal(page.state, "polling");
    assert.deepEqual(page.pass(1.1).did, ["post"]);
    const waiting = IN.waiting().retry().fail().retry();
    waiting.tell(posted(waiting.context.posting, { type: "wait", n: 2, retry_in: 40, why: "store" }));
    assert.deepEqual(waiting.pass(39.9).did, []);
    assert.deepEqual(waiting.pass(0.1).did, ["post"]);
  });

  test("ends when told so", () => {
    const page = polling().tell(posted(2, { type: "end", reason: "idle" }));
    assert.equal(page.state, "ended");
    assert.deepEqual(page.did, ["end"]);
  });

  test("tries the socket again on a wake, and every five minutes", () => {
    assert.deepEqual(polling().tell("wake").did, ["connect"]);
    assert.deepEqual(polling().tell("online").did, ["connect"]);
    const page = polling();
    for (let i = 0; i < 11; i++) page.tell(posted(page.context.posting, BEAT)).pass(25);
    assert.deepEqual(page.tell(posted(page.context.posting, BEAT)).pass(25).did, ["connect"]);
    assert.deepEqual(page.fail().did, ["drop", "post"], "and goes on");
  });

  test("does not take a late timer for a wake: a hidden page's run once a minute", () => {
    const page = polling().tell(posted(2, BEAT)).sleep(60).tell("tick");
    assert.equal(page.state, "polling");
    assert.deepEqual(page.did, ["post"]);
  });
});

describe("a hidden page", () => {
  test("pings as seldom as hello says, and as often as ever once it shows", () => {
    const page = new Page().tell(START, { ...HELLO, hidden_interval: 120 });
    page.visible = false;
    assert.deepEqual(page.pass(25).did, ["send"], "the ping that was due when it was hidden");
    page.tell(BEAT);
    assert.deepEqual(page.pass(119).did, []);
    assert.deepEqual(page.pass(1).did, ["send"]);
    page.tell(BEAT).sleep(30);
    page.visible = true;
    assert.deepEqual(page.tell("wake").did, ["send"]);
    assert.deepEqual(page.tell(BEAT).pass(25).did, ["send"]);
  });

  test("never pings more often than one that shows", () => {
    const page = new Page();
    page.visible = false;
    page.tell(START, { ...HELLO, hidden_interval: 1 });
    assert.deepEqual(page.pass(24).did, []);
  });
});

describe("what is known", () => {
  test("of a page that was just loaded, its session; of one from history, nothing yet", () => {
    assert.equal(new Page().tell(START).context.known, true);
    const old = new Page().tell("start");
    assert.equal(old.context.known, false);
    assert.equal(old.tell(HELLO).context.known, true);
  });

  test("ends with the deadline, to the moment, unless the server speaks", () => {
    const page = opened().tell({ ...BEAT, expires_in: 30 }).fail();
    page.pass(29.9);
    assert.equal(page.context.known, true);
    page.pass(0.1);
    assert.equal(page.context.known, false);
    assert.notEqual(page.state, "ended", "only the server ends a session");
    assert.equal(opened().tell({ type: "end", reason: "idle" }).sleep(9_000).tell("tick").context.known, true);
  });

  test("ends with a long sleep and with a freeze, until the answer", () => {
    const slept = opened().sleep(3_600).tell("tick");
    assert.equal(slept.context.known, false);
    assert.equal(slept.tell(BEAT).context.known, true);
    const thawed = IN.frozen().sleep(60).tell("wake");
    assert.equal(thawed.context.known, false);
    assert.equal(thawed.tell(HELLO).context.known, true);
  });

  for (const [state, make] of Object.entries({
    ...IN,
    "waiting, with a POST under way": () => IN.waiting().retry().fail().retry(),
    "polling, between two POSTs": () => polling().tell(posted(2, BEAT)),
  })) {
    if (["idle", "frozen", "ended"].includes(state)) continue;
    for (const event of ["tick", "wake", "online", { type: "closed", code: 1006 }])
      test(`ends with a long sleep, also for a page that is ${state}, and wakes by ${event.type ?? event}`, () => {
        const page = make();
        page.context = { ...page.context, known: true };
        page.sleep(1_200).tell(event);
        assert.equal(page.context.known, false);
        assert.notEqual(page.state, "ended");
      });
  }

  test("comes back with the first answer after a sleep", () => {
    const page = polling().tell(posted(2, BEAT)).sleep(200).tell("tick");
    assert.equal(page.context.known, false);
    assert.deepEqual(page.did, ["post"]);
    assert.equal(page.tell(posted(page.context.posting, BEAT)).context.known, true);
  });

  test("stays when a timer is merely throttled: a hidden page's run once a minute", () => {
    for (const make of [IN.connecting, IN.waiting, IN.offline, polling, () => polling().tell(posted(2, BEAT))]) {
      const page = make();
      page.visible = false;
      page.context = { ...page.context, known: true };
      page.pass((nearest(page.context) - page.now) / 1_000 - 0.001).sleep(60).tell("tick");
      assert.equal(page.context.known, true, page.state);
    }
  });

  test("stays when the user merely looks back in", () => {
    assert.equal(opened().sleep(20).tell("wake").context.known, true);
  });
});

describe("another tab", () => {
  const later = { type: "told", who: null, expiresAt: BEGINNING + 1_900_000, endsAt: BEGINNING + 9e6 };

  test("that has had a beat moves the deadline, and takes the warning away", () => {
    const page = opened().tell({ type: "warning", expires_in: 60, why: "idle", extendable: true });
    page.tell(later);
    assert.equal(page.context.warning, null);
    assert.equal(page.context.expiresAt, later.expiresAt);
    assert.equal(page.context.endsAt, later.endsAt);
  });

  test("never brings a deadline nearer", () => {
    const page = opened().tell({ ...later, expiresAt: BEGINNING + 5_000 });
    assert.equal(page.context.expiresAt, BEGINNING + 1_800_000);
  });

  test("of another user says nothing about this page", () => {
    const page = new Page().tell(START, { ...HELLO, who: "ann" }).tell({ ...later, who: "bob" });
    assert.equal(page.context.expiresAt, BEGINNING + 1_700_000);
    assert.equal(page.tell({ ...later, who: "ann" }).context.expiresAt, later.expiresAt);
  });
});

describe("sharing one socket", () => {
  test("a page follows until it is told to lead", () => {
    const page = new Page().tell({ ...START, share: true });
    assert.equal(page.state, "following");
    assert.deepEqual(page.did, ["request"]);
    assert.deepEqual(page.tell("lead").did, ["connect"]);
  });

  test("what the leader hears is told as if the page had heard it", () => {
    const page = following();
    assert.deepEqual(page.tell(BEAT, { type: "push", data: 1 }).did, ["beat", "push"]);
    assert.deepEqual(page.tell({ ...BEAT, renew: true }).did, ["beat"], "the leader has fetched the cookie");
    assert.equal(page.context.expiresAt, BEGINNING + 1_800_000);
    assert.equal(page.tell({ type: "end", reason: "logout" }).state, "ended");
  });

  test("a nudge and a wake go to the leader, who has five seconds", () => {
    assert.deepEqual(following().tell("nudge").did, ["request"]);
    const page = following().sleep(20).tell("wake");
    assert.deepEqual(page.did, ["request"]);
    assert.deepEqual(page.pass(5).did, ["steal"]);
    assert.deepEqual(following().sleep(20).tell("wake", BEAT).pass(5).did, []);
  });

  test("a silent leader is replaced, by a page that shows", () => {
    const page = following();
    assert.deepEqual(page.pass(54.9).did, []);
    assert.deepEqual(page.pass(0.1).did, ["steal"]);
    const hidden = following();
    hidden.visible = false;
    assert.deepEqual(hidden.pass(600).did, []);
  });

  test("one that tells of its trouble is not", () => {
    const page = following();
    for (let i = 0; i < 5; i++) assert.deepEqual(page.pass(50).tell({ type: "led", state: "waiting" }).did, []);
    assert.equal(page.context.led, "waiting");
  });

  test("one that polls is not replaced for a slow answer: only an open socket may be dead unnoticed", () => {
    const woken = (state) => following().sleep(20).tell("wake", { type: "led", state }).pass(5).did;
    assert.deepEqual(woken("polling"), []);
    assert.deepEqual(woken("open"), ["steal"]);
  });

  test("who is replaced lets go of the socket", () => {
    const page = following().tell("lead", HELLO, BEAT);
    assert.deepEqual(page.tell("follow").did, ["drop", "request"]);
    assert.equal(page.state, "following");
  });

  test("a page that cannot share is on its own, until it starts anew", () => {
    const page = following().tell({ type: "lead", share: false }, HELLO);
    assert.equal(page.state, "open");
    assert.equal(page.tell("freeze", "wake").state, "connecting");
    assert.equal(page.tell("stop", { ...START, share: true }).state, "following");
  });

  test("a page that thaws follows again", () => {
    assert.equal(following().tell("lead", HELLO, "freeze", "wake").state, "following");
  });
});

describe("a cookie that is due", () => {
  test("is fetched by one POST, and not twice at once", () => {
    const page = opened();
    const due = { ...BEAT, renew: true };
    assert.deepEqual(page.tell(due).effects.at(-1), { type: "post", n: 2, visible: true });
    assert.deepEqual(page.tell(due).did, ["beat"]);
    assert.deepEqual(
      page.tell({ type: "posted", n: 2, message: BEAT }).did,
      [],
      "its answer is no second beat",
    );
    assert.deepEqual(page.tell(due).did, ["beat", "post"]);
  });

  test("that tells of an end is believed", () => {
    const page = opened().tell({ ...BEAT, renew: true });
    assert.equal(
      page.tell({ type: "posted", n: 2, message: { type: "end", reason: "logout" } }).state,
      "ended",
    );
  });

  test("that comes back after a new start says nothing about it", () => {
    const page = opened().tell({ ...BEAT, renew: true }, { type: "end", reason: "idle" }, "start");
    assert.equal(
      page.tell({ type: "posted", n: 2, message: { type: "end", reason: "idle" } }).state,
      "connecting",
    );
  });
});

/** Mulberry32, so that a failure can be repeated. */
function generator(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

test("200,000 random events break no invariant", () => {
  const random = generator(20_240_229);
  const pick = (list) => list[Math.floor(random() * list.length)];
  const often = ["start", "tick", "ask", "online"]
    .map((type) => ({ type }))
    .concat([BEAT, { type: "closed", code: 1006 }]);
  const visited = new Set();
  for (let walk = 0; walk < 200; walk++) {
    const page = new Page();
    // Half of the pages never hear a hello: there, WebSockets are blocked.
    const events = walk % 2 ? EVENTS : EVENTS.filter(({ type }) => type !== "hello");
    const usual = walk % 2 ? [...often, HELLO] : often;
    let [sockets, greeted, lastN] = [0, false, 0];
    for (let i = 0; i < 1_000; i++) {
      page.now += random() < 0.001 ? (random() - 0.5) * 1e7 : random() * 4_000;
      page.random = random();
      page.online = random() < 0.8;
      let event = random() < 0.7 ? pick(usual) : pick(events);
      if (event.type === "posted" && random() < 0.7) event = { ...event, n: page.context.posting };
      const before = page.state;
      const at = `walk ${walk}, event ${i}: ${before} --${event.type}-->`;
      page.tell(event);
      visited.add(page.state);
      assert.ok(page.state in TABLE, at);
      if (before === "ended" && event.type !== "start") assert.deepEqual(page.effects, [], at);
      if (event.type === "hello" && before === "connecting") greeted = true;
      for (const { type, n } of page.effects) {
        if (type === "connect") [sockets, greeted] = [sockets + 1, false];
        if (type === "drop") sockets -= 1;
        if (type === "send") assert.ok(greeted && sockets === 1, `${at} a ping before hello`);
        if (n !== undefined) assert.equal(n, ++lastN, `${at} n rises by one`);
        assert.ok(sockets === 0 || sockets === 1, `${at} ${sockets} sockets`);
      }
      assert.equal(sockets === 1, page.state === "connecting" || page.state === "open", at);
      assert.ok(nearest(page.context) > page.now, `${at} a deadline left overdue`);
      // A page that lives always has something to come.
      const rests = ["idle", "frozen", "ended"].includes(page.state);
      if (rests) assert.equal(nearest(page.context), Infinity, at);
      else assert.ok(nearest(page.context) < Infinity, `${at} stuck`);
      const { deadlines, expiresAt } = page.context;
      if ((page.state === "waiting" && !page.context.posting) || page.state === "offline") {
        if (expiresAt > page.now)
          assert.ok(deadlines.retry <= Math.max(expiresAt, page.now + 500), `${at} sleeps over the end`);
        if (event.type === "nudge" && page.state === before)
          assert.ok(deadlines.retry <= page.now + 2_000, `${at} the user waits`);
      }
      if (!MESSAGES.includes(event.type) && event.type !== "closed" && event.type !== "posted") {
        assert.ok(page.state !== "ended" || before === "ended", `${at} only the server ends a session`);
      }
    }
    assert.ok(lastN > 0);
  }
  assert.deepEqual([...visited].sort(), Object.keys(TABLE).sort(), "the walks saw every state");
});
