"""What a fake tab does: the same as the page in a browser (docs/browser.md)."""

import asyncio
from datetime import datetime

import pytest
from aiohttp import ClientSession, CookieJar, web
from aiohttp_session import get_session
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from cryptography.fernet import Fernet
from pytest_aiohttp import AiohttpClient

import keepalive
from keepalive import Hooks, KeepaliveStorage, Policy, Reason, Seal, open_store
from keepalive.connection import UNFINISHED_AFTER
from keepalive.live import Page as LivePage
from keepalive.messages import Ping
from keepalive.testing import (
    AssertEnds,
    KeepaliveApp,
    KeepaliveServer,
    OpenPage,
    StoreFault,
    VirtualClock,
)

from ..conftest import Connect
from ..raw import TEXT, frame, until


def beside(minutes: float) -> object:
    """About so many minutes, as a server with a wheel tells it."""
    return pytest.approx(60 * minutes, abs=0.3)


async def test_an_open_page_keeps_its_session_alive_until_the_absolute_deadline(
    keepalive_server: KeepaliveServer, page: OpenPage, clock: VirtualClock, assert_ends: AssertEnds
) -> None:
    await keepalive_server(policy=Policy(absolute_timeout=3 * 3600))
    tab = await page("ann")
    assert tab.state == "open"
    assert tab.expires_in == pytest.approx(1800)
    await clock.advance(hours=2, minutes=59.5)
    await assert_ends(None)
    assert tab.warning is not None
    assert not tab.warning.extendable
    await clock.advance(minutes=1)
    await assert_ends("absolute")
    assert tab.ended_after == beside(180)
    assert len(tab.beats) == pytest.approx(3 * 3600 / 25, rel=0.05)


async def test_input_is_told_at_once_where_it_matters(
    keepalive_server: KeepaliveServer, page: OpenPage, clock: VirtualClock, assert_ends: AssertEnds
) -> None:
    pings: list[float | None] = []

    def note(page: LivePage, ping: Ping) -> None:
        pings.append(ping.idle)

    await keepalive_server(policy=Policy(mode="activity"), hooks=Hooks(on_ping=note))
    tab = await page("ann")
    await clock.advance(minutes=29.5)
    assert tab.warning is not None
    tab.input()
    await clock.advance(seconds=3)
    assert pings[-1] is not None
    assert pings[-1] <= 2
    assert tab.warning is None
    await clock.advance(minutes=29.9)
    await assert_ends(None)
    await clock.advance(minutes=0.2)
    await assert_ends("idle")


async def test_input_in_one_tab_is_input_in_all_of_its_browser(
    keepalive_server: KeepaliveServer, page: OpenPage, clock: VirtualClock, assert_ends: AssertEnds
) -> None:
    """Whoever pings next tells of it; a tab that is frozen has not heard, and another browser never does."""
    pings: dict[str, float | None] = {}

    def note(page: LivePage, ping: Ping) -> None:
        pings[page.id] = ping.idle

    server = await keepalive_server(
        policy=Policy(mode="activity", end_after_last_page=1000), hooks=Hooks(on_ping=note)
    )
    tab = await page("ann")
    second, frozen = [await page(cookies=tab.cookies) for _ in range(2)]
    elsewhere = await page(cookies=await server.sign_in("ann"))
    frozen.freeze()
    await clock.advance(minutes=10)
    tab.input()
    tab.crash()
    frozen.resume()
    await clock.advance(minutes=1)
    told = pings["page-2"]
    assert told is not None
    assert 60 - 25 * 1.1 <= told <= 60
    assert (pings["page-3"], pings["page-4"]) == (None, None)
    await clock.advance(minutes=28)
    await assert_ends(None, second)
    await assert_ends("idle", elsewhere)
    await clock.advance(minutes=1.1)
    await assert_ends("idle", second)
    assert second.ended_after == beside(40)


async def test_a_hidden_page_pings_as_seldom_as_it_may_and_answers_when_asked(
    keepalive_server: KeepaliveServer, page: OpenPage, clock: VirtualClock, assert_ends: AssertEnds
) -> None:
    server = await keepalive_server(policy=Policy(hidden_interval=300))
    tab = await page("ann")
    tab.hide()
    await clock.advance(hours=1)
    assert server.keepalive.counts.opens == 1
    assert len(tab.beats) < 20
    tab.show()
    await clock.advance(minutes=1)
    assert len(tab.beats) > 3
    await assert_ends(None)


async def test_a_hidden_page_with_late_timers_is_asked(
    keepalive_server: KeepaliveServer, page: OpenPage, clock: VirtualClock
) -> None:
    server = await keepalive_server()
    tab = await page("ann")
    tab.hide()
    await clock.advance(hours=1)
    assert server.keepalive.counts.asks > 50, "its own timers run once a minute, and its interval is 25 s"
    assert server.keepalive.counts.opens == 1


async def test_a_frozen_page_says_that_it_will_come_back(
    keepalive_server: KeepaliveServer, page: OpenPage, clock: VirtualClock, assert_ends: AssertEnds
) -> None:
    server = await keepalive_server(policy=Policy(end_after_last_page=20))
    tab = await page("ann")
    tab.freeze()
    assert tab.state == "frozen"
    await clock.advance(minutes=10)
    assert server.keepalive.counts.closes == {4000: 1}
    tab.resume()
    await clock.advance(seconds=1)
    assert tab.state == "open"
    tab.close()
    await clock.advance(seconds=19)
    await assert_ends(None)
    await clock.advance(seconds=2)
    await assert_ends("logout")


@pytest.mark.parametrize("minutes", [20, 60])
async def test_a_page_that_slept_learns_what_has_become_of_its_session(
    minutes: float, keepalive_server: KeepaliveServer, page: OpenPage, clock: VirtualClock
) -> None:
    server = await keepalive_server()
    tab = await page("ann")
    tab.sleep(60 * minutes)
    await clock.advance(minutes=minutes - 1)
    assert len(tab.beats) == 1
    assert server.keepalive.counts.closes == {4001: 1}, "it has not answered"
    await clock.advance(minutes=2)
    assert (tab.state, tab.reason) == (("open", None) if minutes == 20 else ("ended", "idle"))


async def test_an_outage_of_the_network_is_no_end(
    keepalive_server: KeepaliveServer, page: OpenPage, clock: VirtualClock, assert_ends: AssertEnds
) -> None:
    server = await keepalive_server()
    tab = await page("ann")
    tab.go_offline()
    await clock.advance(minutes=20)
    assert tab.state == "waiting"
    assert server.keepalive.connected[0] == 0
    tab.go_online()
    await clock.advance(seconds=1)
    assert tab.state == "open"
    tab.go_offline()
    await clock.advance(minutes=40)
    assert tab.state == "waiting", "nobody has told it of the end"
    tab.go_online()
    await clock.advance(seconds=1)
    await assert_ends("idle")


async def test_a_crash_is_no_goodbye(
    keepalive_server: KeepaliveServer, page: OpenPage, clock: VirtualClock, assert_ends: AssertEnds
) -> None:
    server = await keepalive_server()
    tab = await page("ann")
    other = await page(cookies=tab.cookies)
    tab.crash()
    await clock.advance(minutes=31)
    await assert_ends(None, other)
    other.close()
    await clock.advance(minutes=31)
    await assert_ends("idle", tab, other)
    assert server.keepalive.counts.closes == {1006: 1, 1001: 1}


async def test_the_store_has_faults(
    keepalive_server: KeepaliveServer,
    page: OpenPage,
    clock: VirtualClock,
    assert_ends: AssertEnds,
    store_fault: StoreFault,
) -> None:
    await keepalive_server(policy=Policy(idle_timeout=600, touch_every=0))
    tab = await page("ann")
    for fault in ("down", "slow", "read-only"):
        before = len(tab.beats)
        with store_fault(fault):
            await clock.advance(minutes=2)
            assert len(tab.beats) == before, fault
        await clock.advance(minutes=1)
        assert len(tab.beats) > before, fault
    with store_fault("down"):
        await clock.advance(minutes=15)
        await assert_ends(None)  # nobody can know
    await clock.advance(minutes=1)
    await assert_ends("idle")


async def test_an_apps_own_requests_wait_for_a_slow_store_and_its_pages_do_not(
    aiohttp_client: AiohttpClient, keepalive_app: KeepaliveApp, clock: VirtualClock, store_fault: StoreFault
) -> None:
    app = web.Application()
    server = keepalive_app(app, user_key="name")

    async def login(request: web.Request) -> web.Response:
        await server.keepalive.start(request, "ann")
        return web.Response()

    async def visit(request: web.Request) -> web.Response:
        session = await get_session(request)
        session["visits"] = session.get("visits", 0) + 1
        return web.json_response(dict(session))

    app.router.add_post("/login", login)
    app.router.add_post("/visit", visit)
    client = await aiohttp_client(app, cookie_jar=CookieJar(unsafe=True))
    with store_fault("slow"):
        assert (await client.post("/login")).status == 200
        for visits in (1, 2):
            await clock.advance(minutes=29)
            assert await (await client.post("/visit")).json() == {"name": "ann", "visits": visits}
        for path in ("heartbeat", "state"):
            assert (await client.get(f"/keepalive/{path}")).status == 503


async def test_an_app_its_client_and_its_pages_are_of_one_time(
    aiohttp_client: AiohttpClient,
    keepalive_app: KeepaliveApp,
    page: OpenPage,
    clock: VirtualClock,
    assert_ends: AssertEnds,
) -> None:
    app = web.Application()
    server = keepalive_app(app, policy=Policy(mode="observe"))

    async def login(request: web.Request) -> web.Response:
        await server.keepalive.start(request, "ann")
        return web.Response()

    async def whoami(request: web.Request) -> web.Response:
        return web.json_response((await get_session(request)).get("user"))

    app.router.add_post("/login", login)
    app.router.add_get("/whoami", whoami)
    client = await aiohttp_client(app, cookie_jar=CookieJar(unsafe=True))
    await client.post("/login")
    await page(cookies=client.session.cookie_jar)
    for _ in range(4):
        await clock.advance(minutes=29)
        assert await (await client.get("/whoami")).json() == "ann"
    await clock.advance(minutes=31)
    await assert_ends("idle")
    assert await (await client.get("/whoami")).json() is None


async def test_cookies_age_and_are_renewed(
    keepalive_app: KeepaliveApp, page: OpenPage, clock: VirtualClock, assert_ends: AssertEnds
) -> None:
    """Of sessions that live in cookies; the app has called `setup` itself, and knows nothing of a clock."""
    app = web.Application()
    keepalive.setup(app, EncryptedCookieStorage(Fernet(Fernet.generate_key()), max_age=600))
    keepalive_app(app)
    tab = await page("ann")
    await clock.advance(hours=3)
    await assert_ends(None)
    tab.crash()
    await clock.advance(minutes=4)
    assert list(tab.cookies)
    await clock.advance(minutes=7)
    assert not list(tab.cookies)


async def test_an_app_with_its_sessions_in_redis_keeps_them_there_and_lives_in_virtual_time(
    redis_url: str,
    aiohttp_client: AiohttpClient,
    keepalive_app: KeepaliveApp,
    page: OpenPage,
    clock: VirtualClock,
) -> None:
    """Though by itself such a store goes by the time of Redis."""
    store = open_store(f"{redis_url}?prefix=virtual:")
    app = web.Application()
    keepalive.setup(app, KeepaliveStorage(store, Policy(mode="activity"), seal=Seal.fresh()))
    server = keepalive_app(app)
    await aiohttp_client(app)
    tab = await page("ann")
    await clock.advance(minutes=29.5)
    assert tab.warning is not None
    assert tab.reason is None
    await clock.advance(minutes=0.6)
    assert tab.ended_after == beside(30)
    assert tab.reason == "idle"
    key = await server.keepalive.door.key(server.request(tab.cookies))
    assert key is not None
    assert await store.peek(key) is Reason.IDLE


async def test_a_client_is_driven_over_its_real_socket(
    keepalive_server: KeepaliveServer, clock: VirtualClock
) -> None:
    server = await keepalive_server()
    jar = await server.sign_in("ann")
    async with ClientSession(cookie_jar=jar) as http, keepalive.connect(server.url, session=http) as heart:
        clock.drive(heart)
        await clock.advance(minutes=20)
        assert server.keepalive.counts.opens == 1
        assert server.keepalive.counts.beats == pytest.approx(1200 / 25, rel=0.15)
        assert heart.expires_in is not None
        assert heart.expires_in > 1700
        await server.keepalive.end_user("ann")
        await clock.advance(seconds=1)
        assert heart.state == "ended"


async def test_time_stands_still_while_a_client_connects(
    keepalive_server: KeepaliveServer, clock: VirtualClock
) -> None:
    """Else it would have to give up a server that has not had the time to answer."""
    pages: list[LivePage] = []
    server = await keepalive_server(hooks=Hooks(on_open=pages.append))
    cookies = {each.key: each.value for each in await server.sign_in("ann")}
    async with keepalive.connect(server.url, cookies=cookies) as heart:
        clock.drive(heart)
        for _ in range(3):
            pages[-1].socket.close(1012)
            await clock.advance(seconds=40)
            assert heart.state == "open"
        assert len(pages) == 4


async def test_without_a_clock_a_page_lives_in_the_machines_time(
    keepalive_server: KeepaliveServer, page: OpenPage, assert_ends: AssertEnds
) -> None:
    """One inside of this process, and one over a real socket, as to a server anywhere."""
    server = await keepalive_server(policy=Policy(ping_interval=1, idle_timeout=4))
    near = await page("ann")
    far = await page(cookies=near.cookies, url=server.url)
    assert (near.state, far.state) == ("open", "open")
    async with asyncio.timeout(10):
        while min(len(near.beats), len(far.beats)) < 2:
            await asyncio.sleep(0.02)
        far.freeze()
        while 4000 not in server.keepalive.counts.closes:
            await asyncio.sleep(0.02)
        far.resume()
        while far.state != "open":
            await asyncio.sleep(0.02)
        await server.keepalive.end_user("ann")
        while {near.state, far.state} != {"ended"}:
            await asyncio.sleep(0.02)
    await assert_ends("revoked")


async def test_a_million_hours_with_nothing_due_are_one_step(
    keepalive_server: KeepaliveServer, clock: VirtualClock
) -> None:
    await keepalive_server()
    began = asyncio.get_running_loop().time()
    await clock.advance(hours=1_000_000)
    assert asyncio.get_running_loop().time() - began < 1


async def test_time_begins_now_at_a_full_second(clock: VirtualClock) -> None:
    """So that what an app makes of it is the same in each run."""
    assert clock.wall() == int(clock.wall())
    assert 0 <= datetime.now().timestamp() - clock.wall() < 60


async def test_timers_run_in_order_and_at_their_times(clock: VirtualClock) -> None:
    ran: list[tuple[str, float]] = []
    began, wall = clock.monotonic(), clock.wall()

    def note(name: str) -> None:
        ran.append((name, clock.monotonic() - began))

    def chain() -> None:
        note("b")
        clock.call_at(clock.monotonic() + 5, lambda: note("c"))

    clock.call_at(began + 20, lambda: note("d"))
    clock.call_at(began + 10, chain)
    clock.call_at(began + 10, lambda: note("b too"))
    clock.call_at(began + 5, lambda: note("a"))
    clock.call_at(began + 31, lambda: note("late"))
    await clock.advance(minutes=0.5)
    assert ran == [("a", 5), ("b", 10), ("b too", 10), ("c", 15), ("d", 20)]
    assert clock.wall() == wall + 30
    clock.jump(-3600)
    assert clock.wall() == wall + 30 - 3600
    assert clock.monotonic() == began + 30


async def test_a_clock_that_cannot_go_on_says_so(
    keepalive_server: KeepaliveServer, page: OpenPage, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepalive.testing.clock.PATIENCE", 0.05)

    class Stuck:
        busy = True

    clock.await_rest(Stuck())
    with pytest.raises(keepalive.KeepaliveError, match="time cannot go on"):
        await clock.advance(seconds=1)


async def test_the_deadlines_of_real_sockets_are_steps_of_virtual_time(
    keepalive_server: KeepaliveServer, clock: VirtualClock, connect: Connect
) -> None:
    server = await keepalive_server(policy=Policy(ping_interval=300))
    jar = await server.sign_in("ann")
    cookie = server.request(jar).headers["Cookie"]
    assert server.port is not None
    page = await connect(server.port, headers={"Cookie": cookie})
    assert (await page.message())["type"] == "hello"
    page.send(frame(b"half a mess", TEXT)[:-1])
    await until(lambda: server.due < clock.monotonic() + UNFINISHED_AFTER + 1)
    await clock.advance(seconds=UNFINISHED_AFTER - 1)
    assert server.keepalive.counts.closes.total() == 0
    await clock.advance(seconds=1.5)
    assert await page.close_code() == 1002
