/**
 * Drives Debian's Firefox over WebDriver BiDi for tests in another language. Each POST to the Unix
 * socket SOCKET is one command: its path is the name, its body the arguments, the answer the result.
 *
 *   node firefox.mjs SOCKET
 *
 * A start takes seconds, so there is one browser for each set of preferences, from when it is first
 * asked for until standard input ends. Tests are kept apart by browsing contexts, which share neither
 * cookies nor locks nor channels.
 */
import { execFileSync } from "node:child_process";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { json } from "node:stream/consumers";

const require = createRequire(new URL("../../web/package.json", import.meta.url));
const { launch } = require("puppeteer-core");
const executablePath = execFileSync("which", ["firefox-esr"]).toString().trim();

const PREFERENCES = {
  "network.dns.localDomains": "app.test", // this machine by a name that does not make it secure
  "dom.security.https_first": false,
  "dom.ipc.processPrelaunch.enabled": false, // a process that appears is that of a new tab
  "ui.prefersReducedMotion": 0,
};

/** @type {Map<string, Promise<import("puppeteer-core").Browser>>} by their preferences */
const browsers = new Map();
/** @type {Map<number, any>} contexts and tabs, by the numbers that stand for them */
const held = new Map();

/** @param {object} thing */
function keep(thing) {
  held.set(held.size, thing);
  return held.size - 1;
}

/** @param {Record<string, unknown>} preferences */
function browserWith(preferences) {
  const key = JSON.stringify(preferences);
  if (!browsers.has(key)) {
    const starting = launch({
      browser: "firefox",
      executablePath,
      headless: true,
      acceptInsecureCerts: true,
      extraPrefsFirefox: { ...PREFERENCES, ...preferences },
      env: { ...process.env, MOZ_CRASHREPORTER_DISABLE: "1" },
    });
    browsers.set(key, starting);
  }
  return /** @type {Promise<import("puppeteer-core").Browser>} */ (browsers.get(key));
}

/** @type {Record<string, (given: any) => Promise<unknown>>} */
const commands = {
  async context({ preferences }) {
    return keep(await (await browserWith(preferences)).createBrowserContext());
  },
  /** The id of the browser's main process. */
  async process({ context }) {
    return held.get(context).browser().process().pid;
  },
  /** A new tab, in front of the others; `script` runs before those of any page that it shows. */
  async tab({ context, script }) {
    const tab = await held.get(context).newPage();
    await tab.evaluateOnNewDocument(script);
    return keep(tab);
  },
  async goto({ tab, url }) {
    await held.get(tab).goto(url);
  },
  async evaluate({ tab, expression }) {
    return held.get(tab).evaluate(expression);
  },
  async click({ tab, selector }) {
    await held.get(tab).click(selector);
  },
  /** A click that opens a window; the tab in that. */
  async popup({ tab, selector }) {
    const opened = new Promise((resolve) => held.get(tab).once("popup", resolve));
    await held.get(tab).click(selector);
    return keep(await opened);
  },
  async type({ tab, selector, text }) {
    await held.get(tab).type(selector, text);
  },
  /** What a window of a given size shows, as a PNG file. */
  async screenshot({ tab, path, ...size }) {
    await held.get(tab).setViewport(size);
    await held.get(tab).screenshot({ path });
  },
  async front({ tab }) {
    await held.get(tab).bringToFront();
  },
  async closed({ tab }) {
    return held.get(tab).isClosed();
  },
  async close({ thing }) {
    await held.get(thing).close();
  },
};

const server = createServer(async (request, response) => {
  try {
    const command = commands[/** @type {string} */ (request.url).slice(1)];
    response.end(JSON.stringify((await command(await json(request))) ?? null));
  } catch (error) {
    response.statusCode = 500;
    response.end(JSON.stringify(String(error)));
  }
});
server.listen(process.argv[2], () => process.stdout.write("ready\n"));

process.stdin.resume().on("end", async () => {
  const started = await Promise.allSettled(browsers.values());
  await Promise.allSettled(started.map(({ value }) => value?.close()));
  process.exit();
});
