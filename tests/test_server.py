"""The standalone server as a process of its own: what its users rely on."""

import asyncio
import gc
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from http.cookies import SimpleCookie
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import pytest

from keepalive import KEEPALIVE, SettingError
from keepalive.server import _STOPPING, FULL_COLLECTION_AFTER, calm_garbage_collector, make_app
from keepalive.settings import Settings
from keepalive.testing import AssertEnds, KeepaliveApp, OpenPage, VirtualClock

from .conftest import Browse, Browser, Serve
from .discretion import server_log
from .raw import CLOSE, DEADLINE, RawPage, Served, frame, ping

ROOT = Path(__file__).parent.parent
IDLE = 2.0
QUICK = "--idle-timeout", f"{IDLE:g}", "--ping-interval", "0.5"
PASSIVE = {"X-Keepalive": "passive"}


class Server(NamedTuple):
    process: Process
    port: int

    async def stop(self) -> tuple[int, float]:
        """Its exit code after SIGTERM, and after how many seconds."""
        began = monotonic()
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(3 * DEADLINE):
            return await self.process.wait(), monotonic() - began


Start = Callable[..., Awaitable[Server]]


@asynccontextmanager
async def running(folder: Path, *options: str, stderr: int | None = None) -> AsyncIterator[Server]:
    """The demo server, with its sessions in `folder`."""
    command = [sys.executable, str(ROOT / "run.py"), "--port", "0", "--store", "sqlite:///sessions.db"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("KEEPALIVE_")}
    process = await asyncio.create_subprocess_exec(
        *command, *options, cwd=folder, env=environ, stdout=PIPE, stderr=stderr or server_log()
    )
    try:
        assert process.stdout
        async with asyncio.timeout(4 * DEADLINE):
            line = (await process.stdout.readline()).decode()
        announced = re.search(r"listening on http://127\.0\.0\.1:(\d+) ", line)
        assert announced, line
        yield Server(process, int(announced[1]))
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def start(*options: str) -> Server:
            return await stack.enter_async_context(running(tmp_path, *options))

        yield start


async def signed_in(browse: Browse, port: int) -> Browser:
    browser = await browse(port)
    assert (await browser.post("/login", data={"name": "ann"})).status == 303
    return browser


async def user(browser: Browser) -> object:
    """Who is signed in; to ask extends nothing."""
    return (await browser.get("/whoami", headers=PASSIVE)).json["user"]


@pytest.fixture
async def here(serve: Serve, keepalive_app: KeepaliveApp, clock: VirtualClock, tmp_path: Path) -> Served:
    """The same server in this process, in virtual time."""
    keepalive_app(app := make_app(Settings(store=f"sqlite:///{tmp_path}/sessions.db"), demo=True))
    return await serve(app)


async def test_heartbeats_keep_a_user_signed_in(here: Served, browse: Browse, clock: VirtualClock) -> None:
    """`GET /keepalive/heartbeat` alone, for much longer than the session may idle, and no longer."""
    ann = await signed_in(browse, here.port)
    for _ in range(15):
        await clock.advance(minutes=25)
        assert (await ann.get("/keepalive/heartbeat")).json["type"] == "beat"
    await clock.advance(minutes=29, seconds=59)
    assert await user(ann) == "ann"
    await clock.advance(seconds=1)
    assert await user(ann) is None


@pytest.mark.usefixtures("here")
async def test_an_open_page_keeps_its_user_signed_in(
    page: OpenPage, clock: VirtualClock, assert_ends: AssertEnds
) -> None:
    """The same with pings alone."""
    tab = await page("ann")
    await clock.advance(hours=6)
    tab.crash()
    await clock.advance(minutes=29)
    await assert_ends(None)
    await clock.advance(minutes=1)
    await assert_ends("idle")


async def test_who_is_idle_is_warned_and_signed_out(start: Start, browse: Browse) -> None:
    """In the machine's own time.

    Only a question that was put too late, or an answer that came too early, can fail: a machine that
    is slow to ask or to answer sees nothing wrong.
    """
    ann = await signed_in(browse, (await start(*QUICK)).port)
    page = await ann.page()
    sent = monotonic()
    page.send(ping(1))
    assert (await page.message("beat"))["expires_in"] > IDLE - 1
    heard = monotonic()
    assert (await page.message("warning"))["why"] == "idle"
    page.cut()
    async with asyncio.timeout(IDLE + 3 * DEADLINE):
        asked = monotonic()
        while await user(ann) is not None:
            assert asked < heard + IDLE + 1
            await asyncio.sleep(0.1)
            asked = monotonic()
    assert monotonic() > sent + IDLE - 1


async def test_a_beat_holds_through_a_crash(
    start: Start, browse: Browse, serve: Serve, clock: VirtualClock, tmp_path: Path
) -> None:
    """Two servers are killed right after theirs; a third one, whose time is virtual, goes by their word."""
    ann = await browse(0)
    for _ in range(2):
        server = await start()
        ann.port = server.port
        if not ann.cookie:
            await ann.post("/login", data={"name": "ann"})
        page = await ann.page()
        assert (await page.message())["type"] == "hello"
        sent = datetime.now().timestamp()  # `time` is virtual, but these servers' is not
        page.send(ping(1))
        promised = (await page.message("beat"))["expires_in"]
        heard = datetime.now().timestamp()
        server.process.kill()
        await server.process.wait()
    assert promised > 1700
    ann.port = (await serve(make_app(Settings(store=f"sqlite:///{tmp_path}/sessions.db"), demo=True))).port
    await clock.advance(sent + promised - 1 - clock.wall())
    assert await user(ann) == "ann"
    await clock.advance(heard + promised + 1 - clock.wall())
    assert await user(ann) is None


async def test_a_stop(start: Start, browse: Browse) -> None:
    """All pages are told to come back, and the process is gone in no time."""
    server = await start()
    ann = await signed_in(browse, server.port)
    pages = [await ann.page() for _ in range(20)]

    async def said(page: RawPage) -> int:
        code = await page.close_code()
        page.send(frame(code.to_bytes(2), CLOSE))
        page.cut()
        return code

    goodbyes = asyncio.gather(*map(said, pages))
    code, seconds = await server.stop()
    assert code == 0
    assert seconds < 5
    assert set(await goodbyes) == {1012}


async def test_a_stop_with_a_page_that_does_not_answer(start: Start, browse: Browse) -> None:
    """And with a request whose body never comes: both together wait no longer than promised."""
    server = await start()
    page = await (await signed_in(browse, server.port)).page()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    code, seconds = await server.stop()
    writer.transport.abort()
    assert code == 0
    assert seconds < 5
    assert await page.close_code() == 1012


async def test_readiness(browse: Browse, serve: Serve, tmp_path: Path) -> None:
    """No new pages for a server that stops, or whose store does not answer."""
    app = make_app(Settings(store=f"sqlite:///{tmp_path}/sessions.db"))
    browser = await browse((await serve(app)).port)
    assert (await browser.get("/readyz")).status == 200
    await app[KEEPALIVE]._door.close()
    answer = await browser.get("/readyz")
    assert (answer.status, answer.body) == (503, b"the session store does not answer\n")
    assert (await browser.get("/healthz")).status == 200
    app[_STOPPING].set()
    assert (await browser.get("/readyz")).body == b"stopping\n"


@pytest.mark.parametrize(("secure", "name"), [(True, "__Host-keepalive"), (None, "keepalive")])
async def test_behind_a_proxy_that_ends_tls(
    browse: Browse, serve: Serve, secure: bool | None, name: str
) -> None:
    app = make_app(Settings(store="memory://", secure=secure), demo=True)
    browser = await browse((await serve(app)).port)
    answer = await browser.post("/login", data={"name": "ann"})
    (cookie,) = SimpleCookie(answer.headers["Set-Cookie"]).values()
    assert (cookie.key, bool(cookie["secure"])) == (name, bool(secure))


def test_the_garbage_collector_leaves_open_pages_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    young, middle, full = gc.get_threshold()
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(gc, "set_threshold", lambda *thresholds: asked.append(thresholds))
    try:
        calm_garbage_collector()
        assert gc.get_freeze_count() > 10_000
        assert asked == [(young, middle, FULL_COLLECTION_AFTER)]
        assert full < FULL_COLLECTION_AFTER
    finally:
        gc.unfreeze()


async def test_metrics_need_their_extra(
    browse: Browse, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "keepalive.metrics", None)
    monkeypatch.delattr("keepalive.metrics", raising=False)
    browser = await browse((await serve(make_app(Settings(store="memory://")))).port)
    answer = await browser.get("/metrics")
    assert answer.status == 404
    assert b"pip install" in answer.body


def test_the_secret_file_is_not_made_by_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that is misspelt would sign everybody out."""
    monkeypatch.delenv("KEEPALIVE_SECRET", raising=False)
    with pytest.raises(SettingError, match="there is no secret file"):
        make_app(Settings(store="memory://", secret_file=tmp_path / "secret"))


async def test_what_an_operator_asks(start: Start, browse: Browse) -> None:
    browser = await browse((await start()).port)
    for path, text in ("/healthz", b"ok\n"), ("/readyz", b"ready\n"):
        answer = await browser.get(path)
        assert (answer.status, answer.body) == (200, text)
        assert answer.headers["Cache-Control"] == "no-store"
    metrics = await browser.get("/metrics")
    assert metrics.headers["Content-Type"].startswith("text/plain; version=")
    assert b"keepalive_sockets 0.0\n" in metrics.body
