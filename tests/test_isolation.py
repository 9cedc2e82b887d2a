"""One hostile page against a real server: nobody else's beat waits for it."""

import asyncio
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from random import uniform
from time import monotonic, sleep

from .conftest import Browse
from .raw import DEADLINE, RawPage, frame, handshake, ping
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
    took: list[float] = []

    async def be_honest(page: RawPage) -> None:
        for n in numbers:
            began = monotonic()
            page.send(ping(n))
            assert (await page.message())["n"] == n
            took.append(monotonic() - began)
            if over.done():
                break
            await asyncio.sleep(uniform(0.05, 0.25))  # or a stall would set the pace for all of them

    try:
        await asyncio.gather(*map(be_honest, pages))
    finally:
        if not over.done():
            eve.kill()
        told, _ = await over
    flooded, oversized, dripped, unread, unknown = map(int, told.split())
    assert min(flooded, oversized, unknown) >= 1
    assert dripped == unread == 0  # the server takes more time for these; they lasted as long as they should
    assert len(took) > 100
    took.sort()
    return took[-1 - len(took) // 100]
