"""The hand-over of a connection by aiohttp, on real sockets and both event loops.

It rests on behaviour of aiohttp that no documentation promises; so this runs on the oldest and on
the newest release that we support, and needs nothing of the package but `keepalive.upgrade`.
"""

import asyncio
import gc
import logging
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast
from weakref import ref

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from keepalive.upgrade import Upgrade

from .raw import ACCEPT, DEADLINE, Headers, RawPage, certified, handshake, serving, until

SUBPROTOCOL = "keepalive.v1"
MANY = 200
_AIOHTTP = "aiohttp.", Upgrade.__module__


class Echo(asyncio.Protocol):
    """Gets connections handed over; sends back what it hears."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.heard = bytearray()
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's says that it is none

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self.heard += data
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


class Site:
    """An app whose only page is handed over to an `Echo`."""

    def __init__(self, *middlewares: Middleware) -> None:
        self.echoes: list[Echo] = []
        self.requests: list[ref[web.Request]] = []
        self.app = web.Application(middlewares=middlewares)
        self.app.router.add_route("*", "/", self.handle)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        response = Upgrade(request, SUBPROTOCOL)
        response.set_cookie("crumb", "sweet", httponly=True)
        self.requests.append(ref(request))
        self.echoes.append(Echo())
        await response.hand_over(request, self.echoes[-1])
        return response


async def check_echo(page: RawPage) -> None:
    page.send(b"hello")
    assert await page.read(5) == b"hello"


@pytest.mark.both_loops
async def test_the_answer() -> None:
    """RFC 6455 §4.2.2, and the cookies that were set before."""
    site = Site()
    async with serving(site.app) as server, RawPage.open(server.port, handshake("/")) as page:
        assert page.status == 101
        assert page.headers["Upgrade"] == "websocket"
        assert page.headers["Connection"] == "Upgrade"
        assert page.headers["Sec-WebSocket-Accept"] == ACCEPT
        assert page.headers["Sec-WebSocket-Protocol"] == SUBPROTOCOL
        assert page.headers["Set-Cookie"] == "crumb=sweet; HttpOnly; Path=/"
        assert "Transfer-Encoding" not in page.headers
        assert "Content-Length" not in page.headers
        await check_echo(page)
        page.cut()
        await until(lambda: site.echoes[0].lost)


@pytest.mark.both_loops
async def test_middlewares_signals_and_the_access_log_run_once() -> None:
    seen = []

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        seen.append("before")
        response = await handler(request)
        seen.append(f"after {response.status}")
        return response

    async def prepared(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Prepared"] = "yes"

    lines = _Lines()
    site = Site(middleware)
    site.app.on_response_prepare.append(prepared)
    async with (
        serving(site.app, access_log=lines.logger, access_log_format="%a %r %s") as server,
        RawPage.open(server.port, handshake("/")) as page,
    ):
        assert page.headers["X-Prepared"] == "yes"
        await until(lambda: lines.told)
        await check_echo(page)
        page.cut()
        await until(lambda: site.echoes[0].lost)
    assert seen == ["before", "after 101"]
    assert lines.told == ["127.0.0.1 GET / HTTP/1.1 101"]


async def test_asyncio_keeps_no_addresses() -> None:
    """They are a fifth of what an idle connection costs."""
    site = Site()
    async with serving(site.app) as server, RawPage.open(server.port, handshake("/")) as page:
        transport = site.echoes[0].transport
        assert transport is not None
        assert [transport.get_extra_info(name) for name in ("peername", "sockname", "socket")] == [None] * 3
        await check_echo(page)


@pytest.mark.both_loops
async def test_what_comes_with_the_handshake_is_heard() -> None:
    """Also when it is more than aiohttp buffers: it must not leave the connection paused."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        await until(lambda: request.transport and not request.transport.is_reading())
        return await handler(request)

    early = bytes(range(256)) * 2048
    site = Site(middleware)
    async with (
        serving(site.app) as server,
        RawPage.open(server.port, handshake("/") + early) as page,
    ):
        assert await page.read(len(early)) == early
        await check_echo(page)


@pytest.mark.both_loops
async def test_byte_by_byte() -> None:
    site = Site()
    async with serving(site.app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for byte in handshake("/") + b"hello":
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            assert await reader.readexactly(5) == b"hello"
        writer.close()
        await writer.wait_closed()


@pytest.mark.both_loops
async def test_aiohttp_lets_go() -> None:
    """No request, handler, task, parser or timer of its own stays with an open connection."""
    site = Site()
    loop = asyncio.get_running_loop()
    async with serving(site.app) as server, AsyncExitStack() as stack:
        await stack.enter_async_context(RawPage.open(server.port, handshake("/")))
        await until(lambda: not server.runner.server or not server.runner.server.connections)
        gc.collect()
        tasks, timers, objects = len(asyncio.all_tasks()), _timers(loop), _aiohttp_objects()
        for _ in range(MANY):
            await stack.enter_async_context(RawPage.open(server.port, handshake("/")))
        await until(lambda: server.runner.server and not server.runner.server.connections)
        gc.collect()
        assert [request for request in site.requests if request() is not None] == []
        assert _aiohttp_objects() == objects
        assert len(asyncio.all_tasks()) == tasks
        assert _timers(loop) <= timers
        assert [echo for echo in site.echoes if echo.lost] == []


@pytest.mark.both_loops
async def test_a_shutdown_does_not_wait_for_what_was_handed_over() -> None:
    site = Site()
    async with serving(site.app, shutdown_timeout=100 * DEADLINE) as server, AsyncExitStack() as stack:
        pages = [
            await stack.enter_async_context(RawPage.open(server.port, handshake("/"))) for _ in range(20)
        ]
        async with asyncio.timeout(DEADLINE):
            await server.runner.cleanup()
        for page in pages:
            await check_echo(page)


@pytest.mark.parametrize("handler_cancellation", [False, True])
@pytest.mark.parametrize("when", ["before", "while preparing"])
async def test_the_page_leaves_during_its_handshake(handler_cancellation: bool, when: str) -> None:
    gone, done = asyncio.Event(), asyncio.Event()
    arriving: list[web.Request] = []

    async def pause(request: web.Request, _: object = None) -> None:
        arriving.append(request)
        await gone.wait()

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if when == "before":
                await pause(request)
            return await handler(request)
        finally:
            done.set()

    lines = _Lines()
    site = Site(middleware)
    if when == "while preparing":
        site.app.on_response_prepare.append(pause)
    async with serving(site.app, handler_cancellation=handler_cancellation, logger=lines.logger) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(handshake("/"))
        await until(lambda: arriving)
        writer.transport.abort()
        await until(lambda: arriving[0].transport is None)
        gone.set()
        await asyncio.wait_for(done.wait(), DEADLINE)
        gc.collect()
        assert [echo for echo in site.echoes if echo.transport is not None] == []
    assert lines.told == []


async def test_a_middleware_fails_after_the_hand_over() -> None:
    """It is too late for another answer; the page does not notice."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        await handler(request)
        raise web.HTTPConflict

    site = Site(middleware)
    async with serving(site.app) as server, RawPage.open(server.port, handshake("/")) as page:
        assert page.status == 101
        await until(lambda: server.runner.server and not server.runner.server.connections)
        await check_echo(page)


@pytest.mark.both_loops
async def test_over_tls(tmp_path: Path) -> None:
    ours, theirs = certified(tmp_path)
    site = Site()
    async with (
        serving(site.app, tls=ours) as server,
        RawPage.open(server.port, handshake("/") + b"early", tls=theirs) as page,
    ):
        assert page.status == 101
        assert await page.read(5) == b"early"
        await until(lambda: server.runner.server and not server.runner.server.connections)
        await check_echo(page)
        page.cut()
        await until(lambda: site.echoes[0].lost)


@pytest.mark.parametrize(
    "headers",
    [
        {"Upgrade": "WebSocket"},
        {"Upgrade": "h2c, websocket"},
        {"Connection": "keep-alive, upgrade"},
        {"Connection": ["keep-alive", "UPGRADE"]},
        {"Sec-WebSocket-Protocol": "chat,keepalive.v1"},
        {"Sec-WebSocket-Protocol": ["chat", "keepalive.v1"]},
        {"Sec-WebSocket-Extensions": "permessage-deflate"},
    ],
)
async def test_ways_to_ask(headers: Headers) -> None:
    async with (
        serving(Site().app) as server,
        RawPage.open(server.port, handshake("/", headers)) as page,
    ):
        assert (page.status, page.headers.get("Sec-WebSocket-Accept")) == (101, ACCEPT)
        assert "Sec-WebSocket-Extensions" not in page.headers
        await check_echo(page)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upgrade": None}, 426),
        ({"Upgrade": "h2c"}, 426),
        ({"Connection": None}, 426),
        ({"Connection": "keep-alive"}, 426),
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Version": None}, 426),
        ({"Sec-WebSocket-Key": None}, 400),
        ({"Sec-WebSocket-Key": ""}, 400),
        ({"Sec-WebSocket-Key": "c2hvcnQ="}, 400),
        ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZSB3aXRoIG1vcmU="}, 400),
        ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ"}, 400),
        ({"Sec-WebSocket-Key": "!GhlIHNhbXBsZSBub25jZQ=="}, 400),
        ({"Sec-WebSocket-Protocol": None}, 400),
        ({"Sec-WebSocket-Protocol": "chat"}, 400),
    ],
)
async def test_what_is_no_handshake_is_refused(headers: Headers, status: int) -> None:
    site = Site()
    async with serving(site.app) as server, RawPage.open(server.port, handshake("/", headers)) as page:
        assert page.status == status
        assert page.body.endswith(b"\n")
        assert "Sec-WebSocket-Accept" not in page.headers
        if status == 426:
            offered = page.headers.get("Upgrade"), page.headers.get("Sec-WebSocket-Version")
            assert offered in [("websocket", None), (None, "13")]
    assert site.echoes == []


async def test_another_method_is_refused() -> None:
    site = Site()
    request = handshake("/", {"Content-Length": "0"}, method="POST")
    async with serving(site.app) as server, RawPage.open(server.port, request) as page:
        assert (page.status, page.headers["Allow"]) == (405, "GET")
    assert site.echoes == []


@pytest.mark.parametrize(("headers", "status"), [({}, 400), ({"Upgrade": None, "Connection": "close"}, 426)])
async def test_an_older_http_is_refused(headers: Headers, status: int) -> None:
    """RFC 6455 §4.2.1. A proxy that passes no WebSockets on speaks it, and is told of that first."""
    site = Site()
    request = handshake("/", headers).replace(b"HTTP/1.1", b"HTTP/1.0")
    async with serving(site.app) as server, RawPage.open(server.port, request) as page:
        assert page.status == status
    assert site.echoes == []


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ({"Content-Length": "5"}, b""),
        ({"Content-Length": "5"}, b"hello"),
        ({"Transfer-Encoding": "chunked"}, b"0\r\n\r\n"),
    ],
)
async def test_a_body_is_refused(header: Headers, body: bytes) -> None:
    """Whether it has come or not: what would it be, the request's rest or the page's first frame?"""
    site = Site()
    request = handshake("/", header) + body
    async with serving(site.app) as server, RawPage.open(server.port, request) as page:
        assert page.status == 400
    assert site.echoes == []


async def test_no_body_may_be_announced() -> None:
    request = handshake("/", {"Content-Length": "0"})
    async with serving(Site().app) as server, RawPage.open(server.port, request) as page:
        assert page.status == 101
        await check_echo(page)


class _Lines(logging.Handler):
    """A logger, and what was told it."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.logger = logging.Logger("test", logging.INFO)
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


def _timers(loop: asyncio.AbstractEventLoop) -> int:
    """How many timers wait; uvloop does not tell."""
    return sum(not timer.cancelled() for timer in getattr(loop, "_scheduled", ()))


def _aiohttp_objects() -> Counter[type]:
    """How many objects of aiohttp's there are, and answers to handshakes."""
    types = Counter(map(type, gc.get_objects()))
    return Counter({kind: many for kind, many in types.items() if str(kind.__module__).startswith(_AIOHTTP)})
