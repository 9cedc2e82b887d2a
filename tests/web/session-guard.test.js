/** The guard in real browsers, under a strict policy; only the server is played. */

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { after, before, beforeEach, describe, test } from "node:test";

import { ENGLISH } from "../../web/guard-dialog.js";
import { WORDS } from "../../web/words.js";

const WEB = new URL("../../web/", import.meta.url);
const puppeteer = createRequire(new URL("package.json", WEB))("puppeteer-core");

const BROWSERS = [
  { browser: "chrome", executablePath: process.env.CHROME ?? "/usr/bin/chromium", args: ["--no-sandbox"] },
  { browser: "firefox", executablePath: process.env.FIREFOX ?? "/usr/bin/firefox-esr" },
];

const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;" +
  " frame-src 'self'; form-action 'self'; require-trusted-types-for 'script'; trusted-types 'none'";

// As the name of a control each stands in the way of what a form has by that name.
const CLOBBERS = ["elements", "reset", "id", "name", "getAttribute", "hasAttribute"];

/** @param {string} guard its attributes and content */
const PAGE = (lang, guard) => `<!doctype html><html lang="${lang}"><title>Orders</title>
<link rel="icon" href="data:,"><script type="module" src="/keepalive/client/define-guard.js"></script>
<button id="before">Before</button>
<section data-private><p>Secret</p><button id="within">Within</button></section>
<section data-private inert id="inert">More</section>
<form data-keep id="order">
  <input id="name" name="name" value="old"><textarea name="note"></textarea>
  <input type="checkbox" name="gift">
  <input type="radio" name="size" value="s"><input type="radio" name="size" value="m">
  <select name="colour" multiple><option>red<option>green<option>blue</select>
  <input name="tag"><input name="tag">
  <input type="password" name="secret"><input name="shown" autocomplete="current-password">
  <input name="password2"><input name="number" autocomplete="section-a cc-number">
  <input name="code" autocomplete="one-time-code">
  <input type="hidden" name="token"><fieldset data-keep="off"><input name="off"></fieldset>
  <input type="button" name="press"><button name="send" value="send">Send</button>
</form>
<form data-keep name="odd">${CLOBBERS.map((name) => `<input name="${name}">`).join("")}</form>
<form name="forms"></form>
<session-guard ${guard}</session-guard></html>`;

const SECRETS = ["secret", "shown", "password2", "number", "code", "token", "off"];

async function serve(request, response) {
  const url = new URL(request.url, "http://local");
  const name = url.pathname.match(/^\/keepalive\/client\/([a-z-]+\.js)$/)?.[1];
  response.setHeader("Content-Security-Policy", POLICY);
  response.setHeader("Content-Type", name ? "text/javascript" : "text/html");
  if (name) return response.end(await readFile(new URL(name, WEB)));
  if (url.pathname === "/signin") return response.end("<!doctype html><title>Sign in</title>");
  response.end(PAGE(url.searchParams.get("lang") ?? "en", url.searchParams.get("guard") ?? ">"));
}

/** Runs in the page before anything else: a server that has the session which `localStorage` tells of. */
function playServer() {
  globalThis.violations = [];
  globalThis.resumed = 0;
  document.addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
  document.addEventListener("session-resume", () => (resumed += 1));
  globalThis.sockets = [];
  globalThis.WebSocket = class {
    readyState = 0;
    pings = 0;
    constructor() {
      sockets.push(this);
      setTimeout(() => {
        this.readyState = 1;
        const who = localStorage.who ?? "ada";
        if (who === "nobody") this.say({ type: "end", reason: "unknown", login: "/signin" });
        else
          this.say({ type: "hello", interval: 25, expires_in: 1800, warn_before: 60, mode: "presence", who });
      });
    }
    say(message) {
      this.onmessage?.({ data: JSON.stringify(message) });
    }
    send(text) {
      this.pings += 1;
      const { n, idle } = JSON.parse(text);
      this.idle = idle;
      if (!this.mute) this.say({ type: "beat", n, expires_in: 1800 });
    }
    close() {
      this.readyState = 2;
    }
  };
  globalThis.warn = (expires_in, why = "idle", extendable = true) => {
    sockets.at(-1).mute = true;
    sockets.at(-1).say({ type: "warning", expires_in, why, extendable });
  };
  globalThis.extend = () => sockets.at(-1).say({ type: "beat", n: 99, expires_in: 1800 });
  globalThis.end = (reason, login = "/signin") => {
    localStorage.who = "nobody";
    sockets.at(-1).say({ type: "end", reason, login });
  };
  globalThis.signIn = (who) => {
    localStorage.who = who;
    dispatchEvent(new Event("focus"));
  };
}

/** What a user meets: runs in the page. */
function look() {
  const root = document.querySelector("session-guard").shadowRoot;
  const dialog = root.querySelector("dialog");
  const shown = (element) => element.checkVisibility();
  const words = (slot) => slot.assignedElements()[0]?.textContent ?? slot.textContent;
  const text = (part) => words(root.querySelector(`[part=${part}] slot`));
  return {
    open: dialog.matches(":modal"),
    state: document.documentElement.dataset.session,
    title: text("title"),
    text: text("text"),
    note: text("note"),
    time: root.querySelector("[part=time]").textContent,
    spoken: root.querySelector("[part=spoken]").textContent,
    lang: dialog.lang,
    buttons: [...root.querySelectorAll("button")].filter(shown).map((it) => words(it.firstElementChild)),
    focus: root.activeElement?.localName ?? document.activeElement.id,
    page: document.title,
  };
}

test("imports in Node", async () => {
  const { SessionGuard } = await import("../../web/session-guard.js");
  assert.equal(typeof SessionGuard, "function");
  for (const [language, words] of Object.entries(WORDS)) {
    assert.deepEqual(Object.keys(words), Object.keys(ENGLISH), language);
    assert.match(words.spoken, /\{time\}/);
  }
  assert.deepEqual(Object.keys(WORDS), ["de", "es", "fr", "pt"]);
});

for (const options of BROWSERS) {
  const skip = existsSync(options.executablePath) ? false : `there is no ${options.executablePath}`;

  describe(`<session-guard> in ${options.browser}`, { skip }, () => {
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
      await page.goto(`http://127.0.0.1:${server.address().port}/signin`);
      await page.evaluate(() => {
        localStorage.clear();
        sessionStorage.clear();
      });
    });

    const becomes = (state) =>
      page.waitForFunction((state) => document.documentElement.dataset.session === state, {}, state);
    const open = async ({ guard = ">", lang = "en", path = "/", broken = false } = {}) => {
      const query = new URLSearchParams({ guard, lang });
      await page.goto(`http://127.0.0.1:${server.address().port}${path}?${query}`);
      await page.waitForFunction(() => globalThis.sockets?.[0]?.pings > 0);
      await becomes("alive");
      if (!broken) await until(() => document.querySelector("session-guard").shadowRoot.querySelector("dialog"));
    };
    const does = (act, ...given) => page.evaluate(act, ...given);
    const looks = () => page.evaluate(look);
    const until = (condition, ...given) => page.waitForFunction(condition, { timeout: 10_000 }, ...given);

    test("nothing shows while the session lives", async () => {
      await open();
      const { open: opened, page: title } = await looks();
      assert.deepEqual([opened, title], [false, "Orders"]);
      assert.deepEqual(await does(() => violations), []);
    });

    test("a warning is a dialog that has the focus, and gives it back", async () => {
      await open({ guard: 'logout="/logout">' });
      await page.focus("#within");
      await does(() => warn(44.5));
      const { open: opened, state, title, time, buttons, focus, spoken, page: name } = await looks();
      assert.deepEqual([opened, state, title], [true, "warning", "Your session is about to end"]);
      assert.deepEqual([time, buttons, focus], ["0:45", ["Stay signed in", "Sign out"], "button"]);
      assert.deepEqual([spoken, name], ["", "≤ 1:00 · Orders"]);
      for (let i = 0; i < 4; i++) await page.keyboard.press("Tab");
      assert.notEqual((await looks()).focus, "within");
      await does(() => extend());
      const after = await looks();
      assert.deepEqual(
        [after.open, after.state, after.focus, after.page],
        [false, "alive", "within", "Orders"],
      );
      assert.deepEqual(await does(() => violations), []);
    });

    for (const [what, act] of [
      ["Enter", () => page.keyboard.press("Enter")],
      ["Escape", () => page.keyboard.press("Escape")],
      ["two Escapes", () => page.keyboard.press("Escape").then(() => page.keyboard.press("Escape"))],
      [
        "a click",
        async () => {
          const button = await page.evaluateHandle(() =>
            document.querySelector("session-guard").shadowRoot.querySelector("[part~=primary]"),
          );
          await button.click();
        },
      ],
    ])
      test(`${what} asks to stay signed in, and the dialog waits for the answer`, async () => {
        await open();
        await does(() => warn(50));
        const before = await does(() => {
          globalThis.closes = 0;
          const dialog = document.querySelector("session-guard").shadowRoot.querySelector("dialog");
          dialog.addEventListener("close", () => (closes += 1));
          return sockets[0].pings;
        });
        await act();
        await until((before) => sockets[0].pings > before, before);
        assert.equal((await looks()).open, true);
        if (what !== "two Escapes") assert.equal(await does(() => closes), 0); // not even for a moment
        await does(() => extend());
        assert.equal((await looks()).open, false);
      });

    test("a close without a key, as by a phone's \"back\", is input", async () => {
      await open();
      await does(() => warn(50));
      await does(() => document.querySelector("session-guard").shadowRoot.querySelector("dialog").requestClose());
      await until(() => sockets[0].pings > 1);
      assert.ok((await does(() => sockets[0].idle)) < 5);
    });

    test("the absolute deadline takes an OK, and no key that was meant for the page", async () => {
      await open();
      await page.focus("#name");
      await does(() => warn(45, "absolute", false));
      const { text, buttons, focus } = await looks();
      assert.match(text, /cannot be extended.*save your work/);
      assert.deepEqual([buttons, focus], [["OK"], "h2"]);
      await page.keyboard.type("a b\n");
      assert.equal((await looks()).open, true);
      const before = await does(() => sockets[0].pings);
      await page.keyboard.press("Tab");
      await page.keyboard.press("Enter");
      const after = await looks();
      assert.deepEqual([after.open, after.state, after.focus], [false, "warning", "name"]);
      assert.equal(await does(() => sockets[0].pings), before);
      await does(() => warn(30, "absolute", false)); // the same again
      assert.equal((await looks()).open, false);
      await does(() => warn(20, "idle", true)); // another
      assert.equal((await looks()).open, true);
    });

    test("where only the app extends, the warning says so", async () => {
      await open();
      await does(() => warn(45, "idle", false));
      const { text, buttons } = await looks();
      assert.match(text, /Only using the application/);
      assert.deepEqual(buttons, ["OK"]);
    });

    test("counts by the clock, and speaks at 60, 30, 20 and 10 seconds alone", async () => {
      await open({ guard: 'spoken="Still {time}!">' });
      const heard = [];
      await does(() => {
        globalThis.times = 0;
        const spoken = document.querySelector("session-guard").shadowRoot.querySelector("[part=spoken]");
        new MutationObserver(() => (times += 1)).observe(spoken, { childList: true });
      });
      for (const left of [75, 61, 60, 59, 45, 31, 29.9, 21, 20, 11, 10, 5, 1]) {
        await does((left) => warn(left), left);
        heard.push((await looks()).spoken);
      }
      const [sixty, thirty, twenty, ten] = [60, 30, 20, 10].map((left) => `Still ${left} seconds!`);
      assert.deepEqual(heard, [
        ...["", "", sixty, sixty, sixty, sixty],
        ...[thirty, thirty, twenty, twenty, ten, ten, ten],
      ]);
      assert.equal(await does(() => times), 4); // a text that is set again is read again
      await does(() => warn(40));
      await until(
        () =>
          document.querySelector("session-guard").shadowRoot.querySelector("[part=time]").textContent ===
          "0:38",
      );
      await does(() => {
        const { now } = Date;
        Date.now = () => now() + 15_000; // the computer sleeps
      });
      await until(() =>
        /0:2[0-3]/.test(
          document.querySelector("session-guard").shadowRoot.querySelector("[part=time]").textContent,
        ),
      );
    });

    test("the title is put back, though the app may have changed it", async () => {
      await open();
      await does(() => warn(25));
      assert.equal((await looks()).page, "≤ 0:30 · Orders");
      await does(() => void (document.title = "Orders (2)"));
      await does(() => warn(15));
      assert.equal((await looks()).page, "≤ 0:20 · Orders (2)");
      await does(() => extend());
      assert.equal((await looks()).page, "Orders (2)");
    });

    for (const [language, sample] of [
      ["de-AT", /Angemeldet bleiben.*0:10.*Ihre Sitzung endet in 10\sSekunden\./],
      ["es", /Mantener la sesión.*0:10.*10\ssegundos/],
      ["fr-CA", /Rester connecté.*0:10.*10\ssecondes/],
      ["pt-BR", /Continuar conectado.*0:10.*10\ssegundos/],
      ["it", /Stay signed in.*0:10.*10 seconds/],
    ])
      test(`speaks ${language}`, async () => {
        await open({ lang: language });
        await does(() => warn(10));
        const said = language === "it" ? "en" : language.slice(0, 2);
        if (said !== "en")
          await until(
            (said) =>
              document.querySelector("session-guard").shadowRoot.querySelector("dialog").lang === said,
            said,
          );
        await does(() => extend());
        await does(() => warn(10));
        const { buttons, time, spoken } = await looks();
        assert.match([buttons, time, spoken].join(" "), sample);
      });

    test("its texts can be replaced", async () => {
      await open({ guard: '><b slot="stay">Stay!</b><b slot="ended-evicted">Elsewhere!</b>' });
      await does(() => warn(50));
      assert.deepEqual((await looks()).buttons, ["Stay!"]);
      await does(() => end("evicted"));
      assert.equal((await looks()).text, "Elsewhere!");
    });

    test("an end says why, and covers what is private until the same user is back", async () => {
      await open({ guard: 'logout="/logout">' });
      await page.focus("#within");
      await does(() => end("idle"));
      await does(() => dispatchEvent(new Event("focus"))); // an attempt to go on, whose failure is not why
      await until(() => sockets.length === 2 && !!document.querySelector("session-guard").keepalive.reason);
      assert.equal(await does(() => document.querySelector("session-guard").keepalive.reason), "unknown");
      const { open: opened, state, title, text, buttons, page: name } = await looks();
      assert.deepEqual([opened, state, title], [true, "ended", "You are signed out"]);
      assert.deepEqual(
        [text, buttons, name],
        ["There was no activity for too long.", ["Sign in again"], "Orders"],
      );
      const covered = () =>
        does(() =>
          [...document.querySelectorAll("[data-private]")].map((it) => [
            it.inert,
            getComputedStyle(it).visibility,
          ]),
        );
      assert.deepEqual(await covered(), [[true, "hidden"], [true, "hidden"]]); // prettier-ignore
      await page.keyboard.press("Escape");
      await page.keyboard.press("Escape");
      assert.equal((await looks()).open, true);
      await does(() => signIn("ada"));
      await becomes("alive");
      const after = await looks();
      assert.deepEqual([after.open, after.focus, await does(() => resumed)], [false, "within", 1]);
      assert.deepEqual(await covered(), [[false, "visible"], [true, "visible"]]); // prettier-ignore
      assert.deepEqual(await does(() => violations), []);
    });

    for (const reason of ["idle", "absolute", "logout", "revoked", "evicted", "unknown", "news"])
      test(`has words for the end ${reason}`, async () => {
        await open();
        await does((reason) => end(reason), reason);
        assert.equal((await looks()).text, ENGLISH[`ended-${reason}`] ?? ENGLISH["ended-unknown"]);
      });

    test("private parts are blurred until a page that slept knows", async () => {
      await open();
      const filter = () => does(() => getComputedStyle(document.querySelector("[data-private]")).filter);
      assert.equal(await filter(), "none");
      await does(() => {
        sockets[0].mute = true;
        const { now } = Date;
        Date.now = () => now() + 3_600_000;
        document.dispatchEvent(new Event("visibilitychange"));
      });
      await becomes("unknown");
      assert.match(await filter(), /blur/);
      await does(() => extend());
      await becomes("alive");
      assert.equal(await filter(), "none");
    });

    const type = () =>
      does((secrets) => {
        const { elements } = document.querySelector("form");
        elements.name.value = "Ada";
        elements.note.value = "two\nlines";
        elements.gift.checked = elements.size[1].checked = true;
        for (const i of [0, 2]) elements.colour.options[i].selected = true;
        elements.tag[1].value = "second";
        for (const name of secrets) elements[name].value = `hush ${name}`;
      }, SECRETS);
    const typed = () =>
      does((secrets) => {
        const { elements } = document.querySelector("form");
        return [
          elements.name.value,
          elements.note.value,
          elements.gift.checked,
          elements.size.value,
          [...elements.colour.selectedOptions].map((it) => it.value).join(),
          elements.tag[1].value,
          secrets.map((name) => elements[name].value).join(""),
        ];
      }, SECRETS);
    const store = () => does(() => JSON.stringify({ ...sessionStorage }));
    const BEFORE = ["old", "", false, "", "", "", ""];

    test("what was typed survives a sign-in elsewhere, without secrets, once", async () => {
      await open();
      await type();
      await does(() => end("idle"));
      assert.match(await store(), /Ada/);
      assert.doesNotMatch(await store(), /hush/);
      await page.goto(`http://127.0.0.1:${server.address().port}/signin`);
      await does(() => void (localStorage.who = "ada"));
      await open({ path: "/other" }); // another page of the same user leaves it alone
      assert.match(await store(), /Ada/);
      await page.evaluateOnNewDocument(() => {
        globalThis.noticed = [];
        for (const kind of ["input", "change"])
          addEventListener(kind, ({ target }) => noticed.push(`${kind} ${target.name}`));
      });
      await open();
      await until(() => document.querySelector("form").elements.name.value === "Ada");
      assert.deepEqual(await typed(), ["Ada", "two\nlines", true, "m", "red,blue", "second", ""]);
      const noticed = await does(() => noticed.join());
      for (const name of ["name", "note", "gift", "size", "colour", "tag"])
        assert.match(noticed, new RegExp(`input ${name},change ${name}`));
      assert.doesNotMatch(await store(), /Ada/);
    });

    test("fields that are named like what a form has are kept like any other", async () => {
      await open();
      await does((names) => {
        const odd = document.querySelector("[name=odd]");
        for (const name of names) odd.querySelector(`[name=${name}]`).value = `my ${name}`;
        end("idle");
      }, CLOBBERS);
      await becomes("ended");
      assert.equal((await looks()).open, true);
      await does(() => void (localStorage.who = "ada"));
      await open();
      await until(() => document.querySelector("[name=elements]").value === "my elements");
      assert.deepEqual(
        await does(() => [...document.querySelectorAll("[name=odd] input")].map(({ value }) => value)),
        CLOBBERS.map((name) => `my ${name}`),
      );
    });

    test("covers what is private though the forms cannot be kept", async () => {
      await open();
      await does(() => {
        Element.prototype.closest = () => {
          throw new TypeError("broken by the page");
        };
        const isCovered = () => document.querySelector("[data-private]").inert;
        const { keepalive } = document.querySelector("session-guard");
        keepalive.addEventListener("session-end", () => (globalThis.atTheEnd = isCovered()));
        end("idle");
      });
      assert.equal(await does(() => atTheEnd), true);
      assert.equal((await looks()).open, true);
    });

    test("what was typed is no one else's", async () => {
      await open();
      await type();
      await does(() => end("idle"));
      await does(() => void (localStorage.who = "bob"));
      await open();
      await until(() => !sessionStorage["session-guard"]);
      assert.deepEqual(await typed(), BEFORE);
    });

    test("who signs out leaves nothing behind", async () => {
      await open();
      await type();
      await does(() => end("logout"));
      assert.doesNotMatch(await store(), /Ada/);
    });

    test("without its dialog, which the network has swallowed, it hides what is private all the same", async () => {
      await page.setRequestInterception(true);
      page.on("request", (request) =>
        request.url().endsWith("/guard-dialog.js") ? request.abort() : request.continue(),
      );
      await page.evaluateOnNewDocument(() => {
        globalThis.errors = [];
        for (const kind of ["error", "unhandledrejection"])
          addEventListener(kind, (event) => errors.push(String(event.reason ?? event.message)));
      });
      await open({ broken: true });
      await does(() => warn(50));
      await becomes("warning");
      await does(() => extend());
      await becomes("alive");
      await does(() => end("idle"));
      await becomes("ended");
      const hidden = () => does(() => getComputedStyle(document.querySelector("[data-private]")).visibility);
      assert.equal(await hidden(), "hidden");
      await does(() => signIn("ada"));
      await becomes("alive");
      assert.equal(await hidden(), "visible");
      assert.deepEqual(await does(() => errors), []);
    });

    test("another user starts over", async () => {
      await open();
      await type();
      await does(() => {
        document.querySelector("[name=odd] input").value = "mine";
        window.mark = true;
        end("idle");
      });
      const [response] = await Promise.all([page.waitForNavigation(), does(() => signIn("bob"))]);
      assert.equal(response.status(), 200);
      await becomes("alive");
      assert.equal(await does(() => window.mark), undefined);
      assert.deepEqual(await typed(), BEFORE);
      assert.equal(await does(() => document.querySelector("[name=odd] input").value), "");
    });

    test("signs in again in a frame", async () => {
      await open({ guard: 'frame login="/signin?framed">' });
      await does(() => end("idle"));
      await page.keyboard.press("Tab");
      await page.keyboard.press("Enter");
      await until(
        () =>
          document.querySelector("session-guard").shadowRoot.querySelector("iframe").contentDocument
            ?.title === "Sign in",
      );
      const { buttons, note } = await looks();
      assert.deepEqual([buttons, note], [[], ""]);
      await does(() => {
        localStorage.who = "ada";
        document.querySelector("session-guard").shadowRoot.querySelector("iframe").contentWindow.location =
          "/signin?done";
      });
      await becomes("alive");
      assert.equal((await looks()).open, false);
      assert.deepEqual(await does(() => violations), []);
    });

    test("a guard that moves stays, and one that goes leaves nothing behind", async () => {
      await open();
      await does(() => warn(50));
      await does(() => document.body.prepend(document.querySelector("session-guard")));
      assert.equal((await looks()).open, true);
      assert.equal(await does(() => sockets.length), 1);
      await does(() => document.querySelector("session-guard").remove());
      assert.deepEqual(
        await does(() => [
          "session" in document.documentElement.dataset,
          document.title,
          sockets[0].readyState,
        ]),
        [false, "Orders", 2],
      );
    });
  });
}
