/** Several tabs of one browser: what they tell each other, and the one socket that they may share. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { BEAT, Browser, HELLO, settled } from "./browser.js";

const WARNING = { type: "warning", expires_in: 60, why: "idle", extendable: true };

/** Tabs with a socket each, all greeted. */
function tabs(count, hello = HELLO) {
  const browser = new Browser();
  const all = Array.from({ length: count }, () => {
    const tab = browser.tab();
    const keepalive = tab.open();
    keepalive.start();
    tab.socket().say(hello, BEAT);
    return { ...tab, keepalive };
  });
  return { browser, all };
}

/** Tabs that share, the first of which leads. */
async function sharing(count, hello = HELLO) {
  const browser = new Browser();
  const all = [];
  for (let i = 0; i < count; i++) {
    const tab = browser.tab();
    const keepalive = tab.open({ share: true });
    keepalive.start();
    await settled();
    if (i === 0) tab.socket().say(hello, BEAT);
    all.push({ ...tab, keepalive });
  }
  await settled();
  return { browser, all, states: () => all.map(({ keepalive }) => keepalive.state) };
}

/** Pages that go on when another has a session, as the guard has them do, and a server with room for `limit` of
 * them; those in `strangers` have no cookie. Gives the way to let round trips pass, one a second. */
function crowded(browser, all, { limit = Infinity, strangers = new Set() }) {
  for (const { keepalive } of all) keepalive.addEventListener("session-elsewhere", () => keepalive.start());
  let pages = browser.sockets.slice();
  const answered = new Map(pages.map((socket) => [socket, 1]));
  const greet = (socket) => {
    if (all.some((tab) => strangers.has(tab) && tab.sockets.includes(socket)))
      return socket.say({ type: "end", reason: "unknown" });
    socket.say(HELLO);
    pages = [...pages, socket].filter(({ readyState }) => readyState === 1);
    if (pages.length > limit) pages[0].say({ type: "end", reason: "evicted" });
  };
  const answer = (socket) => {
    const n = (answered.get(socket) ?? 0) + 1;
    if (socket.readyState !== 1 || n > socket.sent.length) return;
    answered.set(socket, n);
    socket.say({ ...BEAT, n });
  };
  return async (trips) => {
    for (let trip = 0; trip < trips; trip++) {
      for (const socket of [...browser.sockets]) (socket.readyState ? answer : greet)(socket);
      await settled();
      await browser.pass(1);
    }
  };
}

/** How many sockets are open or opening. */
const live = (browser) => browser.sockets.filter(({ readyState }) => readyState < 2).length;

describe("tabs with a socket each", () => {
  test("input in one is input in all", async () => {
    const { browser, all } = tabs(2);
    await browser.pass(3);
    all[0].window.fire("keydown");
    await settled();
    await browser.pass(4);
    all[1].socket().say({ type: "ask" });
    assert.equal(all[1].socket().sent.at(-1).idle, 4);
  });

  test("a beat in one takes the warning away in all", async () => {
    const { all } = tabs(3);
    await settled();
    for (const { socket } of all) socket().say(WARNING);
    const before = all[0].said("statechange").length;
    all[1].keepalive.ping();
    all[1].socket().say({ ...BEAT, n: 2, expires_in: 1799 });
    await settled();
    for (const { keepalive } of all) {
      assert.equal(keepalive.warning, null);
      assert.equal(keepalive.expiresIn, 1799);
    }
    assert.equal(all[0].said("statechange").length, before + 1, "or nobody would know that it is past");
  });

  test("an end in one makes the others ask the server, and believe only that", async () => {
    const { browser, all } = tabs(2);
    await browser.pass(5);
    all[0].socket().say({ type: "end", reason: "logout" });
    await settled();
    assert.equal(all[1].keepalive.state, "open");
    assert.equal(all[1].socket().sent.length, 2);
  });

  test("one that is over hears that another has a session", async () => {
    const { all } = tabs(2);
    await settled();
    all[0].socket().say({ type: "end", reason: "idle" });
    await settled();
    all[1].socket().say(BEAT);
    await settled();
    assert.equal(all[0].said("elsewhere").length, 1);
    assert.equal(all[0].keepalive.state, "ended", "it is for the page to go on, or not");
  });

  test("one too many ends the oldest, which stays so until its user comes: it would be in place of the next", async () => {
    const { browser, all } = tabs(4);
    const trips = crowded(browser, all, { limit: 3 });
    all[0].socket().say({ type: "end", reason: "evicted" });
    await trips(300);
    const states = () => all.map(({ keepalive }) => keepalive.state);
    assert.deepEqual(states(), ["ended", "open", "open", "open"]);
    assert.equal(browser.sockets.length, 4);
    all[0].keepalive.start();
    await trips(300);
    assert.deepEqual(states(), ["open", "ended", "open", "open"]);
    assert.equal(browser.sockets.length, 5);
  });

  test("one that the server does not know tries once more, and again only after it had a session", async () => {
    const { browser, all } = tabs(2);
    const strangers = new Set([all[0]]);
    const trips = crowded(browser, all, { strangers });
    all[0].socket().lose();
    await trips(600);
    assert.equal(all[0].keepalive.state, "ended");
    assert.equal(all[0].sockets.length, 3, "the first, the next, and one as the other tab has a session");
    strangers.clear();
    all[0].keepalive.start();
    await trips(5);
    all[0].socket().say({ type: "end", reason: "idle" });
    await trips(30);
    assert.equal(all[0].keepalive.state, "open");
    assert.equal(all[0].sockets.length, 5);
  });

  test("hear nothing of another server's, and nothing once they stop", async () => {
    const { browser, all } = tabs(1);
    const other = browser.tab();
    other.open({ src: "/other" }).start();
    other.window.fire("keydown");
    await settled();
    all[0].socket().say({ type: "ask" });
    assert.ok(!("idle" in all[0].socket().sent.at(-1)));
  });
});

describe("sharing", () => {
  test("ten tabs have one socket, and all have its beats", async () => {
    const { browser, all, states } = await sharing(10);
    assert.deepEqual(states(), ["open", ...Array(9).fill("following")]);
    assert.equal(browser.sockets.length, 1);
    const before = all.map(({ said }) => said("beat").length);
    all[0].socket().say({ ...BEAT, n: 9 }, { type: "push", data: "hi" }, WARNING);
    await settled();
    for (const [index, { keepalive, said }] of all.entries()) {
      assert.equal(said("beat").length, before[index] + 1);
      assert.deepEqual(
        said("push").map(({ data }) => data),
        ["hi"],
      );
      assert.ok(keepalive.warning.extendable);
      assert.equal(keepalive.mode, "presence", "greeted by the leader");
    }
  });

  test("input and pings of those who follow go through the leader", async () => {
    const { browser, all } = await sharing(2);
    await browser.pass(5);
    all[1].window.fire("keydown");
    await settled();
    const { sent } = all[0].socket();
    assert.equal(sent.at(-1).idle, 0);
    const before = sent.length;
    await browser.pass(5);
    all[1].keepalive.ping();
    await settled();
    assert.equal(sent.length, before + 1);
  });

  test("a leader out of sight pings for those in sight, as often and as visible, while there are any", async () => {
    const { browser, all } = await sharing(3, { ...HELLO, hidden_interval: 100 });
    const [leader, shown] = all;
    let told = 0;
    /** The pings until so many seconds have passed, each of them confirmed. */
    const pings = async (seconds) => {
      const { sent } = leader.socket();
      const before = told;
      for (let second = 0; second < seconds; second++) {
        while (told < sent.length) leader.socket().say({ ...BEAT, n: ++told });
        await settled();
        await browser.pass(1);
      }
      return sent.slice(before, told).map(({ visible }) => visible);
    };
    for (const { window } of all) window.document.visibilityState = "hidden";
    await pings(60);
    assert.deepEqual(await pings(200), [false, false]);
    shown.window.document.visibilityState = "visible";
    shown.window.fire("visibilitychange");
    await settled();
    assert.deepEqual(await pings(102), Array(5).fill(true), "one at once, then every 25 s");
    shown.window.document.visibilityState = "hidden";
    await pings(60);
    assert.deepEqual(await pings(200), [false, false]);
  });

  test("a tab with a socket of its own pings for itself alone", async () => {
    const { browser, all } = await sharing(2);
    const tab = browser.tab();
    tab.window.document.visibilityState = "hidden";
    tab.open().start();
    tab.socket().say(HELLO, BEAT);
    all[1].window.fire("visibilitychange");
    await settled();
    tab.socket().say({ type: "ask" });
    assert.equal(all[0].socket().sent.at(-1).visible, true);
    assert.equal(tab.socket().sent.at(-1).visible, false);
  });

  test("the next one leads when the leader stops, freezes or is put away", async () => {
    for (const leave of [
      ({ keepalive }) => keepalive.stop(),
      ({ window }) => window.fire("freeze"),
      ({ window }) => window.fire("pagehide"),
    ]) {
      const { browser, all, states } = await sharing(3);
      leave(all[0]);
      await settled();
      assert.deepEqual(states().slice(1), ["connecting", "connecting"], "the third shows what the leader does");
      assert.equal(live(browser), 1);
      all[1].socket().say(HELLO, BEAT);
      await settled();
      assert.deepEqual(states().slice(1), ["open", "following"]);
    }
  });

  test("a leader that comes back from the cache follows", async () => {
    const { browser, all, states } = await sharing(2);
    all[0].window.fire("pagehide");
    await settled();
    all[1].socket().say(HELLO, BEAT);
    all[0].window.fire("pageshow", { persisted: true });
    await settled();
    assert.deepEqual(states(), ["following", "open"]);
    assert.equal(live(browser), 1);
  });

  test("a leader that hangs is replaced by a tab that shows", async () => {
    const { browser, all, states } = await sharing(3);
    all[0].hang();
    all[1].window.document.visibilityState = "hidden";
    await browser.pass(54);
    assert.deepEqual(states(), ["open", "following", "following"]);
    await browser.pass(2);
    assert.deepEqual(states().slice(1), ["connecting", "connecting"]);
    assert.equal(all[1].sockets.length, 0);
    all[2].socket().say(HELLO, BEAT);
    await settled();
    assert.deepEqual(states().slice(1), ["following", "open"]);
  });

  test("one that gets no answer is replaced by a tab that wakes, and lets go", async () => {
    const { browser, all, states } = await sharing(2);
    await browser.pass(20);
    all[1].window.fire("visibilitychange");
    await settled();
    assert.deepEqual(states(), ["open", "following"]);
    await browser.pass(5);
    assert.equal(live(browser), 1);
    assert.deepEqual(states(), ["connecting", "connecting"]);
    all[1].socket().say(HELLO, BEAT);
    await settled();
    assert.deepEqual(states(), ["following", "open"]);
    assert.deepEqual(all[0].socket().closed, [1000]);
  });

  test("those who follow show the trouble of the leader, and steal nothing meanwhile", async () => {
    const { browser, all, states } = await sharing(2);
    all[0].socket().lose();
    await settled();
    assert.deepEqual(states(), ["waiting", "waiting"]);
    assert.deepEqual(all[1].said("statechange").at(-1).state, "waiting");
    assert.equal(live(browser), 0);
  });

  test("those who follow ask through a leader that polls, and one that waits", async () => {
    const { browser, all, states } = await sharing(2);
    browser.blocked = true;
    all[0].socket().lose();
    await browser.pass(1);
    const hasten = async () => {
      await browser.pass(3);
      all[1].keepalive.ping();
      await browser.pass(0);
      await settled();
    };
    assert.deepEqual(states(), ["waiting", "waiting"]);
    const before = all[0].said("statechange").length;
    await hasten();
    assert.ok(all[0].said("statechange").length > before, "it has tried");
    browser.answers.push(BEAT, BEAT, BEAT);
    for (let i = 0; i < 60 && states()[0] !== "polling"; i++) await browser.pass(1);
    await settled();
    assert.deepEqual(states(), ["polling", "polling"]);
    const asked = browser.requests.length;
    const beats = all[1].said("beat").length;
    browser.answers.unshift({ ...BEAT, expires_in: 1799 });
    await hasten();
    assert.equal(browser.requests.length, asked + 1);
    assert.equal(all[1].said("beat").length, beats + 1);
  });

  test("one that comes hears of a warning that stands, and the others hear nothing again", async () => {
    const { browser, all } = await sharing(2, { ...HELLO, mode: "activity" });
    all[0].socket().say(WARNING);
    await browser.pass(10);
    const { said, open } = browser.tab();
    const keepalive = open({ share: true });
    keepalive.start();
    await settled();
    assert.deepEqual(
      said("warning").map(({ expiresIn, why, extendable }) => [expiresIn, why, extendable]),
      [[50, "idle", true]],
    );
    assert.equal(keepalive.warning.why, "idle");
    assert.equal(all[0].said("warning").length, 1);
    assert.equal(all[1].said("warning").length, 1);
    all[0].socket().say({ ...WARNING, why: "absolute", extendable: false });
    await settled();
    assert.equal(all[1].said("warning").length, 2, "another is news");
  });

  test("an end is everybody's", async () => {
    const { browser, all, states } = await sharing(3);
    all[0].socket().say({ type: "end", reason: "logout", login: "/login" });
    await settled();
    assert.deepEqual(states(), ["ended", "ended", "ended"]);
    for (const { said } of all) assert.deepEqual([said("end").length, said("end")[0].login], [1, "/login"]);
    assert.equal(live(browser), 0);
    assert.equal(browser.sockets.length, 1);
  });

  test("a page in a sandbox, which gets no lock, has a socket of its own", async () => {
    const tab = new Browser().tab();
    tab.window.navigator.locks = { request: () => Promise.reject(new DOMException("", "SecurityError")) };
    const keepalive = tab.open({ share: true });
    keepalive.start();
    await settled();
    assert.equal(keepalive.state, "connecting");
  });

  test("one on its own passes nothing on to those who follow another, and takes nothing of that", async () => {
    const { browser, all } = await sharing(2);
    const own = browser.tab();
    own.window.navigator.locks = undefined;
    own.open({ share: true }).start();
    await settled();
    const beats = () => [...all, own].map(({ said }) => said("beat").length);
    const before = beats();
    own.socket().say(HELLO, { ...BEAT, n: 7 });
    await settled();
    assert.deepEqual(beats(), [before[0], before[1], before[2] + 1]);
    all[0].socket().say({ ...BEAT, n: 8 });
    await settled();
    assert.deepEqual(beats(), [before[0] + 1, before[1] + 1, before[2] + 1]);
  });

  test("an insecure page has a socket of its own, and says nothing about it", async () => {
    const tab = new Browser().tab({ secure: false });
    const keepalive = tab.open({ share: true });
    keepalive.start();
    await settled();
    assert.equal(keepalive.state, "connecting");
  });
});
