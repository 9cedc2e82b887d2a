"""The examples, installed and built as their READMEs say, in real Chromium against a real server."""

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession
from playwright.async_api import Browser, Page

from .conftest import DEADLINE, ROOT, Server

pytestmark = pytest.mark.browser

NPM = ("npm", "--no-audit", "--no-fund", "--ignore-scripts")
# Whether the heart was moving at each beat that has reached the window.
WATCH = """
  window.beats = [];
  addEventListener("session-beat", ({ target }) => {
    const animations = target.shadowRoot?.getAnimations({ subtree: true }) ?? [];
    beats.push(animations.some(({ playState }) => playState === "running"));
  });
"""


async def run(*command: str, cwd: Path) -> str:
    """What a command prints; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, (output + errors).decode()
    return output.decode()


@pytest.fixture
async def examples(tmp_path: Path) -> Path:
    """The examples beside the package as it is published: installing and building makes files."""
    ignore = shutil.ignore_patterns("node_modules", "dist", "__pycache__")
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=ignore)
    shutil.copytree(ROOT / "web", tmp_path / "source/web", ignore=ignore)
    shutil.copy(ROOT / "LICENSE", tmp_path / "source")
    (tmp_path / "source/web/node_modules").symlink_to(ROOT / "web/node_modules")
    await run("npm", "pack", "--pack-destination", str(tmp_path), cwd=tmp_path / "source/web")
    (tarball,) = tmp_path.glob("*.tgz")
    await run("tar", "-xzf", tarball.name, cwd=tmp_path)
    (tmp_path / "package").rename(tmp_path / "web")
    return tmp_path / "examples"


@asynccontextmanager
async def served(app: Path, *arguments: str, port: int = 0) -> AsyncIterator[str]:
    """`python app.py`, on a free port; its URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-u",
        str(app),
        *arguments,
        cwd=app.parent,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PORT": str(port), "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            line = (await process.stdout.readline()).decode()
        found = re.search(r"Running on (http://127\.0\.0\.1:\d+)", line)
        assert found is not None, line
        yield found[1]
    finally:
        process.kill()
        await process.wait()


async def sign_in(page: Page) -> None:
    await page.get_by_label("Name").fill("Ada")
    await page.get_by_role("button", name="Sign in").click()


async def save(page: Page, note: str) -> None:
    """Save the note that stands in the form; every page of the session hears of it."""
    await page.locator("#note button:enabled").click()
    await page.get_by_role("list", name="Saved notes").get_by_text(note).wait_for()


@pytest.mark.timeout(180)  # a framework is downloaded
@pytest.mark.parametrize("name", ["plain", "react", "vue"])
async def test_a_note_outlives_its_login(examples: Path, chromium: Browser, name: str) -> None:
    if (examples / name / "package.json").exists():
        await run(*NPM, "ci", cwd=examples / name)
        await run(*NPM, "run", "build", cwd=examples / name)
    async with served(examples / "plain/app.py", str(examples / name / "page")) as url:
        context = await chromium.new_context()
        await context.add_init_script(WATCH)
        here, there = await context.new_page(), await context.new_page()
        problems: list[str] = []
        here.on("pageerror", lambda error: problems.append(str(error)))

        await here.goto(url)
        await sign_in(here)
        await here.locator("session-heart[state=open]").wait_for()
        await here.wait_for_function("beats.length > 0 && beats.every(Boolean)")
        await here.get_by_text(re.compile(r"ends in 1[78]\d\d seconds")).wait_for()
        await there.goto(url)
        await there.locator("#note button:enabled").wait_for()
        await here.get_by_label("Note", exact=True).fill("first")
        await save(here, "first")
        await there.get_by_text("first").wait_for()

        await here.get_by_label("Note", exact=True).fill("second")
        stale = await here.locator("[name=csrf]").input_value()
        await there.get_by_role("button", name="Sign out").click()
        await here.locator("session-heart[state=ended]").wait_for()
        await here.locator("main").wait_for(state="hidden")
        async with here.expect_popup() as popup:
            await here.get_by_role("alertdialog").get_by_role("button", name="Sign in again").click()
        await sign_in(await popup.value)

        await here.locator("main").wait_for(state="visible")
        await here.wait_for_function(
            "stale => document.querySelector('[name=csrf]').value !== stale", arg=stale
        )
        refused = await here.request.post(f"{url}/save", form={"csrf": stale, "note": "forged"})
        assert refused.status == 403
        await save(here, "second")
        assert await here.get_by_role("list", name="Saved notes").inner_text() == "first\nsecond"
        assert problems == []


async def test_a_dashboard_goes_on_when_its_server_is_back(examples: Path, chromium: Browser) -> None:
    app = examples / "dashboard/app.py"
    page = await chromium.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    drawn = "document.querySelector('polyline').getAttribute('points').split(' ').length"
    async with served(app) as url:
        await page.goto(url)
        await sign_in(page)
        await page.locator("session-heart[state=open]").wait_for()
        await page.wait_for_function(f"{drawn} >= 3")
        await page.locator("output", has_text="%").wait_for()
    await page.locator("session-heart:not([state=open])").wait_for()
    async with served(app, port=int(url.rpartition(":")[2])):
        await page.locator("session-heart[state=open]").wait_for()
        before = await page.evaluate(drawn)
        await page.wait_for_function(f"{drawn} > {before}")
        assert page.url == f"{url}/", "nobody had to sign in"
    assert problems == []


@pytest.mark.parametrize("changed", [None, "machine.js"])
async def test_an_import_map_with_the_hashes_of_the_manifest_lets_in_these_modules_alone(
    serve: Callable[..., Awaitable[Server]], chromium: Browser, changed: str | None
) -> None:
    modules = "/keepalive/client"
    url = (await serve()).url
    async with ClientSession() as client, client.get(f"{url}{modules}/manifest.json") as response:
        hashes: dict[str, str] = await response.json()
    import_map = {
        "imports": {"session-keepalive/define": f"{modules}/define.js"},
        "integrity": {f"{modules}/{name}": integrity for name, integrity in hashes.items()},
    }
    html = f"""
      <script type="importmap">{json.dumps(import_map)}</script>
      <script type="module">import "session-keepalive/define"</script>
    """
    page = await chromium.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    await page.route("**/page", lambda route: route.fulfill(body=html, content_type="text/html"))
    if changed:
        body = (ROOT / "web" / changed).read_text("utf-8") + "// changed on its way"
        await page.route(
            f"**/{changed}", lambda route: route.fulfill(body=body, content_type="text/javascript")
        )
    await page.goto(f"{url}/page")
    defined = await page.evaluate("customElements.get('session-heart') !== undefined")
    assert defined == (changed is None)
    assert [text for text in said if "integrity" in text] == said
    assert len(said) == (0 if changed is None else 1)
