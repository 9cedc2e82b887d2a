"""Where only WebSockets are blocked, hearts get in over HTTP: one of `connect` as those of a pool."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import ClientSession, CookieJar, WSCloseCode, web

import keepalive
from keepalive import HeartPool, SessionEnded
from keepalive.client import State, machine
from keepalive.messages import SUBPROTOCOL

from .conftest import Serve
from .raw import DEADLINE
from .test_client import World, sign_in, upgrade_required
from .test_client_errors import http as answer
from .test_client_errors import listening

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def forbidden(request: web.Request) -> web.StreamResponse:
    """By a proxy, which says nothing of an origin."""
    raise web.HTTPForbidden


async def hanging(request: web.Request) -> web.StreamResponse:
    while request.transport is not None:  # nobody is told that the client has gone
        await asyncio.sleep(0.01)
    raise web.HTTPBadRequest


async def silent(request: web.Request) -> web.StreamResponse:
    """The handshake gets through, and nothing after it."""
    socket = web.WebSocketResponse(protocols=[SUBPROTOCOL])
    await socket.prepare(request)
    async for _ in socket:
        pass
    return socket


async def cut(request: web.Request) -> web.StreamResponse:
    """The handshake gets through, and then the connection is closed."""
    socket = web.WebSocketResponse(protocols=[SUBPROTOCOL])
    await socket.prepare(request)
    await socket.close(code=WSCloseCode.GOING_AWAY)
    return socket


@pytest.fixture
async def world(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> World:
    """A server without sockets, and clients of little patience."""
    monkeypatch.setattr(machine, "GREETING", 0.2)
    monkeypatch.setattr("keepalive.client.pool.random", lambda: 0.0)  # pauses are as short as can be
    world = World()
    world.sockets = False
    world.port = (await serve(world.app)).port
    return world


@pytest.fixture
async def http(world: World) -> AsyncIterator[ClientSession]:
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as http:
        yield http


async def entered(client: str, world: World, http: ClientSession) -> State:
    """The state in which a heart gets in."""
    if client == "connect":
        async with asyncio.timeout(DEADLINE), keepalive.connect(world.url, session=http) as heart:
            return heart.state
    async with HeartPool(world.url) as pool:
        member = pool.add({each.key: each.value for each in http.cookie_jar})
        await pool.opened(DEADLINE)
        return member.state


@pytest.mark.parametrize("blocked", [upgrade_required, forbidden, hanging, silent, cut])
@pytest.mark.parametrize("client", ["connect", "pool"])
async def test_it_polls(client: str, blocked: Handler, world: World, http: ClientSession) -> None:
    world.blocked = blocked
    await sign_in(http, world)
    assert await entered(client, world, http) is State.POLLING
    assert world.posts
    assert set(world.posted) == set(world.names), "it is one page, on whichever way"


@pytest.mark.parametrize("blocked", [upgrade_required, forbidden, hanging, silent, cut])
@pytest.mark.parametrize("client", ["connect", "pool"])
async def test_it_hears_that_there_is_no_session(
    client: str, blocked: Handler, world: World, http: ClientSession
) -> None:
    world.blocked = blocked
    with pytest.raises(SessionEnded):
        await entered(client, world, http)


async def test_a_heart_is_busy_until_it_knows() -> None:
    """Also once its socket has failed, while it asks by a POST."""
    posted = asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET"):
            writer.write(answer("426 Upgrade Required"))
        else:
            posted.set()
            await reader.read()

    async with listening(speak) as port:
        heart = keepalive.connect(f"http://127.0.0.1:{port}", cookies={})
        entering = asyncio.create_task(heart.__aenter__())
        await asyncio.wait_for(posted.wait(), DEADLINE)
        assert heart.state is State.WAITING
        assert heart.busy
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert not heart.busy


@pytest.mark.parametrize("client", ["connect", "pool"])
async def test_a_user_and_a_password_in_the_url_go_with_every_request(
    client: str, serve: Serve, http: ClientSession
) -> None:
    """Of a proxy that asks for them, say, in front of a test system."""
    seen: dict[str, set[str | None]] = {}

    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        name = request.path.rpartition("/")[2]
        seen.setdefault(name, set()).add(request.headers.get("Authorization"))
        return await handler(request)

    world = World()
    world.app.middlewares.insert(0, web.middleware(note))
    world.port = (await serve(world.app)).port
    await sign_in(http, world)
    url = world.url.replace("//", "//ann:s%20e@")
    for world.sockets in (True, False):
        if client == "connect":
            async with keepalive.connect(url, session=http):
                pass
        else:
            async with HeartPool(url) as pool:
                pool.add({each.key: each.value for each in http.cookie_jar})
                await pool.opened(DEADLINE)
    del seen["login"]
    assert seen == {"ws": {"Basic YW5uOnMgZQ=="}, "heartbeat": {"Basic YW5uOnMgZQ=="}}
