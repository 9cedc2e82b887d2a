/** The transcripts of the protocol that are for clients, played to the page's machine. */

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { describe, test } from "node:test";

import { initial, MESSAGES, nearest, next } from "../../web/machine.js";

const FOLDER = new URL("../conformance/", import.meta.url);
const BEGINNING = 1_800_000_000_000;
const RANDOM = 0.5; // as the transcripts have it

/** A machine in a world of its own, and what it has done, as steps of a transcript. */
class Client {
  context = initial;
  done = [];
  connected = false;
  posting = 0;

  tell(event, at) {
    const env = { now: BEGINNING + Math.round(at * 1_000), random: RANDOM, online: true, visible: true };
    const { context, effects } = next(this.context, event, env);
    this.context = context;
    for (const effect of effects) this.note(effect, at);
  }

  /** Let time pass with working timers. */
  pass(until) {
    for (;;) {
      const at = (nearest(this.context) - BEGINNING) / 1_000;
      if (!(at <= until)) return;
      this.tell({ type: "tick" }, at);
    }
  }

  note(effect, at) {
    switch (effect.type) {
      case "connect":
        this.connected = true;
        return this.done.push({ at, connects: true });
      case "drop":
        if (this.connected) this.done.push({ at, drops: effect.returns ? 4000 : 1000 });
        return void (this.connected = false);
      case "send":
        return this.done.push({ at, client: { type: "ping", n: effect.n } });
      case "post":
        this.posting = effect.n;
        return this.done.push({ at, posts: { type: "ping", n: effect.n } });
      case "emit":
        return this.done.push({ at, tells: effect.message });
      default:
        assert.fail(`nobody asked for ${effect.type}`);
    }
  }

  /** Take what a transcript gives. */
  take({ at, ...step }) {
    if (step.do !== "wake") this.pass(at);
    const [[name, value]] = Object.entries(step);
    if (name === "closed") {
      this.connected = false;
      this.tell({ type: "closed", code: value }, at);
    } else if (name === "answer") this.tell({ type: "posted", n: this.posting, message: value }, at);
    else if (name === "do") this.tell({ type: value === "wake" ? "tick" : value, fresh: true }, at);
    else if (MESSAGES.includes(value.type)) this.tell(value, at);
  }
}

const GIVEN = ["do", "server", "closed", "answer"];
const isGiven = (step) => GIVEN.some((name) => name in step);

describe("the page's machine keeps to the transcript", () => {
  for (const name of readdirSync(FOLDER).filter((each) => each.startsWith("client-"))) {
    const { title, steps, until } = JSON.parse(readFileSync(new URL(name, FOLDER), "utf8"));
    test(`${name}: ${title}`, () => {
      const client = new Client();
      for (const step of steps) if (isGiven(step)) client.take(step);
      client.pass(until);
      const expected = steps.filter((step) => !isGiven(step));
      assert.deepEqual(
        client.done.map(({ at, ...what }) => ({ at: Math.round(at * 1_000) / 1_000, ...what })),
        expected,
      );
    });
  }
});
