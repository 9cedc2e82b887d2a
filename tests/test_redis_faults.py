"""A heart whose sessions live in a real Redis, and what its pages see of Redis' faults.

No fault logs anybody out, none keeps anybody alive, and every page is told within a second. Each test
sees to it that its fault has happened.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from time import monotonic

import pytest
from aiohttp import web
from aiohttp_session import get_session

import keepalive
from keepalive.clock import SystemClock
from keepalive.errors import StoreUnavailable
from keepalive.heart import STORE_TIMEOUT, TICK, Heart
from keepalive.messages import Beat, Wait
from keepalive.policy import Policy, Reason
from keepalive.seal import ENVIRONMENT
from keepalive.stores import Record, open_store
from keepalive.stores.redis_link import FAILURES, MOST_WAITING
from keepalive.touchers import Left, Ticket, key_of

from .conftest import Browse, Serve
from .fakes import FakePage
from .raw import until
from .redis import RedisServer, Relay, redis_server

IDLE = 1800.0
POLICY = Policy(idle_timeout=IDLE, touch_every=0)
"""Every ping asks the store."""
ANSWER, PAUSE = 0.5, 1.0
"""How long Redis may leave a page waiting, and how often it is tried again when it is down, in seconds."""
SLOW = 0.4
"""What is allowed to a machine that is busy, in seconds."""


class Node:
    """One server's heart, ticking on the machine's own clock. Made by `start`."""

    def __init__(self, url: str) -> None:
        self.store = open_store(url)
        self.clock = SystemClock()
        self.heart = Heart(self.store, self.clock)
        self._ticking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.store.open()
        self.heart.start()
        self._ticking = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            self.heart.tick()
            await asyncio.sleep(TICK)

    async def stop(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        await self.heart.stop()
        await self.store.close()

    async def page(self, name: str) -> FakePage:
        """Sign in, and open a page."""
        await self.store.create(key_of(name), data=b"cart", user=name, policy=POLICY)
        read_at = self.clock.monotonic()
        record = await self.store.load(key_of(name))
        assert isinstance(record, Record)
        ticket = Ticket(key_of(name), POLICY, name, record.left)
        page = FakePage(self.heart, ticket, read_at, self.clock.monotonic)
        page.open()
        return page


Start = Callable[[str], Awaitable[Node]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts nodes that do not outlive the test."""
    async with AsyncExitStack() as stack:

        async def start(url: str) -> Node:
            node = Node(url)
            await node.start()
            stack.push_async_callback(node.stop)
            return node

        yield start


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "everysec") as redis:
        yield redis


async def answer(page: FakePage) -> Beat | Wait:
    """What a page gets for a ping; a second is the most that it has to wait."""
    n = page.ping()
    await until(lambda: page.answers(n), within=ANSWER + SLOW)
    (told,) = page.answers(n)
    return told


async def beats_again(page: FakePage) -> float:
    """Ping until there is a beat; returns how long that took, in seconds."""
    began = monotonic()
    while not isinstance(await answer(page), Beat):
        assert monotonic() < began + 5
        await asyncio.sleep(0.02)
    return monotonic() - began


async def test_a_restart_of_redis_logs_nobody_out(start: Start, redis: RedisServer) -> None:
    node = await start(redis.url)
    pages = [await node.page(f"user {number}") for number in range(100)]
    life = redis.info("run_id")

    async def ping_on(page: FakePage) -> None:
        while True:
            await answer(page)
            await asyncio.sleep(0.02)

    load = [asyncio.create_task(ping_on(page)) for page in pages]
    for _ in range(2):
        beats = node.heart.counts.beats
        await until(lambda beats=beats: node.heart.counts.beats > beats + 300)  # type: ignore[misc]
        redis.kill()
        waits = node.heart.counts.waits
        await until(lambda waits=waits: node.heart.counts.waits > waits + 300)  # type: ignore[misc]
        redis.start()
        assert redis.info("run_id") != life
        life = redis.info("run_id")
        told = [len(page.of(Beat)) for page in pages]
        await until(
            lambda told=told: all(len(page.of(Beat)) > n for page, n in zip(pages, told, strict=True)),  # type: ignore[misc]
            within=PAUSE + 1,
        )
    for task in load:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert not node.heart.counts.ends
    for page in pages:
        left = await node.store.peek(page.page.live.key)
        assert isinstance(left, Left)
        assert left.idle > page.beat.expires_in - 5  # beats without Redis would have been lies
        assert page.closed is None


@pytest.mark.parametrize("fault", ["kill", "stop"])
async def test_pages_are_told_to_wait(start: Start, redis: RedisServer, fault: str) -> None:
    node = await start(redis.url)
    page = await node.page("a")
    assert isinstance(await answer(page), Beat)
    getattr(redis, fault)()
    for _ in range(FAILURES):
        assert isinstance(await answer(page), Wait)
    asked_at = monotonic()
    with pytest.raises(StoreUnavailable, match="does not answer"):  # nobody waits any more
        await node.store.peek(key_of("a"))
    assert monotonic() < asked_at + ANSWER / 2
    redis.start() if fault == "kill" else redis.go_on()
    assert await beats_again(page) < 2 * PAUSE
    assert isinstance(await node.store.load(key_of("a")), Record)
    assert page.closed is None


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_redis_that_hangs_for_half_a_minute_logs_nobody_out(start: Start, redis: RedisServer) -> None:
    node = await start(redis.url)
    pages = [await node.page(f"user {number}") for number in range(20)]
    redis.stop()
    began = monotonic()
    while monotonic() < began + 30:
        told = await asyncio.gather(*(answer(page) for page in pages))
        assert all(isinstance(each, Wait) for each in told)
        await asyncio.sleep(0.2)
    redis.go_on()
    assert max(await asyncio.gather(*(beats_again(page) for page in pages))) < 2 * PAUSE
    assert [page.closed for page in pages] == [None] * 20
    assert not node.heart.counts.ends


async def test_a_paused_redis_is_waited_for(start: Start, redis: RedisServer) -> None:
    node = await start(redis.url)
    page = await node.page("a")
    redis.call("CLIENT", "PAUSE", 1000, "ALL")
    assert isinstance(await answer(page), Wait)
    assert await beats_again(page) < 1 + PAUSE


async def test_without_memory_what_lives_lives_on(start: Start, redis: RedisServer) -> None:
    node = await start(redis.url)
    page, other = await node.page("a"), await node.page("b")
    redis.call("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(StoreUnavailable, match="no memory left: raise its maxmemory"):
        await node.page("c")
    for _ in range(FAILURES + 1):
        assert isinstance(await answer(page), Beat)  # and that error has stopped nobody else
        with pytest.raises(StoreUnavailable, match="no memory left"):
            await node.store.save(key_of("a"), data=b"more", user="a")
    assert isinstance(await node.store.load(key_of("a")), Record)
    assert await node.store.end(key_of("b"), Reason.LOGOUT)
    await until(lambda: other.reason is Reason.LOGOUT)
    redis.call("CONFIG", "SET", "maxmemory", 0)
    await node.page("c")


async def test_a_redis_that_became_a_replica_is_not_asked(start: Start, redis: RedisServer) -> None:
    node = await start(redis.url)
    page = await node.page("a")
    redis.call("REPLICAOF", "127.0.0.1", 1)
    assert redis.info("role") == "slave"
    with pytest.raises(StoreUnavailable, match="is a replica: wait for the fail-over"):
        await node.store.load(key_of("a"))
    assert isinstance(await answer(page), Wait)
    redis.call("REPLICAOF", "NO", "ONE")
    assert await beats_again(page) < 2 * PAUSE
    assert page.closed is None


async def test_connections_that_lead_to_a_replica_now_are_made_anew(
    start: Start, redis: RedisServer, tmp_path: Path
) -> None:
    """As behind a proxy or a name that a fail-over turns to the next primary; the last one lives on."""
    with redis_server(tmp_path, "--replicaof", f"127.0.0.1 {redis.port}") as replica:
        async with Relay(redis).open() as relay:
            node = await start(relay.url)
            page = await node.page("a")
            assert isinstance(await answer(page), Beat)
            await until(lambda: replica.info("master_link_status") == "up" and replica.call("DBSIZE") == 3)
            replica.call("REPLICAOF", "NO", "ONE")
            redis.call("REPLICAOF", "127.0.0.1", replica.port)
            relay.leads_to = replica
            assert isinstance(await answer(page), Wait)
            assert await beats_again(page) < 3 * PAUSE
            assert redis.info("role") == "slave"
            assert page.closed is None


@pytest.mark.parametrize(("delay", "told"), [(0.3, Beat), (2.0, Wait)])
async def test_a_slow_redis_keeps_no_page_waiting(
    start: Start, redis: RedisServer, delay: float, told: type[Beat | Wait]
) -> None:
    async with Relay(redis).open() as relay:
        node = await start(relay.url)
        pages = [await node.page(f"user {number}") for number in range(20)]
        relay.delay = delay
        for _ in range(3):
            assert {type(each) for each in await asyncio.gather(*map(answer, pages))} == {told}
        relay.delay = 0.0
        assert max(await asyncio.gather(*map(beats_again, pages))) < 2 * PAUSE + delay
        assert [page.closed for page in pages] == [None] * len(pages)


async def test_what_asks_too_much_of_redis_is_turned_away_at_once(redis: RedisServer) -> None:
    store = open_store(redis.url)
    await store.open()
    redis.stop()
    asking = [asyncio.ensure_future(store.load(key_of(str(number)))) for number in range(5_000)]
    _, waiting = await asyncio.wait(asking, timeout=ANSWER / 2)
    assert len(waiting) <= MOST_WAITING
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(error) for error in results} == {StoreUnavailable}
    assert sum("more is asked" in str(error) for error in results) == 5_000 - MOST_WAITING
    redis.go_on()
    await until(lambda: redis.info("loading") == "0")
    async with asyncio.timeout(5):
        while True:
            with suppress(StoreUnavailable):
                assert await store.load(key_of("a")) is Reason.UNKNOWN
                break
            await asyncio.sleep(0.05)
    await store.close()


async def test_after_a_loss_of_all_data_pages_hear_it_at_their_next_ping(
    start: Start, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    node = await start(redis.url)
    pages = [await node.page(f"user {number}") for number in range(3)]
    redis.call("FLUSHALL")
    for page in pages:
        assert page.reason is None
        page.ping()
        await until(lambda page=page: page.gone == (Reason.UNKNOWN, 4504))  # type: ignore[misc]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_an_end_that_was_not_heard_of_is_found_out(start: Start, redis: RedisServer) -> None:
    here, there = await start(redis.url), await start(redis.url)
    page, other = await here.page("a"), await here.page("b")
    assert redis.call("CLIENT", "KILL", "TYPE", "pubsub") == 2
    assert await there.store.end(key_of("a"), Reason.REVOKED)
    assert page.reason is None
    await until(lambda: page.gone == (Reason.REVOKED, 4506), within=3 * PAUSE + SLOW)  # and it never pings
    assert other.closed is None
    assert await there.store.end(key_of("b"), Reason.LOGOUT)
    await until(lambda: other.reason is Reason.LOGOUT, within=SLOW)  # by the new subscription


# Two nodes


@pytest.fixture
async def ports(redis: RedisServer, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Where two nodes with one Redis are."""
    monkeypatch.setenv(ENVIRONMENT, "A" * 43 + "=")

    def app() -> web.Application:
        app = web.Application()
        heart = keepalive.setup(app, redis.url, policy=POLICY)

        async def login(request: web.Request) -> web.Response:
            await heart.start(request, "ann")
            return web.Response()

        async def logout(request: web.Request) -> web.Response:
            (await get_session(request)).invalidate()
            return web.Response()

        app.router.add_post("/login", login)
        app.router.add_post("/logout", logout)
        return app

    return (await serve(app())).port, (await serve(app())).port


async def test_a_logout_on_one_node_closes_the_pages_on_another(
    ports: tuple[int, int], browse: Browse
) -> None:
    browser = await browse(ports[0])
    assert (await browser.post("/login")).status == 200
    page = await browser.page()
    browser.port = ports[1]
    far = await browser.page()
    assert (await browser.post("/logout")).status == 200
    for each in (page, far):
        assert (await each.message("end"))["reason"] == "logout"
        assert await each.close_code() == 4503


async def test_while_redis_is_down_nothing_is_promised(
    ports: tuple[int, int], browse: Browse, redis: RedisServer
) -> None:
    browser = await browse(ports[0])
    await browser.post("/login")
    redis.stop()
    began = monotonic()
    login, beat, page = await asyncio.gather(
        browser.post("/login"), browser.post("/keepalive/heartbeat"), browser.page()
    )
    assert monotonic() - began < STORE_TIMEOUT + SLOW
    assert (login.status, beat.status, page.status) == (503, 503, 503)
    assert beat.json["type"] == "wait"
    redis.go_on()
    while (again := await browser.post("/keepalive/heartbeat")).status == 503:
        assert monotonic() < began + 5
        await asyncio.sleep(0.02)
    assert again.json["type"] == "beat"


async def test_without_memory_a_login_is_refused(
    ports: tuple[int, int], browse: Browse, redis: RedisServer
) -> None:
    browser = await browse(ports[0])
    await browser.post("/login")
    redis.call("CONFIG", "SET", "maxmemory", 1)
    assert (await browser.post("/login")).status == 503
    assert (await browser.post("/keepalive/heartbeat")).json["type"] == "beat"
