"""The aiohttp-session storage: a drop-in, but what has ended stays ended."""

import asyncio
import random
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import aiohttp_session
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiohttp_session import AbstractStorage, get_session, new_session
from aiohttp_session.redis_storage import RedisStorage
from cryptography.fernet import Fernet
from redis.asyncio import Redis

from keepalive import KeepaliveStorage, Policy, Reason, Seal, SettingError, open_store, passive
from keepalive.clock import SystemClock
from keepalive.stores import Record, SessionStore
from keepalive.testing import VirtualClock
from keepalive.touchers import Pages, Touch, key_of

from .conftest import Answer, Browse, Browser, Serve

SEAL = Seal.fresh()


class Shop:
    """An app on plain aiohttp-session API, and what its slow handler waits for."""

    def __init__(self, storage: AbstractStorage) -> None:
        self.arrived, self.proceed = asyncio.Event(), asyncio.Event()
        self.app = web.Application()
        aiohttp_session.setup(self.app, storage)
        if isinstance(storage, KeepaliveStorage):
            self.app.on_startup.append(lambda _: storage.open())
            self.app.on_cleanup.append(lambda _: storage.close())
        self.app.router.add_post("/login", self.login)
        self.app.router.add_post("/sign-in-in-place", self.sign_in_in_place)
        self.app.router.add_post("/logout", self.logout)
        self.app.router.add_get("/show", self.show)
        self.app.router.add_get("/poll", self.poll)
        self.app.router.add_post("/add", self.add)
        self.app.router.add_post("/append", self.append)
        self.app.router.add_post("/slow", self.slow)

    async def login(self, request: web.Request) -> web.Response:
        session = await new_session(request)
        session["user"] = request.query["user"]
        return web.Response()

    async def sign_in_in_place(self, request: web.Request) -> web.Response:
        (await get_session(request))["user"] = request.query["user"]
        raise web.HTTPFound("/show")

    async def logout(self, request: web.Request) -> web.Response:
        (await get_session(request)).invalidate()
        return web.Response()

    async def show(self, request: web.Request) -> web.Response:
        return web.json_response(dict(await get_session(request)))

    @staticmethod
    @passive
    async def poll(request: web.Request) -> web.Response:
        return web.json_response(dict(await get_session(request)))

    async def add(self, request: web.Request) -> web.Response:
        session = await get_session(request)
        session["cart"] = [*session.get("cart", []), request.query["item"]]
        return web.Response()

    async def append(self, request: web.Request) -> web.Response:
        session = await get_session(request)
        session["cart"].append("nested")
        session.changed()
        return web.Response()

    async def slow(self, request: web.Request) -> web.Response:
        session = await get_session(request)
        self.arrived.set()
        await self.proceed.wait()
        session["slow"] = True
        return web.Response()


@pytest.fixture
def store(clock: VirtualClock) -> SessionStore:
    return open_store("memory://", clock=clock)


@pytest.fixture
async def shop(store: SessionStore) -> Shop:
    return Shop(KeepaliveStorage(store, Policy(), seal=SEAL))


@pytest.fixture
async def ann(shop: Shop, serve: Serve, browse: Browse) -> Browser:
    browser = await browse((await serve(shop.app)).port)
    await browser.post("/login?user=ann")
    return browser


def key(browser: Browser) -> bytes:
    session_id = SEAL.open(browser.cookie.partition("=")[2])
    assert session_id is not None
    return key_of(session_id)


async def shown(browser: Browser) -> Any:
    return (await browser.get("/show")).json


async def idle_left(store: SessionStore, browser: Browser) -> float:
    left = await store.peek(key(browser))
    assert not isinstance(left, Reason)
    return left.idle


# A drop-in.


async def test_sessions_as_ever(ann: Browser) -> None:
    assert await shown(ann) == {"user": "ann"}
    await ann.post("/add?item=milk")
    assert await shown(ann) == {"user": "ann", "cart": ["milk"]}
    await ann.post("/append")
    assert (await shown(ann))["cart"] == ["milk", "nested"]
    await ann.post("/logout")
    assert ann.cookie == ""
    assert await shown(ann) == {}


async def test_nothing_is_kept_for_who_has_nothing(shop: Shop, serve: Serve, browse: Browse) -> None:
    browser = await browse((await serve(shop.app)).port)
    for answer in await browser.get("/show"), await browser.post("/logout"):
        assert "keepalive=" not in answer.headers.get("Set-Cookie", "") or browser.cookie == ""
    assert browser.cookie == ""


async def test_a_session_without_a_user(shop: Shop, serve: Serve, browse: Browse) -> None:
    browser = await browse((await serve(shop.app)).port)
    await browser.post("/add?item=milk")
    before = browser.cookie
    await browser.post("/add?item=tea")
    assert browser.cookie == before
    assert await shown(browser) == {"cart": ["milk", "tea"]}


async def test_a_change_sets_no_new_cookie(ann: Browser) -> None:
    assert "Set-Cookie" not in (await ann.post("/add?item=milk")).headers
    assert "Set-Cookie" not in (await ann.get("/show")).headers


# Cookies.


@pytest.mark.parametrize(
    ("secure", "expected"),
    [
        (None, "keepalive=VALUE; HttpOnly; Path=/; SameSite=Lax"),
        (False, "keepalive=VALUE; HttpOnly; Path=/; SameSite=Lax"),
        (True, "__Host-keepalive=VALUE; HttpOnly; Path=/; SameSite=Lax; Secure"),
    ],
)
async def test_the_attributes_of_a_cookie(
    store: SessionStore, serve: Serve, browse: Browse, secure: bool | None, expected: str
) -> None:
    """OWASP's, and no Max-Age: the browser is not to forget it while a page keeps it alive."""
    shop = Shop(KeepaliveStorage(store, seal=SEAL, secure=secure))
    browser = await browse((await serve(shop.app)).port)
    answer = await browser.post("/login?user=ann")
    (cookie,) = answer.headers.getall("Set-Cookie")
    ((name, morsel),) = SimpleCookie(cookie).items()
    assert cookie == expected.replace("VALUE", morsel.value)
    session_id = SEAL.open(morsel.value)
    assert session_id is not None
    assert len(session_id) == 43  # 256 random bits
    assert session_id not in cookie
    gone = await browser.post("/logout", headers={"Cookie": f"{name}={morsel.value}"})
    (cookie,) = gone.headers.getall("Set-Cookie")
    assert cookie.startswith(f'{name}=""; ')
    assert "Max-Age=0" in cookie
    assert ("Secure" in cookie) is bool(secure)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_request_tells_whether_it_is_secure(store: SessionStore, scheme: str) -> None:
    await store.open()
    storage = KeepaliveStorage(store, seal=SEAL)
    request = make_mocked_request("GET", "/").clone(scheme=scheme)
    session = await storage.new_session()
    session["user"] = "ann"
    response = web.Response()
    await storage.save_session(request, response, session)
    ((name, morsel),) = response.cookies.items()
    assert (name, bool(morsel["secure"])) == (
        ("__Host-keepalive", True) if scheme == "https" else ("keepalive", False)
    )
    await store.close()


async def test_the_keys_can_be_rotated(tmp_path: Path, serve: Serve, browse: Browse) -> None:
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    answers, cookie = [], ""
    for keys in [old], [new, old], [new]:
        store = open_store(f"sqlite:///{tmp_path}/sessions.db")
        browser = await browse((await serve(Shop(KeepaliveStorage(store, seal=Seal(keys))).app)).port)
        if not cookie:
            await browser.post("/login?user=ann")
            cookie = browser.cookie
        answers.append((await browser.get("/show", headers={"Cookie": cookie})).json)
    assert answers == [{"user": "ann"}, {"user": "ann"}, {}]


async def test_the_secret_lies_beside_the_database(
    tmp_path: Path, serve: Serve, browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So sessions outlive a restart."""
    monkeypatch.delenv("KEEPALIVE_SECRET", raising=False)
    url = f"sqlite:///{tmp_path}/sessions.db"
    browser = await browse((await serve(Shop(KeepaliveStorage(open_store(url))).app)).port)
    await browser.post("/login?user=ann")
    assert (tmp_path / "sessions.db.secret").exists()
    again = await browse((await serve(Shop(KeepaliveStorage(open_store(url))).app)).port)
    assert (await again.get("/show", headers={"Cookie": browser.cookie})).json == {"user": "ann"}


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/sessions.db"])
def test_the_secret_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("KEEPALIVE_SECRET", "hunter2")
    with pytest.raises(SettingError, match="not 32 bytes") as refused:
        KeepaliveStorage(open_store(url.format(tmp_path)))
    assert "hunter2" not in str(refused.value)
    monkeypatch.setenv("KEEPALIVE_SECRET", "")  # as good as unset
    KeepaliveStorage(open_store(url.format(tmp_path)))


def test_nodes_that_share_sessions_need_one_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEEPALIVE_SECRET", raising=False)
    with pytest.raises(SettingError, match="the same key in KEEPALIVE_SECRET"):
        KeepaliveStorage(open_store("redis://"))
    KeepaliveStorage(open_store("redis://"), seal=SEAL)
    monkeypatch.setenv("KEEPALIVE_SECRET", Fernet.generate_key().decode())
    KeepaliveStorage(open_store("redis://"))


async def test_no_id_is_stored(tmp_path: Path, serve: Serve, browse: Browse) -> None:
    shop = Shop(KeepaliveStorage(open_store(f"sqlite:///{tmp_path}/sessions.db"), seal=SEAL))
    browser = await browse((await serve(shop.app)).port)
    await browser.post("/login?user=ann")
    sealed = browser.cookie.partition("=")[2]
    session_id = SEAL.open(sealed)
    assert session_id is not None
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert key_of(session_id) in stored
    assert session_id.encode() not in stored
    assert sealed.encode() not in stored


# What extends a session.


async def test_requests_extend_it_but_not_each(
    store: SessionStore, ann: Browser, clock: VirtualClock
) -> None:
    """`touch_every` is 60 s here."""
    await clock.advance(59)
    await ann.get("/show")
    assert await idle_left(store, ann) == 1741
    await clock.advance(1)
    await ann.get("/show")
    assert await idle_left(store, ann) == 1800


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/poll", {}), ("/show", {"X-Keepalive": "passive"}), ("/show", {"X-Keepalive": "Passive"})],
)
async def test_passive_requests_do_not(
    store: SessionStore, ann: Browser, clock: VirtualClock, path: str, headers: dict[str, str]
) -> None:
    await clock.advance(1000)
    assert (await ann.get(path, headers=headers)).json == {"user": "ann"}
    assert await idle_left(store, ann) == 800
    await ann.get("/show", headers={"X-Keepalive": "active"})
    assert await idle_left(store, ann) == 1800


async def test_after_the_last_page_a_request_keeps_the_session_and_a_passive_one_does_not(
    store: SessionStore, ann: Browser, clock: VirtualClock
) -> None:
    """So the first request of a reload does, however little it extends."""
    await store.touch([Touch(key(ann), None, pages=Pages((), ("p",), 1790.0))])
    await clock.advance(1)
    await ann.get("/poll")
    assert await idle_left(store, ann) == 1789
    await ann.get("/show")
    assert await idle_left(store, ann) == 1800


async def test_nothing_extends_the_absolute_deadline(ann: Browser, clock: VirtualClock) -> None:
    for _ in range(43):
        await clock.advance(1000)
        assert await shown(ann) == {"user": "ann"}
    await clock.advance(200)
    assert await shown(ann) == {}


async def test_requests_extend_it_until_the_absolute_deadline_however_little_that_is(
    serve: Serve, browse: Browse, clock: VirtualClock
) -> None:
    """`touch_every` is 60 s here, and the last of them has 59 s to gain."""
    store = open_store("memory://", clock=clock)
    shop = Shop(KeepaliveStorage(store, Policy(absolute_timeout=7200), seal=SEAL))
    browser = await browse((await serve(shop.app)).port)
    await browser.post("/login?user=ann")
    began = clock.monotonic()
    for at in (1790, 3580, 5341, 7130, 7142, 7199):
        await clock.advance(began + at - clock.monotonic())
        assert await shown(browser) == {"user": "ann"}, at
    await clock.advance(1)
    assert await store.peek(key(browser)) is Reason.ABSOLUTE


async def test_idle_is_the_end(ann: Browser, clock: VirtualClock) -> None:
    await clock.advance(1800)
    assert await shown(ann) == {}


# Logins.


@pytest.mark.parametrize("path", ["/login", "/sign-in-in-place"])
@pytest.mark.parametrize("user", ["ann", "bob"])
async def test_a_login_gets_a_new_id(store: SessionStore, ann: Browser, path: str, user: str) -> None:
    """Unless nothing has changed: to write the same name again is no login."""
    before, cookie = key(ann), ann.cookie
    answer = await ann.post(f"{path}?user={user}")
    assert (await shown(ann))["user"] == user
    if (path, user) == ("/sign-in-in-place", "ann"):
        assert ann.cookie == cookie
    else:
        assert answer.headers.getall("Set-Cookie")
        assert await store.peek(before) is Reason.ROTATED
        assert (await ann.get("/show", headers={"Cookie": cookie})).json["user"] == user  # the jar's wins


async def test_an_anonymous_cart_survives_the_login(shop: Shop, serve: Serve, browse: Browse) -> None:
    browser = await browse((await serve(shop.app)).port)
    await browser.post("/add?item=milk")
    await browser.post("/sign-in-in-place?user=ann")
    assert await shown(browser) == {"cart": ["milk"], "user": "ann"}


async def test_an_unknown_id_is_never_adopted(ann: Browser, store: SessionStore) -> None:
    """Not even a sealed one: fixation."""
    chosen = SEAL.seal("chosen by an attacker")
    answer = await ann.post("/login?user=ann", headers={"Cookie": f"keepalive={chosen}"})
    assert "Set-Cookie" in answer.headers
    assert await store.peek(key_of("chosen by an attacker")) is Reason.UNKNOWN


# What has ended stays ended.


async def through_a_logout(shop: Shop, browser: Browser) -> tuple[Answer, Any]:
    """A slow request that begins before a logout and saves after it; its answer, and what is left."""
    cookie = browser.cookie
    slow = asyncio.create_task(browser.post("/slow"))
    await shop.arrived.wait()
    await browser.post("/logout")
    shop.proceed.set()
    answer = await slow
    assert answer.status == 200
    # The cookie of before, for a thief may have kept it.
    return answer, (await browser.get("/show", headers={"Cookie": cookie})).json


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/sessions.db"])
async def test_a_slow_request_does_not_undo_a_logout(
    tmp_path: Path, serve: Serve, browse: Browse, url: str
) -> None:
    shop = Shop(KeepaliveStorage(open_store(url.format(tmp_path)), seal=SEAL))
    browser = await browse((await serve(shop.app)).port)
    await browser.post("/login?user=ann")
    _, left = await through_a_logout(shop, browser)
    assert left == {}
    assert browser.cookie == ""


async def test_with_stock_aiohttp_session_it_does(redis_url: str, serve: Serve, browse: Browse) -> None:
    """The witness: the same requests sign the user in again."""
    async with Redis.from_url(redis_url) as redis:
        shop = Shop(RedisStorage(redis, max_age=1800))
        browser = await browse((await serve(shop.app)).port)
        await browser.post("/login?user=ann")
        _, left = await through_a_logout(shop, browser)
        assert left == {"user": "ann", "slow": True}


async def test_a_slow_request_leaves_the_cookie_of_the_next_login_alone(shop: Shop, ann: Browser) -> None:
    slow = asyncio.create_task(ann.post("/slow"))
    await shop.arrived.wait()
    await ann.post("/login?user=ann")
    cookie = ann.cookie
    shop.proceed.set()
    assert "Set-Cookie" not in (await slow).headers
    assert ann.cookie == cookie
    assert await shown(ann) == {"user": "ann"}


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/sessions.db"])
async def test_no_order_of_requests_undoes_a_logout(tmp_path: Path, url: str) -> None:
    """1,000 sessions, each with slow requests that a logout falls into at random."""
    store = open_store(url.format(tmp_path), clock=SystemClock())
    storage = KeepaliveStorage(store, seal=SEAL)
    chance = random.Random(1)
    await store.open()

    anybody = make_mocked_request("GET", "/")

    def presenting(cookie: str) -> web.Request:
        return anybody.clone(headers={"Cookie": f"keepalive={cookie}"})

    async def pause() -> None:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)

    async def slow(cookie: str) -> bool:
        """Whether it was signed in when it began."""
        request = presenting(cookie)
        await pause()
        session = await storage.load_session(request)
        signed_in = not session.empty
        await pause()
        if signed_in:  # what an anonymous visitor writes is a new session, under a new id
            session["slow"] = True
            await storage.save_session(request, web.Response(), session)
        return signed_in

    async def logout(cookie: str) -> None:
        request = presenting(cookie)
        await pause()
        session = await storage.load_session(request)
        session.invalidate()
        await pause()
        await storage.save_session(request, web.Response(), session)

    async def one() -> tuple[int, bool]:
        """How many slow requests were under way, and whether the session is back."""
        response, session = web.Response(), await storage.new_session()
        session["user"] = "ann"
        await storage.save_session(anybody.clone(), response, session)
        cookie = response.cookies["keepalive"].value
        slows = [asyncio.create_task(slow(cookie)) for _ in range(4)]
        await logout(cookie)
        under_way = sum(await asyncio.gather(*slows))
        found = await store.load(await storage.key(presenting(cookie)) or b"")
        return under_way, isinstance(found, Record)

    results = await asyncio.gather(*(one() for _ in range(1000)))
    assert sum(under_way for under_way, _ in results) > 500
    assert sum(back for _, back in results) == 0
    await store.close()
