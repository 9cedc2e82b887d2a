/** The runner in a window of its own making: no network, and time passes when told to. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { baseOf } from "../../web/keepalive.js";
import { BEAT, Browser, HELLO, settled, Target } from "./browser.js";

function world(options) {
  const tab = new Browser().tab(options);
  return { ...tab, keepalive: tab.open() };
}

function opened() {
  const all = world();
  all.keepalive.start();
  all.socket().say(HELLO, BEAT);
  return all;
}

describe("the socket", () => {
  test("goes to ws under src, by the protocol's name", () => {
    const { keepalive, socket } = world();
    keepalive.start();
    assert.match(socket().url, /^wss:\/\/app\.example\/keepalive\/ws\?page=[\w-]{5,32}$/);
    assert.equal(socket().protocol, "keepalive.v1");
  });

  test("src may be absolute, relative, with or without a slash; by default it is the module's parent", () => {
    const env = { document: { baseURI: "https://app.example/shop/" } };
    for (const [src, base] of [
      ["/k", "https://app.example/k/"],
      ["k/", "https://app.example/shop/k/"],
      ["http://b.example/k", "http://b.example/k/"],
    ]) {
      assert.equal(baseOf(src, env).href, base);
    }
    assert.equal(baseOf(null).href, new URL("../../", import.meta.url).href);
  });

  test("start twice opens one", () => {
    const { keepalive, sockets } = opened();
    keepalive.start();
    assert.equal(sockets.length, 1);
  });

  test("a ping leaves inside the message handler, without timer or await", () => {
    const { socket } = opened();
    assert.equal(socket().sent.length, 1);
    socket().say({ type: "ask" });
    assert.equal(socket().sent.length, 2);
    assert.deepEqual(socket().sent[1], { type: "ping", n: 2, visible: true });
  });

  test("a constructor that throws is one more failed attempt", async () => {
    const { keepalive, browser } = world();
    browser.blocked = true;
    keepalive.start();
    assert.equal(keepalive.state, "waiting");
    browser.answers.push(BEAT, BEAT);
    await browser.pass(5);
    assert.equal(keepalive.state, "polling");
  });

  test("an error without a close is given up after a second, and its late words count for nothing", async () => {
    const { keepalive, socket, browser, sockets } = opened();
    const first = socket();
    first.fire("error");
    await browser.pass(1);
    assert.equal(keepalive.state, "waiting");
    await browser.pass(3);
    assert.equal(sockets.length, 2);
    first.say({ type: "end", reason: "idle" });
    first.lose(4501);
    assert.equal(keepalive.state, "connecting");
  });

  test("stop closes an open one with 1000, and one that connects, too: the next would wait for it", () => {
    const { keepalive, socket, window, browser } = opened();
    keepalive.stop();
    assert.deepEqual(socket().closed, [1000]);
    keepalive.start();
    const connecting = socket();
    keepalive.stop();
    assert.deepEqual(connecting.closed, [1000]);
    assert.equal(browser.timers.size, 0);
    assert.equal(
      window.listeners.size + window.document.listeners.size,
      0,
      "no listener is left on the page",
    );
  });

  test("garbage, unknown types and types that are not the server's to say change nothing", () => {
    const { keepalive, socket, heard } = opened();
    const before = heard.length;
    socket().say(
      "",
      "null",
      "[]",
      "{",
      "42",
      { type: "stop" },
      { type: "closed", code: 4501 },
      { type: "later" },
      { type: "constructor" },
    );
    assert.equal(keepalive.state, "open");
    assert.equal(heard.length, before);
  });
});

describe("what it tells", () => {
  test("typed events with their fields, bubbling and composed", () => {
    const { socket, said } = opened();
    socket().say(
      { ...BEAT, n: 2, times: 3, data: { unread: 1 } },
      { type: "warning", expires_in: 60, why: "idle", extendable: true },
      { type: "push", data: [1] },
      { type: "end", reason: "revoked", login: "/login" },
    );
    const beat = said("beat")[1];
    assert.deepEqual(
      [beat.n, beat.expiresIn, beat.endsIn, beat.times, beat.data],
      [2, 1800, 40_000, 3, { unread: 1 }],
    );
    assert.equal(said("beat")[0].times, 2, "the protocol's default");
    const [warning] = said("warning");
    assert.deepEqual([warning.expiresIn, warning.why, warning.extendable], [60, "idle", true]);
    assert.deepEqual(said("push")[0].data, [1]);
    assert.deepEqual([said("end")[0].reason, said("end")[0].login], ["revoked", "/login"]);
    assert.deepEqual(
      said("statechange").map(({ previous, state }) => `${previous}>${state}`),
      ["idle>connecting", "connecting>open", "open>ended"],
    );
    assert.ok(beat.bubbles && beat.composed);
  });

  test("properties", async () => {
    const { keepalive, socket, browser } = world();
    assert.deepEqual(
      [
        keepalive.state,
        keepalive.mode,
        keepalive.expiresIn,
        keepalive.endsIn,
        keepalive.reason,
        keepalive.warning,
      ],
      ["idle", null, null, null, null, null],
    );
    keepalive.start();
    socket().say(HELLO);
    await browser.pass(10);
    assert.deepEqual([keepalive.mode, keepalive.expiresIn, keepalive.endsIn], ["presence", 1690, 39_990]);
    socket().say({ ...BEAT, ends_in: undefined });
    assert.equal(keepalive.endsIn, null);
    socket().say({ type: "warning", expires_in: 5, why: "idle", extendable: false });
    assert.deepEqual(keepalive.warning, { why: "idle", extendable: false });
    assert.equal(keepalive.expiresIn, 5);
    socket().say({ type: "end", reason: "idle" });
    assert.deepEqual([keepalive.state, keepalive.reason, keepalive.warning], ["ended", "idle", null]);
  });

  test("a listener may stop or start it, and everything stays in order", () => {
    const { keepalive, socket, said } = opened();
    keepalive.addEventListener("session-end", () => keepalive.start(), { once: true });
    socket().say({ type: "end", reason: "idle" });
    assert.equal(keepalive.state, "connecting");
    keepalive.addEventListener("session-beat", () => keepalive.stop());
    socket().say(HELLO, BEAT);
    assert.deepEqual(
      said("statechange")
        .slice(2)
        .map(({ state }) => state),
      ["ended", "connecting", "open", "idle"],
    );
  });
});

describe("what it says", () => {
  test("idle counts from the last trusted input, and is left out before any", async () => {
    const { window, socket, browser } = opened();
    assert.ok(!("idle" in socket().sent[0]));
    window.fire("keydown", { isTrusted: false });
    await browser.pass(10);
    window.fire("pointermove", { movementX: 0, movementY: 0 });
    assert.equal(socket().sent.length, 1, "neither a script nor a resting pointer is a user");
    window.fire("keydown");
    assert.equal(socket().sent[1].idle, 0, "the first sign of a user is told at once");
    await browser.pass(0.5);
    window.fire("keydown");
    await browser.pass(7);
    socket().say({ type: "ask" });
    assert.equal(socket().sent[2].idle, 7.5, "noted once a second");
  });

  test("a click without pointer or key counts, too: assistive technology presses buttons so", async () => {
    const { window, socket, browser } = opened();
    await browser.pass(10);
    window.fire("click", { isTrusted: false });
    assert.equal(socket().sent.length, 1);
    window.fire("click");
    assert.equal(socket().sent[1].idle, 0);
  });

  test("what the user did to ask for a ping counts, and what a script did does not", async () => {
    const { keepalive, socket, browser } = opened();
    await browser.pass(10);
    keepalive.ping({ type: "cancel", isTrusted: false });
    assert.ok(!("idle" in socket().sent[1]));
    await browser.pass(10);
    keepalive.ping({ type: "cancel", isTrusted: true });
    assert.equal(socket().sent[2].idle, 0);
  });

  test("a user who comes back is told of at once, one who goes on is not", async () => {
    const { window, socket, browser } = opened();
    await browser.pass(3);
    window.fire("pointerdown");
    for (let second = 0; second < 20; second++) {
      await browser.pass(1);
      window.fire("pointermove", { movementX: 1, movementY: 0 });
    }
    assert.equal(socket().sent.length, 2);
    for (let i = 0; i < 3; i++) await browser.pass(20).then(() => socket().say(BEAT));
    const before = socket().sent.length;
    window.fire("wheel");
    assert.equal(socket().sent.length, before + 1);
  });

  test("input under a warning that can be extended pings at once", async () => {
    const { window, socket, browser } = opened();
    window.fire("keydown");
    await browser.pass(5);
    socket().say({ type: "warning", expires_in: 60, why: "idle", extendable: true });
    const before = socket().sent.length;
    window.fire("keydown");
    assert.equal(socket().sent.length, before + 1);
  });

  test("visible is as the page is", () => {
    const { window, socket } = opened();
    window.document.visibilityState = "hidden";
    socket().say({ type: "ask" });
    assert.equal(socket().sent[1].visible, false);
  });

  test("data rides on each ping", () => {
    const { keepalive, socket } = opened();
    keepalive.data = () => ({ page: 7 });
    socket().say({ type: "ask" });
    assert.deepEqual(socket().sent[1].data, { page: 7 });
    keepalive.data = () => null;
    socket().say({ type: "ask" });
    assert.ok(!("data" in socket().sent[2]));
  });

  for (const [what, data] of [
    [
      "throws",
      () => {
        throw new Error("mine");
      },
    ],
    ["is no JSON", () => ({ n: 1n })],
    ["is longer than the server takes", () => ({ text: "ü".repeat(2_100) })],
  ]) {
    test(`data that ${what} is reported and left behind: the session matters more`, () => {
      const { keepalive, socket, browser } = opened();
      keepalive.data = data;
      socket().say({ type: "ask" });
      assert.deepEqual(socket().sent[1], { type: "ping", n: 2, visible: true });
      assert.equal(browser.errors.length, 1);
    });
  }
});

describe("the page's life", () => {
  test("a frozen page comes back as the same one, a page that was left as a new one", () => {
    for (const [code, out, back] of [
      [1000, (window) => window.fire("pagehide"), (window) => window.fire("pageshow", { persisted: true })],
      [4000, (window) => window.fire("freeze"), (window) => window.fire("resume")],
    ]) {
      const { keepalive, socket, window } = opened();
      const first = socket();
      out(window);
      assert.equal(keepalive.state, "frozen");
      assert.deepEqual(first.closed, [code]);
      back(window);
      assert.equal(keepalive.state, "connecting");
      assert.notEqual(socket(), first);
      assert.equal(socket().url === first.url, code === 4000);
    }
  });

  test("a frozen page that shows comes back, whatever its browser forgets to say", () => {
    const { keepalive, window } = opened();
    window.fire("freeze");
    window.document.visibilityState = "hidden";
    window.fire("visibilitychange");
    assert.equal(keepalive.state, "frozen");
    window.document.visibilityState = "visible";
    window.fire("visibilitychange");
    assert.equal(keepalive.state, "connecting");
  });

  test("each page has an id, which it keeps until it says goodbye", async () => {
    const { keepalive, socket, browser } = opened();
    const first = socket();
    first.lose();
    await browser.pass(3);
    assert.notEqual(socket(), first);
    assert.equal(socket().url, first.url);
    keepalive.stop();
    keepalive.start();
    assert.notEqual(socket().url, first.url);
    assert.notEqual(opened().socket().url, first.url);
  });

  test("a page thawed without having been frozen probes its socket", async () => {
    const { socket, window, browser, sockets } = opened();
    await browser.pass(5);
    window.fire("pageshow", { persisted: true });
    assert.equal(socket().sent.length, 2);
    assert.equal(sockets.length, 1);
  });

  test("a page just loaded is not a page restored", async () => {
    const { socket, window, browser } = opened();
    await browser.pass(5);
    window.fire("pageshow", { persisted: false });
    assert.equal(socket().sent.length, 1);
  });

  test("a page that becomes visible pings; one that hides does not", async () => {
    const { socket, window, browser } = opened();
    await browser.pass(5);
    window.document.visibilityState = "hidden";
    window.fire("visibilitychange");
    assert.equal(socket().sent.length, 1);
    window.document.visibilityState = "visible";
    window.fire("visibilitychange");
    assert.equal(socket().sent.length, 2);
  });

  test("offline is not logged out, and online reconnects at once", () => {
    const { keepalive, socket, window, said } = opened();
    window.navigator.onLine = false;
    window.fire("offline");
    socket().lose();
    assert.equal(keepalive.state, "offline");
    window.navigator.onLine = true;
    window.fire("online");
    assert.equal(keepalive.state, "connecting");
    assert.deepEqual(said("end"), []);
  });
});

test("ping() does not wait for the next attempt", async () => {
  const { keepalive, socket, browser } = opened();
  await browser.pass(6);
  socket().lose();
  assert.equal(keepalive.state, "waiting");
  keepalive.ping();
  assert.equal(keepalive.state, "connecting");
});

describe("HTTP", () => {
  test("a cookie that is due is fetched by one POST of a ping", async () => {
    const { socket, said, browser, keepalive } = opened();
    browser.answers.push({ ...BEAT, n: 2 });
    socket().say({ ...BEAT, renew: true });
    assert.equal(browser.requests.length, 1);
    const { url, method, headers, body, cache } = browser.requests[0];
    assert.equal(url, socket().url.replace("wss:", "https:").replace("/ws?", "/heartbeat?"), "as the same page");
    assert.deepEqual([method, headers, cache], ["POST", { "Content-Type": "application/json" }, "no-store"]);
    assert.deepEqual(body, { type: "ping", n: 2, visible: true });
    await settled();
    assert.equal(said("beat").length, 2, "the two of the socket");
  });

  test("polls where WebSockets are blocked, and returns to them on a wake", async () => {
    const { keepalive, socket, window, said, browser } = world();
    keepalive.start();
    browser.answers.push(BEAT, BEAT, "<html>a portal</html>", BEAT, BEAT);
    for (let i = 0; i < 3; i++) {
      socket().lose();
      if (keepalive.state === "waiting") await browser.pass(2);
    }
    await settled();
    assert.equal(keepalive.state, "polling");
    assert.equal(said("beat").length, 2);
    await browser.pass(25);
    assert.equal(browser.requests.length, 3);
    assert.equal(keepalive.state, "waiting", "a portal's page is no beat");
    await browser.pass(10);
    assert.equal(said("beat").length, 3, "and not the end either");
    socket().lose();
    await settled();
    assert.equal(keepalive.state, "polling");
    window.fire("visibilitychange");
    assert.equal(keepalive.state, "connecting");
    socket().say(HELLO);
    assert.equal(keepalive.state, "open");
    const names = [...browser.requests, socket()].map(({ url }) => new URL(url).search);
    assert.equal(new Set(names).size, 1, "always as the same page");
  });

  test("ends by a POST that says so", async () => {
    const { keepalive, socket, said, browser } = opened();
    browser.answers.push({ type: "end", reason: "logout" });
    socket().say({ ...BEAT, renew: true });
    await settled();
    assert.equal(keepalive.state, "ended");
    assert.equal(said("end")[0].reason, "logout");
    assert.deepEqual(socket().closed, [1000]);
  });
});

test("a timer never waits longer than setTimeout can", async () => {
  const { keepalive, socket, window, browser } = world();
  keepalive.start();
  socket().say({ ...HELLO, interval: 1e300 });
  await browser.pass(6);
  assert.equal(browser.timers.size, 1);
  for (const { at } of browser.timers.values()) assert.ok(at - window.Date.now() < 2 ** 31);
});

describe("what is known", () => {
  test("is told when it changes", async () => {
    const { browser, keepalive, socket, said } = opened();
    socket().say({ ...BEAT, n: 2, expires_in: 20 });
    assert.equal(keepalive.known, true);
    await browser.pass(20);
    assert.equal(keepalive.known, false);
    const { state, previous, known } = said("statechange").at(-1);
    assert.deepEqual([state, previous, known], ["open", "open", false]);
    socket().say(BEAT);
    assert.equal(said("statechange").at(-1).known, true);
  });

  test("is nothing on a page that history brings back: its session may have ended since", () => {
    const { keepalive, socket } = world({ navigation: "back_forward" });
    keepalive.start();
    assert.equal(keepalive.known, false);
    socket().say(HELLO);
    assert.equal(keepalive.known, true);
    const fresh = world();
    fresh.keepalive.start();
    assert.equal(fresh.keepalive.known, true);
  });

  test("who it is, and where to sign in", () => {
    const { keepalive, socket } = world();
    keepalive.start();
    assert.deepEqual([keepalive.who, keepalive.login], [null, null]);
    socket().say({ ...HELLO, who: "5d" }, { type: "end", reason: "idle", login: "/login" });
    assert.deepEqual([keepalive.who, keepalive.login], ["5d", "/login"]);
  });
});

describe("frames", () => {
  const inner = () => ({ contentWindow: new Target() });
  const foreign = {
    get contentWindow() {
      throw new DOMException("", "SecurityError");
    },
  };

  test("of the same origin are listened to, those there and those to come, when asked for", async () => {
    const { browser, window, open, socket } = world();
    const [there, later] = [inner(), inner()];
    window.frames_ = [foreign, there];
    const keepalive = open({ frames: true });
    keepalive.start();
    socket().say(HELLO);
    there.contentWindow.fire("keydown");
    await browser.pass(5);
    socket().say({ type: "ask" });
    assert.equal(socket().sent.at(-1).idle, 5);
    window.document.fire("load", { target: later });
    window.document.fire("load", { target: foreign });
    later.contentWindow.fire("keydown");
    socket().say({ type: "ask" });
    assert.equal(socket().sent.at(-1).idle, 0);
    keepalive.stop();
    assert.equal(there.contentWindow.listeners.size + later.contentWindow.listeners.size, 0);
  });

  test("are left alone otherwise", () => {
    const { window, keepalive } = world();
    window.frames_ = [inner()];
    keepalive.start();
    assert.equal(window.frames_[0].contentWindow.listeners.size, 0);
  });
});
