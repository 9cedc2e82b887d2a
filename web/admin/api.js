// @ts-check
/** The admin API as the dashboard asks it. The token lives in this tab alone, and goes into no address. */

/**
 * @typedef {object} Rates what has happened in the last seconds: per second, and times in seconds
 * @property {number} pages
 * @property {number} sessions
 * @property {number} beats
 * @property {number} waits
 * @property {number | null} p50
 * @property {number | null} p99
 * @property {number | null} store_p50
 * @property {number | null} store_p99
 *
 * @typedef {{at: number, now: Rates}} Moment
 *
 * @typedef {object} Node
 * @property {string} name
 * @property {boolean} this whether it is of the server that this page is from
 * @property {number} up
 * @property {number} lag
 * @property {boolean} draining
 * @property {Rates} now
 * @property {Record<string, number>} ends
 * @property {Record<string, number>} closes
 *
 * @typedef {{moment: Moment, nodes: Node[], sessions: number | null, users: number | null}} Stats
 *
 * @typedef {object} Row
 * @property {string} id
 * @property {string | null} user
 * @property {number} pages
 * @property {number} visible
 * @property {string[]} addresses
 * @property {string} mode
 * @property {number | null} last_ping
 * @property {number | null} last_input
 * @property {number | null} age
 * @property {number} idle_in
 * @property {number | null} absolute_in
 *
 * @typedef {{missing: number, sessions: Row[], matches: number, next: string | null}} Sessions
 *
 * @typedef {object} PageLine
 * @property {string} address
 * @property {boolean} visible
 * @property {number | null} last_ping
 *
 * @typedef {object} Explanation
 * @property {string} id
 * @property {string} sentence
 * @property {number} ends_in
 * @property {string} ends_by
 * @property {string[]} extended_by
 * @property {PageLine[]} pages
 * @property {Row | null} session
 */

const KEY = "keepalive-admin-token";
const PATIENCE = 10_000;

/** What the server did not want to answer, or could not. */
export class Refusal extends Error {
  /** @param {number} status 0 where nobody answered @param {string} error @param {string} solution */
  constructor(status, error, solution) {
    super(`${error[0]?.toUpperCase()}${error.slice(1)}: ${solution}.`);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY),
  /** @param {string} value */
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/**
 * @param {string} path below `api/`
 * @param {string} [method]
 * @returns {Promise<any>} what comes back
 */
export async function ask(path, method = "GET") {
  /** @type {Record<string, string>} */
  const headers = {};
  const known = token.get();
  if (known) headers.Authorization = `Bearer ${known}`;
  const signal = AbortSignal.timeout(PATIENCE);
  let response, answer;
  try {
    response = await fetch(`api/${path}`, { method, headers, signal, cache: "no-store" });
    answer = await response.json();
  } catch {
    throw new Refusal(0, "the server does not answer", "it may be starting anew; this page goes on trying");
  }
  if (!response.ok) throw new Refusal(response.status, answer.error, answer.solution);
  return answer;
}
