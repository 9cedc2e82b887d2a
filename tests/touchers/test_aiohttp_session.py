"""Sessions that live in the browser's cookie: kept alive by renewal, ended for this process."""

import asyncio
import json
from collections.abc import Callable, Mapping
from time import time
from typing import Any

import pytest
from aiohttp import web
from aiohttp_session import AbstractStorage, SimpleCookieStorage, get_session, new_session, setup
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from aiohttp_session.nacl_storage import NaClCookieStorage
from aiohttp_session.redis_storage import RedisStorage
from redis.asyncio import Redis

import keepalive
from keepalive import Policy, SettingError
from keepalive.testing import VirtualClock
from keepalive.touchers.aiohttp_session import MARK

from ..conftest import Browse, Browser, Serve
from ..raw import CLOSE, RawPage, ping
from ..test_web import ended, make_app, signed_in

MAX_AGE = 600
STORAGES: dict[str, Callable[[], AbstractStorage]] = {
    "simple": lambda: SimpleCookieStorage(max_age=MAX_AGE),
    "encrypted": lambda: EncryptedCookieStorage(b"k" * 32, max_age=MAX_AGE),
    "nacl": lambda: NaClCookieStorage(b"k" * 32, max_age=MAX_AGE),
}


pytestmark = pytest.mark.usefixtures("clock")  # of the server, the storages and the browser's cookie jar


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest) -> AbstractStorage:
    return STORAGES[request.param]()


@pytest.fixture
async def ann(storage: AbstractStorage, serve: Serve, browse: Browse) -> Browser:
    return await signed_in(browse, (await serve(make_app(storage))).port, "ann")


async def beat(page: RawPage, n: int) -> dict[str, Any]:
    page.send(ping(n))
    return await page.message("beat")


async def whoami(browser: Browser, cookie: str | None = None) -> Any:
    return (await browser.get("/whoami", headers={"Cookie": cookie} if cookie else {})).json


async def test_kept_alive_by_renewal(ann: Browser, clock: VirtualClock) -> None:
    """A fresh cookie on the 101, and by one POST whenever a third of its time has passed."""
    await clock.advance(100)
    page = await ann.page()
    assert "Set-Cookie" in page.headers
    assert (await page.message("hello"))["expires_in"] == MAX_AGE
    for n in range(0, 20, 2):
        await clock.advance(190)
        early = await beat(page, n)
        assert (early["expires_in"], early.get("renew", False)) == (MAX_AGE - 190, False)
        await clock.advance(30)
        late = await beat(page, n + 1)
        assert (late["expires_in"], late["renew"]) == (MAX_AGE - 220, True)
        renewed = await ann.post("/keepalive/heartbeat")
        assert (renewed.status, renewed.json["expires_in"]) == (200, MAX_AGE)
        assert "renew" not in renewed.json
        assert "Set-Cookie" in renewed.headers
    assert await whoami(ann) == "ann"  # more than three times its max_age later


async def test_no_cache_keeps_a_cookie(ann: Browser) -> None:
    answer = await ann.post("/login?user=ann")
    assert "Set-Cookie" in answer.headers
    assert answer.headers["Cache-Control"] == "no-store"


async def test_without_renewal_it_ends(ann: Browser, clock: VirtualClock) -> None:
    """Whatever the pings: an open socket cannot set a cookie."""
    page = await ann.page()
    cookie = ann.cookie
    for n in range(5):
        await clock.advance(100)
        assert (await beat(page, n))["expires_in"] == 500 - 100 * n
    await clock.advance(100)
    assert await ended(page) == ("idle", 4501)
    assert ann.cookie == ""
    assert await whoami(ann, cookie) is None


async def test_the_state_renews_nothing(ann: Browser, clock: VirtualClock) -> None:
    await clock.advance(300)
    answer = await ann.get("/keepalive/state")
    assert (answer.json["expires_in"], answer.headers.get("Set-Cookie")) == (300, None)


async def test_a_logout_ends_pages_and_copies_of_the_cookie(ann: Browser) -> None:
    page = await ann.page()
    copies = [ann.cookie]
    await ann.post("/keepalive/heartbeat")
    copies.append(ann.cookie)
    await ann.post("/logout")
    assert await ended(page) == ("logout", 4503)
    for copy in copies:
        assert await whoami(ann, copy) is None
        assert await ended(await ann.page(Cookie=copy)) == ("logout", 4503)
        assert (await ann.post("/keepalive/heartbeat", headers={"Cookie": copy})).status == 401


async def test_an_end_takes_back_the_cookie(ann: Browser) -> None:
    """It holds the whole session, and would open it again after a restart."""
    page = await ann.page()
    assert (await ann.post("/end?reason=revoked")).json is True
    assert await ended(page) == ("revoked", 4506)
    assert ann.cookie in ("", "AIOHTTP_SESSION={}")  # that is how SimpleCookieStorage empties it
    assert await whoami(ann) is None


async def test_a_session_of_before_ends_though_no_page_has_connected(
    storage: AbstractStorage, serve: Serve, browse: Browse
) -> None:
    """An app had the storage without keepalive when its user signed in."""

    async def login(request: web.Request) -> web.Response:
        (await new_session(request))["user"] = "ann"
        return web.Response()

    app = web.Application()
    setup(app, storage)
    app.router.add_post("/login", login)
    former = (await signed_in(browse, (await serve(app)).port, "ann")).cookie
    ann = await browse((await serve(make_app(storage))).port)
    assert await whoami(ann, former) == "ann"
    answer = await ann.post("/end?reason=logout", headers={"Cookie": former})
    assert answer.json is True
    assert "Set-Cookie" in answer.headers
    assert await whoami(ann) is None


async def test_a_login_makes_it_another_session(ann: Browser) -> None:
    page = await ann.page()
    await page.message("hello")
    former = ann.cookie
    await ann.post("/login?user=bob")
    assert await page.frame() == (CLOSE, (4004).to_bytes(2) + b"rotated")
    assert (await (await ann.page()).message())["type"] == "hello"
    assert await ended(await ann.page(Cookie=former)) == ("revoked", 4506)
    assert await whoami(ann) == "bob"


async def test_nothing_outlives_the_absolute_deadline(
    storage: AbstractStorage, serve: Serve, browse: Browse, clock: VirtualClock
) -> None:
    """And no page is asked to renew what cannot get longer."""
    policy = Policy(idle_timeout=MAX_AGE, absolute_timeout=1500)
    port = (await serve(make_app(storage, policy=policy))).port
    ann = await signed_in(browse, port, "ann")
    page = await ann.page()
    renewals = 0
    for n in range(14):
        await clock.advance(100)
        last = await beat(page, n)
        assert last["ends_in"] == 1400 - 100 * n
        assert last["expires_in"] <= last["ends_in"]
        if last.get("renew"):
            renewals += 1
            await ann.post("/keepalive/heartbeat")
    assert renewals == 3
    cookie = ann.cookie
    await clock.advance(100)
    assert await ended(page) == ("absolute", 4502)
    assert await whoami(ann, cookie) is None


async def test_a_slow_request_leaves_the_next_cookie_alone(
    storage: AbstractStorage, serve: Serve, browse: Browse
) -> None:
    arrived, proceed = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        session = await get_session(request)
        arrived.set()
        await proceed.wait()
        session["slow"] = True
        return web.Response()

    app = make_app(storage)
    app.router.add_post("/slow", slow)
    ann = await signed_in(browse, (await serve(app)).port, "ann")
    answer = asyncio.create_task(ann.post("/slow"))
    await arrived.wait()
    await ann.post("/logout")
    await ann.post("/login?user=bob")
    proceed.set()
    assert "Set-Cookie" not in (await answer).headers
    assert await whoami(ann) == "bob"


async def test_sessions_from_before(serve: Serve, browse: Browse, clock: VirtualClock) -> None:
    """They live on, and get their mark when a page connects."""
    app = make_app(SimpleCookieStorage(max_age=MAX_AGE))
    browser = await browse((await serve(app)).port)
    old = {"created": int(clock.wall()) - 100, "session": {"user": "ann"}}
    headers = {"Cookie": simple_cookie(old)}
    assert (await browser.get("/whoami", headers=headers)).json == "ann"
    assert (await browser.get("/keepalive/state", headers=headers)).json["expires_in"] == 500
    page = await browser.page(Cookie=headers["Cookie"])
    assert (await page.message("hello"))["expires_in"] == MAX_AGE
    assert await whoami(browser) == "ann"
    await browser.post("/logout")
    assert await ended(page) == ("logout", 4503)


@pytest.mark.parametrize("cookie", ["{", "[]", "null", "1", '"x"', "forged"])
async def test_garbage_is_no_session(ann: Browser, cookie: str) -> None:
    page = await ann.page(Cookie=f"AIOHTTP_SESSION={cookie}")
    assert await ended(page) == ("unknown", 4504)


NOW = int(time())


@pytest.mark.parametrize(
    "forged",
    [
        {"created": "x", "session": {"user": "ann"}},
        {"created": [], "session": {}},
        {"created": NOW, "session": 5},
        {"created": NOW, "session": "ab"},
        {"created": NOW, "session": [[[], 1]]},
        {"created": float("nan"), "session": {"user": "ann"}},
        {"created": 10**400, "session": {"user": "ann"}},
        {"session": {"user": "ann"}, "created": {}},
    ],
)
async def test_forged_outlines_are_no_session(serve: Serve, browse: Browse, forged: object) -> None:
    app = make_app(SimpleCookieStorage(max_age=MAX_AGE))
    browser = await browse((await serve(app)).port)
    page = await browser.page(Cookie=simple_cookie(forged))
    assert await ended(page) == ("unknown", 4504)
    for path in "state", "heartbeat":
        answer = await browser.get(f"/keepalive/{path}", headers={"Cookie": simple_cookie(forged)})
        assert answer.status == 401


@pytest.mark.parametrize(
    "mark", [None, "x", 5, [], ["id"], ["id", "x"], [7, NOW], ["id", float("nan")], ["id", 10**400],
             ["\ud800", NOW], ["id", NOW, 1], {"id": 1}],
)  # fmt: skip
async def test_a_forged_mark_is_none(ann: Browser, mark: object) -> None:
    forged = {"created": NOW, "session": {"user": "eve", MARK: mark}}
    page = await ann.page(Cookie=simple_cookie(forged))
    if page.status == 101 and "Set-Cookie" in page.headers:  # only SimpleCookieStorage reads it
        assert (await page.message("hello"))["ends_in"] == 43200
    else:
        assert await ended(page) == ("unknown", 4504)


async def test_a_cookie_from_the_future_counts_from_now(
    serve: Serve, browse: Browse, clock: VirtualClock
) -> None:
    port = (await serve(make_app(SimpleCookieStorage(max_age=MAX_AGE)))).port
    browser = await browse(port)
    later = clock.wall() + 10**6
    forged = {"created": later, "session": {"user": "eve", MARK: ["id", later]}}
    headers = {"Cookie": simple_cookie(forged)}
    state = (await browser.get("/keepalive/state", headers=headers)).json
    assert (state["expires_in"], state["ends_in"]) == (MAX_AGE, 43200)


def simple_cookie(content: object) -> str:
    """A cookie that SimpleCookieStorage takes for its own."""
    return 'AIOHTTP_SESSION="' + json.dumps(content).replace("\\", "\\\\").replace('"', '\\"') + '"'


async def test_no_end_by_user(storage: AbstractStorage, serve: Serve) -> None:
    app = make_app(storage)
    await serve(app)
    with pytest.raises(SettingError, match="cannot be ended by user: keep them in a store"):
        await app[keepalive.KEEPALIVE].end_user("ann")


def _by_user(data: Mapping[str, Any]) -> Policy:
    return Policy()


@pytest.mark.parametrize(
    ("storage", "policy", "problem"),
    [
        (RedisStorage(Redis(), max_age=MAX_AGE), None, "RedisStorage cannot be kept alive: .* let keepalive"),
        (SimpleCookieStorage(), None, "SimpleCookieStorage has no max_age, .* give it one"),
        (SimpleCookieStorage(max_age=60), Policy(), "is not the max_age .* give both the same"),
        (SimpleCookieStorage(max_age=60), None, "idle_timeout .* is shorter than three times"),
        (SimpleCookieStorage(max_age=1800), Policy(mode="activity"), "activity needs a store: .* or use"),
        (SimpleCookieStorage(max_age=1800), Policy(mode="observe"), "observe needs a store: .* or use"),
        (
            SimpleCookieStorage(max_age=1800), Policy(end_after_last_page=20),
            "end_after_last_page needs a store: .* or leave it out",
        ),
        (SimpleCookieStorage(max_age=1800), _by_user, "needs a store: give one Policy for all"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(storage: AbstractStorage, policy: Any, problem: str) -> None:
    with pytest.raises(SettingError, match=problem.replace(" .* ", ".*")):
        keepalive.setup(web.Application(), storage, policy=policy)
