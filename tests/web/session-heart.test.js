/** The element in real browsers, under a strict policy; only the server is played. */

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { after, before, beforeEach, describe, test } from "node:test";

const WEB = new URL("../../web/", import.meta.url);
const puppeteer = createRequire(new URL("package.json", WEB))("puppeteer-core");

const BROWSERS = [
  { browser: "chrome", executablePath: process.env.CHROME ?? "/usr/bin/chromium", args: ["--no-sandbox"] },
  { browser: "firefox", executablePath: process.env.FIREFOX ?? "/usr/bin/firefox-esr" },
];

const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;" +
  " require-trusted-types-for 'script'; trusted-types 'none'";
const PAGE = `<!doctype html><html lang="en"><title>test</title>
<link rel="icon" href="data:,"><script type="module" src="/keepalive/client/define.js"></script><session-heart></session-heart></html>`;

/** A page that has, as README.md shows it, a heart and a script that listens to it. */
const LISTENING = PAGE.replace(
  "</html>",
  '<button id="stayButton"></button><script type="module" src="/readme.js"></script></html>',
);

async function readme() {
  const text = await readFile(new URL("../../README.md", import.meta.url), "utf8");
  return text.match(/```js\n([^]*?)```/)[1];
}

async function serve(request, response) {
  if (request.url === "/readme.js") {
    response.setHeader("Content-Type", "text/javascript");
    return response.end(await readme());
  }
  const name = request.url.match(/^\/keepalive\/client\/([a-z-]+\.js)$/)?.[1];
  response.setHeader("Content-Security-Policy", POLICY);
  response.setHeader("Content-Type", name ? "text/javascript" : "text/html");
  response.end(name ? await readFile(new URL(name, WEB)) : request.url === "/" ? PAGE : LISTENING);
}

/** Runs in the page before anything else: a server that greets, and beats once for each ping. */
function playServer() {
  globalThis.policyViolations = [];
  document.addEventListener("securitypolicyviolation", (event) =>
    policyViolations.push(event.violatedDirective),
  );
  globalThis.sockets = [];
  globalThis.WebSocket = class {
    readyState = 0;
    constructor(url) {
      this.url = String(url);
      sockets.push(this);
      setTimeout(() => {
        this.readyState = 1;
        this.say({
          type: "hello",
          interval: 25,
          idle_timeout: 1800,
          expires_in: 1800,
          warn_before: 60,
          mode: "presence",
          spread: 3,
        });
      });
    }
    say(message) {
      this.onmessage?.({ data: JSON.stringify(message) });
    }
    send(text) {
      const { n } = JSON.parse(text);
      this.say({ type: "beat", n, expires_in: 1800, times: 3 });
    }
    close() {
      this.readyState = 2;
    }
  };
}

for (const options of BROWSERS) {
  const skip = existsSync(options.executablePath) ? false : `there is no ${options.executablePath}`;

  describe(`<session-heart> in ${options.browser}`, { skip }, () => {
    let server, browser, page;

    before(async () => {
      server = createServer(serve).listen(0, "127.0.0.1");
      browser = await puppeteer.launch(options);
    });
    after(async () => {
      await browser?.close();
      server?.close();
    });
    beforeEach(async () => {
      await page?.close();
      page = await browser.newPage();
      await page.evaluateOnNewDocument(playServer);
    });

    const open = async () => {
      await page.goto(`http://127.0.0.1:${server.address().port}/`);
      await page.waitForSelector("session-heart[state=open]");
    };
    /** What its one animation is: times, ms of each, and whether it moves or fades. */
    const animations = () =>
      page.evaluate(() =>
        document
          .querySelector("session-heart")
          .shadowRoot.getAnimations()
          .filter((it) => !(it instanceof CSSTransition))
          .map(({ effect }) => {
            const { iterations, duration } = effect.getTiming();
            return { iterations, duration, moves: effect.getKeyframes().some(({ transform }) => transform) };
          }),
      );

    test("beats as often as the server says, once a second, within a strict policy", async () => {
      await open();
      assert.deepEqual(await animations(), [{ iterations: 3, duration: 1_000, moves: true }]);
      assert.deepEqual(await page.evaluate(() => policyViolations), []);
      assert.deepEqual(await page.evaluate(() => sockets.map(({ url }) => new URL(url).pathname)), [
        "/keepalive/ws",
      ]);
    });

    test("is red, in the upper right corner, and in nobody's way", async () => {
      await open();
      const { color, top, right, pointerEvents } = await page.evaluate(() => {
        const heart = document.querySelector("session-heart");
        const { color, pointerEvents } = getComputedStyle(heart);
        const box = heart.getBoundingClientRect();
        return { color, pointerEvents, top: box.top, right: innerWidth - box.right };
      });
      assert.deepEqual([color, top, right, pointerEvents], ["rgb(225, 29, 46)", 16, 16, "none"]);
    });

    test("beat(times) while beating goes on instead of stacking, and ends by itself", async () => {
      await open();
      await page.evaluate(() => {
        const heart = document.querySelector("session-heart");
        heart.shadowRoot.getAnimations().forEach((it) => it.finish());
        heart.beat(2);
        for (let i = 0; i < 10; i++) heart.beat(1);
        heart.beat(0);
        heart.beat(NaN);
      });
      const [{ iterations }, ...rest] = await animations();
      assert.deepEqual(rest, []);
      assert.equal(iterations, 2);
      const ended = await page.evaluate(async () => {
        const [animation] = document.querySelector("session-heart").shadowRoot.getAnimations();
        animation.currentTime = 1_900;
        return (await animation.finished).playState;
      });
      assert.equal(ended, "finished");
      assert.deepEqual(await animations(), []);
    });

    test("half a second in, half a second out", async () => {
      await open();
      const scales = await page.evaluate(() => {
        const { shadowRoot } = document.querySelector("session-heart");
        const animation = shadowRoot.getAnimations().find((it) => !(it instanceof CSSTransition));
        animation.pause();
        return [0, 500, 1_000, 1_500].map((at) => {
          animation.currentTime = at;
          const { transform } = getComputedStyle(shadowRoot.querySelector("[part=heart]"));
          return Number(new DOMMatrix(transform).a.toFixed(3));
        });
      });
      assert.deepEqual(scales, [1, 1.22, 1, 1.22]);
    });

    test("no-motion fades once", async () => {
      await open();
      await page.evaluate(() => {
        const heart = document.querySelector("session-heart");
        heart.noMotion = true;
        heart.beat(5);
      });
      assert.deepEqual(await animations(), [{ iterations: 1, duration: 1_000, moves: false }]);
    });

    // Puppeteer cannot ask Firefox for reduced motion.
    test("reduced motion fades once", { skip: options.browser === "firefox" }, async () => {
      await page.emulateMediaFeatures([{ name: "prefers-reduced-motion", value: "reduce" }]);
      await open();
      assert.deepEqual(await animations(), [{ iterations: 1, duration: 1_000, moves: false }]);
    });

    test("a node that moves keeps its socket; two hearts share it; the last one out closes it", async () => {
      await open();
      const seen = await page.evaluate(async () => {
        const moment = () => new Promise((resolve) => setTimeout(resolve, 20));
        const first = document.querySelector("session-heart");
        const second = document.createElement("session-heart");
        document.body.append(first, second);
        await moment();
        const shared = first.keepalive === second.keepalive;
        first.remove();
        await moment();
        const kept = [second.state, first.state, sockets.length, sockets[0].readyState];
        second.remove();
        await moment();
        return [shared, ...kept, sockets[0].readyState];
      });
      assert.deepEqual(seen, [true, "open", "idle", 1, 1, 2]);
    });

    test("its attributes count together at first, and later when they change", async () => {
      await open();
      const seen = await page.evaluate(() => {
        const live = () => sockets.filter(({ readyState }) => readyState < 2);
        const paths = () => live().map(({ url }) => new URL(url).pathname);
        const others = document.implementation.createHTMLDocument();
        const heart = others.createElement("session-heart"); // without its class yet, as in a page being parsed
        for (const [name, value] of [["src", "/one/"], ["frames", ""]]) heart.setAttribute(name, value); // prettier-ignore
        document.body.append(heart);
        const seen = [sockets.length];
        heart.setAttribute("src", "/one/");
        seen.push(sockets.length, paths());
        heart.src = "/two/";
        return [...seen, sockets.length, paths()];
      });
      assert.deepEqual(seen, [2, 2, ["/keepalive/ws", "/one/ws"], 3, ["/keepalive/ws", "/two/ws"]]);
    });

    for (const [what, goes] of [
      ["takes the lead", true],
      ["has a socket of its own where the network has swallowed what it needs for that", false],
    ])
      test(`one that shares ${what}`, async () => {
        await page.setRequestInterception(true);
        page.on("request", (request) =>
          goes || !request.url().endsWith("/sharing.js") ? request.continue() : request.abort(),
        );
        await open();
        await page.evaluate(() => {
          globalThis.errors = [];
          addEventListener("unhandledrejection", ({ reason }) => errors.push(String(reason)));
          document.querySelector("session-heart").toggleAttribute("share", true);
        });
        await page.waitForFunction(() => sockets.length === 2);
        await page.waitForSelector("session-heart[state=open]");
        const locks = await page.evaluate(async () => (await navigator.locks.query()).held.length);
        assert.equal(locks, goes ? 1 : 0);
        assert.deepEqual(await page.evaluate(() => [...errors, ...policyViolations]), []);
      });

    describe("the script in README.md", () => {
      const listening = (path) => `http://127.0.0.1:${server.address().port}${path}`;

      test("loads no page again where there is no session", async () => {
        await page.evaluateOnNewDocument(() => {
          sessionStorage.loads = Number(sessionStorage.loads ?? 0) + 1;
          globalThis.WebSocket = class extends WebSocket {
            say(message) {
              super.say(message.type === "hello" ? { type: "end", reason: "unknown" } : message);
            }
          };
        });
        await page.goto(listening("/listening"));
        await page.waitForSelector("session-heart[state=ended]");
        // A page that is left is gone within this time, and the wait for it fails.
        await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 500)));
        assert.equal(await page.evaluate(() => sessionStorage.loads), "1");
      });

      test("leaves the page of a session that has lived, for where one can sign in", async () => {
        await page.goto(listening("/listening"));
        await page.waitForSelector("session-heart[state=open]");
        const [response] = await Promise.all([
          page.waitForNavigation(),
          page.evaluate(() => sockets[0].say({ type: "end", reason: "idle", login: "/login" })),
        ]);
        assert.equal(response.url(), listening("/login"));
      });

      test("sends data along, and pings on demand", async () => {
        await page.evaluateOnNewDocument(() => {
          globalThis.sent = [];
          globalThis.WebSocket = class extends WebSocket {
            send(text) {
              sent.push(JSON.parse(text));
              super.send(text);
            }
          };
        });
        await page.goto(listening("/listening"));
        await page.waitForSelector("session-heart[state=open]");
        await page.click("#stayButton"); // once in two seconds
        await page.waitForFunction(() => sent.length === 2);
        assert.deepEqual(await page.evaluate(() => sent[1].data), { view: "/listening" });
      });
    });

    test("its events bubble, with their fields", async () => {
      await open();
      const seen = await page.evaluate(() => {
        const seen = [];
        document.addEventListener("session-push", ({ data, target }) => seen.push(data, target.localName));
        document.addEventListener("session-end", ({ reason, login }) => seen.push(reason, login));
        sockets[0].say({ type: "push", data: { unread: 2 } });
        sockets[0].say({ type: "end", reason: "absolute" });
        return seen;
      });
      assert.deepEqual(seen, [{ unread: 2 }, "session-heart", "absolute", null]);
    });

    test("has a name by state, and words for a warning and an end alone", async () => {
      await open();
      const read = () =>
        page.evaluate(() => {
          const heart = document.querySelector("session-heart");
          const { shadowRoot } = heart;
          const [picture, label] = ["[role=img]", "[role=status]"].map((it) => shadowRoot.querySelector(it));
          return [
            heart.getAttribute("state"),
            heart.matches(`:state(${heart.state})`),
            picture.getAttribute("aria-label"),
            label.textContent,
          ];
        });
      assert.deepEqual(await read(), ["open", true, "Session alive", ""]);
      await page.evaluate(() =>
        sockets[0].say({ type: "warning", expires_in: 60, why: "idle", extendable: true }),
      );
      assert.deepEqual(await read(), ["warning", true, "Session ends soon", "Session ends soon"]);
      await page.evaluate(() => sockets[0].say({ type: "beat", n: 9, expires_in: 1800 }));
      assert.deepEqual(await read(), ["open", true, "Session alive", ""]);
      await page.evaluate(() => sockets[0].say({ type: "end", reason: "idle" }));
      assert.deepEqual(await read(), ["ended", true, "Session over", "Signed out: no activity"]);
      assert.deepEqual(await animations(), [], "a heart that is broken does not beat");
    });
  });
}
