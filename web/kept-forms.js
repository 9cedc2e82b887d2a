// @ts-check
/**
 * What was typed into `<form data-keep>`, kept in this tab while its user signs in again.
 *
 * Never a secret, never for another user, and given back once. `<session-guard>` loads this where a
 * page has such forms. `contenteditable` elements are no fields of a form, and not kept.
 */

const KEPT = "session-guard"; // its name in sessionStorage
const NOT_TYPED = /^(hidden|file|image|button|submit|reset)$/;
// By name, too: a password that is being shown is of type text.
const SECRET = /passw|pwd|(^|[ -])(cc-|one-time-code|otp)/i;

/** @typedef {HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement} Field */
/** @typedef {Record<string, [string, string | boolean | string[]][]>} Forms what each form's fields hold */

/** @returns {{who: string | null, forms: Forms} | null} */
function kept() {
  try {
    return JSON.parse(sessionStorage[KEPT]);
  } catch {
    return null; // nothing is kept, or storage is forbidden
  }
}

/** Keep what this page's forms hold, beside what other pages of this user have left.
 * @param {string | null} who */
export function keep(who) {
  const before = kept();
  const forms = before?.who === who ? before.forms : {};
  for (const [name, fields] of formsHere())
    forms[name] = fields.map((field) => [field.name || field.id, contentOf(field)]);
  try {
    sessionStorage[KEPT] = JSON.stringify({ who, forms });
  } catch {
    // There is no room for it.
  }
}

/** Keep nothing. */
export function forget() {
  try {
    delete sessionStorage[KEPT];
  } catch {
    // Storage is forbidden, so there is nothing to forget.
  }
}

/** Fill the forms of this page with what is kept for them. What another user typed is forgotten.
 * @param {string | null} who */
export function giveBack(who) {
  const { who: owner, forms } = kept() ?? {};
  if (!forms || (who === null && owner !== null)) return;
  forget();
  if (owner !== who) return;
  for (const [name, fields] of formsHere()) {
    for (const field of fields) {
      const at = forms[name]?.findIndex(([key]) => key === (field.name || field.id)) ?? -1;
      if (at >= 0) fill(field, forms[name].splice(at, 1)[0][1]);
    }
    delete forms[name];
  }
  if (Object.keys(forms).length) sessionStorage[KEPT] = JSON.stringify({ who, forms }); // of other pages
}

/** @returns {[string, Field[]][]} the forms to keep, by path and name, and what a user may type there */
function formsHere() {
  return [...document.querySelectorAll("form[data-keep]:not([data-keep=off])")].map((form) => {
    // By name, a form's own controls come before what any form has.
    /** @param {string} name */
    const own = (name) => Reflect.get(HTMLFormElement.prototype, name, form);
    return [`${location.pathname}#${own("id") || own("name")}`, [...own("elements")].filter(isTyped)];
  });
}

/** @param {Field} field */
function isTyped(field) {
  const { type, name, id } = field;
  const about = [type, name, id, field.getAttribute("autocomplete")].join(" ");
  const may = field.matches("input, textarea, select") && !field.closest("[data-keep=off]");
  return may && (name || id) && !NOT_TYPED.test(type) && !SECRET.test(about);
}

/** @param {Field} field */
const isTicked = ({ type }) => type === "checkbox" || type === "radio";

/** @param {Field} field */
function contentOf(field) {
  if (isTicked(field)) return /** @type {HTMLInputElement} */ (field).checked;
  return "selectedOptions" in field ? [...field.selectedOptions].map(({ value }) => value) : field.value;
}

/** As a user would, so that frameworks notice.
 * @param {Field} field @param {string | boolean | string[]} content */
function fill(field, content) {
  if (String(contentOf(field)) === String(content)) return;
  if (isTicked(field)) return field.click();
  if ("selectedOptions" in field)
    for (const option of field.options)
      option.selected = /** @type {string[]} */ (content).includes(option.value);
  // React puts a `value` of its own on the field, which takes this for no change.
  else Reflect.set(Object.getPrototypeOf(field), "value", content, field);
  for (const type of ["input", "change"]) field.dispatchEvent(new Event(type, { bubbles: true }));
}
