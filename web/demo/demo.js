// @ts-check
/** The demo page: signs in and out, and shows what the heart hears. */

import { MODE, STATE, summary } from "./texts.js";

/** @typedef {import("../session-heart.js").SessionHeart} SessionHeart */

const LOG_LENGTH = 60;

/** @template {HTMLElement} T @param {string} id @param {new () => T} type @returns {T} */
function find(id, type) {
  const element = document.getElementById(id);
  if (element instanceof type) return element;
  throw new TypeError(`the page has no ${type.name} #${id}`);
}
/** @param {string} id */
const part = (id) => find(id, HTMLElement);

/** @type {SessionHeart | null} the large one; the small one in the corner shares its connection */
let heart = null;
/** @type {SessionHeart | null} */
let corner = null;
/** @type {HTMLElement | null} warns, and lets people sign in again where they are */
let guard = null;
let lastBeat = 0;
/** @type {Record<string, number>} */
const most = {};

// What goes over the wire is written down where it passes.
class Tapped extends WebSocket {
  /** @param {string | URL} url @param {string | string[]} [protocols] */
  constructor(url, protocols) {
    super(url, protocols);
    this.addEventListener("message", ({ data }) => log("←", data));
    this.addEventListener("close", ({ code }) => log("×", `closed, ${code}`));
  }
  /** @param {string} text */
  send(text) {
    log("→", text);
    super.send(text);
  }
}
globalThis.WebSocket = Tapped;

/** @param {string} arrow @param {string} text */
function log(arrow, text) {
  const line = document.createElement("li");
  const time = document.createElement("time");
  const direction = document.createElement("b");
  const words = document.createElement("code");
  time.textContent = new Date().toLocaleTimeString([], { hour12: false });
  direction.textContent = arrow;
  words.textContent = text;
  line.append(time, direction, words);
  const list = part("log");
  list.prepend(line);
  if (list.childElementCount > LOG_LENGTH) list.lastElementChild?.remove();
}

/** @param {number | null} seconds */
function spell(seconds) {
  if (seconds === null) return "–";
  const whole = Math.ceil(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** @param {string} name @param {number | null} left */
function showClock(name, left) {
  const none = left === null && heart?.keepalive?.mode;
  part(name).textContent = none ? "no limit" : spell(left);
  const bar = find(`${name}-bar`, HTMLProgressElement);
  bar.max = most[name] = Math.max(most[name] ?? 1, left ?? 0);
  bar.value = left ?? 0;
}

function show() {
  if (!heart?.keepalive) return;
  const { state } = heart;
  const { expiresIn, endsIn, mode } = heart.keepalive;
  const ended = state === "ended";
  part("state").textContent = STATE[state];
  part("summary").textContent = summary({ state, mode, expiresIn }) || "\u00a0";
  part("last").textContent =
    lastBeat && !ended ? `last beat ${Math.round((Date.now() - lastBeat) / 1_000)} s ago` : "";
  part("mode").textContent = mode ?? "–";
  part("mode-means").textContent = MODE[mode ?? ""] ?? "";
  showClock("idle", ended ? 0 : expiresIn);
  showClock("absolute", ended ? 0 : endsIn);
}

/** @param {string} user */
function enter(user) {
  part("user").textContent = user;
  part("welcome").hidden = true;
  part("session").hidden = false;
  heart = /** @type {SessionHeart} */ (document.createElement("session-heart"));
  corner = /** @type {SessionHeart} */ (document.createElement("session-heart"));
  heart.addEventListener("session-beat", () => void (lastBeat = Date.now()));
  heart.addEventListener("session-statechange", () => {
    if (heart?.state === "open") part("logout-problem").textContent = "";
  });
  for (const type of ["session-beat", "session-statechange", "session-warning"])
    heart.addEventListener(type, show);
  part("stage").append(heart);
  document.body.append(corner);
  watch();
  show();
}

function watch() {
  guard = document.createElement("session-guard");
  document.body.append(guard);
}

function leave() {
  heart?.remove();
  corner?.remove();
  guard?.remove();
  heart = corner = guard = null;
  for (const name in most) delete most[name];
  lastBeat = 0;
  part("log").replaceChildren();
  part("session").hidden = true;
  part("welcome").hidden = false;
  find("name", HTMLInputElement).focus();
}

/** A request that the server has refused, in its own words. */
class Refusal extends Error {}

/** @param {string} path @param {RequestInit} [options] */
async function ask(path, { headers, ...options } = {}) {
  const response = await fetch(path, { headers: { Accept: "application/json", ...headers }, ...options });
  if (!response.ok) throw new Refusal(await response.text());
  return response.json();
}

/** Why a request has failed, for people.
 * @param {unknown} error */
const explain = (error) =>
  error instanceof Refusal ? error.message : "The server cannot be reached. Please try again.";

/** @param {SubmitEvent} event */
async function signIn(event) {
  event.preventDefault();
  const form = /** @type {HTMLFormElement} */ (event.currentTarget);
  const problem = /** @type {HTMLElement} */ (form.querySelector(".problem"));
  problem.textContent = "";
  const name = String(new FormData(form).get("name"));
  try {
    const { user } = await ask("/login", { method: "POST", body: new URLSearchParams({ name }) });
    enter(user);
  } catch (error) {
    problem.textContent = explain(error);
  }
}

find("login", HTMLFormElement).addEventListener("submit", signIn);
find("logout", HTMLFormElement).addEventListener("submit", async (event) => {
  event.preventDefault();
  const problem = part("logout-problem");
  problem.textContent = "";
  guard?.remove(); // this end is no news
  try {
    await ask("/logout", { method: "POST" });
    leave();
  } catch (error) {
    if (heart?.state === "ended") return leave(); // only the answer was lost
    watch();
    problem.textContent = `You may still be signed in. ${explain(error)}`;
  }
});
part("beat").addEventListener("click", () => heart?.beat(2));
part("ping").addEventListener("click", () => heart?.keepalive?.ping());
setInterval(show, 250);

try {
  const { user } = await ask("/whoami");
  if (user) enter(user);
  else part("welcome").hidden = false;
} catch (error) {
  part("welcome").hidden = false;
  part("login-problem").textContent = explain(error);
}
