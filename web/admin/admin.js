// @ts-check
/**
 * The dashboard: signs an operator in, shows what the server pushes over the page's own socket, and lets
 * sessions be looked at and ended. Where no socket gets through, it asks once a second instead.
 */

import { ask, Refusal, token } from "./api.js";
import { Chart } from "./charts.js";
import { ago, CODE, count, latency, rate, REASON, span, together } from "./texts.js";

/** @typedef {import("../session-heart.js").SessionHeart} SessionHeart */
/** @typedef {import("./api.js").Explanation} Explanation */
/** @typedef {import("./api.js").Moment} Moment */
/** @typedef {import("./api.js").Node} Node */
/** @typedef {import("./api.js").Row} Row */
/** @typedef {import("./api.js").Sessions} Sessions */
/** @typedef {import("./api.js").Stats} Stats */

const SILENT_AFTER = 3_000;
const LOOK_EVERY = 1_000;
const LIST_EVERY = 5_000;
const ROWS = 25;

/** @template {HTMLElement} T @param {string} id @param {new () => T} type @returns {T} */
function find(id, type) {
  const element = document.getElementById(id);
  if (element instanceof type) return element;
  throw new TypeError(`the page has no ${type.name} #${id}`);
}
/** @param {string} id */
const part = (id) => find(id, HTMLElement);
/** @param {string} id */
const button = (id) => find(id, HTMLButtonElement);
/** @template {keyof HTMLElementTagNameMap} K @param {K} name @param {...(string | Node_)} children */
function make(name, ...children) {
  const element = document.createElement(name);
  element.append(...children);
  return element;
}
/** @typedef {globalThis.Node} Node_ */

const input = find("token", HTMLInputElement);
const search = find("search", HTMLInputElement);
const why = find("why", HTMLDialogElement);
const sure = find("sure", HTMLDialogElement);

const charts = [
  new Chart(part("chart-online"), {
    title: "Online",
    lines: [
      { name: "pages", read: ({ now }) => now.pages },
      { name: "sessions", read: ({ now }) => now.sessions },
    ],
    show: (value) => (value === null ? "–" : count(value)),
  }),
  new Chart(part("chart-beats"), {
    title: "Beats a second",
    lines: [{ name: "beats", read: ({ now }) => now.beats }],
    show: (value) => (value === null ? "–" : rate(value)),
  }),
  new Chart(part("chart-latency"), {
    title: "From ping to beat",
    lines: [
      { name: "p99", read: ({ now }) => now.p99 },
      { name: "p50", read: ({ now }) => now.p50 },
    ],
    show: (value) => latency(value).join(" "),
    times: true,
  }),
  new Chart(part("chart-store"), {
    title: "Store, for a batch",
    lines: [
      { name: "p99", read: ({ now }) => now.store_p99 },
      { name: "p50", read: ({ now }) => now.store_p50 },
    ],
    show: (value) => latency(value).join(" "),
    times: true,
  }),
];

/** @type {SessionHeart | null} */
let heart = null;
/** @type {Moment[]} */
let moments = [];
/** Who is signed in: a count, so that what was asked for somebody else is not shown. */
let shift = 0;
let heardAt = 0;
let looking = false;
let cursor = "";
/** @type {string | null} */
let next = null;
/** @type {Explanation | null} */
let explained = null;

// Signing in and out.

/** @param {boolean} asked whether somebody waits for an answer */
async function signIn(asked) {
  try {
    await ask("operator", "POST");
    shift += 1;
    part("gate").hidden = true;
    part("board").hidden = part("who").hidden = false;
    listen();
    await Promise.all([recall(), look(), list()]);
  } catch (error) {
    if (part("gate").hidden && !part("board").hidden) return complain(error);
    part("gate").hidden = false;
    if (asked || (error instanceof Refusal && ![401, 403].includes(error.status))) {
      part("sign-in-problem").textContent = text(error);
    }
    if (error instanceof Refusal && error.status === 401) token.forget();
    input.focus();
  }
}

/** @param {string} [problem] */
function signOut(problem = "") {
  shift += 1;
  token.forget();
  heart?.remove();
  heart = null;
  moments = [];
  why.close();
  sure.close();
  part("board").hidden = part("who").hidden = true;
  part("gate").hidden = false;
  part("sign-in-problem").textContent = problem;
  input.value = "";
  input.focus();
}

part("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  part("sign-in-problem").textContent = "";
  token.set(input.value.trim());
  void signIn(true);
});

part("sign-out").addEventListener("click", () => {
  ask("operator", "DELETE").catch(() => {}); // whoever cannot be told notices when the shift is over
  signOut();
});

// What the server tells.

/** Open the page's socket, by the cookie that signing in has brought. */
function listen() {
  heart?.remove();
  heart = /** @type {SessionHeart} */ (document.createElement("session-heart"));
  heart.setAttribute("src", "./");
  heart.addEventListener("session-push", (event) => {
    heardAt = performance.now();
    part("source").textContent = "live, by push";
    part("source").className = "live";
    show(/** @type {any} */ (event).data);
  });
  part("pulse").replaceChildren(heart);
}

/** Begin the charts with what was before. */
async function recall() {
  const mine = shift;
  const { moments: before } = await ask("stats/history");
  if (mine !== shift) return;
  const last = before.at(-1)?.at ?? 0;
  moments = [...before, ...moments.filter(({ at }) => at > last)];
}

/** Ask, when nothing has come over the socket for a while; one question at a time. */
async function look() {
  if (looking || part("board").hidden || performance.now() - heardAt < SILENT_AFTER) return;
  looking = true;
  try {
    const stats = await ask("stats");
    part("source").textContent = "by request, once a second";
    part("source").className = "";
    show(stats);
    if (heart?.state === "ended") {
      await ask("operator", "POST");
      listen();
    }
  } catch (error) {
    complain(error);
  } finally {
    looking = false;
  }
}

/** @param {Stats} stats */
function show({ moment, nodes, sessions, users }) {
  part("problem").hidden = true;
  // An answer may come later than a push that was sent after it.
  if (moment.at > (moments.at(-1)?.at ?? 0)) moments = [...moments.slice(-599), moment];
  const { now } = moment;
  part("pages").textContent = count(now.pages);
  part("sessions").textContent = count(sessions ?? now.sessions);
  part("users").textContent = users === null ? "–" : count(users);
  part("beats").textContent = rate(now.beats);
  for (const [id, seconds] of /** @type {const} */ ([["p99", now.p99], ["store", now.store_p99]])) {
    const [number, unit] = latency(seconds);
    part(id).replaceChildren(number, make("small", unit));
  }
  for (const chart of charts) chart.show(moments);
  bars(part("ends"), sum(nodes.map(({ ends }) => ends)), REASON, false);
  bars(part("closes"), sum(nodes.map(({ closes }) => closes)), CODE, true);
  part("nodes").replaceChildren(...nodes.map(line));
  const here = nodes.filter((node) => node.this);
  // A name is that of the machine, and the number of the process on it.
  part("node").textContent = here.length > 1 ? `${here[0].name.replace(/:\d+$/, "")}, ${here.length} workers` : here[0].name;
  button("drain").disabled = here.every((node) => node.draining);
}

/** @param {Record<string, number>[]} tables */
function sum(tables) {
  /** @type {Record<string, number>} */
  const whole = {};
  for (const table of tables) {
    for (const [name, times] of Object.entries(table)) whole[name] = (whole[name] ?? 0) + times;
  }
  return whole;
}

/** @param {HTMLElement} place @param {Record<string, number>} table
 * @param {Record<string, string>} words @param {boolean} codes */
function bars(place, table, words, codes) {
  const entries = Object.entries(table).sort(([, one], [, other]) => other - one);
  const most = Math.max(...Object.values(table));
  const items = entries.map(([name, times]) => {
    const label = make("span", words[name] ?? name);
    if (codes) label.prepend(make("code", name));
    const fill = make("i");
    fill.style.inlineSize = `${(times / most) * 100}%`;
    const bar = make("span", fill);
    bar.className = codes && !/^(1000|1001|1012|4000|4004|45)/.test(name) ? "bar bad" : "bar";
    return make("li", label, bar, make("span", count(times)));
  });
  if (!items.length) {
    items.push(make("li", "None since the start"));
    items[0].className = "empty";
  }
  place.replaceChildren(...items);
}

/** @param {Node} node */
function line(node) {
  const name = make("th", node.name);
  name.scope = "row";
  if (node.this) name.append(tag("this server"));
  if (node.draining) name.append(tag("draining", true));
  const { now } = node;
  const cells = [
    span(node.up),
    count(now.pages),
    count(now.sessions),
    rate(now.beats),
    rate(now.waits),
    `${latency(now.p50).join(" ")} / ${latency(now.p99).join(" ")}`,
    latency(now.store_p99).join(" "),
    latency(node.lag).join(" "),
  ];
  return make("tr", name, ...cells.map((cell) => make("td", cell)));
}

/** @param {string} words @param {boolean} [warns] */
function tag(words, warns = false) {
  const element = make("span", words);
  element.className = warns ? "tag warn" : "tag";
  return element;
}

// The list.

async function list() {
  if (part("board").hidden) return;
  const query = new URLSearchParams({ search: search.value, cursor, limit: String(ROWS) });
  const mine = shift;
  const asked = query.toString();
  try {
    const found = /** @type {Sessions} */ (await ask(`sessions?${asked}`));
    if (mine !== shift || search.value !== query.get("search") || cursor !== query.get("cursor")) return;
    next = found.next;
    button("next").disabled = next === null;
    button("first").disabled = cursor === "";
    const many = found.matches === 1 ? "1 session" : `${count(found.matches)} sessions`;
    const missing = found.missing ? `; ${count(found.missing)} of the workers do not answer` : "";
    say(part("matches"), `${many}${search.value ? " found" : ""}${missing}`);
    rows(found.sessions);
  } catch (error) {
    complain(error);
  }
}

/** Rows stay as long as their sessions do, for somebody may be about to press a button in one.
 * @param {Row[]} found */
function rows(found) {
  const place = part("rows");
  const known = new Map([...place.children].map((each) => [/** @type {HTMLElement} */ (each).dataset.id, each]));
  const wanted = found.map((row) => {
    const element = known.get(row.id) ?? empty(row);
    const shown = row.visible === row.pages ? "" : row.visible ? `, ${count(row.visible)} visible` : ", hidden";
    const cells = [
      row.user ?? "–",
      row.id.slice(0, 16),
      `${count(row.pages)}${shown}`,
      row.addresses.join(", ") || "–",
      ago(row.last_ping),
      ago(row.last_input),
      span(row.age),
      span(row.idle_in),
      span(row.absolute_in),
    ];
    cells.forEach((cell, column) => say(/** @type {HTMLElement} */ (element.children[column]), cell));
    return element;
  });
  for (const element of known.values()) if (!wanted.includes(element)) element.remove();
  wanted.forEach((element, index) => {
    if (place.children[index] !== element) place.insertBefore(element, place.children[index] ?? null);
  });
}

/** @param {Row} row */
function empty(row) {
  const user = make("th");
  user.scope = "row";
  const id = make("td");
  id.className = "mono";
  const explain = make("button", "Explain");
  const end = make("button", "End …");
  end.className = "danger";
  const whose = `the session ${row.id.slice(0, 16)}${row.user === null ? "" : ` of ${row.user}`}`;
  explain.setAttribute("aria-label", `Explain ${whose}`);
  end.setAttribute("aria-label", `End ${whose}`);
  explain.addEventListener("click", () => void open(row.id));
  end.addEventListener("click", () => confirmEnd(row.id, row.user));
  const others = Array.from({ length: 7 }, () => make("td"));
  const element = make("tr", user, id, ...others, make("td", explain, end));
  element.dataset.id = row.id;
  return element;
}

/** Only what has changed is written: a screen reader reads a status anew whenever it is.
 * @param {HTMLElement} element @param {string} words */
function say(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

part("find").addEventListener("submit", (event) => event.preventDefault());
search.addEventListener("input", () => {
  cursor = "";
  clearTimeout(typing);
  typing = setTimeout(list, 250);
});
/** @type {ReturnType<typeof setTimeout> | undefined} */
let typing;
part("find").addEventListener("submit", () => void list());
part("next").addEventListener("click", () => {
  cursor = next ?? "";
  void list();
});
part("first").addEventListener("click", () => {
  cursor = "";
  void list();
});

// One session.

/** @param {string} id */
async function open(id) {
  try {
    explained = /** @type {Explanation} */ (await ask(`sessions/${id}`));
  } catch (error) {
    complain(error);
    return void list();
  }
  const { session, pages } = explained;
  part("why-title").textContent = session?.user ?? "Why it is alive";
  part("why-id").textContent = explained.id.slice(0, 16);
  part("why-sentence").textContent = together(explained.sentence);
  const closed = explained.ends_by === "logout";
  part("why-ends-name").textContent = closed ? "its last page was closed: ends in" : `ends by the ${explained.ends_by} timeout in`;
  part("why-ends").textContent = span(explained.ends_in);
  part("why-extends").textContent = explained.extended_by.join(", ") || "nothing";
  const lines = pages.map(({ address, visible, last_ping }) => {
    const at = address ? ` at ${address}` : "";
    const heard = last_ping === null ? "no ping yet" : `pinged ${ago(last_ping)}`;
    return make("li", make("span", `${visible ? "visible" : "hidden"}${at}`), make("span", heard));
  });
  part("why-pages").replaceChildren(...(lines.length ? lines : [make("li", "none")]));
  if (!why.open) why.showModal();
}

part("why-close").addEventListener("click", () => why.close());
part("why-end").addEventListener("click", () => {
  if (explained) confirmEnd(explained.id, explained.session?.user ?? null);
});

// What asks before it does anything.

/** @param {string} title @param {string} words @param {string} yes @param {() => Promise<unknown>} act */
function confirm(title, words, yes, act) {
  part("sure-title").textContent = title;
  part("sure-text").textContent = words;
  button("sure-yes").textContent = yes;
  button("sure-yes").onclick = async () => {
    button("sure-yes").disabled = true;
    try {
      await act();
    } catch (error) {
      complain(error);
    } finally {
      button("sure-yes").disabled = false;
      sure.close();
      why.close();
      void list();
    }
  };
  sure.showModal();
  button("sure-no").focus();
}

part("sure-no").addEventListener("click", () => sure.close());

/** @param {string} id @param {string | null} user */
function confirmEnd(id, user) {
  const whose = user === null ? "Its user" : user;
  confirm(
    "End this session?",
    `${whose} is signed out of it at once, in every tab and on every node. Nothing brings it back.`,
    "End the session",
    () => ask(`sessions/${id}`, "DELETE"),
  );
}

part("drain").addEventListener("click", () => {
  confirm(
    "Drain this server?",
    "It takes no more pages, at none of its workers, and sends those that it has to other servers; /readyz says 503. " +
      "Sessions live on. Only a restart takes that back.",
    "Drain it",
    () => ask("drain", "POST"),
  );
});

/** @param {unknown} error */
const text = (error) => (error instanceof Error ? error.message : String(error));

/** @param {unknown} error */
function complain(error) {
  if (error instanceof Refusal && error.status === 401) return signOut("The server no longer takes this token.");
  part("problem").textContent = text(error);
  part("problem").hidden = false;
}

setInterval(look, LOOK_EVERY);
setInterval(() => {
  if (!document.hidden && !sure.open && !why.open) void list();
}, LIST_EVERY);
void signIn(false);
