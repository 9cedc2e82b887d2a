"""Who is online, as an app is told: on one node and on many, and when one of them dies."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, web
from aiohttp_session import SimpleCookieStorage
from cryptography.fernet import Fernet

import keepalive
from keepalive import Keepalive, Policy, Presence, StoreUnavailable, open_store, reporter
from keepalive.presence import Report
from keepalive.seal import ENVIRONMENT
from keepalive.stores import SessionStore, redis_link
from keepalive.stores.memory_roll import MemoryRoll
from keepalive.touchers import key_of

from .conftest import Browse, Serve
from .nodes import nodes, sign_in
from .raw import DEADLINE, ping
from .redis import RedisServer, redis_server

SECRET = Fernet.generate_key().decode()
GONE_WITHIN = 5.0
"""A node that dies is missing from the totals after so many seconds."""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis may take its time, as on a machine that does much else; who waits is told more often."""
    monkeypatch.setattr(reporter, "EVERY", 0.1)
    monkeypatch.setattr(redis_link, "DEADLINE", 20.0)
    monkeypatch.setattr(redis_link, "_SERVER", 10.0)


def make_app(sessions: Any = "memory://", **options: Any) -> tuple[web.Application, Keepalive]:
    """An app with a login, that tells of the session which asks."""
    app = web.Application()
    heart = keepalive.setup(app, sessions, **options)

    async def login(request: web.Request) -> web.Response:
        await heart.start(request, request.query["user"])
        return web.Response()

    async def who(request: web.Request) -> web.Response:
        return web.json_response((await heart.presence_of(request))._asdict())

    app.router.add_post("/login", login)
    app.router.add_get("/who", who)
    return app, heart


async def become(
    ask: Callable[[], Awaitable[Presence]], expected: Presence, within: float = 4 * DEADLINE
) -> float:
    """Wait until the totals are these; returns how long it took."""
    began = monotonic()
    told: Presence | None = None
    while told != expected:
        assert monotonic() - began < within, told
        await asyncio.sleep(0.02)
        with suppress(StoreUnavailable):
            told = await ask()
    return monotonic() - began


# One node


async def test_pages_come_and_go(serve: Serve, browse: Browse) -> None:
    app, heart = make_app()
    port = (await serve(app)).port
    await become(heart.presence, Presence(0, 0, 0, 1))
    ann, guest = await browse(port), await browse(port)
    await ann.post("/login?user=ann")
    pages = [await ann.page(), await ann.page()]
    assert (await guest.page()).status == 101  # has no session, is told so, and is not online
    await become(heart.presence, Presence(pages=2, sessions=1, users=1, nodes=1))
    assert (await ann.get("/who")).json["pages"] == 2
    assert (await guest.get("/who")).json == {"pages": 0, "idle": None}
    pages[0].cut()
    await become(heart.presence, Presence(1, 1, 1, 1))
    assert await heart.end_user("ann") == 1
    await become(heart.presence, Presence(0, 0, 0, 1))
    assert (await ann.get("/who")).json == {"pages": 0, "idle": None}


async def test_the_newest_input_counts_wherever_it_is_known(serve: Serve, browse: Browse) -> None:
    app, _ = make_app(policy=Policy(touch_every=60))
    ann = await browse((await serve(app)).port)
    await ann.post("/login?user=ann")
    assert 0 <= (await ann.get("/who")).json["idle"] < 1  # the store knows of the login
    page = await ann.page()
    page.send(ping(1, idle=600.0))
    await page.message("beat")
    assert (await ann.get("/who")).json["idle"] < 2  # which is newer
    page.send(ping(2, idle=0.0))
    await page.message("beat")
    before = (await ann.get("/who")).json["idle"]
    await asyncio.sleep(0.3)
    page.send(ping(3, idle=0.0))
    await page.message("beat")  # the store has not been told
    assert (await ann.get("/who")).json["idle"] < before + 0.3


async def test_of_sessions_in_cookies_this_process_knows_its_own(serve: Serve, browse: Browse) -> None:
    app, heart = make_app(SimpleCookieStorage(max_age=1800))
    other, elsewhere = make_app(SimpleCookieStorage(max_age=1800))
    port, _ = (await serve(app)).port, await serve(other)
    ann = await browse(port)
    await ann.post("/login?user=ann")
    page = await ann.page()
    assert (await ann.get("/who")).json["idle"] is None
    page.send(ping(1, idle=3.0))
    await page.message("beat")
    await become(heart.presence, Presence(1, 1, 1, 1))
    told = (await ann.get("/who")).json
    assert told["pages"] == 1
    assert 3.0 <= told["idle"] < 5.0
    assert await elsewhere.presence() == Presence(0, 0, 0, 1)


async def test_a_node_that_stops_takes_itself_out_at_once(serve: Serve, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"
    app, heart = make_app(url)
    served = await serve(app)
    await become(heart.presence, Presence(0, 0, 0, 1))
    async with opened(url) as store:
        assert await store.roll.presence() == Presence(0, 0, 0, 1)
        await served.runner.cleanup()
        assert await store.roll.presence() == Presence(0, 0, 0, 0)


async def test_a_store_that_takes_no_reports_slows_no_beat(
    serve: Serve, browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = asyncio.Event()

    async def hang(self: MemoryRoll, report: Report) -> bool:
        hangs.set()
        await asyncio.sleep(60)
        return False

    monkeypatch.setattr(MemoryRoll, "report", hang)
    app, heart = make_app(policy=Policy(touch_every=0))
    ann = await browse((await serve(app)).port)
    await ann.post("/login?user=ann")
    page = await ann.page()
    await hangs.wait()
    began = monotonic()
    for n in range(1, 6):
        page.send(ping(n))
        assert (await page.message("beat"))["n"] == n
    assert monotonic() - began < 1
    assert await heart.presence() == Presence(0, 0, 0, 0)


async def test_who_asks_a_store_that_is_away_is_told_so(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, SECRET)
    with redis_server(tmp_path) as redis:
        app, heart = make_app(redis.url)
        await serve(app)
        await become(heart.presence, Presence(0, 0, 0, 1))
        redis.kill()
        with pytest.raises(StoreUnavailable):
            await heart.presence()
        with pytest.raises(StoreUnavailable):
            await heart.presence_of(key_of("a"))
        redis.start()
        await become(heart.presence, Presence(0, 0, 0, 1))


# Many nodes, each a process


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SessionStore]:
    store = open_store(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture(params=["redis", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that processes can share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/sessions.db"
    return f"{request.getfixturevalue('redis_url')}?prefix={tmp_path.name}:"


class Pages:
    """Opens pages that stay until the end of the test."""

    def __init__(self, http: ClientSession, stack: AsyncExitStack) -> None:
        self._http = http
        self._stack = stack

    async def open(self, url: str, cookie: str) -> ClientWebSocketResponse:
        page = await self._stack.enter_async_context(
            self._http.ws_connect(
                f"{url}/keepalive/ws",
                protocols=["keepalive.v1"],
                headers={"Cookie": cookie, "Origin": url},
            )
        )
        assert (await page.receive_json(timeout=DEADLINE))["type"] == "hello"
        return page


@pytest.fixture
async def pages() -> AsyncIterator[Pages]:
    async with AsyncExitStack() as stack:
        yield Pages(await stack.enter_async_context(ClientSession()), stack)


async def test_two_nodes_count_as_one_until_one_is_killed(
    url: str, serve: Serve, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, SECRET)
    app, observer = make_app(url)  # a third node, of this process, to ask
    await serve(app)
    async with nodes(2, url, SECRET) as (one, two), opened(url) as store:
        ann, bob, cat = [await sign_in(one.url, name) for name in ("ann", "bob", "cat")]
        other_ann = await sign_in(two.url, "ann")
        for node, cookie in ((one, ann), (one, ann), (two, ann), (two, other_ann), (one, bob), (two, cat)):
            await pages.open(node.url, cookie)
        everybody = Presence(pages=6, sessions=4, users=3, nodes=3)
        for ask in (observer.presence, store.roll.presence):
            await become(ask, everybody)
        assert len(await store.roll.nodes()) == 3
        await one.stop(signal.SIGKILL)
        took = await become(observer.presence, Presence(pages=3, sessions=3, users=2, nodes=2), GONE_WITHIN)
        assert took > 1  # it was there for a while: a node that hiccups stays
        await two.stop()  # in good order
        assert await observer.presence() == Presence(0, 0, 0, 1)


async def test_two_workers_count_as_one(tmp_path: Path, pages: Pages) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"
    async with nodes(1, url, SECRET, "--workers", "2") as (node,), opened(url) as store:
        ann = await sign_in(node.url, "ann")
        for _ in range(8):
            await pages.open(node.url, ann)
        await become(store.roll.presence, Presence(pages=8, sessions=1, users=1, nodes=2))
        assert await node.stop() == 0
        assert await store.roll.presence() == Presence(0, 0, 0, 0)


@pytest.fixture(params=[False, True], ids=["forgets", "remembers"])
def redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    options = ["--appendonly", "yes", "--appendfsync", "always"] if request.param else []
    with redis_server(tmp_path, *options) as redis:
        yield redis


async def test_after_a_restart_of_redis_all_is_right_again(redis: RedisServer, pages: Pages) -> None:
    async with nodes(2, redis.url, SECRET) as (one, two), opened(redis.url) as store:
        ann, bob = await sign_in(one.url, "ann"), await sign_in(one.url, "bob")
        for node, cookie in ((one, ann), (two, ann), (two, bob)):
            await pages.open(node.url, cookie)
        await become(store.roll.presence, Presence(pages=3, sessions=2, users=2, nodes=2))
        redis.kill()
        redis.start()
        _, remembers = redis.call("CONFIG", "GET", "appendonly")
        # Where it has forgotten the sessions, their pages are told so, and close.
        expected = Presence(3, 2, 2, 2) if remembers == b"yes" else Presence(0, 0, 0, 2)
        await become(store.roll.presence, expected)
        cat = await sign_in(two.url, "cat")
        await pages.open(one.url, cat)
        more = Presence(expected.pages + 1, expected.sessions + 1, expected.users + 1, 2)
        await become(store.roll.presence, more)
