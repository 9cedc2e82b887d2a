/** What the demo page says in each mode and state, and that it claims no more than the page knows. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { MODE, STATE, summary } from "../../web/demo/texts.js";
import { TABLE } from "../../web/machine.js";

const MODES = ["presence", "activity", "observe"];
const KEEPS = /Leave this page open|an open page keeps/;

describe("the demo's texts", () => {
  test("there is a word for every state, and a sentence for each that a user can see", () => {
    for (const state of [...Object.keys(TABLE), "warning"]) {
      assert.ok(STATE[state], state);
      if (state === "idle" || state === "frozen") continue;
      for (const mode of MODES) assert.ok(summary({ state, mode, expiresIn: 60 }), `${state} ${mode}`);
    }
  });

  test("only in mode presence does an open page keep the session alive", () => {
    for (const mode of MODES) {
      const said = [MODE[mode], summary({ state: "open", mode, expiresIn: 60 })];
      for (const text of said) assert.equal(KEEPS.test(text), mode === "presence", text);
    }
    assert.equal(summary({ state: "open", mode: null, expiresIn: null }), "", "before hello nothing is known");
  });

  for (const state of ["waiting", "connecting", "offline"]) {
    test(`${state} signs nobody out, but time may have`, () => {
      const say = (expiresIn) => summary({ state, mode: "presence", expiresIn });
      assert.match(say(0.1), /signs nobody out/);
      assert.doesNotMatch(say(0), /signs nobody out/);
      assert.match(say(0), /time has run out/);
    });
  }
});
