/**
 * Many pages at one server, each of a user of its own: signs them in, says so, waits until the server
 * has been away, and tells as one line of JSON when each page had its first beat over a new socket.
 *
 *   node --experimental-websocket crowd.mjs URL PAGES
 *
 * Not in a browser: it would hold back the many sockets of one host, which here stand for many hosts.
 */

import { setMaxListeners } from "node:events";
import { Keepalive } from "../../web/keepalive.js";

const [url, pages] = process.argv.slice(2);
setMaxListeners(30); // a page has a dozen, and they all go with one signal

/** A window with the cookie of a user. @param {string} cookie */
function browserOf(cookie) {
  return Object.assign(new EventTarget(), {
    AbortSignal,
    Date,
    Math,
    TextEncoder,
    clearTimeout,
    crypto,
    setTimeout,
    document: Object.assign(new EventTarget(), { visibilityState: "visible" }),
    navigator: { onLine: true },
    fetch: (path, options) => fetch(path, { ...options, headers: { ...options.headers, Cookie: cookie } }),
    WebSocket: class extends WebSocket {
      constructor(path, protocols) {
        super(path, { protocols, headers: { Cookie: cookie } });
        told.sockets += 1;
      }
    },
  });
}

async function signIn(name) {
  const body = new URLSearchParams({ name });
  const response = await fetch(`${url}/login`, { method: "POST", body, redirect: "manual" });
  return response.headers.getSetCookie()[0].split(";")[0];
}

const told = { sockets: 0, back: [], ends: 0 };
let opened = 0;

async function open(number) {
  const keepalive = new Keepalive({ src: `${url}/keepalive/`, env: browserOf(await signIn(`user ${number}`)) });
  await new Promise((resolve) => {
    keepalive.addEventListener("session-beat", resolve, { once: true });
    keepalive.start();
  });
  opened += 1;
  return new Promise((resolve) => {
    let lost = false;
    keepalive.addEventListener("session-end", () => (told.ends += 1));
    keepalive.addEventListener("session-statechange", ({ state }) => (lost ||= state === "waiting"));
    keepalive.addEventListener("session-beat", () => {
      if (!lost || keepalive.state !== "open") return;
      told.back.push(Date.now() / 1_000);
      keepalive.stop();
      resolve();
    });
  });
}

const all = Promise.all(Array.from({ length: Number(pages) }, (_, number) => open(number)));
const looking = setInterval(() => {
  if (opened < Number(pages)) return;
  clearInterval(looking);
  process.stdout.write("open\n");
}, 20);
await all;
process.stdout.write(`${JSON.stringify(told)}\n`);
