/** What the package promises to those who install it. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

const read = async (name) =>
  JSON.parse(await readFile(new URL(`../../web/${name}`, import.meta.url), "utf8"));

test("imports in Node, without elements and without side effects", async () => {
  assert.equal(globalThis.HTMLElement, undefined);
  const { SessionHeart } = await import("../../web/session-heart.js");
  assert.equal(typeof SessionHeart, "function");
});

test("exports exactly its public names", async () => {
  assert.deepEqual(Object.keys(await import("../../web/index.js")).sort(), [
    "Keepalive",
    "SessionBeatEvent",
    "SessionEndEvent",
    "SessionHeart",
    "SessionPushEvent",
    "SessionStateChangeEvent",
    "SessionWarningEvent",
  ]);
  assert.deepEqual(Object.keys(await import("../../web/machine.js")).sort(), [
    "MESSAGES",
    "TABLE",
    "initial",
    "nearest",
    "next",
  ]);
});

test("every export and every listed file exists, and only define.js has a side effect", async () => {
  const { exports, files, sideEffects } = await read("package.json");
  for (const file of [...Object.values(exports), ...files])
    await readFile(new URL(`../../web/${file}`, import.meta.url));
  for (const path of Object.values(exports))
    assert.ok(path === "./package.json" || files.includes(path.slice(2)), path);
  assert.deepEqual(sideEffects, ["./define.js"]);
});

test("has no dependency at run time, and its lock names no host", async () => {
  assert.equal((await read("package.json")).dependencies, undefined);
  const { packages } = await read("package-lock.json");
  for (const [name, entry] of Object.entries(packages)) {
    assert.equal(entry.resolved, undefined, name);
    assert.ok(name === "" || entry.dev, `${name} is not for development only`);
  }
});
