/** What the package promises to those who install it. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";

const run = promisify(execFile);
const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const WEB = join(ROOT, "web");
const TOOLS = join(WEB, "node_modules", ".bin");
const { buildSync } = createRequire(join(WEB, "package.json"))("esbuild");
const LOCKS = ["web", "examples/react", "examples/vue", "bench/rivals"];

const read = async (...path) => JSON.parse(await readFile(join(...path), "utf8"));
const tool = (name, ...args) =>
  run(join(TOOLS, name), args, { cwd: place }).catch(({ stdout, stderr }) => assert.fail(stdout + stderr));

/** A folder of its own, for packing makes files beside the modules. */
let place;
/** The package as it is published, and as it is installed. */
let tarball;
let installed;

before(async () => {
  place = await mkdtemp(join(tmpdir(), "session-keepalive-"));
  const filter = (path) => path !== join(WEB, "node_modules");
  await cp(WEB, join(place, "web"), { recursive: true, filter });
  await cp(join(ROOT, "LICENSE"), join(place, "LICENSE"));
  await symlink(join(WEB, "node_modules"), join(place, "web", "node_modules"));
  await run("npm", ["pack", "--pack-destination", place], { cwd: join(place, "web") });
  tarball = join(place, (await readdir(place)).find((name) => name.endsWith(".tgz")));
  await mkdir(join(place, "node_modules"));
  await run("tar", ["-xzf", tarball, "-C", join(place, "node_modules")]);
  installed = join(place, "node_modules", "session-keepalive");
  await run("mv", [join(place, "node_modules", "package"), installed]);
});

after(() => rm(place, { recursive: true, force: true }));

test("imports in Node, without elements and without side effects", async () => {
  assert.equal(globalThis.HTMLElement, undefined);
  const { SessionGuard, SessionHeart } = await import(join(installed, "index.js"));
  assert.equal(typeof SessionHeart, "function");
  assert.equal(typeof SessionGuard, "function");
});

test("exports exactly its public names", async () => {
  assert.deepEqual(Object.keys(await import(join(installed, "index.js"))).sort(), [
    "Keepalive",
    "SessionEvent",
    "SessionGuard",
    "SessionHeart",
    "hold",
  ]);
  assert.deepEqual(Object.keys(await import(join(installed, "machine.js"))).sort(), [
    "MESSAGES",
    "TABLE",
    "initial",
    "nearest",
    "next",
  ]);
});

test("holds all modules, their types, and nothing of the workshop", async () => {
  const modules = (await readdir(WEB)).filter((name) => name.endsWith(".js"));
  const others = ["LICENSE", "README.md", "custom-elements.json", "package.json", "types"];
  assert.deepEqual((await readdir(installed)).sort(), [...modules, ...others].sort());
  const { exports, sideEffects } = await read(installed, "package.json");
  for (const [path, entry] of Object.entries(exports))
    for (const file of typeof entry === "string" ? [entry] : Object.values(entry))
      assert.ok(await readFile(join(installed, file)), path);
  assert.deepEqual(sideEffects, ["./define.js", "./define-guard.js"]);
});

test("publint finds nothing", () => tool("publint", "run", tarball, "--strict"));

test("the types are right under every resolution of ES modules", () =>
  tool("attw", tarball, "--profile", "esm-only", "--no-emoji", "--no-color"));

for (const resolution of ["nodenext", "bundler"])
  test(`a page in TypeScript gets its elements and events, typed (${resolution})`, async () => {
    await cp(join(ROOT, "tests/web/consumer.ts"), join(place, "consumer.ts"));
    await writeFile(join(place, "package.json"), '{"type": "module"}');
    const module = resolution === "bundler" ? "esnext" : resolution;
    const target = "es2022";
    const compilerOptions = { strict: true, noEmit: true, target, module, moduleResolution: resolution };
    const config = join(place, `tsconfig.${resolution}.json`);
    await writeFile(config, JSON.stringify({ compilerOptions, files: ["consumer.ts"] }));
    await tool("tsc", "--project", config);
  });

// What a page downloads at once, and with all that may follow: sharing, the guard's dialog, its languages, kept forms.
for (const [entries, budget, inAll] of [
  [["define.js"], 7_150, 7_830],
  [["define.js", "define-guard.js"], 7_900, 14_080],
])
  test(`${entries.join(" and ")}: at most ${budget} bytes at once, minified and compressed`, () => {
    const { outputFiles, metafile } = buildSync({
      stdin: { contents: entries.map((entry) => `import "./${entry}";`).join("\n"), resolveDir: WEB },
      bundle: true,
      minify: true,
      format: "esm",
      splitting: true,
      outdir: place,
      metafile: true,
      write: false,
    });
    const outputs = Object.entries(metafile.outputs);
    const [path, { imports }] = outputs.find(([, { entryPoint }]) => entryPoint === "<stdin>");
    assert.ok(imports.every(({ kind }) => kind === "dynamic-import"), "a page waits for other files, too");
    const size = ({ contents }) => gzipSync(contents, { level: 9 }).length;
    const atOnce = size(outputFiles.find((file) => relative(process.cwd(), file.path) === path));
    assert.ok(atOnce <= budget, `${atOnce} bytes at once`);
    const all = outputFiles.reduce((sum, file) => sum + size(file), 0);
    assert.ok(all <= inAll, `${all} bytes in all`);
  });

test("custom-elements.json says what the modules say", async () => {
  const folder = join(place, "manifest");
  const filter = (path) => !/\/(node_modules|custom-elements\.json)$/.test(path);
  await cp(WEB, folder, { recursive: true, filter });
  await run(join(TOOLS, "cem"), ["analyze"], { cwd: folder });
  const [now, fresh] = [await read(WEB, "custom-elements.json"), await read(folder, "custom-elements.json")];
  assert.deepEqual(now, fresh, "run `npm --prefix web run manifest`");
  const elements = now.modules.flatMap(({ declarations }) => declarations);
  assert.deepEqual(elements.map(({ tagName }) => tagName).sort(), ["session-guard", "session-heart"]);
  const { SessionHeart } = await import(join(WEB, "session-heart.js"));
  const heart = elements.find(({ tagName }) => tagName === "session-heart");
  const attributes = heart.attributes.map(({ name }) => name);
  for (const name of SessionHeart.observedAttributes) assert.ok(attributes.includes(name), name);
});

test("has no dependency at run time", async () => {
  assert.equal((await read(WEB, "package.json")).dependencies, undefined);
  const { packages } = await read(WEB, "package-lock.json");
  for (const [name, entry] of Object.entries(packages))
    assert.ok(name === "" || entry.dev || entry.devOptional, `${name} is not for development only`);
});

for (const folder of LOCKS)
  test(`the lock of ${folder} names no host, and pins every package by its hash`, async () => {
    const { packages } = await read(ROOT, folder, "package-lock.json");
    for (const [path, entry] of Object.entries(packages)) {
      const ours = !path.includes("node_modules/") || entry.link;
      assert.ok(ours || entry.integrity.startsWith("sha512-"), path);
      assert.ok(ours || entry.resolved === undefined, path);
    }
  });
