"""Who is turned away, by which limit, and that nobody else is."""

import asyncio
import re
from time import sleep
from typing import Any

import pytest
from aiohttp import ClientSession, CookieJar, web
from aiohttp.test_utils import make_mocked_request
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

import keepalive
from keepalive import KEEPALIVE, Keepalive, Limits, SettingError, open_store
from keepalive import limits as keepalive_limits
from keepalive.client import State
from keepalive.gate import TELL_EVERY
from keepalive.heart import LET_IN
from keepalive.limits import Buckets, Tally
from keepalive.testing import KeepaliveApp, VirtualClock
from keepalive.trust import Trust, cookie_in

from .conftest import Answer, Browse, Browser, Connect, Serve
from .fakes import World, settle
from .raw import TEXT, RawPage, frame, handshake, until
from .test_client import World as ClientWorld
from .test_client import sign_in
from .test_web import ended, make_app, signed_in

PROXY = "127.0.0.1"
"""All requests of these tests come from here."""


# The numbers.


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"pages_per_session": 0}, "pages_per_session is 0: give it a number over 0"),
        ({"pages": -1}, "pages is -1"),
        ({"pages_per_user": 1.5}, "pages_per_user is 1.5"),
        ({"pages_per_address": True}, "pages_per_address is True"),
        ({"pages_per_address": None}, "pages_per_address is None"),
        ({"handshakes_per_second": float("nan")}, "handshakes_per_second is nan"),
        ({"misses_per_minute": float("inf")}, "misses_per_minute is inf"),
        ({"messages_per_second": "10"}, "messages_per_second is '10'"),
    ],
)
def test_what_is_no_limit(limits: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingError) as caught:
        Limits(**limits)
    assert str(caught.value).startswith(problem)


def test_pages_leave_files_to_the_rest() -> None:
    assert Limits().pages_within(1000) == 900
    assert Limits(pages=50).pages_within(1000) == 50


def test_a_restart_of_other_nodes_is_not_hampered() -> None:
    assert Limits().handshakes_per_second >= LET_IN


# Buckets and tallies.


def test_a_bucket_gives_its_burst_at_once_and_its_rate_over_time() -> None:
    buckets = Buckets(rate=2, burst=5)
    assert [buckets.take("a", 0.0) for _ in range(6)] == [True] * 5 + [False]
    assert buckets.take("b", 0.0)
    assert not buckets.take("a", 0.4)
    assert buckets.take("a", 0.5)
    assert not buckets.take("a", 0.9)
    assert sum(buckets.take("a", 100.0) for _ in range(10)) == 5


def test_what_is_given_back_was_never_taken() -> None:
    buckets = Buckets(rate=1, burst=2)
    for _ in range(10):
        assert buckets.take("a", 0.0)
        buckets.give_back("a", 0.0)
    assert len(buckets) == 0
    assert buckets.take("a", 0.0)
    assert buckets.take("a", 0.0)
    buckets.give_back("a", 0.0)
    assert buckets.take("a", 0.0)
    assert not buckets.take("a", 0.0)


def test_idle_buckets_are_forgotten() -> None:
    buckets = Buckets(rate=1, burst=10)
    for number in range(100):
        buckets.take(str(number), now=float(number))
    buckets.sweep(99.5)
    assert len(buckets) == 1
    buckets.sweep(100.0)
    assert len(buckets) == 0


def test_the_memory_of_buckets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepalive_limits, "MOST_KEYS", 10)
    buckets = Buckets(rate=0.001, burst=1)
    for number in range(100):
        assert buckets.take(str(number), 0.0)
    assert len(buckets) == 10
    assert not buckets.take("99", 0.0)


@given(
    st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=100),
    st.floats(0.5, 10),
    st.integers(1, 20),
)
def test_nobody_gets_more_than_burst_and_rate(
    steps: list[tuple[float, bool]], rate: float, burst: int
) -> None:
    """However the requests are spread, and whether or not idle buckets are swept in between."""
    buckets, now, taken = Buckets(rate, burst), 0.0, 0
    for pause, sweep in steps:
        now += pause
        if sweep:
            buckets.sweep(now)
        taken += buckets.take("a", now)
        assert taken <= burst + rate * now + 1e-6


def test_who_has_no_pages_takes_no_memory() -> None:
    tally = Tally()
    tally.add("a")
    tally.add("a")
    tally.remove("a")
    assert (tally["a"], tally["b"]) == (1, 0)
    tally.remove("a")
    tally.remove("a")
    assert dict(tally) == {}


# Whose word counts.


def request_of(peer: str, headers: list[tuple[str, str]]) -> web.Request:
    """A request that came by plain http."""
    return make_mocked_request("GET", "/", CIMultiDict(headers)).clone(remote=peer)


def forwarded(*values: str) -> list[tuple[str, str]]:
    return [("X-Forwarded-For", value) for value in values]


@pytest.mark.parametrize(
    ("peer", "trusted", "values", "address"),
    [
        ("192.0.2.1", [], ["203.0.113.9"], "192.0.2.1"),
        ("192.0.2.1", ["10.0.0.0/8"], ["203.0.113.9"], "192.0.2.1"),
        ("10.0.0.1", ["10.0.0.0/8"], [], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.0/8"], ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["10.0.0.0/8"], ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["10.0.0.0/8"], ["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["10.0.0.0/8"], ["1.1.1.1, 203.0.113.9, 10.0.0.7"], "203.0.113.9"),
        ("10.0.0.1", ["10.0.0.0/8"], ["10.0.0.9,10.0.0.7"], "10.0.0.9"),
        ("10.0.0.1", ["10.0.0.1"], ["203.0.113.9, 10.0.0.7"], "10.0.0.7"),
        ("10.0.0.1", ["10.0.0.0/8"], ["203.0.113.9, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.0/8"], ["203.0.113.9,"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.0/8"], ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.0/8"], ["203.0.113.9:4711"], "203.0.113.9"),
        ("::ffff:10.0.0.1", ["10.0.0.0/8"], ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("fe80::1%eth0", ["fe80::/10"], ["[2001:db8:1:2:3::4]:80"], "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", [], [], "2001:db8:1:2::/64"),
        ("", ["0.0.0.0/0"], ["203.0.113.9"], ""),
    ],
)
def test_whose_request_it_is(peer: str, trusted: list[str], values: list[str], address: str) -> None:
    """The address nearest to us that is no trusted proxy's; what others have written counts for nothing."""
    assert Trust(trusted).address(request_of(peer, forwarded(*values))) == address


@pytest.mark.parametrize(
    ("peer", "values", "secure"),
    [
        ("10.0.0.1", ["https"], True),
        ("10.0.0.1", ["wss"], True),
        ("10.0.0.1", ["HTTPS "], True),
        ("10.0.0.1", ["http"], False),
        ("10.0.0.1", ["https, http"], False),
        ("10.0.0.1", ["https", "http"], False),
        ("10.0.0.1", ["http,https"], True),
        ("10.0.0.1", ["gopher"], False),
        ("10.0.0.1", [], False),
        ("192.0.2.1", ["https"], False),
        ("", ["https"], False),
    ],
)
def test_by_which_scheme_it_came(peer: str, values: list[str], secure: bool) -> None:
    """The nearest proxy's word, which is the last; anybody can have written the others."""
    request = request_of(peer, [("X-Forwarded-Proto", value) for value in values])
    assert Trust(["10.0.0.0/8"]).is_secure(request) is secure


@pytest.mark.parametrize(
    ("address", "trusted", "counted"),
    [
        ("8.8.8.8", [], True),
        ("2600::/64", [], True),
        ("127.0.0.1", [], False),
        ("10.1.2.3", [], False),
        ("fd00::/64", [], False),
        ("10.1.2.3", ["10.0.0.1"], True),
        ("127.0.0.1", ["10.0.0.1"], True),
        ("", ["10.0.0.1"], False),
    ],
)
def test_an_address_that_may_be_a_proxy_has_no_limit(address: str, trusted: list[str], counted: bool) -> None:
    assert Trust(trusted).is_counted(address) is counted


@pytest.mark.parametrize(
    ("values", "hosts", "status"),
    [
        (["app.example"], [], 200),
        (["app.example:8443"], [], 200),
        (["[2001:db8::1]:80"], [], 200),
        (["192.0.2.1"], [], 200),
        ([], [], 400),
        (["app.example", "app.example"], [], 400),
        ([""], [], 400),
        (["app.example, evil.example"], [], 400),
        (["user@app.example"], [], 400),
        (["app.example/x"], [], 400),
        (["app.example:"], [], 400),
        (["app.example:http"], [], 400),
        (["äpp.example"], [], 400),
        (["app.example"], ["app.example"], 200),
        (["APP.example:8443"], ["app.example"], 200),
        (["app.example."], ["app.example"], 421),
        (["www.app.example"], ["app.example"], 421),
        (["127.0.0.1:8080"], ["app.example"], 421),
        (["b.example"], ["app.example", "B.example"], 200),
        (["[::1]:80"], ["[::1]"], 200),
    ],
)
def test_hosts(values: list[str], hosts: list[str], status: int) -> None:
    request = request_of("192.0.2.1", [("Host", value) for value in values])
    try:
        Trust((), hosts).refuse_host(request)
    except web.HTTPException as refusal:
        assert refusal.status == status
    else:
        assert status == 200


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"trusted_proxies": "10.0.0.1"}, "trusted_proxies is the text '10.0.0.1': give a list"),
        ({"trusted_proxies": ["10.0.0.1/8"]}, "'10.0.0.1/8' in trusted_proxies is no address"),
        ({"trusted_proxies": ["nginx"]}, "'nginx' in trusted_proxies is no address: write 192.0.2.7"),
        ({"hosts": "a.example"}, "hosts is the text"),
        ({"hosts": ["https://a.example"]}, "'https://a.example' in hosts is no host name"),
        ({"hosts": ["a.example:80"]}, "'a.example:80' in hosts is no host name: write it without"),
    ],
)
def test_what_cannot_be_trusted_is_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingError) as caught:
        keepalive.setup(web.Application(), "memory://", **options)
    assert str(caught.value).startswith(problem)


# At a server.


async def site(serve: Serve, browse: Browse, *users: str, **options: Any) -> tuple[Keepalive, list[Browser]]:
    """A server behind a proxy that is trusted, and its users, signed in; one may come twice."""
    app = make_app(**({"trusted_proxies": [PROXY]} | options))
    port = (await serve(app)).port
    return app[KEEPALIVE], [await signed_in(browse, port, user) for user in users]


async def come(browser: Browser, address: str = "203.0.113.9") -> RawPage:
    return await browser.page(X_Forwarded_For=address)


async def opened(browser: Browser, count: int, address: str = "203.0.113.9") -> list[RawPage]:
    """So many pages, greeted one after the other."""
    pages = []
    for _ in range(count):
        pages.append(await come(browser, address))
        assert pages[-1].status == 101
        await pages[-1].message("hello")
    return pages


async def test_with_one_page_more_the_oldest_of_a_session_has_to_go(serve: Serve, browse: Browse) -> None:
    heart, (ann, bob) = await site(serve, browse, "ann", "bob", limits=Limits(pages_per_session=3))
    other = (await opened(bob, 1))[0]
    pages = await opened(ann, 5)
    for page in pages[:2]:
        assert await ended(page) == ("evicted", 4505)
        page.cut()
    for n, page in enumerate([*pages[2:], other]):
        page.send(frame(b'{"type":"ping","n":%d}' % n))
        assert (await page.message("beat"))["n"] == n
    await until(lambda: heart.connected == (2, 4))
    assert (await ann.get("/whoami")).json == "ann"
    assert heart.counts.ends == {}
    assert heart.counts.closes[4505] == 2


async def test_the_end_of_a_page_that_made_room_names_no_login(serve: Serve, browse: Browse) -> None:
    """The user is signed in: to be sent to the login page would open the next page too many."""
    _, (ann,) = await site(serve, browse, "ann", limits=Limits(pages_per_session=1), login="/login")
    pages = await opened(ann, 2)
    assert await pages[0].message("end") == {"type": "end", "reason": "evicted"}


async def test_a_page_in_its_handshake_is_not_the_one_that_goes() -> None:
    """It could not be told why; and it is counted already."""
    world = await World().start()
    await world.login("a")
    heart = world.heart
    pending = heart.join(*(await world.ticket("a"))[:1], FakePageSocket(), world.clock.monotonic())
    pages = [await world.page("a") for _ in range(20)]
    assert pages[0].closed == 4505
    assert pending in pages[0].page.live.pages
    assert len(pages[0].page.live.pages) == 20
    heart.leave(pending)
    for page in pages:
        page.leave()
    await settle()
    assert (heart.pages, heart.users, dict(heart.addresses)) == (0, {}, {})
    await world.stop()


class FakePageSocket:
    def send(self, message: bytes) -> None:
        raise AssertionError("it is not open yet")

    def close(self, code: int, reason: str = "") -> None:
        raise AssertionError("it is not open yet")


async def test_a_user_with_too_many_pages_is_told_to_come_back_later(serve: Serve, browse: Browse) -> None:
    """After the upgrade, so that a script sees 1013; and with all sessions of the user together."""
    limits = Limits(pages_per_user=3)
    heart, (ann, ann_too, bob) = await site(serve, browse, "ann", "ann", "bob", limits=limits)
    pages = await opened(ann, 2) + await opened(ann_too, 1)
    refused = await come(ann_too)
    assert refused.status == 101
    assert await refused.close_code() == 1013
    await opened(bob, 1)
    assert (heart.counts.handshakes["user"], heart.counts.handshakes["accepted"]) == (1, 4)
    pages[0].cut()
    await until(lambda: len(heart.heart.users["ann"]) == 2)
    await opened(ann_too, 1)
    assert (await ann.get("/keepalive/heartbeat")).status == 200


async def test_an_address_with_too_many_pages_is_turned_away_before_the_store_is_asked(
    serve: Serve, browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store("memory://")
    options = {"sessions": store, "limits": Limits(pages_per_address=3)}
    heart, (ann, bob) = await site(serve, browse, "ann", "bob", **options)
    pages = await opened(ann, 2, "2001:db8::1") + await opened(bob, 1, "2001:db8::2")

    async def load(key: bytes) -> Any:
        raise AssertionError("the store was asked")

    with monkeypatch.context() as patch:
        patch.setattr(store, "load", load)
        refused = await come(bob, "2001:db8::3")
    assert (refused.status, refused.headers["Retry-After"]) == (429, "30")
    assert heart.counts.handshakes["address"] == 1
    await opened(bob, 1, "2001:db8:0:1::1")
    pages[0].cut()
    await until(lambda: heart.heart.addresses["2001:db8::/64"] == 2)
    await opened(bob, 1, "2001:db8::3")


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (Limits(pages_per_address=3), "address"),
        (Limits(pages_per_user=3), "user"),
        (Limits(pages=3), "files"),
    ],
)
async def test_handshakes_at_the_same_time_do_not_slip_in_together(
    serve: Serve, browse: Browse, monkeypatch: pytest.MonkeyPatch, limits: Limits, why: str
) -> None:
    """All were asked for while there was room; the store answers them at once."""
    store = open_store("memory://")
    heart, (ann,) = await site(serve, browse, "ann", sessions=store, limits=limits)
    asked, answer, load = [], asyncio.Event(), store.load

    async def slow(key: bytes) -> Any:
        asked.append(key)
        await answer.wait()
        return await load(key)

    monkeypatch.setattr(store, "load", slow)
    coming = asyncio.gather(*(come(ann) for _ in range(20)))
    await until(lambda: len(asked) == 20)
    answer.set()
    assert sum([await opens(page) for page in await coming]) == heart.connected[0] * 3 == 3
    assert heart.counts.handshakes == {"accepted": 3, why: 17}


@pytest.mark.parametrize(
    ("limits", "why"), [(Limits(pages_per_address=3), "address"), (Limits(pages=3), "files")]
)
async def test_nor_do_they_while_their_answers_are_prepared(
    serve: Serve, browse: Browse, limits: Limits, why: str
) -> None:
    """They are pages by then, but no sockets yet."""
    app = make_app(trusted_proxies=[PROXY], limits=limits)
    prepared = asyncio.Event()

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        if response.status == 101:
            await prepared.wait()

    app.on_response_prepare.append(prepare)
    heart, port = app[KEEPALIVE], (await serve(app)).port
    ann = await signed_in(browse, port, "ann")
    coming = asyncio.gather(*(come(ann) for _ in range(20)))
    await until(lambda: heart.counts.handshakes[why] == 17)
    prepared.set()
    assert [page.status for page in await coming].count(101) == 3
    assert heart.counts.handshakes == {"accepted": 3, why: 17}


async def opens(page: RawPage) -> bool:
    """Whether it is greeted, or told to come back later."""
    opcode, payload = await page.frame()
    assert opcode == TEXT or payload[:2] == (1013).to_bytes(2)
    return opcode == TEXT


async def test_the_pages_of_a_session_that_ends_count_no_more() -> None:
    world = await World().start()
    await world.login("a", user="ann")
    pages = [await world.page("a") for _ in range(3)]
    assert len(world.heart.users["ann"]) == 3
    await world.end("a")
    for page in pages:
        page.leave()
    assert (world.heart.pages, world.heart.users, world.heart.addresses) == (0, {}, {})
    await world.stop()


async def test_what_a_stranger_says_of_its_address_counts_for_nothing(serve: Serve, browse: Browse) -> None:
    """Else one could come from ever other addresses, and fill the server."""
    options = {"trusted_proxies": ["10.0.0.1"], "limits": Limits(pages_per_address=3)}
    _, (ann,) = await site(serve, browse, "ann", **options)
    for number in range(3):
        assert (await come(ann, f"203.0.113.{number}")).status == 101
    assert (await come(ann, "203.0.113.99")).status == 429


async def test_without_a_named_proxy_private_addresses_have_no_limit(serve: Serve, browse: Browse) -> None:
    """It could be that of a proxy, and so of everybody."""
    options = {"trusted_proxies": [], "limits": Limits(pages_per_address=3, misses_per_minute=3)}
    _, (ann,) = await site(serve, browse, "ann", **options)
    await opened(ann, 6)
    stranger = await browse(ann.port)
    for _ in range(6):
        answer = await stranger.get("/keepalive/state", headers={"Cookie": "keepalive=guess"})
        assert answer.status == 401


async def test_too_many_handshakes_a_second(
    serve: Serve, browse: Browse, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Cheaply: before the store is asked; and with one line in the log, not one for each."""
    limits = Limits(handshakes_per_second=5, pages_per_session=100)
    heart, (ann,) = await site(serve, browse, "ann", limits=limits)
    pages = await opened(ann, 10)
    for _ in range(5):
        refused = await come(ann)
        assert (refused.status, refused.headers["Retry-After"]) == (503, "2")
        assert refused.headers["Cache-Control"] == "no-store"
    await clock.advance(0.5)
    await opened(ann, 2)
    assert (await come(ann)).status == 503
    for n, page in enumerate(pages):  # those who are in do not notice
        page.send(frame(b'{"type":"ping","n":%d}' % n))
        assert (await page.message("beat"))["n"] == n
    assert heart.counts.handshakes == {"accepted": 12, "rate": 6}
    lines = [record for record in caplog.records if "turned away" in record.message]
    assert [line.message for line in lines] == [
        "pages are turned away: more come than `handshakes_per_second`"
    ]
    await clock.advance(TELL_EVERY)
    for _ in range(20):
        await come(ann)
    assert sum("turned away" in record.message for record in caplog.records) == 2


async def test_a_crowd_is_let_in_a_few_at_a_turn(
    serve: Serve, browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the event loop, which has beats to answer between two turns; though the store answers at once."""
    monkeypatch.setattr("keepalive.routes.LET_IN_AT_ONCE", 2)
    store = open_store("memory://")
    _, (ann,) = await site(serve, browse, "ann", sessions=store)
    loop, load = asyncio.get_running_loop(), store.load
    asked: list[int] = []  # in which turn
    turn = 0

    def count() -> None:
        nonlocal turn
        turn += 1
        if len(asked) < 10:
            loop.call_soon(count)

    async def counted(key: bytes) -> Any:
        asked.append(turn)
        return await load(key)

    store.load = counted  # type: ignore[method-assign]
    crowd = [await asyncio.open_connection("127.0.0.1", ann.port) for _ in range(10)]
    for _, writer in crowd:
        writer.write(handshake("/keepalive/ws", {"Cookie": ann.cookie}))
    count()
    sleep(0.05)  # until all of them have arrived
    await until(lambda: len(asked) == 10)
    for _, writer in crowd:
        writer.transport.abort()
    assert max(map(asked.count, asked)) <= 2


async def test_more_pages_than_files(serve: Serve, browse: Browse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepalive.web._file_limit", lambda: 10)
    heart, (ann,) = await site(serve, browse, "ann")
    pages = await opened(ann, 9)
    refused = await come(ann)
    assert (refused.status, refused.headers["Retry-After"]) == (503, "10")
    assert heart.counts.handshakes["files"] == 1
    pages[0].cut()
    await until(lambda: heart.connected[1] == 8)
    await opened(ann, 1)


# Sockets that are being closed are pages no more, but each is a file, for seconds where nobody answers.


async def test_sockets_without_a_session_count_until_they_are_gone(
    serve: Serve, browse: Browse, connect: Connect
) -> None:
    heart, (ann,) = await site(serve, browse, "ann", limits=Limits(pages=3))
    strangers = [await connect(ann.port) for _ in range(3)]
    for stranger in strangers:
        assert await ended(stranger) == ("unknown", 4504)
    assert (await come(ann)).status == 503
    assert heart.counts.handshakes == {"over": 3, "files": 1}
    strangers[0].cut()
    await until(lambda: heart.connected[1] == 2)
    await opened(ann, 1)


async def test_an_address_has_no_more_sockets_than_it_may_have_pages(
    serve: Serve, browse: Browse, connect: Connect
) -> None:
    """Whoever never answers a close gets no further with it, and others do not notice."""
    heart, (ann,) = await site(serve, browse, "ann", limits=Limits(pages_per_address=3))
    headers = {"X-Forwarded-For": "203.0.113.66"}
    strangers = [await connect(ann.port, headers=headers) for _ in range(4)]
    assert [stranger.status for stranger in strangers] == [101, 101, 101, 429]
    await opened(ann, 1)
    strangers[0].cut()
    await until(lambda: heart.connected[1] == 3)
    pages = await opened(ann, 1, "203.0.113.66")
    for each in *strangers, *pages:
        each.cut()
    await until(lambda: heart.connected[1] == 1)
    assert heart._connections.addresses == {"203.0.113.9": 1}


async def test_pages_that_made_room_count_until_they_are_gone(serve: Serve, browse: Browse) -> None:
    """Else one cookie would do to hold any number of files."""
    limits = Limits(pages_per_session=1, pages_per_address=3)
    _, (ann,) = await site(serve, browse, "ann", limits=limits)
    pages = await opened(ann, 3)
    assert (await come(ann)).status == 429
    for page in pages[:2]:
        assert await ended(page) == ("evicted", 4505)


@pytest.mark.parametrize(
    ("limits", "why"), [(Limits(pages_per_address=3), "address"), (Limits(pages=3), "files")]
)
async def test_a_crowd_without_a_session_does_not_slip_in_together(
    serve: Serve, browse: Browse, monkeypatch: pytest.MonkeyPatch, limits: Limits, why: str
) -> None:
    """All of them come while there is room, but most have to wait at the door."""
    monkeypatch.setattr("keepalive.routes.LET_IN_AT_ONCE", 1)
    store = open_store("memory://")
    heart, (ann,) = await site(serve, browse, "ann", sessions=store, limits=limits)
    entered, enter = [], heart._gate.enter
    answer, load = asyncio.Event(), store.load

    def counted(address: str) -> None:
        enter(address)
        entered.append(address)

    async def slow(key: bytes) -> Any:
        await answer.wait()
        return await load(key)

    monkeypatch.setattr(heart._gate, "enter", counted)
    monkeypatch.setattr(store, "load", slow)
    first = asyncio.create_task(come(ann))
    await until(lambda: len(entered) == 1)
    strangers = (ann.page(Cookie=None, X_Forwarded_For="203.0.113.9") for _ in range(20))
    crowd = asyncio.gather(*strangers)
    await until(lambda: len(entered) == 21)
    answer.set()
    assert (await first).status == 101
    assert sorted(page.status for page in await crowd)[:3] == [101, 101, 429 if why == "address" else 503]
    assert heart.counts.handshakes == {"accepted": 1, "over": 2, why: 18}
    assert heart.connected[1] == 3


@pytest.mark.parametrize("path", ["ws", "heartbeat", "state"])
async def test_guessing_cookies(
    serve: Serve, browse: Browse, connect: Connect, clock: VirtualClock, path: str
) -> None:
    """10,000 cookies of one address cost 100 reads a minute; nobody else notices."""
    store = open_store("memory://")
    heart, (ann,) = await site(serve, browse, "ann", sessions=store)
    asked, load = [], store.load

    async def counted(key: bytes) -> Any:
        asked.append(key)
        return await load(key)

    store.load = counted  # type: ignore[method-assign]
    seal = heart.door._seal  # type: ignore[attr-defined]
    stranger = await browse(ann.port)

    async def guess(address: str = "203.0.113.66") -> int:
        cookie = {"Cookie": f"keepalive={seal.seal('x' * 43)}", "X-Forwarded-For": address}
        if path == "ws":
            return (await connect(ann.port, headers=cookie)).status
        return (await stranger.get(f"/keepalive/{path}", headers=cookie)).status

    known = 101 if path == "ws" else 401
    assert {await guess() for _ in range(100)} == {known}
    assert {await guess() for _ in range(20)} == {429}
    assert len(asked) == 100
    assert await guess("203.0.113.67") == known
    assert (await ann.get("/keepalive/heartbeat", headers={"X-Forwarded-For": "203.0.113.67"})).status == 200
    await clock.advance(0.6)
    assert [await guess() for _ in range(2)] == [known, 429]
    if path == "ws":
        assert heart.counts.handshakes == {"over": 102, "cookie": 21}


@pytest.mark.usefixtures("clock")  # which stands still
async def test_who_has_a_session_is_no_guesser(serve: Serve, browse: Browse) -> None:
    """However often, and from whatever office; nor is who has no cookie, or comes while the store is away."""
    heart, (ann,) = await site(serve, browse, "ann", limits=Limits(misses_per_minute=3))
    for _ in range(10):
        assert (await ann.get("/keepalive/state")).status == 200
    await ann.post("/end?reason=logout", headers=(gone := {"Cookie": ann.cookie}))
    for _ in range(10):
        assert (await ann.get("/keepalive/state", headers=gone)).status == 401
        assert (await ann.get("/keepalive/state")).status == 401
    await heart.door.close()
    for _ in range(10):
        assert (await ann.get("/keepalive/state", headers=gone)).status == 503


@pytest.mark.usefixtures("clock")  # which stands still
async def test_cookies_that_were_never_ours_shut_nobody_out(
    serve: Serve, browse: Browse, connect: Connect
) -> None:
    """They cost the store nothing; and anybody can send them, from behind the same address as others."""
    _, (ann,) = await site(serve, browse, "ann", limits=Limits(misses_per_minute=3))
    address = {"X-Forwarded-For": "203.0.113.9"}
    stranger = await browse(ann.port)
    for n in range(10):
        forged = address | {"Cookie": f"keepalive=forged{n}"}
        assert (await stranger.get("/keepalive/state", headers=forged)).status == 401
        assert await ended(await connect(ann.port, headers=forged)) == ("unknown", 4504)
    await opened(ann, 1)


# Over HTTP.


async def ping_by_post(browser: Browser, n: int) -> Answer:
    return await browser.post("/keepalive/heartbeat", data=f'{{"type":"ping","n":{n}}}')


@pytest.mark.usefixtures("clock")  # which stands still
async def test_a_session_that_asks_too_often_over_http_has_to_wait(
    serve: Serve, browse: Browse, caplog: pytest.LogCaptureFixture
) -> None:
    """That costs the store nothing, is no end, and concerns no other session, not even of the same user."""
    store = open_store("memory://")
    _, (ann, ann_too) = await site(serve, browse, "ann", "ann", sessions=store)
    asked, load = [], store.load

    async def counted(key: bytes) -> Any:
        asked.append(key)
        return await load(key)

    store.load = counted  # type: ignore[method-assign]
    told_to_wait = {"Retry-After": "2", "Cache-Control": "no-store"}
    answers = [await ping_by_post(ann, n) for n in range(1000)]
    assert {answer.status for answer in answers[:200]} == {200}
    assert {answer.status for answer in answers[200:]} == {429}
    assert len(asked) == 200
    assert answers[-1].json == {"type": "wait", "n": 999, "retry_in": 2.0, "why": "rate"}
    assert told_to_wait.items() <= dict(answers[-1].headers).items()
    state = await ann.get("/keepalive/state")
    assert state.status == 429
    assert told_to_wait.items() <= dict(state.headers).items()
    assert (await ping_by_post(ann_too, 1)).status == 200
    assert (await ann.get("/whoami")).json == "ann"
    assert sum("asks over HTTP" in record.message for record in caplog.records) == 1


async def test_twenty_pages_without_a_socket_never_ask_too_often(
    serve: Serve, browse: Browse, clock: VirtualClock
) -> None:
    """Each posts as often as its user can hasten it, and its app asks for the state once a second."""
    _, (ann,) = await site(serve, browse, "ann")
    for second in range(30):
        for page in range(20):
            assert (await ann.get("/keepalive/state")).status == 200
            if (second + page) % 2 == 0:
                assert (await ping_by_post(ann, second)).status == 200
        await clock.advance(1)


async def test_a_heart_that_was_told_to_wait_comes_again(
    clock: VirtualClock, serve: Serve, keepalive_app: KeepaliveApp
) -> None:
    """It takes a refusal for what it is; nor does it come before it was told to."""
    world = ClientWorld()
    world.port = (await serve(world.app)).port
    keepalive_app(world.app)
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as http:
        await sign_in(http, world)
        async with keepalive.connect(world.url, session=http) as heart:
            clock.drive(heart)
            world.sockets = False
            world.close()
            await clock.advance(minutes=1)
            assert heart.state is State.POLLING
            status = 200
            while status == 200:
                async with http.post(f"{world.url}/keepalive/heartbeat") as answer:
                    status = answer.status
            assert status == 429
            world.posts.clear()
            beat = asyncio.create_task(heart.ping())
            await until(lambda: world.posts)
            await clock.advance(1.9)
            assert (len(world.posts), beat.done(), heart.state) == (1, False, State.POLLING)
            await clock.advance(0.5)
            assert (await beat).expires_in == 1800


@pytest.mark.parametrize(
    "twin",
    [
        "keepalive=x",
        "keepalive=",
        "keepalive",
        "a=b keepalive=x",
        "a=b\tkeepalive=x",
        'a="b" keepalive=x',
        "a keepalive",
    ],
)
async def test_two_session_cookies(serve: Serve, browse: Browse, twin: str) -> None:
    """A sibling host can plant a second one; which of them is meant nobody knows."""
    heart, (ann,) = await site(serve, browse, "ann")
    cookies = f"{ann.cookie}; other=1; {twin}"
    client = await browse(ann.port)  # has no cookies of its own, which it would add
    for path in "/keepalive/heartbeat", "/keepalive/state", "/whoami":
        assert (await client.get(path, headers={"Cookie": cookies})).status == 400
    assert (await ann.page(Cookie=cookies)).status == 400
    assert heart.counts.handshakes == {"cookie": 1}
    cookies = f"{ann.cookie}; xkeepalive=1; a=keepalive=2"
    assert (await client.get("/whoami", headers={"Cookie": cookies})).json == "ann"


@pytest.mark.parametrize("hidden", ["a=b keepalive={}", 'a="; keepalive=x; c=" keepalive={}'])
async def test_a_cookie_inside_of_another_is_none(serve: Serve, browse: Browse, hidden: str) -> None:
    _, (ann,) = await site(serve, browse, "ann")
    sealed = ann.cookie.partition("=")[2]
    client = await browse(ann.port)
    assert (await client.get("/whoami", headers={"Cookie": hidden.format(sealed)})).status == 400


@settings(max_examples=500)
@given(st.lists(st.sampled_from(["keepalive=", "a=", "v", ";", " ", '"', "\t", "\xa0"]), max_size=12))
def test_no_other_reader_finds_another_cookie(parts: list[str]) -> None:
    """aiohttp's, which other storages use, also begins a cookie after a blank, and goes by quotes."""
    header = "".join(f"v{number}" if part == "v" else part for number, part in enumerate(parts))
    request = make_mocked_request("GET", "/", {"Cookie": header})
    try:
        found = cookie_in(request, "keepalive")
    except web.HTTPBadRequest:
        return
    assume(not (found or "").startswith('"'))  # a quote alone, which no server sets, swallows what follows
    lenient = request.cookies.get("keepalive", "")
    assert set(re.findall(r"v\d+", lenient)) <= set(re.findall(r"v\d+", found or ""))


async def test_a_trusted_proxy_says_that_the_browser_speaks_https(serve: Serve, browse: Browse) -> None:
    app = make_app(trusted_proxies=[PROXY])
    ann = await browse((await serve(app)).port)
    https = {"X-Forwarded-Proto": "https"}
    assert "__Host-keepalive=" in (await ann.post("/login?user=ann", headers=https)).headers["Set-Cookie"]
    assert "; Secure" not in (await ann.post("/login?user=ann")).headers["Set-Cookie"]
    page = await ann.page(Origin="https://app.example", Host="app.example", X_Forwarded_Proto="https")
    assert page.status == 101
    page = await ann.page(Origin="https://app.example", Host="app.example", X_Forwarded_Proto="http")
    assert page.status == 403


async def test_anybody_else_says_nothing(serve: Serve, browse: Browse) -> None:
    ann = await browse((await serve(make_app(trusted_proxies=["10.0.0.1"]))).port)
    answer = await ann.post("/login?user=ann", headers={"X-Forwarded-Proto": "https"})
    assert answer.headers["Set-Cookie"].startswith("keepalive=")
    assert "; Secure" not in answer.headers["Set-Cookie"]


async def test_only_our_hosts(serve: Serve, browse: Browse) -> None:
    heart, (ann,) = await site(serve, browse, "ann", hosts=["app.example"])
    assert (await ann.page(Host="app.example:80")).status == 101
    assert (await ann.page(Host="evil.example")).status == 421
    for path in "heartbeat", "state":
        answer = await ann.get(f"/keepalive/{path}", headers={"Host": "evil.example"})
        assert answer.status == 421
    assert heart.counts.handshakes == {"accepted": 1, "host": 1}


async def test_what_became_of_each_handshake(serve: Serve, browse: Browse, connect: Connect) -> None:
    heart, (ann,) = await site(serve, browse, "ann")
    handshakes = heart.counts.handshakes
    for headers, result in (
        ({}, "accepted"),
        ({"Origin": "http://evil.example"}, "origin"),
        ({"Host": "a b"}, "host"),
        ({"Sec-WebSocket-Version": "8"}, "malformed"),
        ({"Cookie": "keepalive=1; keepalive=2"}, "cookie"),
        ({"Cookie": "keepalive=1"}, "over"),
    ):
        before = handshakes[result]
        await connect(ann.port, headers={"Cookie": ann.cookie} | headers)
        assert handshakes[result] == before + 1
    await heart.door.close()
    assert (await ann.page()).status == 503
    assert handshakes["store"] == 1
    assert sum(handshakes.values()) == 7


async def test_idle_buckets_are_swept(
    serve: Serve, browse: Browse, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepalive.web.SWEEP_EVERY", 0.01)
    heart, (ann,) = await site(serve, browse, "ann")
    sealed = heart.door._seal.seal("guess")  # type: ignore[attr-defined]
    headers = {"Cookie": f"keepalive={sealed}", "X-Forwarded-For": "203.0.113.66"}
    await (await browse(ann.port)).get("/keepalive/state", headers=headers)
    assert len(heart._gate._misses) == 1
    await clock.advance(1)
    await until(lambda: len(heart._gate._misses) == 0)
