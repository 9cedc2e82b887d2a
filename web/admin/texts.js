// @ts-check
/** Numbers and codes in words. */

/** @type {Record<string, string>} */
export const REASON = {
  idle: "No activity",
  absolute: "Time is up",
  logout: "Signed out",
  revoked: "Ended by an operator",
  evicted: "Too many were open",
  unknown: "No such session",
};

/** @type {Record<string, string>} */
export const CODE = {
  1000: "Page left",
  1001: "Page left",
  1002: "Broke the protocol",
  1003: "Sent what is no text",
  1006: "Connection lost",
  1007: "Sent bad data",
  1009: "Sent too much",
  1011: "Our error",
  1012: "Node restarts",
  1013: "Overloaded",
  4000: "Page comes back",
  4001: "No answer",
  4002: "Too fast",
  4003: "Read too slowly",
  4004: "Come back",
  4501: "Idle timeout",
  4502: "Absolute timeout",
  4503: "Signed out",
  4504: "No such session",
  4505: "Evicted",
  4506: "Revoked",
};

const WHOLE = new Intl.NumberFormat([], { maximumFractionDigits: 0 });
const TENTHS = new Intl.NumberFormat([], { maximumFractionDigits: 1, minimumFractionDigits: 1 });

/** @param {number} number */
export const count = (number) => WHOLE.format(number);

/** @param {number} number a second */
export const rate = (number) => (number > 0 && number < 99.95 ? TENTHS.format(number) : WHOLE.format(number));

/** @param {number | null} seconds @returns {[string, string]} a number and its unit */
export function latency(seconds) {
  if (seconds === null) return ["–", ""];
  if (seconds >= 1) return [seconds.toFixed(2), "s"];
  const thousandths = seconds * 1_000;
  return [thousandths >= 10 ? thousandths.toFixed(0) : thousandths.toFixed(thousandths >= 1 ? 1 : 2), "ms"];
}

/** @param {number | null} seconds in the two largest units */
export function span(seconds) {
  if (seconds === null) return "–";
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3_600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3_600)} h ${Math.floor((whole % 3_600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3_600)} h`;
}

/** Keep numbers and their units on one line. @param {string} sentence */
export const together = (sentence) => sentence.replace(/(\d) (s|min|h|d)\b/g, "$1\u00a0$2");

/** @param {number | null} seconds */
export const ago = (seconds) => (seconds === null ? "–" : `${span(seconds)} ago`);
