"""A server process, and Debian's Chromium driven by Playwright."""

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

import pytest
from aiohttp import ClientSession
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

ROOT = Path(__file__).parents[2]
DEADLINE = 20.0
# A hidden or covered page must meet here what it meets on a desk, and the browser is to leave the
# network alone.
SWITCHES = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
UNREAL = [
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "--disable-back-forward-cache",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that may take longest come first: they wait for minutes, and the rest can run meanwhile."""

    def patience(item: pytest.Item) -> float:
        mark = item.get_closest_marker("timeout")
        return mark.args[0] if mark and item.get_closest_marker("browser") else 0

    items.sort(key=patience, reverse=True)


class Server:
    """`python run.py` on a free port, which it keeps through restarts."""

    def __init__(self, database: Path, *arguments: str) -> None:
        self._arguments = ["--store", f"sqlite:///{database}", *arguments]
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(ROOT / "run.py"),
            "--port",
            str(self._port),
            *self._arguments,
            stdout=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith("KEEPALIVE_")},
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            line = (await self._process.stdout.readline()).decode()
        found = re.search(r"listening on http://127\.0\.0\.1:(\d+) ", line)
        assert found is not None, line
        self._port = int(found[1])

    async def kill(self) -> None:
        """`kill -9`, as a crash does it."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


StartServer = Callable[..., AsyncExitStack]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Callable[..., object]]:
    """Starts servers with given options; all are gone after the test."""
    async with AsyncExitStack() as stack:

        async def start(*arguments: str) -> Server:
            server = Server(tmp_path / "sessions.db", *arguments)
            await server.start()
            stack.push_async_callback(server.kill)
            return server

        yield start


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    path = shutil.which("chromium")
    assert path is not None, "these tests need Debian's chromium: apt-get install chromium"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path, args=SWITCHES, ignore_default_args=UNREAL
        )
        try:
            yield browser
        finally:
            await browser.close()


class Launch(Protocol):
    def __call__(self, *switches: str) -> Awaitable[BrowserContext]: ...


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Launch]:
    """Starts Chromium as it runs on a desk, to be looked at over the wire.

    When Playwright starts it, every page counts as focused, hence as visible, no timer is throttled,
    and nothing comes back from the back/forward cache.
    """
    path = shutil.which("chromium")
    assert path is not None, "these tests need Debian's chromium: apt-get install chromium"
    async with AsyncExitStack() as stack:
        playwright = await stack.enter_async_context(async_playwright())

        async def launch(*switches: str) -> BrowserContext:
            process = await asyncio.create_subprocess_exec(
                path,
                "--headless",
                "--remote-debugging-port=0",
                f"--user-data-dir={tmp_path / 'profile'}",
                "--no-first-run",
                "--no-startup-window",  # whose start page may not let itself be looked at for half a minute
                *SWITCHES,
                *switches,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            stack.push_async_callback(_kill, process)
            assert process.stderr is not None
            found = None
            async with asyncio.timeout(DEADLINE):
                while found is None:
                    line = await process.stderr.readline()
                    assert line, "chromium did not start"
                    found = re.search(r"DevTools listening on (ws://\S+)", line.decode())
            drain = asyncio.create_task(process.stderr.read())  # lest it wait for a reader
            stack.callback(drain.cancel)
            browser = await playwright.chromium.connect_over_cdp(found[1], no_defaults=True)
            stack.push_async_callback(browser.close)
            return browser.contexts[0]

        yield launch


async def _kill(process: asyncio.subprocess.Process) -> None:
    """End a browser; its children follow it."""
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def sign_in(page: Page, url: str, name: str = "Ada") -> None:
    """Sign in on the demo page, as a person does, and wait for the first beat."""
    await page.goto(url)
    await page.get_by_role("textbox", name="Your name").fill(name)
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await page.locator("#last", has_text="last beat").wait_for()


@asynccontextmanager
async def client(page: Page) -> AsyncIterator[ClientSession]:
    """An HTTP client that has the page's cookies, and looks on without touching anything."""
    cookies = {cookie["name"]: cookie["value"] for cookie in await page.context.cookies()}
    async with ClientSession(cookies=cookies, headers={"X-Keepalive": "passive"}) as session:
        yield session


async def user(session: ClientSession, url: str) -> str | None:
    """Who is signed in."""
    async with session.get(f"{url}/whoami") as response:
        answer: dict[str, str | None] = await response.json()
        return answer["user"]
