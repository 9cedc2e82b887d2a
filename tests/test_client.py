"""`keepalive.connect` against real servers: a session kept alive from Python, whatever happens."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import ClientSession, CookieJar, web
from aiohttp_session import get_session
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from cryptography.fernet import Fernet

import keepalive
from keepalive import (
    Hooks,
    KeepaliveError,
    Limits,
    Mode,
    Policy,
    Reason,
    ServerUnavailable,
    SessionEnded,
    SettingError,
)
from keepalive.client import Event, Heart, State, StateChange
from keepalive.client.events import BACKLOG
from keepalive.client.machine import Closed, Fact, Machine, Post, Posted
from keepalive.live import Page
from keepalive.messages import Beat, CloseCode, End, Hello, Ping, Push, Warning
from keepalive.testing import KeepaliveApp, KeepaliveServer, VirtualClock

from .conftest import Serve
from .raw import DEADLINE, serving, until


async def upgrade_required(request: web.Request) -> web.StreamResponse:
    raise web.HTTPUpgradeRequired


class World:
    """A server with one user's session, and what happens to it."""

    def __init__(self, sessions: Any = "memory://", **options: Any) -> None:
        self.pages: list[Page] = []
        self.pings: list[Ping] = []
        self.posts: list[str | None] = []
        self.names: list[str] = []
        """What pages call themselves as they open a socket,"""
        self.posted: list[str | None] = []
        """and as they ping by POST."""
        self.sockets = True
        self.blocked: Callable[[web.Request], Awaitable[web.StreamResponse]] = upgrade_required
        """What a handshake gets where there are no sockets."""
        self.app = web.Application(middlewares=[self._watch])
        hooks = Hooks(on_open=self.pages.append, on_ping=self._on_ping)
        many = Limits(pages_per_user=10_000, pages_per_address=10_000)
        self.keepalive = keepalive.setup(self.app, sessions, hooks=hooks, limits=many, **options)
        self.app.router.add_post("/login", self._login)
        self.app.router.add_post("/logout", self._logout)
        self.app.router.add_get("/whoami", self._whoami)
        self.port = 0

    def _on_ping(self, page: Page, ping: Ping) -> None:
        self.pings.append(ping)

    @web.middleware
    async def _watch(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        if request.path.endswith("/heartbeat"):
            self.posts.append(request.headers.get("Cookie"))
            self.posted.append(request.query.get("page"))
        if request.path.endswith("/ws"):
            self.names.append(request.query["page"])
            if not self.sockets:
                return await self.blocked(request)
        response: web.StreamResponse = await handler(request)
        return response

    async def _login(self, request: web.Request) -> web.Response:
        await self.keepalive.start(request, "ann")
        return web.Response()

    async def _logout(self, request: web.Request) -> web.Response:
        (await get_session(request)).invalidate()
        return web.Response()

    async def _whoami(self, request: web.Request) -> web.Response:
        return web.json_response((await get_session(request)).get("user"))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self, code: int = 1012) -> None:
        """Take its socket from every page."""
        for page in self.pages:
            page.socket.close(code)


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as http:
        yield http


@pytest.fixture
async def world(serve: Serve, http: ClientSession) -> World:
    """A user who is signed in."""
    world = World()
    world.port = (await serve(world.app)).port
    await sign_in(http, world)
    return world


async def sign_in(http: ClientSession, world: World) -> None:
    async with http.post(f"{world.url}/login") as response:
        assert response.status == 200


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    """Each test leaves the tasks that it has found."""
    before = asyncio.all_tasks()
    yield
    left = [task for task in asyncio.all_tasks() - before if "_live" in repr(task) or "_talk" in repr(task)]
    assert not left


async def next_of(heart: Heart, kind: type[Event]) -> Event:
    async with asyncio.timeout(DEADLINE):
        async for event in heart:
            if isinstance(event, kind):
                return event
    raise AssertionError(f"no {kind} came")


def tasks_of(before: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    """The client's tasks; the server's belong to aiohttp's handlers and the store."""
    return {task for task in asyncio.all_tasks() - before if ".client." in str(task.get_coro())}


# Alive.


async def test_a_heart_is_entered_when_the_server_has_greeted_it(world: World, http: ClientSession) -> None:
    async with keepalive.connect(world.url, session=http) as heart:
        assert heart.state is State.OPEN
        assert heart.expires_in == pytest.approx(1800, abs=2)
        assert heart.ends_in == pytest.approx(43200, abs=2)
        await until(lambda: world.pings)
        assert world.pings[0].n == 1
        assert world.pings[0].idle is None, "nobody has said anything of a user"
    await until(lambda: not world.keepalive.connected[1])
    with pytest.raises(KeepaliveError, match="does not run"):
        await heart.ping()


async def test_cookies_will_do(world: World, http: ClientSession) -> None:
    cookies = {each.key: each.value for each in http.cookie_jar}
    async with keepalive.connect(f"{world.url}/keepalive/", cookies=cookies) as heart:
        assert (await heart.ping()).expires_in == pytest.approx(1800, abs=1)


async def test_a_ping_gets_its_beat_and_tells_of_the_user(world: World, http: ClientSession) -> None:
    async with keepalive.connect(world.url, session=http) as heart:
        beat = await heart.ping(idle=7)
        assert beat.n == 2
        assert world.pings[-1].idle == pytest.approx(7, abs=0.5)
        assert (await heart.ping()).n == 3
        assert world.pings[-1].idle == pytest.approx(0, abs=0.5)


async def test_pings_go_on_counting_from_what_was_said_of_the_user(
    keepalive_server: KeepaliveServer, clock: VirtualClock, http: ClientSession
) -> None:
    """In the mode `activity` a session lives on by that alone."""
    server = await keepalive_server(policy=Policy(mode="activity", idle_timeout=300))
    await server.sign_in("ann", http.cookie_jar)
    async with keepalive.connect(server.url, session=http) as heart:
        clock.drive(heart)
        await clock.advance(minutes=4)
        ping = asyncio.create_task(heart.ping(idle=100))
        await clock.advance(seconds=199)
        assert ping.done()
        assert heart.state is State.OPEN
        await clock.advance(seconds=2)
        assert (await heart.wait_ended()).reason == Reason.IDLE


async def test_two_pings_at_once_both_get_a_beat(world: World, http: ClientSession) -> None:
    async with keepalive.connect(world.url, session=http) as heart:
        first, second = await asyncio.gather(heart.ping(), heart.ping())
        assert first == second, "one ping on the wire answers both"


async def test_pings_in_a_row_do_not_flood_the_server(
    keepalive_server: KeepaliveServer, clock: VirtualClock, http: ClientSession
) -> None:
    server = await keepalive_server()
    await server.sign_in("ann", http.cookie_jar)
    async with keepalive.connect(server.url, session=http) as heart:
        clock.drive(heart)

        async def ping() -> None:
            for _ in range(4):
                await heart.ping()

        pings = asyncio.create_task(ping())
        await clock.advance(seconds=0.75)
        assert not pings.done()
        await clock.advance(seconds=0.1)
        assert pings.done()
        assert server.keepalive.counts.pings == 5  # with the one at the start


async def test_an_ask_is_answered(
    keepalive_server: KeepaliveServer, clock: VirtualClock, http: ClientSession
) -> None:
    """By a heart whose own timer is late: nothing drives it."""
    server = await keepalive_server()
    await server.sign_in("ann", http.cookie_jar)
    async with keepalive.connect(server.url, session=http):
        await clock.advance(seconds=32)
        assert (server.keepalive.counts.asks, server.keepalive.counts.beats) == (1, 2)


async def test_half_an_hour_passes_in_virtual_time(
    keepalive_server: KeepaliveServer, clock: VirtualClock, http: ClientSession
) -> None:
    server = await keepalive_server(policy=Policy(absolute_timeout=1800))
    await server.sign_in("ann", http.cookie_jar)
    events: list[Event] = []
    async with keepalive.connect(server.url, session=http, on_event=events.append) as heart:
        clock.drive(heart)
        await clock.advance(minutes=30, seconds=1)
    assert server.keepalive.counts.beats == pytest.approx(1800 / 25, rel=0.1)
    assert next(event for event in events if isinstance(event, Warning)).why == Reason.ABSOLUTE
    assert events[-1] == End(Reason.ABSOLUTE)


# What it tells.


async def test_events_come_by_iteration_and_by_callback(world: World, http: ClientSession) -> None:
    told: list[Event] = []
    async with keepalive.connect(world.url, session=http, on_event=told.append) as heart:
        assert isinstance(await next_of(heart, Beat), Beat)
        listening = asyncio.create_task(next_of(heart, Push))
        await asyncio.sleep(0)
        world.keepalive.push_user("ann", {"price": 42})
        assert await listening == Push({"price": 42})
    assert [type(event) for event in told] == [StateChange, StateChange, Beat, Push, StateChange]
    assert told[:2] == [
        StateChange(State.CONNECTING, State.IDLE),
        StateChange(State.OPEN, State.CONNECTING),
    ]


async def test_the_iteration_ends_with_the_session(world: World, http: ClientSession) -> None:
    async with keepalive.connect(world.url, session=http) as heart:
        events = aiter(heart)
        await http.post(f"{world.url}/logout")
        async with asyncio.timeout(DEADLINE):
            told = [event async for event in events]
    assert told[-1] == End(Reason.LOGOUT)


async def test_the_iteration_ends_with_the_block(world: World, http: ClientSession) -> None:
    async with keepalive.connect(world.url, session=http) as heart:
        events = aiter(heart)
    async with asyncio.timeout(DEADLINE):
        told = [event async for event in events]
    assert told[-1] == StateChange(State.IDLE, State.OPEN)
    assert [event async for event in heart] == []


async def test_a_listener_that_falls_behind_loses_the_oldest(world: World, http: ClientSession) -> None:
    async with keepalive.connect(world.url, session=http) as heart:
        events = aiter(heart)
        for number in range(BACKLOG + 10):
            world.keepalive.push_user("ann", number)
            if number % 50 == 0:
                await asyncio.sleep(0.005)
        await heart.ping()
    told = [event.data async for event in events if isinstance(event, Push)]
    assert told[-1] == BACKLOG + 9
    assert 0 not in told
    assert len(told) <= BACKLOG


async def test_who_no_longer_listens_costs_nothing(world: World, http: ClientSession) -> None:
    async with keepalive.connect(world.url, session=http) as heart:
        await next_of(heart, Beat)
        gc.collect()
        assert not heart._listeners


async def test_a_callback_that_fails_changes_nothing(
    world: World, http: ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    def on_event(event: Event) -> None:
        raise ZeroDivisionError

    async with keepalive.connect(world.url, session=http, on_event=on_event) as heart:
        await heart.ping()
    assert "on_event failed" in caplog.text


# The end.


async def test_a_logout_elsewhere_ends_the_heart(world: World, http: ClientSession) -> None:
    async with keepalive.connect(world.url, session=http) as heart:
        ended = asyncio.create_task(heart.wait_ended())
        await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE):
            await http.post(f"{world.url}/logout")
            assert (await ended).reason == Reason.LOGOUT
        assert heart.state is State.ENDED
        assert (heart.expires_in, heart.ends_in) == (0.0, 0.0)
        with pytest.raises(SessionEnded) as caught:
            await heart.ping()
        assert caught.value.reason == Reason.LOGOUT
        assert (await heart.wait_ended()).reason == Reason.LOGOUT
    assert heart.state is State.ENDED


async def test_a_ping_that_waits_hears_of_the_end(
    clock: VirtualClock, world: World, keepalive_app: KeepaliveApp, http: ClientSession
) -> None:
    keepalive_app(world.app)
    async with keepalive.connect(world.url, session=http) as heart:
        clock.drive(heart)
        world.sockets = False
        world.close()
        await until(lambda: heart.state is State.WAITING)
        ping = asyncio.create_task(heart.ping())
        await asyncio.sleep(0)
        await http.post(f"{world.url}/logout")
        world.sockets = True
        await clock.advance(seconds=2.5)
        with pytest.raises(SessionEnded):
            await ping


@pytest.mark.parametrize("login", [None, "/login"])
async def test_without_a_session_there_is_no_heart(serve: Serve, login: str | None) -> None:
    world = World(login=login)
    world.port = (await serve(world.app)).port
    with pytest.raises(SessionEnded) as caught:
        async with keepalive.connect(world.url, cookies={"keepalive": "stale"}):
            raise AssertionError("entered")
    assert (caught.value.reason, caught.value.login) == (Reason.UNKNOWN, login)
    assert "sign in" in str(caught.value)


# Coming back.


async def test_a_heart_comes_back_after_a_restart(
    keepalive_app: KeepaliveApp, clock: VirtualClock, http: ClientSession, tmp_path: Any
) -> None:
    """To the same port, where the sessions are still there."""
    store = f"sqlite:///{tmp_path / 'sessions.db'}"
    world = World(store)
    async with serving(world.app) as served:
        world.port = served.port
        await sign_in(http, world)
        heart = await keepalive.connect(world.url, session=http).__aenter__()
    try:
        await until(lambda: heart.state is State.WAITING)
        again = World(store)
        keepalive_app(again.app)
        runner = web.AppRunner(again.app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", world.port).start()
            clock.drive(heart)
            ping = asyncio.create_task(heart.ping())
            await clock.advance(seconds=2.5)
            assert (await ping).expires_in > 1700
            assert heart.state is State.OPEN
        finally:
            await heart.__aexit__(None, None, None)
            await runner.cleanup()
    finally:
        await heart.__aexit__(None, None, None)


async def test_a_login_elsewhere_brings_it_back_with_the_new_cookie(
    clock: VirtualClock, world: World, keepalive_app: KeepaliveApp, http: ClientSession
) -> None:
    keepalive_app(world.app)
    async with keepalive.connect(world.url, session=http) as heart:
        clock.drive(heart)
        await sign_in(http, world)  # the same jar: the old id ends, its pages are closed with 4004
        await until(lambda: heart.state is State.WAITING)
        ping = asyncio.create_task(heart.ping())
        await clock.advance(seconds=2.5)
        assert (await ping).expires_in > 1700


async def test_it_is_the_same_page_until_it_says_goodbye(
    clock: VirtualClock, world: World, keepalive_app: KeepaliveApp, http: ClientSession
) -> None:
    """Where sessions end with their last page, a lost connection must not be taken for a closed tab."""
    keepalive_app(world.app)
    closes = world.keepalive.counts.closes
    async with keepalive.connect(world.url, session=http) as heart:
        clock.drive(heart)
        world.close()
        await until(lambda: heart.state is State.WAITING)
        await clock.advance(minutes=1)
        assert (len(world.names), heart.state) == (2, State.OPEN)
        heart._machine._deadlines["silence"] = clock.monotonic()
        heart.tick()
        assert heart.state is State.WAITING
        await until(lambda: closes[CloseCode.RETURNING])
        await clock.advance(minutes=1)
        assert (len(world.names), heart.state) == (3, State.OPEN)
    await until(lambda: closes[CloseCode.NORMAL])
    assert len(set(world.names)) == 1
    async with keepalive.connect(world.url, session=http):
        assert len(set(world.names)) == 2


async def test_where_sockets_are_blocked_it_polls(world: World, http: ClientSession) -> None:
    world.sockets = False
    async with keepalive.connect(world.url, session=http) as heart:
        assert heart.state is State.POLLING
        assert (await heart.ping()).expires_in == pytest.approx(1800, abs=1)
        assert heart.expires_in == pytest.approx(1800, abs=1)
        assert len(world.posts) <= 3
        await http.post(f"{world.url}/logout")
        with pytest.raises(SessionEnded):
            await heart.ping()


async def test_where_sockets_are_blocked_an_unknown_session_is_told_so(world: World) -> None:
    world.sockets = False
    with pytest.raises(SessionEnded):
        async with keepalive.connect(world.url, cookies={"keepalive": "stale"}):
            raise AssertionError("entered")


async def test_a_final_close_code_without_a_word_is_an_end(world: World, http: ClientSession) -> None:
    async with keepalive.connect(world.url, session=http) as heart:
        world.close(CloseCode.EVICTED)
        async with asyncio.timeout(DEADLINE):
            assert (await heart.wait_ended()).reason == Reason.EVICTED


# The cookie.


@pytest.fixture
async def in_cookies(
    clock: VirtualClock, serve: Serve, keepalive_app: KeepaliveApp, http: ClientSession
) -> World:
    """A server whose sessions live in the cookie: a beat says `renew`, and a POST brings a fresh one."""
    world = World(EncryptedCookieStorage(Fernet(Fernet.generate_key()), max_age=600))
    keepalive_app(world.app)
    world.port = (await serve(world.app)).port
    await sign_in(http, world)
    return world


async def test_the_cookie_is_renewed_in_the_jar(
    in_cookies: World, clock: VirtualClock, http: ClientSession
) -> None:
    """So the session lives much longer than any cookie of it."""
    async with keepalive.connect(in_cookies.url, session=http) as heart:
        clock.drive(heart)
        await clock.advance(minutes=20)
        assert len(set(in_cookies.posts)) in (4, 5, 6), "each has another cookie, and each lasts for ten"
        assert heart.state is State.OPEN
        async with http.get(f"{in_cookies.url}/whoami") as response:
            assert await response.json() == "ann"


async def test_a_renewed_cookie_takes_the_place_of_the_one_that_was_given(
    in_cookies: World, clock: VirtualClock, http: ClientSession
) -> None:
    given = {each.key: each.value for each in http.cookie_jar}
    async with keepalive.connect(in_cookies.url, cookies=given) as heart:
        clock.drive(heart)
        await clock.advance(minutes=5)
        assert heart._owned is not None
        (cookie,) = heart._owned.cookie_jar  # else the one that was given goes first, until it is too old
        assert cookie.value not in given.values()


# Cancellation.


async def connecting(world: World, http: ClientSession) -> None:
    async with keepalive.connect(world.url, session=http):
        raise AssertionError("entered")


@pytest.mark.parametrize("pause", [0, 1, 2, 5, 10])
async def test_cancelled_while_it_connects_it_leaves_nothing(
    world: World, http: ClientSession, pause: int
) -> None:
    world.keepalive.routes._doorway = asyncio.Semaphore(0)  # the handshake is never answered
    before = asyncio.all_tasks()
    task = asyncio.create_task(connecting(world, http))
    for _ in range(pause):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not tasks_of(before)
    world.keepalive.routes._doorway.release()


@pytest.mark.parametrize("state", [State.OPEN, State.WAITING, State.POLLING, State.ENDED])
async def test_cancelled_in_any_state_it_leaves_nothing(
    world: World, http: ClientSession, state: State
) -> None:
    before = asyncio.all_tasks()
    entered = asyncio.Event()
    heart = keepalive.connect(world.url, session=http)

    async def hold() -> None:
        async with heart:
            entered.set()
            await asyncio.Event().wait()

    world.sockets = state is not State.POLLING
    task = asyncio.create_task(hold())
    await asyncio.wait_for(entered.wait(), DEADLINE)
    if state is State.WAITING:
        world.sockets = False
        world.close()
    elif state is State.ENDED:
        await http.post(f"{world.url}/logout")
    await until(lambda: heart.state is state)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not tasks_of(before)


async def test_cancelled_twice_it_still_leaves_nothing(world: World, http: ClientSession) -> None:
    before = asyncio.all_tasks()
    async with keepalive.connect(world.url, session=http) as heart:
        pass

    async def hold() -> None:
        async with keepalive.connect(world.url, session=http):
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await until(lambda: world.keepalive.connected[1])
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert not tasks_of(before)
    assert heart.state is State.IDLE


async def test_a_ping_can_be_given_up(world: World, http: ClientSession) -> None:
    async with keepalive.connect(world.url, session=http) as heart:
        world.sockets = False
        world.close()
        await until(lambda: heart.state is State.WAITING)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await heart.ping()
        assert not heart._beats


async def test_a_ping_does_not_wait_for_ever(
    world: World, http: ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepalive.client.heart.PATIENCE", 0.1)
    async with keepalive.connect(world.url, session=http) as heart:
        world.sockets = False
        world.close()
        await until(lambda: heart.state is State.WAITING)
        with pytest.raises(ServerUnavailable, match="no beat within"):
            await heart.ping()


async def test_what_waits_when_the_heart_is_left_hears_of_it(world: World, http: ClientSession) -> None:
    heart = keepalive.connect(world.url, session=http)
    async with heart:
        ended = asyncio.create_task(heart.wait_ended())
        await asyncio.sleep(0)
    with pytest.raises(KeepaliveError, match="left"):
        await ended
    with pytest.raises(KeepaliveError, match="async with"):
        await heart.ping()
    with pytest.raises(KeepaliveError, match="once"):
        await heart.__aenter__()


async def test_a_session_that_is_closed_under_a_heart_is_an_error_and_no_hang(world: World) -> None:
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as http:
        await sign_in(http, world)
        with pytest.raises(ExceptionGroup) as caught:
            async with keepalive.connect(world.url, session=http) as heart:
                await heart.ping()
                await http.close()
                with pytest.raises(KeepaliveError, match="left"):
                    await asyncio.wait_for(heart.ping(), DEADLINE)
    assert "closed" in str(caught.value.exceptions[0])


async def test_a_heart_may_be_entered_and_left_in_different_tasks(world: World, http: ClientSession) -> None:
    """As the fixtures of some test runners do."""
    heart = keepalive.connect(world.url, session=http)
    await asyncio.create_task(heart.__aenter__())
    await heart.ping()
    await asyncio.create_task(heart.__aexit__(None, None, None))
    assert heart.state is State.IDLE


# Arguments.


@pytest.mark.parametrize("url", ["", "app.example", "ftp://app.example", "http://", "/keepalive"])
def test_a_url_must_be_one(url: str) -> None:
    with pytest.raises(SettingError, match="https://"):
        keepalive.connect(url, cookies={})


@pytest.mark.parametrize(
    ("url", "socket"),
    [
        ("https://app.example", "https://app.example/keepalive/ws"),
        ("https://app.example/", "https://app.example/keepalive/ws"),
        ("https://app.example/keepalive", "https://app.example/keepalive/ws"),
        ("wss://app.example:8443/a/live/?x=1#y", "https://app.example:8443/a/live/ws"),
        ("http://[::1]:80/k%20a", "http://[::1]/k%20a/ws"),
    ],
)
def test_where_the_socket_is(url: str, socket: str) -> None:
    assert str(keepalive.connect(url, cookies={})._address.socket) == socket


def test_a_heart_needs_one_source_of_cookies() -> None:
    with pytest.raises(SettingError, match="session"):
        keepalive.connect("https://app.example")


# What the server tells of the session, and what the app is told of the page.


@pytest.mark.parametrize("sockets", [True, False])
@pytest.mark.parametrize("mode", Mode)
async def test_the_mode_is_known(serve: Serve, http: ClientSession, mode: Mode, sockets: bool) -> None:
    world = World(policy=Policy(mode=mode))
    world.port = (await serve(world.app)).port
    world.sockets = sockets
    await sign_in(http, world)
    heart = keepalive.connect(world.url, session=http)
    assert heart.mode is None
    async with heart:
        await heart.ping()
        assert heart.mode is mode


@pytest.mark.parametrize("sockets", [True, False])
async def test_a_ping_carries_data_and_so_do_later_ones(
    world: World, http: ClientSession, sockets: bool
) -> None:
    world.sockets = sockets
    view = {"view": "/inbox", "open": [1, 2]}
    async with keepalive.connect(world.url, session=http) as heart:
        await heart.ping()
        await heart.ping(data=view)
        view.clear()  # it is a copy that goes with the next one
        await heart.ping()
        await heart.ping(data={})
    first, *_, second, third, last = [ping.data for ping in world.pings]
    assert first is None
    assert second == third == {"view": "/inbox", "open": [1, 2]}
    assert last == {}


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize(
    "data",
    [
        {"a": object()},
        {"a": "\udc80"},
        {"a": "x" * 4000},
        {"a": nested(100_000)},
        ["a", "b"],
        "text",
    ],
)
async def test_data_that_a_ping_cannot_carry(world: World, http: ClientSession, data: Any) -> None:
    async with keepalive.connect(world.url, session=http) as heart:
        with pytest.raises(SettingError, match="cannot carry"):
            await heart.ping(data=data)
        await heart.ping(idle=1e5 / 3, data={"a": "x" * 3980})
        assert heart.state is State.OPEN


async def test_who_listens_before_entering_misses_nothing(serve: Serve, http: ClientSession) -> None:
    """Not even what the app pushes the moment that the page opens."""
    app = web.Application()
    hooks = Hooks(on_open=lambda page: ka.push_user("ann", "welcome"))
    ka = keepalive.setup(app, "memory://", hooks=hooks)

    async def login(request: web.Request) -> web.Response:
        await ka.start(request, "ann")
        return web.Response()

    app.router.add_post("/login", login)
    base = f"http://127.0.0.1:{(await serve(app)).port}"
    async with http.post(f"{base}/login") as response:
        assert response.status == 200
    heart = keepalive.connect(base, session=http)

    async def listen() -> list[Event]:
        return [event async for event in heart]

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0)
    async with heart:
        await heart.ping()
    told = await listening
    assert told[:2] == [StateChange(State.CONNECTING, State.IDLE), StateChange(State.OPEN, State.CONNECTING)]
    assert Push("welcome") in told


def test_it_is_busy_while_it_waits_for_its_server() -> None:
    """For as long virtual time stands still."""
    machine = Machine()
    assert not machine.busy
    machine.take(Fact.START, 0.0, 0.5)
    assert machine.busy
    machine.take(Hello(25, 1800, 1800, 60, Mode.PRESENCE, 3), 0.1, 0.5)
    assert not machine.busy
    (_, post) = machine.take(Beat(1, 1800, renew=True), 0.2, 0.5)
    assert isinstance(post, Post)
    assert machine.busy
    machine.take(Posted(post.n, None), 0.3, 0.5)
    assert not machine.busy


@pytest.mark.parametrize("over", [End(Reason.LOGOUT), Fact.STOP])
def test_an_answer_that_nobody_wants_any_more_is_not_waited_for(over: Any) -> None:
    """Else virtual time would stand still for ever."""
    machine = Machine()
    machine.take(Fact.START, 0.0, 0.5)
    machine.take(Hello(25, 1800, 1800, 60, Mode.PRESENCE, 3), 0.1, 0.5)
    machine.take(Beat(1, 1800, renew=True), 0.2, 0.5)
    assert machine.busy
    machine.take(over, 0.3, 0.5)
    assert not machine.busy


@pytest.mark.parametrize("over", [End(Reason.LOGOUT), Closed(CloseCode.LOGOUT)])
def test_of_a_session_that_is_over_nothing_remains(over: Any) -> None:
    machine = Machine()
    machine.take(Fact.START, 0.0, 0.5)
    machine.take(Hello(25, 1800, 1800, 60, Mode.PRESENCE, 3, ends_in=None), 0.1, 0.5)
    machine.take(over, 5.0, 0.5)
    assert (machine.state, machine.expires_at, machine.ends_at) == (State.ENDED, 5.0, 5.0)
    machine.take(Fact.START, 6.0, 0.5)
    assert (machine.state, machine.expires_at, machine.ends_at) == (State.CONNECTING, None, None)
