"""Connections that ask for nothing: of one address so many, and nobody else has to go."""

import asyncio
import resource
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from time import monotonic

import pytest
from aiohttp import web

from keepalive.lobby import MOST, Lobby
from keepalive.server import listen_on
from keepalive.trust import Trust

from .conftest import Browse
from .raw import DEADLINE, until
from .test_security import LONG, WITHOUT_UVLOOP, altered, greeted, slow
from .test_server import signed_in

FEW = 3
DIRECT = Trust(["192.0.2.1"])
"""Everybody comes directly, this machine too."""
PATIENCE = 0.3
GET = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HALF = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab"


class Caller:
    """A connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def at(cls, port: int) -> AsyncIterator["Caller"]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        yield cls(reader, writer)
        writer.transport.abort()

    @property
    def is_cut(self) -> bool:
        return self._reader.at_eof() or self._reader.exception() is not None

    def say(self, text: str) -> None:
        self._writer.write(text.encode())

    async def answer(self) -> int:
        """The status of the next one; 0 if none comes."""
        async with asyncio.timeout(DEADLINE):
            head = await self._reader.readuntil(b"\r\n\r\n")
            await self._reader.readexactly(int(head.partition(b"Content-Length: ")[2].partition(b"\r")[0]))
        return int(head.split()[1])

    async def ask(self, request: str = GET) -> int:
        """Send a request, or the rest of one; the status of the answer."""
        self.say(request)
        return await self.answer()


Call = Callable[[], Awaitable[Caller]]


@asynccontextmanager
async def house(trust: Trust, patience: float = 60.0) -> AsyncIterator[Call]:
    """A server where an address may have `FEW` connections that wait; makes such connections."""
    app = web.Application()
    lobby = Lobby(trust, FEW / 0.25, patience)
    app.middlewares.append(lobby.attend)
    proceed = asyncio.Event()

    async def show(request: web.Request) -> web.Response:
        return web.Response(text="shown")

    async def take(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    async def think(request: web.Request) -> web.Response:
        await proceed.wait()
        return web.Response(text="thought")

    async def take_late(request: web.Request) -> web.Response:
        await asyncio.sleep(2 * patience)
        return await take(request)

    async def part(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.set_protocol(asyncio.Protocol())
        return web.Response(text="parted")

    app.router.add_get("/", show)
    app.router.add_post("/", take)
    app.router.add_get("/think", think)
    app.router.add_post("/think", think)
    app.router.add_post("/late", take_late)
    app.router.add_post("/part", part)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as listen:
        await listen_on(runner, listen, lobby)
        port = listen.getsockname()[1]
        try:
            async with AsyncExitStack() as stack:
                yield lambda: stack.enter_async_context(Caller.at(port))
                proceed.set()
        finally:
            await runner.cleanup()
    await until(lambda: lobby._waiting == {})


@pytest.mark.both_loops
async def test_who_has_waited_longest_has_to_go(caplog: pytest.LogCaptureFixture) -> None:
    """Whether it has said nothing, or half of what it wants; who asks is let in, and the log is brief."""
    async with house(DIRECT) as call:
        silent = [await call() for _ in range(FEW)]
        silent[1].say("GET / HTT")
        silent[2].say(HALF)
        newest = await call()
        await until(lambda: silent[0].is_cut)
        assert await newest.ask() == 200
        later = [await call(), await call()]
        await until(lambda: silent[2].is_cut)
        assert [each.is_cut for each in [*silent, newest, *later]] == [True] * 3 + [False] * 3
    assert ["ask for nothing" in record.message for record in caplog.records] == [True]


@pytest.mark.both_loops
async def test_after_its_answer_a_connection_waits_again() -> None:
    """Else one request each would do to keep them all."""
    async with house(DIRECT) as call:
        callers = [await call() for _ in range(FEW)]
        for caller in callers:
            assert await caller.ask() == 200
            assert await caller.ask(HALF + "cd") == 200
        await call()
        await until(lambda: callers[0].is_cut)
        assert await callers[1].ask() == 200


@pytest.mark.both_loops
async def test_who_has_its_answer_waits_although_the_request_was_not_whole() -> None:
    """Nor does the rest of it, which aiohttp then reads, make it one that asks for something."""
    async with house(DIRECT) as call:
        callers = [await call() for _ in range(FEW)]
        for caller in callers:
            assert await caller.ask(HALF.replace("/", "/nowhere", 1)) == 404
            caller.say("cd")
        for _ in range(FEW):
            assert await (await call()).ask() == 200
        await until(lambda: all(caller.is_cut for caller in callers))


@pytest.mark.both_loops
async def test_who_was_handed_over_does_not_wait() -> None:
    """Although its request was not whole; the house sees that nobody is left in the lobby."""
    async with house(DIRECT) as call:
        parted = [await call() for _ in range(FEW)]
        for caller in parted:
            assert await caller.ask(HALF.replace("/", "/part", 1)) == 200
        for _ in range(2 * FEW):
            assert await (await call()).ask() == 200
        assert not any(caller.is_cut for caller in parted)


async def test_who_is_being_served_does_not_wait() -> None:
    async with house(DIRECT) as call:
        served = [await call() for _ in range(2)]
        served[0].say("GET /think HTTP/1.1\r\nHost: x\r\n\r\n")
        served[1].say((HALF + "cd").replace("/", "/think", 1))
        for _ in range(3 * FEW):
            assert await (await call()).ask() == 200
        assert not any(caller.is_cut for caller in served)


@pytest.mark.parametrize("proxies", [["127.0.0.1"], []])
async def test_a_proxy_may_have_as_many_as_it_likes(proxies: list[str]) -> None:
    """They are everybody's. As long as none is named, a private address may be one."""
    async with house(Trust(proxies)) as call:
        callers = [await call() for _ in range(3 * FEW)]
        for caller in callers:
            assert await caller.ask() == 200
        assert not any(caller.is_cut for caller in callers)


@pytest.mark.both_loops
async def test_a_body_that_does_not_come_in_time() -> None:
    async with house(DIRECT, PATIENCE) as call:
        dripping = await call()
        began = monotonic()
        dripping.say(HALF.replace("Content-Length: 4", "Content-Length: 1000"))
        answer = asyncio.create_task(dripping.answer())
        while not answer.done():
            dripping.say("x")
            await asyncio.sleep(PATIENCE / 10)
        assert await answer == 408
        assert PATIENCE <= monotonic() - began < PATIENCE + 1
        await until(lambda: dripping.is_cut)
        assert await (await call()).ask(HALF + "cd") == 200


@pytest.mark.both_loops
async def test_a_body_that_came_in_time_may_be_read_later() -> None:
    async with house(DIRECT, PATIENCE) as call:
        caller = await call()
        caller.say(HALF.replace("/", "/late", 1))
        assert await (await call()).ask() == 200  # so the first half has been heard
        assert await caller.ask("cd") == 200


def test_how_many_may_wait() -> None:
    assert Lobby(Trust(), 256, 10)._most == 64
    assert Lobby(Trust(), 1_000_000, 10)._most == MOST
    assert Lobby(Trust(), 1, 10)._most == 1


# At a server.


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


@pytest.mark.parametrize("span", [0.5, slow(15.0)])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_silent_connections_keep_nobody_out(
    tmp_path: Path, browse: Browse, loop: str, span: float
) -> None:
    """One address opens all it can, again and again, at a server that may open 256 files."""
    change = WITHOUT_UVLOOP if loop == "asyncio" else ""
    settings = "--store", "memory://", "--trusted-proxies", "192.0.2.1", *LONG
    async with altered(tmp_path, change, *settings, start=_limit_files) as (server, log):
        ann = await signed_in(browse, server.port)
        opened = 0

        async def be_silent() -> None:
            nonlocal opened
            while True:
                with suppress(OSError):
                    reader, writer = await asyncio.open_connection(
                        "127.0.0.1", server.port, local_addr=("127.0.0.2", 0)
                    )
                    opened += 1
                    try:
                        await reader.read()
                    finally:
                        writer.transport.abort()

        silent = [asyncio.create_task(be_silent()) for _ in range(400)]
        await until(lambda: opened > 600)
        began = monotonic()
        while monotonic() < began + span:
            (await greeted(ann)).cut()
            assert (await ann.get("/healthz")).status == 200
            await asyncio.sleep(0.05)
        for each in silent:
            each.cancel()
        await asyncio.gather(*silent, return_exceptions=True)
        assert "ask for nothing" in log.read_text()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_crowd_that_asks_at_once_is_served(tmp_path: Path, loop: str) -> None:
    """An office comes back: all are accepted before the first is heard, and nobody is taken for silent."""
    change = WITHOUT_UVLOOP if loop == "asyncio" else ""
    settings = "--store", "memory://", "--trusted-proxies", "192.0.2.1", *LONG
    async with altered(tmp_path, change, *settings) as (server, log):
        server.process.send_signal(signal.SIGSTOP)
        crowd = [socket.create_connection(("127.0.0.1", server.port), DEADLINE) for _ in range(5 * MOST)]
        for each in crowd:
            each.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        server.process.send_signal(signal.SIGCONT)
        for each in crowd:
            with each:
                assert each.recv(15) == b"HTTP/1.1 200 OK"
        assert log.read_text() == ""
