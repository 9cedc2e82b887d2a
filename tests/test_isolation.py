"""Hostile pages against a real server: nobody else's beat waits for them."""

import asyncio
import socket
import sys
from asyncio.subprocess import PIPE
from asyncio.subprocess import Process as Subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from random import uniform
from time import monotonic, sleep

import pytest
from aiohttp import ClientSession, DummyCookieJar, TCPConnector

from keepalive import HeartPool, Limits
from keepalive.client import State, machine
from keepalive.connection import CLOSING_AFTER
from keepalive.heart import LEAST_SPREAD

from .conftest import Browse, Browser
from .raw import DEADLINE, RawPage, frame, handshake, ping
from .test_security import LONG, Process, altered, greeted, slow
from .test_server import ROOT, running, signed_in

PROMISED = 0.25
"""The 99th percentile of the time from ping to beat, in seconds."""
HONEST = 20
# Each way to be hostile is tried for so many seconds, over at most so many connections.
SPAN = 0.5
CONNECTIONS = 200
ROUNDS = 4


# The hostile page: what runs in a process of its own, to disturb nobody but the server.


def flood(page: socket.socket) -> None:
    """Small frames, faster than any rate allows."""
    for _ in range(100_000):
        page.sendall(ping(1))


def oversize(page: socket.socket) -> None:
    """A message without bounds."""
    page.sendall(frame(announced=1 << 40))
    for _ in range(1000):
        page.sendall(bytes(65536))


def drip(page: socket.socket) -> None:
    """A message that never ends, byte by byte."""
    page.sendall(frame(announced=4000))
    for _ in range(int(SPAN / 0.001)):
        page.sendall(b"x")
        sleep(0.001)


def never_read(page: socket.socket) -> None:
    """Pings as fast as they are allowed, and takes no answer."""
    for n in range(int(SPAN / 0.1)):
        page.sendall(ping(n))
        sleep(0.1)


def attack(port: int, cookie: str, hostile: Callable[[socket.socket], None]) -> int:
    """Be hostile again and again; returns how often the server cut the connection for it."""
    end = monotonic() + SPAN
    cut = 0
    for _ in range(CONNECTIONS):
        if monotonic() > end:
            break
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as page:
            page.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            page.sendall(handshake("/keepalive/ws", {"Cookie": cookie}))
            assert page.recv(12) == b"HTTP/1.1 101"
            try:
                hostile(page)
            except ConnectionError:
                cut += 1
    return cut


def attacks(port: str, cookie: str) -> None:
    """All of them, one after the other; each tells how often it was cut."""
    for hostile in flood, oversize, drip, never_read:
        print(attack(int(port), cookie, hostile))
    print(attack(int(port), "keepalive=unknown", flood))  # after the server's close


# The honest ones.


async def test_a_hostile_page_delays_nobody_elses_beat(tmp_path: Path, browse: Browse) -> None:
    """Whatever it does, although every honest ping has to go to the store."""
    settings = "--store", "memory://", "--idle-timeout", "10m", "--ping-interval", "25s", "--touch-every", "0"
    async with running(tmp_path, *settings) as server:
        eve = await signed_in(browse, server.port)
        pages = [await (await signed_in(browse, server.port)).page() for _ in range(HONEST)]
        for page in pages:
            await page.message("hello")
        numbers, p99 = count(), []
        for _ in range(ROUNDS):  # a machine that stalls for reasons of its own does not do so every time
            p99.append(await p99_during_the_attacks(server.port, eve.cookie, pages, numbers))
            if p99[-1] < PROMISED:
                break
        assert min(p99) < PROMISED, p99


async def p99_during_the_attacks(
    port: int, cookie: str, pages: list[RawPage], numbers: Iterator[int]
) -> float:
    """How long the honest pages wait for their beats; every ping gets one."""
    code = "import sys; from tests.test_isolation import attacks; attacks(*sys.argv[1:])"
    eve = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, str(port), cookie), cwd=ROOT, stdout=PIPE
    )
    over = asyncio.create_task(eve.communicate())
    try:
        p99 = await p99_until(over.done, pages, numbers)
    finally:
        if not over.done():
            eve.kill()
        told, _ = await over
    flooded, oversized, dripped, unread, unknown = map(int, told.split())
    assert min(flooded, oversized, unknown) >= 1
    assert dripped == unread == 0  # the server takes more time for these; they lasted as long as they should
    return p99


async def p99_until(over: Callable[[], bool], pages: list[RawPage], numbers: Iterator[int]) -> float:
    """The 99th percentile of the time from ping to beat, over all of these pages, in seconds."""
    took: list[float] = []

    async def be_honest(page: RawPage) -> None:
        for n in numbers:
            began = monotonic()
            page.send(ping(n))
            assert (await page.message("beat"))["n"] == n
            took.append(monotonic() - began)
            if over():
                break
            await asyncio.sleep(uniform(0.05, 0.25))  # or a stall would set the pace for all of them

    await asyncio.gather(*map(be_honest, pages))
    assert len(took) > 100
    took.sort()
    return took[-1 - len(took) // 100]


# Pages that take nothing of what the app sends them.


NARROW = 4096
"""The kernel's buffers, in bytes: on this machine it would take megabytes for a page that does not read."""
CHANGE = f"""
import socket
from keepalive import connection, server
async def listen_on(runner, listen, lobby, _original=server.listen_on):
    listen.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, {NARROW})
    await _original(runner, listen, lobby)
server.listen_on = listen_on
connection.CLOSING_AFTER = """
LARGE = 32 * 1000
"""A push, in bytes: as much as there may be in one."""


@pytest.mark.parametrize(("silent", "closing", "gone"), [(50, 0.5, 5.0), slow(1000, CLOSING_AFTER, 10.0)])
async def test_a_broadcast_to_pages_that_never_read(
    tmp_path: Path, browse: Browse, silent: int, closing: float, gone: float
) -> None:
    """It reaches whoever reads, whose beats do not wait; the others are cut before they take much memory."""
    (token := tmp_path / "token").write_text("t" * 32)
    many = "--pages-per-session", "5000", "--pages-per-user", "5000", "--admin-token-file", str(token)
    settings = "--store", "memory://", "--touch-every", "0", *LONG, *many
    async with altered(tmp_path, f"{CHANGE}{closing}", *settings) as (server, _):
        eve, process = await signed_in(browse, server.port), Process(server)
        pages = [await greeted(await signed_in(browse, server.port)) for _ in range(HONEST)]
        numbers = count()
        p99s = []
        for _ in range(ROUNDS):
            with ExitStack() as stack:
                head = handshake("/keepalive/ws", {"Cookie": eve.cookie})
                for _ in range(silent):
                    stack.enter_context(page := socket.socket())
                    page.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW)
                    page.connect(("127.0.0.1", server.port))
                    page.sendall(head)
                    assert page.recv(12) == b"HTTP/1.1 101"
                resident, began = process.resident, monotonic()
                cast = asyncio.create_task(broadcast(eve, process, HONEST))
                p99s.append(await p99_until(cast.done, pages, numbers))
                assert monotonic() - began < gone
                assert await cast < resident + 100
            if p99s[-1] < PROMISED:
                break
        assert min(p99s) < PROMISED, p99s


async def broadcast(operator: Browser, process: Process, readers: int) -> float:
    """Push to all pages of a user, again and again, until only so many are left.

    Returns:
        The most memory that the server had meanwhile, in MB.
    """
    most = 0.0
    left = f"keepalive_sockets {readers}.0\n".encode()
    while left not in (await operator.get("/metrics")).body:
        answer = await operator.post(
            "/keepalive/admin/api/users/ann/push",
            json={"data": "x" * LARGE},
            headers={"Authorization": "Bearer " + "t" * 32},
        )
        assert answer.status == 200
        most = max(most, process.resident)
        await asyncio.sleep(0.2)
    return most


# A crowd.


AT_ONCE = 2.0
"""How many seconds' worth of handshakes may come at once."""
ALLOWED = 0.5
"""The 99th percentile of the time from ping to beat while a crowd comes, in seconds."""
LATE = LEAST_SPREAD / 5
"""By how much more than the seconds over which it is spread a crowd may take to come back."""
WATCHED = """
from time import monotonic
from aiohttp import web
from keepalive import demo
def mount(app, keepalive, _original=demo.mount):
    _original(app, keepalive)
    asked, store = [], keepalive.door.toucher
    async def load(key, _original=store.load):
        asked.append(monotonic())
        return await _original(key)
    store.load = load
    async def drop(request):
        for user, pages in list(keepalive.heart.users.items()):
            for page in list(pages) if user.startswith("crowd") else ():
                page.socket.abort()
        asked.clear()
        return web.json_response(monotonic())
    app.router.add_post("/drop", drop)
    async def show(request):
        return web.json_response(asked)
    app.router.add_get("/asked", show)
demo.mount = mount
"""
"""The demo; but it can drop the pages of a crowd, and tells when the store was asked since."""


async def crowd(port: int, size: int) -> None:
    """So many users with a page each. Tells that they are in; and each time that they were dropped, how long
    it took until all were back, in seconds."""
    machine.STABLE = 0.0  # each time is the first
    url = f"http://127.0.0.1:{port}"
    http = ClientSession(cookie_jar=DummyCookieJar(), connector=TCPConnector(limit=32))
    async with http, HeartPool(url) as pool:

        async def join(number: int) -> None:
            form = {"name": f"crowd {number}"}
            async with http.post(f"{url}/login", data=form, allow_redirects=False) as answer:
                pool.add({name: cookie.value for name, cookie in answer.cookies.items()})

        await asyncio.gather(*map(join, range(size)))
        await pool.opened(60)
        print("in", flush=True)
        while True:
            while pool.states == {State.OPEN: size}:
                await asyncio.sleep(0.01)
            began = monotonic()
            while pool.states != {State.OPEN: size}:
                await asyncio.sleep(0.01)
            print(monotonic() - began, flush=True)


def storm(port: int, cookie: str, size: int) -> None:
    """So many handshakes at once. Tells how many are let in."""
    head = handshake("/keepalive/ws", {"Cookie": cookie})
    with ExitStack() as stack:
        pages = []
        for _ in range(size):
            pages.append(stack.enter_context(socket.create_connection(("127.0.0.1", port))))
            pages[-1].sendall(head)
        statuses = Counter(page.recv(12) for page in pages)
    assert statuses.keys() <= {b"HTTP/1.1 101", b"HTTP/1.1 503"}
    print(statuses[b"HTTP/1.1 101"])


@asynccontextmanager
async def elsewhere(call: str) -> AsyncIterator[Subprocess]:
    """A process of its own for what this file has."""
    code = f"import uvloop; from tests.test_isolation import *; {call}"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT, stdout=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def was_bounded(asked: list[float], since: float, rate: float) -> bool:
    """Whether the store was never asked more often than the bucket allows."""
    return all(number <= AT_ONCE * rate + rate * (at - since) for number, at in enumerate(asked, 1))


@pytest.mark.parametrize(("size", "spread"), [(200, 0.8), slow(5000, LEAST_SPREAD)])
async def test_a_crowd_that_was_dropped_is_back_in_time(
    tmp_path: Path, browse: Browse, size: int, spread: float
) -> None:
    """All within the seconds that the server has told them, and a fifth more; nobody's beat waits for it."""
    change = f"from keepalive import heart; heart.LEAST_SPREAD = {spread}\n{WATCHED}"
    settings = "--store", "memory://", "--touch-every", "0", *LONG
    async with altered(tmp_path, change, *settings) as (server, log):
        pages = [await greeted(await signed_in(browse, server.port)) for _ in range(HONEST)]
        operator, numbers = await browse(server.port), count()
        took = []
        async with elsewhere(f"uvloop.run(crowd({server.port}, {size}))") as people:
            assert people.stdout
            assert await people.stdout.readline() == b"in\n"
            for _ in range(ROUNDS):
                await asyncio.sleep(0.5)
                since = (await operator.post("/drop")).json
                back = asyncio.create_task(people.stdout.readline())
                p99 = await p99_until(back.done, pages, numbers)
                took.append((float(await back), p99))
                asked = (await operator.get("/asked")).json
                assert len(asked) == size
                assert was_bounded(asked, since, Limits().handshakes_per_second)
                if took[-1][0] < spread + LATE and p99 < ALLOWED:
                    break
        assert any(seconds < spread + LATE and p99 < ALLOWED for seconds, p99 in took), took
        assert log.read_text() == ""


@pytest.mark.parametrize(("size", "rate"), [(500, 50), slow(5000, 500)])
async def test_a_flood_of_handshakes_asks_the_store_no_more_than_it_may(
    tmp_path: Path, browse: Browse, size: int, rate: int
) -> None:
    """Whoever comes beyond the rate is sent away; nobody's beat waits for it."""
    options = "--handshakes-per-second", str(rate), "--pages-per-session", "9999", "--pages-per-user", "9999"
    settings = "--store", "memory://", "--touch-every", "0", *LONG, *options
    async with altered(tmp_path, WATCHED, *settings) as (server, log):
        pages = [await greeted(await signed_in(browse, server.port)) for _ in range(HONEST)]
        eve = await signed_in(browse, server.port)
        since = (await eve.post("/drop")).json
        async with elsewhere(f"storm({server.port}, {eve.cookie!r}, {size})") as attacker:
            assert attacker.stdout
            told = asyncio.create_task(attacker.stdout.readline())
            p99 = await p99_until(told.done, pages, count())
        asked = (await eve.get("/asked")).json
        assert AT_ONCE * rate <= len(asked) == int(await told) < size
        assert was_bounded(asked, since, rate)
        assert p99 < ALLOWED
        assert len(log.read_text().splitlines()) == 1
