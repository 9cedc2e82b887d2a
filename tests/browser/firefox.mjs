/**
 * Drives Debian's Firefox over WebDriver BiDi: signs in on the demo page, watches the heart, signs
 * out in another tab. Prints what it saw as one line of JSON.
 *
 *   node firefox.mjs URL SECONDS
 */
import { createRequire } from "node:module";
import { execFileSync } from "node:child_process";

const require = createRequire(new URL("../../web/package.json", import.meta.url));
const { launch } = require("puppeteer-core");
const [url, seconds] = process.argv.slice(2);
const executablePath = execFileSync("which", ["firefox-esr"]).toString().trim();

const browser = await launch({ browser: "firefox", executablePath, headless: true });
try {
  const page = await browser.newPage();
  await page.goto(url);
  await page.type("#name", "Ada");
  await page.click("#login button");
  await page.waitForFunction(() => document.querySelector("#last").textContent.startsWith("last beat"));
  const watched = await page.evaluate(async (seconds) => {
    const heart = document.querySelector("#stage session-heart");
    const seen = { beats: 0, running: 0 };
    heart.addEventListener("session-beat", () => {
      seen.beats += 1;
      const [animation] = heart.shadowRoot.getAnimations({ subtree: true });
      if (animation?.playState === "running") seen.running += 1;
    });
    await new Promise((resolve) => setTimeout(resolve, seconds * 1_000));
    const response = await fetch("/whoami", { headers: { "X-Keepalive": "passive" } });
    return { ...seen, user: (await response.json()).user };
  }, Number(seconds));

  const other = await browser.newPage();
  await other.goto(url);
  await other.waitForFunction(() => document.querySelector("#last")?.textContent.startsWith("last beat"));
  await other.click("#logout button");
  await page.bringToFront();
  await page.waitForFunction(() => document.querySelector("#over")?.open);
  const over = await page.evaluate(() => ({
    title: document.querySelector("#over-title").textContent,
    reason: document.querySelector("#stage session-heart").keepalive.reason,
  }));
  process.stdout.write(`${JSON.stringify({ ...watched, ...over })}\n`);
} finally {
  await browser.close();
}
