"""Attacks on a server process, bounded and on loopback; and that docs/security.md tells the truth.

The quick form of each runs with the suite, the whole one by `make proof`.
"""

import asyncio
import logging
import os
import re
import resource
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from secrets import token_urlsafe
from time import monotonic
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiohttp_session import Session
from cryptography.fernet import Fernet
from packaging.requirements import Requirement

import keepalive
from keepalive import KEEPALIVE
from keepalive.seal import Seal
from keepalive.server import SILENCE
from keepalive.session import _LOADED
from keepalive.touchers import Left

from .conftest import Browse, Browser, Serve
from .discretion import indiscretions, indiscretions_elsewhere, server_log
from .raw import DEADLINE, RawPage, handshake, ping, until
from .test_server import IDLE, QUICK, Server, running, signed_in
from .test_web import ended, make_app
from .test_web import signed_in as let_in

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "security.md"
PATIENCE = 1.0
"""How long 99 of 100 answers may take at most while others attack, in seconds. It is so much because the
attacker and the tests beside this one share the processor; test_isolation.py has a stricter promise."""
LONG = "--idle-timeout", "10m", "--ping-interval", "25s"


def slow(*values: object) -> object:
    return pytest.param(*values, marks=[pytest.mark.slow, pytest.mark.timeout(300)])


class Process:
    """What the system knows of a server."""

    def __init__(self, server: Server) -> None:
        self._folder = Path(f"/proc/{server.process.pid}")

    @property
    def resident(self) -> float:
        """Its memory, in MB."""
        found = re.search(r"VmRSS:\s+(\d+) kB", (self._folder / "status").read_text())
        assert found
        return int(found[1]) / 1024

    @property
    def files(self) -> int:
        """How many it has open."""
        return len(list((self._folder / "fd").iterdir()))


async def beats(page: RawPage, numbers: Iterable[int], over: Callable[[], bool]) -> list[float]:
    """How long an honest page waits for its beats until it is over, in seconds, in order of length."""
    took = []
    for n in numbers:
        began = monotonic()
        page.send(ping(n))
        assert (await page.message("beat"))["n"] == n
        took.append(monotonic() - began)
        if over() and n > 10:
            return sorted(took)
        await asyncio.sleep(0.15)
    raise AssertionError


def p99(took: list[float]) -> float:
    return took[-1 - len(took) // 100]


async def greeted(browser: Browser) -> RawPage:
    page = await browser.page()
    assert page.status == 101
    await page.message("hello")
    return page


# Handshakes.


@pytest.mark.parametrize(("count_", "silence", "late"), [(50, 3.0, 3.0), slow(500, SILENCE, 2.0)])
async def test_who_asks_slowly_is_cut_and_holds_up_nobody(
    tmp_path: Path, browse: Browse, count_: int, silence: float, late: float
) -> None:
    """So many silent connections, and as many that drip: all are cut when `SILENCE` is over."""
    change = f"from keepalive import server; server.SILENCE = {silence}"
    async with altered(tmp_path, change, *LONG) as (server, _):
        ann = await signed_in(browse, server.port)
        process = Process(server)
        files = process.files

        async def linger(request: bytes) -> float:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            began = monotonic()
            writer.write(request)
            with suppress(ConnectionError):
                while not reader.at_eof():
                    writer.write(b"x" if request else b"")
                    with suppress(TimeoutError):
                        async with asyncio.timeout(1):
                            await reader.read(1024)
            writer.transport.abort()
            return monotonic() - began

        head = b"GET / HTTP/1.1\r\nX-Long: "
        unread = b"POST /logout HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        form = b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
        body = unread.replace(b"logout", b"login").replace(b"\r\n\r\n", b"\r\n" + form)
        begun = [b"", head, b"", body, b"", head, b"", unread] * (count_ // 4)
        lingering = asyncio.gather(*map(linger, begun))
        took = []
        while not lingering.done():
            began = monotonic()
            (await greeted(ann)).cut()
            took.append(monotonic() - began)
            await asyncio.sleep(0.1)
        lasted = await lingering
        assert max(lasted) < silence + late  # a thousand are not opened in no time
        assert min(lasted) > silence - 1
        assert p99(sorted(took)) < PATIENCE
        await until(lambda: process.files <= files + 2)


@pytest.mark.parametrize("count_", [100, slow(5000)])
async def test_a_cookie_that_was_copied_a_thousand_times(tmp_path: Path, browse: Browse, count_: int) -> None:
    """Twenty pages of a session stay, whatever happens; nobody else notices, and nothing is left."""
    change = "from keepalive import connection; connection.CLOSING_AFTER = 1.0" if count_ == 100 else ""
    async with altered(tmp_path, change, *LONG) as (server, _):
        eve, bob = await signed_in(browse, server.port), await signed_in(browse, server.port)
        page, process = await greeted(bob), Process(server)
        head = handshake("/keepalive/ws", {"Cookie": eve.cookie})
        files, resident = process.files, process.resident
        done = False
        waiting = asyncio.create_task(beats(page, count(), lambda: done))
        held = []
        async with AsyncExitStack() as stack:
            for _ in range(count_):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                stack.callback(writer.transport.abort)
                held.append(writer)  # which closes its connection when it is forgotten
                writer.write(head)
                assert b" 101 " in await reader.readline()
            done = True
            assert p99(await waiting) < PATIENCE
            # The kernel takes what is sent to those that made room: the server need not wait for them.
            async with asyncio.timeout(4 * DEADLINE):
                while b"keepalive_sockets 21.0\n" not in (await bob.get("/metrics")).body:
                    await asyncio.sleep(0.1)
            assert process.files <= files + 20 + 2
            assert process.resident < resident + 10


@pytest.mark.parametrize("count_", [500, slow(10_000)])
async def test_pages_that_come_and_go_leave_nothing(tmp_path: Path, browse: Browse, count_: int) -> None:
    """However they go: in good order, in the middle of things, or during the handshake."""
    async with running(tmp_path, *LONG, "--store", "memory://") as server:
        ann = await signed_in(browse, server.port)
        process = Process(server)
        head = handshake("/keepalive/ws", {"Cookie": ann.cookie})

        async def come_and_go(number: int) -> None:
            if number % 4 == 0:
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(head[: number % len(head)])
                writer.transport.abort()
                return
            async with RawPage.open(server.port, head) as page:
                await page.message("hello")
                if number % 4 == 1:
                    assert await page.leave() == 1000
                elif number % 4 == 2:
                    page.send(ping(number)[:7])

        async def rounds(total: int) -> None:
            for first in range(0, total, 16):
                await asyncio.gather(*map(come_and_go, range(first, first + 16)))
            await until(lambda: process.files <= files + 2)

        files = process.files
        await rounds(min(count_, 2000))  # what a process keeps for good, it has after this
        resident = process.resident
        await rounds(count_)
        assert process.resident < resident + 5
        metrics = (await ann.get("/metrics")).body
        assert b"keepalive_sockets 0.0\n" in metrics


def test_aiohttp_is_one_whose_upgrade_cannot_be_smuggled_through() -> None:
    """CVE-2026-69243, mended in 3.14.3."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (aiohttp,) = (each for each in map(Requirement, project["dependencies"]) if each.name == "aiohttp")
    assert not aiohttp.specifier.contains("3.14.2")


# Sessions.


class Nowhere:
    """A store that keeps nothing."""

    path = None
    forgets = True

    async def create(self, key: bytes, **options: object) -> Left:
        return Left(1.0, 1.0)


class Clear(Seal):
    """Seals nothing."""

    def seal(self, text: str) -> str:
        return text


@pytest.mark.parametrize("count_", [1000, slow(1_000_000)])
async def test_a_million_ids_are_all_different(monkeypatch: pytest.MonkeyPatch, count_: int) -> None:
    monkeypatch.setattr(keepalive.audit, "began", lambda *_, **__: None)
    seal = Clear([Fernet.generate_key().decode()])
    storage = keepalive.KeepaliveStorage(Nowhere(), seal=seal, secure=False)  # type: ignore[arg-type]
    ids, request = set(), make_mocked_request("POST", "/")
    for _ in range(count_):
        response = web.Response()
        session = Session(None, data={"session": {"user": "ann"}}, new=True)
        await storage.save_session(request, response, session)
        del request[_LOADED]
        ids.add(response.cookies["keepalive"].value)
    assert len(ids) == count_
    assert {len(each) for each in ids} == {43}


async def test_ids_have_256_bits_and_all_are_different(serve: Serve, browse: Browse) -> None:
    app = make_app()
    port = (await serve(app)).port
    seal = app[KEEPALIVE].door._seal  # type: ignore[attr-defined]
    ids = [seal.open((await let_in(browse, port, "ann")).cookie.partition("=")[2]) for _ in range(100)]
    assert len(set(ids)) == 100
    assert {len(id_) for id_ in ids} == {43}
    # A UUID has 122 bits at most, and need not come from a good source (ASVS 5.0 11.5.1).
    sources = [path.read_text("utf-8") for path in Path(keepalive.__file__).parent.rglob("*.py")]
    assert not any("uuid" in text for text in sources)


@pytest.mark.parametrize("sessions", [20, slow(1000)])
async def test_all_sessions_of_a_user_end_at_once(serve: Serve, browse: Browse, sessions: int) -> None:
    """With two pages each, and no page of anybody else."""
    limits = keepalive.Limits(pages_per_user=10_000)
    app = make_app(limits=limits)
    port = (await serve(app)).port
    bob = await (await let_in(browse, port, "bob")).page()
    anns = [await let_in(browse, port, "ann") for _ in range(sessions)]
    pages = [await greeted(ann) for ann in anns for _ in range(2)]
    began = monotonic()
    assert await app[KEEPALIVE].end_user("ann") == sessions
    assert {await ended(page) for page in pages} == {("revoked", 4506)}
    assert monotonic() - began < 2 + DEADLINE * (sessions > 100)  # this test reads 2,000 pages one by one
    bob.send(ping(1))
    assert (await bob.message("beat"))["n"] == 1


async def test_no_cache_keeps_what_has_a_session(serve: Serve, browse: Browse) -> None:
    """In an app of others, whose headers stay theirs."""
    app = make_app()

    async def login(request: web.Request) -> web.Response:
        await app[KEEPALIVE].start(request, "bob")
        return web.Response(headers={"Cache-Control": "private"})

    app.router.add_post("/private", login)
    ann = await browse((await serve(app)).port)
    answer = await ann.post("/login?user=ann")
    assert "Set-Cookie" in answer.headers
    assert answer.headers["Cache-Control"] == "no-store"
    answer = await ann.post("/private")
    assert "Set-Cookie" in answer.headers
    assert answer.headers.getall("Cache-Control") == ["private"]
    assert "Cache-Control" not in (await ann.get("/whoami")).headers


# The log.


@pytest.mark.parametrize(
    ("logger", "message", "found"),
    [
        ("keepalive.web", "all is well", []),
        ("keepalive.web", "two\nlines", ["a control character"]),
        ("keepalive.web", "\x1b[31m", ["a control character", "a control character in a traceback"]),
        ("keepalive.web", "\u202e", ["a control character", "a control character in a traceback"]),
        ("asyncio", "two\nlines", []),
        ("asyncio", "\r", ["a control character", "a control character in a traceback"]),
        ("asyncio", "session ID", ["an id"]),
        ("asyncio", "cookie COOKIE", ["a cookie"]),
    ],
)
def test_the_check_of_the_log_finds_what_must_not_be_there(
    logger: str, message: str, found: list[str]
) -> None:
    """The check that every test ends with; see `discretion`."""
    session_id = token_urlsafe(32)
    message = message.replace("COOKIE", Seal.fresh().seal(session_id)).replace("ID", session_id)
    assert indiscretions(logging.LogRecord(logger, logging.INFO, "", 0, message, (), None)) == found


@pytest.mark.parametrize(
    ("fact", "found"),
    [
        ("ann", []),
        ("ann\x1b[2J\n\u202e", []),  # of which JSON makes ASCII
        ("\x1bID", ["an id"]),
        ("COOKIE", ["a cookie"]),
    ],
)
def test_it_finds_that_in_the_facts_of_an_audit(fact: str, found: list[str]) -> None:
    session_id = token_urlsafe(32)
    fact = fact.replace("COOKIE", Seal.fresh().seal(session_id)).replace("ID", session_id)
    record = logging.LogRecord("keepalive.audit", logging.INFO, "", 0, "end", (), None)
    record.user = fact
    assert indiscretions(record) == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"event": "closing a page", "timestamp": "2026-11-23T13:40:42.224Z"}\n', []),
        ("  File test_a_server_in_a_folder_with_a_name_that_is_long_enough_for_2_ids/run.py\n", []),
        ("\x1b[31m", ["a control character"]),
        ("before-ID", ["an id"]),
        ("COOKIE", ["a cookie", "an id"]),
    ],
)
def test_it_finds_that_in_the_log_of_another_process(line: str, found: list[str]) -> None:
    line = line.replace("COOKIE", Seal.fresh().seal("id")).replace("ID", "an-id_Is2" * 5)
    assert indiscretions_elsewhere(line) == found


# The machine.


async def test_a_machine_that_slept_wakes_no_session(tmp_path: Path, browse: Browse) -> None:
    """What pings the kernel kept meanwhile get no beat when the session is over by then."""
    async with running(tmp_path, *QUICK) as server:
        page = await greeted(await signed_in(browse, server.port))
        server.process.send_signal(signal.SIGSTOP)
        page.send(ping(1))
        await asyncio.sleep(IDLE / 10)
        server.process.send_signal(signal.SIGCONT)
        assert (await page.message("beat"))["n"] == 1  # so long a pause ends nobody
        server.process.send_signal(signal.SIGSTOP)
        for n in range(2, 5):
            page.send(ping(n))
        await asyncio.sleep(IDLE + 0.1)
        server.process.send_signal(signal.SIGCONT)
        heard: list[dict[str, Any]] = []
        while not heard or heard[-1]["type"] != "end":
            heard.append(await page.message())
        assert "beat" not in [message["type"] for message in heard]
        assert heard[-1]["reason"] == "idle"
        assert await page.close_code() == 4501


WITHOUT_UVLOOP = "sys.modules['uvloop'] = None"
FILES = 256


@asynccontextmanager
async def altered(
    folder: Path,
    change: str,
    *options: str,
    start: Callable[[], None] | None = None,
    stderr: int | None = None,
) -> AsyncIterator[tuple[Server, Path]]:
    """The demo server, and its log.

    Args:
        folder: where they are.
        change: Python code that is run before it.
        options: of the server.
        start: what its process does first.
        stderr: where its log goes instead.
    """
    code = f"import sys; {change}\nfrom run import main; main(sys.argv[1:], demo=True)"
    options = ("serve", "--port", "0", "--store", f"sqlite:///{folder}/sessions.db", *options)
    log = folder / "log"
    with log.open("wb") as stream:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, *options,
            cwd=ROOT, stdout=PIPE, stderr=stderr or stream, preexec_fn=start,
            env={name: value for name, value in os.environ.items() if not name.startswith("KEEPALIVE_")},
        )  # fmt: skip
    try:
        assert process.stdout
        async with asyncio.timeout(4 * DEADLINE):
            line = (await process.stdout.readline()).decode()
        announced = re.search(r":(\d+) \(", line)
        assert announced, log.read_text()
        yield Server(process, int(announced[1])), log
    finally:
        process.kill()
        await process.communicate()
        server_log().write(log.read_bytes())


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_when_files_run_out(tmp_path: Path, browse: Browse, loop: str) -> None:
    """Pages stop at nine tenths; whoever takes the rest delays nobody, fills no log, and is got over."""
    change = WITHOUT_UVLOOP if loop == "asyncio" else ""
    options = "--store", "memory://", "--pages-per-session", "1000", "--pages-per-user", "1000", *LONG
    async with altered(tmp_path, change, *options, start=_limit_files) as (server, log):
        ann = await signed_in(browse, server.port)
        pages: list[RawPage] = []
        while len(pages) < FILES:
            page = await ann.page()
            if page.status != 101:
                break
            await page.message("hello")
            pages.append(page)
        assert (page.status, page.headers["Retry-After"]) == (503, "10")
        assert len(pages) == int(FILES * 0.9) + 1

        flood = []
        for _ in range(FILES // 12):  # more than are left
            with suppress(OSError):  # uvloop takes them only to close them
                flood.append(await asyncio.open_connection("127.0.0.1", server.port))
        began = monotonic()
        took = await beats(pages[0], count(), lambda: monotonic() > began + 2)
        assert p99(took) < PATIENCE
        for _, writer in flood:
            writer.transport.abort()
        began = monotonic()
        await answered(server.port)
        assert monotonic() - began < 2 + 1  # asyncio looks again after a second
        lines = log.read_text().splitlines()
        assert len(lines) <= 3, lines
        assert "pages are turned away" in lines[0]
        if loop == "asyncio":
            assert "no connection can be accepted: Too many open files" in lines[1]


async def answered(port: int) -> None:
    """Wait until a server answers a new connection."""
    async with asyncio.timeout(4 * DEADLINE):
        while True:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(DEADLINE):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                    line = await reader.readline()
                    writer.transport.abort()
                if line.startswith(b"HTTP/1.1 200"):
                    return
            await asyncio.sleep(0.05)


# The documentation.


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", DOCS.read_text("utf-8"))
    assert len(named) > 60
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text("utf-8"), re.MULTILINE)
    ]
    assert missing == []


def test_the_limits_that_are_documented_are_the_defaults() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d,]+|automatic) \|", DOCS.read_text("utf-8"), re.MULTILINE))
    limits = keepalive.Limits()
    assert rows == {
        name: "automatic" if (value := getattr(limits, name)) is None else f"{value:,.0f}"
        for name in keepalive.Limits.__dataclass_fields__
    }
