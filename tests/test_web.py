"""The keepalive mounted on an app: who may come in, what pages and apps see, and the shutdown."""

import asyncio
import gzip
import json
import logging
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha384
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from aiohttp import ClientSession, DummyCookieJar, web
from aiohttp_session import SimpleCookieStorage, get_session
from aiohttp_session import setup as setup_sessions
from cryptography.fernet import Fernet

import keepalive
from keepalive import Hooks, KeepaliveStorage, Limits, Policy, Reason, SettingError, open_store
from keepalive.assets import browser_files
from keepalive.errors import StoreCorrupt, StoreUnavailable
from keepalive.heart import STORE_TIMEOUT
from keepalive.live import Live, Page
from keepalive.messages import Ping
from keepalive.stores import SessionStore
from keepalive.testing import KeepaliveApp, VirtualClock

from .conftest import Browse, Browser, Connect, Serve
from .nodes import many_files
from .raw import CLOSE, DEADLINE, RawPage, frame, handshake, ping, until
from .redis import redis_server
from .test_server import running

NO_STORE = "no-store"
TRIES = 3
"""A machine may be busy once, but what is promised to be quick is quick at one time of these."""


def make_app(sessions: Any = "memory://", **options: Any) -> web.Application:
    """An app with a login, a logout and an item to change."""
    app = web.Application()
    heart = keepalive.setup(app, sessions, **options)

    async def login(request: web.Request) -> web.Response:
        await heart.start(request, request.query["user"], {"cart": []})
        return web.Response()

    async def logout(request: web.Request) -> web.Response:
        (await get_session(request)).invalidate()
        return web.Response()

    async def whoami(request: web.Request) -> web.Response:
        return web.json_response((await get_session(request)).get("user"))

    async def end(request: web.Request) -> web.Response:
        return web.json_response(await heart.end(request, Reason(request.query["reason"])))

    async def end_others(request: web.Request) -> web.Response:
        return web.json_response(await heart.end_user(request.query["user"], keep=request))

    async def push(request: web.Request) -> web.Response:
        return web.json_response(await heart.push(request, {"for": "me"}))

    app.router.add_post("/login", login)
    app.router.add_post("/logout", logout)
    app.router.add_get("/whoami", whoami)
    app.router.add_post("/end", end)
    app.router.add_post("/end_others", end_others)
    app.router.add_post("/push", push)
    return app


@pytest.fixture
async def port(serve: Serve) -> int:
    return (await serve(make_app())).port


@pytest.fixture
async def ann(port: int, browse: Browse) -> Browser:
    return await signed_in(browse, port, "ann")


@pytest.fixture(autouse=True)
def _no_id_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nor a cookie: all of them are Fernet tokens, which begin alike."""
    with caplog.at_level(logging.DEBUG, "keepalive"):
        yield
    assert "gAAAA" not in caplog.text


async def signed_in(browse: Browse, port: int, user: str) -> Browser:
    browser = await browse(port)
    assert (await browser.post(f"/login?user={user}")).status == 200
    return browser


async def ended(page: RawPage) -> tuple[str, int]:
    """The reason that a page hears, and the close code."""
    reason = (await page.message("end"))["reason"]
    return reason, await page.close_code()


# Who may come in.

OWN, OTHER = "http://app.example:8080", "https://partner.example"


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        (OWN, True),
        (OTHER, True),
        ("", False),
        ("null", False),
        ("https://app.example:8080", False),
        ("ws://app.example:8080", False),
        ("http://app.example", False),
        ("http://app.example:80", False),
        ("http://app.example:8081", False),
        ("http://app.example:80800", False),
        ("http://www.app.example:8080", False),
        ("http://example:8080", False),
        ("http://app.example.evil.example:8080", False),
        ("http://evilapp.example:8080", False),
        ("http://app.example:8080.evil.example", False),
        ("http://app-example:8080", False),
        ("http://APP.example:8080", False),
        ("HTTP://app.example:8080", False),
        ("http://app.example.:8080", False),
        ("http://user@app.example:8080", False),
        ("http://app.example:8080@evil.example", False),
        ("http://app.example:8080/", False),
        ("http://app.example:8080/path", False),
        ("http://app.example:8080?", False),
        ("app.example:8080", False),
        ("http://evil.example http://app.example:8080", False),
        ("http://partner.example", False),
        ("https://partner.example:443", False),
        ("https://www.partner.example", False),
        ("*", False),
        ([OWN, OWN], False),
        ([OWN, "http://evil.example"], False),
    ],
)
async def test_origins(serve: Serve, browse: Browse, origin: str | list[str] | None, allowed: bool) -> None:
    """A page of a foreign origin is refused before the upgrade, and no ping of it is heard."""
    port = (await serve(make_app(origins=[OTHER]))).port
    browser = await signed_in(browse, port, "ann")
    page = await browser.page(Host="app.example:8080", Origin=origin)
    assert page.status == (101 if allowed else 403)
    if not allowed:
        assert b"`origin`" in page.body
    if not isinstance(origin, list):
        headers = {"Host": "app.example:8080"} | ({} if origin is None else {"Origin": origin})
        answer = await browser.post("/keepalive/heartbeat", headers=headers)
        assert answer.status == (200 if allowed else 403)


@pytest.mark.parametrize(
    ("site", "status"),
    [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403), ("", 403)],
)
async def test_a_heartbeat_from_elsewhere(ann: Browser, site: str, status: int) -> None:
    """Browsers send no `Origin` with a GET of another site's image."""
    answer = await ann.get("/keepalive/heartbeat", headers={"Sec-Fetch-Site": site})
    assert answer.status == status


async def test_an_allowed_origin_may_be_of_another_site(serve: Serve, browse: Browse) -> None:
    port = (await serve(make_app(origins=[OTHER]))).port
    ann = await signed_in(browse, port, "ann")
    headers = {"Origin": OTHER, "Sec-Fetch-Site": "cross-site"}
    assert (await ann.post("/keepalive/heartbeat", headers=headers)).status == 200


@pytest.mark.parametrize(
    ("secure", "origin", "allowed"),
    [
        (True, "https://app.example", True),
        (True, "http://app.example", False),
        (None, "http://app.example", True),
        (None, "https://app.example", False),
        (False, "http://app.example", True),
    ],
)
async def test_behind_a_proxy_that_ends_tls(
    serve: Serve, connect: Connect, secure: bool | None, origin: str, allowed: bool
) -> None:
    """`secure` says what browsers see: their origin is https, and their cookie is bound to it."""
    port = (await serve(make_app(secure=secure))).port
    url, host = f"http://127.0.0.1:{port}", {"Host": "app.example"}
    async with ClientSession(cookie_jar=DummyCookieJar()) as http:
        async with http.post(f"{url}/login?user=ann", headers=host) as login:
            (cookie,) = login.headers.getall("Set-Cookie")
        assert cookie.startswith("__Host-keepalive=") is ("; Secure" in cookie) is (secure is True)
        head = {"Cookie": cookie.partition(";")[0], "Origin": origin} | host
        async with http.post(f"{url}/keepalive/heartbeat", headers=head) as heartbeat:
            assert heartbeat.status == (200 if allowed else 403)
        page = await connect(port, headers=head)
        assert page.status == (101 if allowed else 403)


async def test_who_does_not_wait_to_be_let_in_costs_the_store_nothing(
    serve: Serve, browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When all come at once some give up, and would else keep those waiting who come after them."""
    monkeypatch.setattr("keepalive.routes.LET_IN_AT_ONCE", 1)
    monkeypatch.setattr("keepalive.door.STORE_TIMEOUT", DEADLINE)
    store = open_store("memory://")
    app = make_app(store)
    served = await serve(app)
    ann = await signed_in(browse, served.port, "ann")
    asked, answer, load = [], asyncio.Event(), store.load

    async def slow(key: bytes) -> Any:
        asked.append(key)
        await answer.wait()
        return await load(key)

    monkeypatch.setattr(store, "load", slow)
    pages = [asyncio.create_task(ann.page())]
    await until(lambda: asked)
    doorway = app[keepalive.KEEPALIVE].routes._doorway
    pages += [asyncio.create_task(ann.page()) for _ in range(2)]
    await until(lambda: len(doorway._waiters or ()) == 2)
    _, writer = await asyncio.open_connection("127.0.0.1", ann.port)
    writer.write(handshake("/keepalive/ws", {"Host": "x", "Cookie": ann.cookie}))
    await until(lambda: len(doorway._waiters or ()) == 3)
    server = served.runner.server
    assert server
    writer.transport.abort()
    await until(lambda: None in [handler.transport for handler in server.connections])
    answer.set()
    for page in pages:
        assert (await (await page).message())["type"] == "hello"
    assert len(asked) == 3


# Who has no session.


@pytest.mark.parametrize("cookie", [None, "keepalive=", "keepalive=forged", "other=1", "keepalive=é"])
async def test_no_session(port: int, connect: Connect, cookie: str | None) -> None:
    """Said after the upgrade: before it a script sees nothing but 1006."""
    page = await connect(port, headers={"Cookie": cookie})
    assert page.status == 101
    assert await page.frame() == (1, b'{"type":"end","reason":"unknown"}')
    assert await page.close_code() == 4504


async def test_a_cookie_of_another_key(serve: Serve, browse: Browse, connect: Connect) -> None:
    ports = [(await serve(make_app())).port for _ in range(2)]
    ann = await signed_in(browse, ports[0], "ann")
    page = await connect(ports[1], headers={"Cookie": ann.cookie})
    assert await ended(page) == ("unknown", 4504)


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("logout", ("logout", 4503)),
        ("evicted", ("evicted", 4505)),
        ("revoked", ("revoked", 4506)),
        ("rotated", ("revoked", 4506)),
        ("idle", ("idle", 4501)),
        ("absolute", ("absolute", 4502)),
    ],
)
async def test_a_session_that_is_over(
    ann: Browser, connect: Connect, reason: str, told: tuple[str, int]
) -> None:
    cookie = {"Cookie": ann.cookie}
    assert (await ann.post(f"/end?reason={reason}")).json is True
    assert ann.cookie == ""
    assert (await ann.post(f"/end?reason={reason}", headers=cookie)).json is False
    assert await ended(await connect(ann.port, headers=cookie)) == told
    for path in "heartbeat", "state":
        answer = await ann.get(f"/keepalive/{path}", headers=cookie)
        assert (answer.status, answer.json) == (401, {"type": "end", "reason": told[0]})
        assert answer.headers["Cache-Control"] == NO_STORE
    assert (await ann.get("/whoami", headers=cookie)).json is None


@pytest.mark.parametrize("loaded", [False, True])
async def test_a_late_end_leaves_the_next_login_alone(serve: Serve, browse: Browse, loaded: bool) -> None:
    arrived, proceed = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        if loaded:
            await get_session(request)
        arrived.set()
        await proceed.wait()
        return web.json_response(await app[keepalive.KEEPALIVE].end(request))

    app = make_app()
    app.router.add_post("/slow", slow)
    ann = await signed_in(browse, (await serve(app)).port, "ann")
    late = asyncio.create_task(ann.post("/slow"))
    await arrived.wait()
    await ann.post("/login?user=bob")
    proceed.set()
    answer = await late
    assert (answer.json, answer.headers.get("Set-Cookie")) == (False, None)
    assert (await ann.get("/whoami")).json == "bob"


async def test_an_end_right_after_a_login_is_that_of_the_session_before(serve: Serve, browse: Browse) -> None:
    async def switch(request: web.Request) -> web.Response:
        heart = app[keepalive.KEEPALIVE]
        await heart.start(request, "bob")
        return web.json_response(await heart.end(request))

    app = make_app()
    app.router.add_post("/switch", switch)
    ann = await signed_in(browse, (await serve(app)).port, "ann")
    page = await ann.page()
    assert (await ann.post("/switch")).json is True
    assert await ended(page) == ("logout", 4503)
    assert (await ann.get("/whoami")).json == "bob"


async def test_an_end_from_an_app_around_it(serve: Serve, browse: Browse) -> None:
    """Where aiohttp-session's middleware does not run, there is no cookie to take back."""

    async def out(request: web.Request) -> web.Response:
        return web.json_response(await inner[keepalive.KEEPALIVE].end(request))

    inner, outer = make_app(), web.Application()
    outer.add_subapp("/inner", inner)
    outer.router.add_post("/out", out)
    browser = await browse((await serve(outer)).port)
    await browser.post("/inner/login?user=ann")
    assert (await browser.post("/out")).json is True
    assert (await browser.get("/inner/whoami")).json is None


async def test_where_to_sign_in_is_told(serve: Serve, browse: Browse) -> None:
    browser = await browse((await serve(make_app(login="/sign-in"))).port)
    page = await browser.page()
    assert (await page.message("end"))["login"] == "/sign-in"
    assert (await browser.get("/keepalive/heartbeat")).json["login"] == "/sign-in"


async def test_an_id_from_before_the_login(ann: Browser, connect: Connect) -> None:
    """Fixation: whoever knew the old id has nothing (OWASP, ASVS 5.0 7.2.4)."""
    before = ann.cookie
    await ann.post("/login?user=ann")
    assert ann.cookie != before
    page = await connect(ann.port, headers={"Cookie": before})
    assert await ended(page) == ("revoked", 4506)
    assert (await (await ann.page()).message())["type"] == "hello"


# What pages hear.


async def test_hello_and_beat(ann: Browser) -> None:
    page = await ann.page()
    hello = await page.message()
    assert 1799 < hello.pop("expires_in") <= 1800
    assert 43199 < hello.pop("ends_in") <= 43200
    assert hello == {
        "type": "hello", "interval": 25.0, "idle_timeout": 1800.0, "warn_before": 60.0,
        "mode": "presence", "spread": 3.0, "who": "3ce0a701b6d1a881",
    }  # fmt: skip
    page.send(ping(1))
    beat = await page.message()
    assert (beat["type"], beat["n"]) == ("beat", 1)
    assert 1799 < beat["expires_in"] <= 1800


async def test_a_logout_in_one_tab_ends_the_others_at_once(ann: Browser) -> None:
    took = []
    for _ in range(TRIES):
        await ann.post("/login?user=ann")
        pages = [await ann.page() for _ in range(3)]
        began = monotonic()
        await ann.post("/logout")
        assert [await ended(page) for page in pages] == [("logout", 4503)] * 3
        took.append(monotonic() - began)
        assert ann.cookie == ""
    assert min(took) < 0.25
    assert (await ann.get("/whoami")).json is None


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/sessions.db"])
async def test_an_end_is_heard_at_once(
    serve: Serve, browse: Browse, tmp_path_factory: pytest.TempPathFactory, url: str
) -> None:
    port = (await serve(make_app(url.format(tmp_path_factory.mktemp("store"))))).port
    took = []
    for _ in range(TRIES):
        ann = await signed_in(browse, port, "ann")
        page = await ann.page()
        began = monotonic()
        assert (await ann.post("/end?reason=evicted")).json is True
        assert await ended(page) == ("evicted", 4505)
        took.append(monotonic() - began)
    assert min(took) < 0.25


async def test_a_login_sends_the_other_tabs_for_the_new_cookie(ann: Browser) -> None:
    """They are not told that it is over, for it is not."""
    page = await ann.page()
    await page.message("hello")
    await ann.post("/login?user=bob")
    assert (await page.frame()) == (CLOSE, (4004).to_bytes(2) + b"rotated")
    assert (await (await ann.page()).message())["type"] == "hello"


async def test_ending_the_other_sessions_of_a_user(port: int, browse: Browse) -> None:
    first, second, other = [await signed_in(browse, port, user) for user in ("ann", "ann", "bob")]
    pages = [await browser.page() for browser in (first, second, other)]
    assert (await first.post("/end_others?user=ann")).json == 1
    assert await ended(pages[1]) == ("revoked", 4506)
    for page in pages[0], pages[2]:
        page.send(ping(1))
        assert (await page.message("beat"))["n"] == 1


async def test_pushes(serve: Serve, browse: Browse) -> None:
    app = make_app()
    port = (await serve(app)).port
    ann, also_ann, bob = [await signed_in(browse, port, user) for user in ("ann", "ann", "bob")]
    pages = [await browser.page() for browser in (ann, ann, also_ann, bob)]
    assert (await ann.post("/push")).json == 2
    for page in pages[:2]:
        assert (await page.message("push"))["data"] == {"for": "me"}
    heart = app[keepalive.KEEPALIVE]
    assert heart.push_user("ann", [1, None]) == 3
    for page in pages[:3]:
        assert (await page.message("push"))["data"] == [1, None]
    assert heart.push_user("nobody", 1) == 0
    pages[3].send(ping(1))
    assert [(await pages[3].message())["type"] for _ in range(2)] == ["hello", "beat"]


# HTTP instead of a socket.


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_a_heartbeat(serve: Serve, browse: Browse, clock: VirtualClock, method: str) -> None:
    """One ping: it moves the deadline, and is answered like one."""
    port = (await serve(make_app())).port
    ann = await signed_in(browse, port, "ann")
    await clock.advance(1000)
    body = {"data": b'{"type":"ping","n":7,"idle":1}'} if method == "POST" else {}
    answer = await ann.get("/keepalive/heartbeat", method=method, **body)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == NO_STORE
    assert answer.headers["Content-Type"] == "application/json"
    if method != "HEAD":
        n = 7 if method == "POST" else 0
        assert answer.json == {
            "type": "beat", "n": n, "expires_in": 1800.0, "ends_in": 42200.0,
            "interval": 25.0, "warn_before": 60.0, "mode": "presence", "who": "3ce0a701b6d1a881",
        }  # fmt: skip
    await clock.advance(1799)
    assert (await ann.get("/keepalive/state")).status == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 200),
        (b'{"type":"later"}', 200),
        (b"{", 400),
        (b"[" * 4096, 400),
        (b"\xff", 400),
        (b'{"type":"ping","n":"1"}', 400),
        (b"x" * 4096, 400),
        (b"x" * 4097, 413),
        (b"x" * 2**21, 413),
    ],
)
@pytest.mark.parametrize("announced", [True, False])
async def test_what_a_heartbeat_may_hold(ann: Browser, body: bytes, status: int, announced: bool) -> None:
    async def parts() -> Any:
        yield body

    answer = await ann.post("/keepalive/heartbeat", data=BytesIO(body) if announced else parts())
    assert answer.status == status


@pytest.mark.parametrize(
    ("end_here", "answer"), [(False, b"HTTP/1.1 408"), (True, b"")], ids=["never comes", "breaks off"]
)
async def test_a_heartbeat_that_does_not_come_whole(
    ann: Browser,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    end_here: bool,
    answer: bytes,
) -> None:
    """It holds nothing open, and writes nothing into the log."""
    monkeypatch.setattr("keepalive.routes.BODY_TIMEOUT", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", ann.port)
    head = f"POST /keepalive/heartbeat HTTP/1.1\r\nHost: x\r\nCookie: {ann.cookie}\r\n"
    writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".encode())
    if end_here:
        writer.write_eof()
    async with asyncio.timeout(DEADLINE):
        assert await reader.read(12) == answer
    writer.close()
    assert (await ann.get("/keepalive/heartbeat")).status == 200
    assert not caplog.records


async def test_the_state_touches_nothing(serve: Serve, browse: Browse, clock: VirtualClock) -> None:
    port = (await serve(make_app())).port
    ann = await signed_in(browse, port, "ann")
    for left in 1800.0, 1200.0, 600.0:
        answer = await ann.get("/keepalive/state")
        assert answer.headers["Cache-Control"] == NO_STORE
        assert answer.json == {
            "expires_in": left, "ends_in": left + 41400, "mode": "presence",
            "idle_timeout": 1800.0, "warn_before": 60.0,
        }  # fmt: skip
        await clock.advance(600)
    assert (await ann.get("/keepalive/state")).json == {"type": "end", "reason": "idle"}


# When the store is down.


@pytest.mark.parametrize("how", ["refuses", "hangs", "is damaged"])
async def test_the_store_is_down(serve: Serve, browse: Browse, how: str) -> None:
    """Nobody is told that a session is over, nor made to wait for more than a second."""
    store = open_store("memory://")
    port = (await serve(make_app(store))).port
    ann = await signed_in(browse, port, "ann")
    open_page = await ann.page()
    await open_page.message("hello")
    heal = break_down(store, how)
    began = monotonic()
    page = await ann.page()
    assert page.status == 503
    assert page.headers["Retry-After"] == "2"
    assert monotonic() - began < 1.5 * STORE_TIMEOUT  # half of one is left to a busy machine
    began = monotonic()
    answer = await ann.post("/keepalive/heartbeat", data=b'{"type":"ping","n":3}')
    assert (answer.status, answer.json["type"], answer.json["n"]) == (503, "wait", 3)
    assert answer.headers["Cache-Control"] == NO_STORE
    assert (await ann.get("/keepalive/state")).status == 503
    assert monotonic() - began < 3 * STORE_TIMEOUT
    heal()
    assert (await ann.post("/keepalive/heartbeat")).status == 200
    open_page.send(ping(1))
    assert (await open_page.message())["type"] == "beat"


async def test_an_end_that_could_not_be_stored_is_none(serve: Serve, browse: Browse) -> None:
    store = open_store("memory://")
    port = (await serve(make_app(store))).port
    ann = await signed_in(browse, port, "ann")
    heal = break_down(store, "refuses")
    assert (await ann.post("/logout")).status == 503
    heal()
    assert (await ann.get("/whoami")).json == "ann"


def break_down(store: SessionStore, how: str) -> Callable[[], None]:
    """Let a store no longer answer; returns how to heal it."""

    async def fail(*_: object, **__: object) -> Any:
        if how == "hangs":
            await asyncio.Event().wait()
        if how == "is damaged":
            raise StoreCorrupt("the store is damaged")
        raise StoreUnavailable("the store is down")

    names = "load", "peek", "touch", "save", "end", "create", "rotate"
    for name in names:
        setattr(store, name, fail)

    def heal() -> None:
        for name in names:
            delattr(store, name)

    return heal


@pytest.mark.parametrize("error", [StoreCorrupt("the store is damaged"), RuntimeError("a mistake of ours")])
async def test_a_sweep_that_fails_is_made_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    monkeypatch.setattr("keepalive.web.SWEEP_EVERY", 0.01)
    store = open_store("memory://")
    sweeps = []

    async def sweep() -> int:
        sweeps.append(1)
        if len(sweeps) == 1:
            raise error
        return 0

    monkeypatch.setattr(store, "sweep", sweep)
    await serve(make_app(store))
    await until(lambda: len(sweeps) >= 2)
    assert caplog.text.count("could not be swept") == 1
    assert ("Traceback" in caplog.text) is isinstance(error, RuntimeError)


# What apps hear and say.


async def test_hooks_and_data_both_ways(serve: Serve, browse: Browse) -> None:
    heard: list[tuple[object, ...]] = []

    def on_open(page: Page) -> None:
        heard.append(("open", page.live.user))

    def on_ping(page: Page, ping: Ping) -> Mapping[str, Any] | None:
        heard.append(("ping", ping.n, ping.data, page.live.user))
        return {"unread": 2}

    def on_end(live: Live, reason: Reason) -> None:
        heard.append(("end", live.user, reason))

    hooks = Hooks(on_open=on_open, on_ping=on_ping, on_end=on_end)  # type: ignore[arg-type]
    port = (await serve(make_app(hooks=hooks))).port
    ann = await signed_in(browse, port, "ann")
    page = await ann.page()
    page.send(ping(1, data={"route": "/inbox"}))
    assert (await page.message("beat"))["data"] == {"unread": 2}
    body = json.dumps({"type": "ping", "n": 5}).encode()
    assert (await ann.post("/keepalive/heartbeat", data=body)).json["data"] == {"unread": 2}
    await ann.post("/logout")
    await ended(page)
    assert heard == [
        ("open", "ann"),
        ("ping", 1, {"route": "/inbox"}, "ann"),
        ("ping", 5, None, "ann"),
        ("end", "ann", "logout"),
    ]


async def test_a_policy_for_each_session(serve: Serve, browse: Browse) -> None:
    def choose(data: Mapping[str, Any]) -> Policy:
        short = data.get("user") == "admin"
        return Policy(idle_timeout=300 if short else 1800, mode="activity" if short else "presence")

    port = (await serve(make_app(policy=choose))).port
    for user, idle, mode in ("ann", 1800.0, "presence"), ("admin", 300.0, "activity"):
        browser = await signed_in(browse, port, user)
        hello = await (await browser.page()).message()
        assert (hello["idle_timeout"], hello["mode"]) == (idle, mode)
        state = (await browser.get("/keepalive/state")).json
        assert state["mode"] == mode
        assert idle - 1 < state["expires_in"] <= idle


# Settings.


@pytest.mark.parametrize(
    ("query", "known"),
    [
        ("?page=aB3_-", True),
        ("?page=" + 32 * "x", True),
        ("?page=" + 33 * "x", False),
        ("?page=", False),
        ("?page=a%20b", False),
        ("?page=%C3%A9", False),
        ("?page=a%0A", False),
        ("", False),
    ],
)
async def test_what_a_page_calls_itself(serve: Serve, browse: Browse, query: str, known: bool) -> None:
    """A name that is none is no error: the page gets one."""
    names: list[str] = []
    hooks = Hooks(on_open=lambda page: names.append(page.id))
    policy = Policy(end_after_last_page=20)
    ann = await signed_in(browse, (await serve(make_app(policy=policy, hooks=hooks))).port, "ann")
    for _ in range(2):
        page = await ann.page(f"/keepalive/ws{query}")
        assert (page.status, (await page.message())["type"]) == (101, "hello")
    first, second = names
    assert (first == second) is known
    if known:
        assert first == query.removeprefix("?page=")
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name) for name in names)


async def test_who_closes_the_last_page_signs_out(
    serve: Serve, browse: Browse, keepalive_app: KeepaliveApp, clock: VirtualClock
) -> None:
    keepalive_app(app := make_app(policy=Policy(end_after_last_page=20)))
    ann = await signed_in(browse, (await serve(app)).port, "ann")

    async def left() -> float:
        return float((await ann.get("/keepalive/state")).json["expires_in"])

    async def close(page: RawPage, code: int) -> None:
        assert await page.leave(code) == code
        page.cut()

    pages = [await ann.page(f"/keepalive/ws?page={name}") for name in ("p", "q")]
    for page in pages:
        await page.message()
        await close(page, 1001)
    await clock.advance(19)
    assert await left() == 1
    assert (await ann.get("/whoami")).json == "ann"  # on its way to another page, which never opens
    assert await left() == 1800
    last = await ann.page("/keepalive/ws?page=r")
    await last.message()
    await close(last, 1000)
    await clock.advance(20)
    late = await ann.page("/keepalive/ws?page=s")
    assert await ended(late) == ("logout", 4503)
    assert (await ann.get("/whoami")).json is None


async def test_a_page_that_polls_is_none_of_those_that_are_closed(
    serve: Serve, browse: Browse, keepalive_app: KeepaliveApp, clock: VirtualClock
) -> None:
    keepalive_app(app := make_app(policy=Policy(end_after_last_page=20)))
    ann = await signed_in(browse, (await serve(app)).port, "ann")

    async def poll(n: int) -> Any:
        told = {"type": "ping", "n": n}
        return (await ann.post("/keepalive/heartbeat?page=q", json=told)).json["type"]

    assert await poll(1) == "beat"
    page = await ann.page("/keepalive/ws?page=p")
    await page.message()
    page.send(ping(1))
    await page.message("beat")
    assert await page.leave(1001) == 1001
    page.cut()
    await clock.advance(25)
    assert await poll(2) == "beat"
    back = await ann.page("/keepalive/ws?page=q")
    await back.message()
    assert await back.leave(1001) == 1001
    back.cut()
    await clock.advance(20)
    assert await poll(3) == "end"


async def test_a_prefix(serve: Serve, browse: Browse) -> None:
    port = (await serve(make_app(prefix="/live"))).port
    ann = await signed_in(browse, port, "ann")
    assert (await ann.page("/live/ws")).status == 101
    assert (await ann.get("/live/heartbeat")).status == 200
    assert (await ann.get("/keepalive/heartbeat")).status == 404


async def _async_hook(*_: object) -> None: ...


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"policy": 1800}, "the policy is 1800: write keepalive.Policy"),
        ({"policy": {}}, "the policy is {}: write keepalive.Policy"),
        ({"hooks": {"on_ping": print}}, "hooks is {.*: write hooks=keepalive.Hooks"),
        ({"hooks": Hooks(on_end=_async_hook)}, "hook on_end is a coroutine function: make it a plain"),
        ({"prefix": ""}, "prefix '' is no path"),
        ({"prefix": "/"}, "prefix '/' is no path"),
        ({"prefix": "/live/"}, "prefix '/live/' is no path"),
        ({"prefix": "live"}, "prefix 'live' is no path"),
        ({"origins": "https://app.example"}, r"give a list: \['https://app.example'\]"),
        ({"sessions": None}, "None is no place for sessions: give the URL"),
        ({"sessions": web.Application}, "is no place for sessions: give the URL"),
        ({"sessions": KeepaliveStorage(open_store("memory://")), "secure": True}, "write KeepaliveStorage"),
        ({"sessions": SimpleCookieStorage(max_age=1800), "secure": True}, "write SimpleCookieStorage"),
    ],
)
def test_what_cannot_be_set_up_is_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingError, match=problem):
        make_app(**options)


def test_two_policies_are_refused() -> None:
    storage = KeepaliveStorage(open_store("memory://"), Policy())
    with pytest.raises(SettingError, match="two policies"):
        keepalive.setup(web.Application(), storage, policy=Policy())


def test_setting_up_twice_is_refused() -> None:
    app = web.Application()
    setup_sessions(app, SimpleCookieStorage())
    with pytest.raises(SettingError, match="drop aiohttp_session"):
        keepalive.setup(app, "memory://")
    app = web.Application()
    keepalive.setup(app, "memory://")
    with pytest.raises(SettingError, match="set up on this app already"):
        keepalive.setup(app, "memory://")


@pytest.mark.parametrize(
    "origin",
    [
        "app.example", "app.example:8080", "//app.example", "ws://app.example", "https://", "https://app.example/",
        "https://app.example/path", "https://*.app.example", "*", "null", "", "https://App.example",
        "https://user@app.example", "https://app.example?", "https://app.example#", "https://app.example:",
        "https://app.example:x", "https://app.example ", "https://a.example,https://b.example",
    ],
)  # fmt: skip
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(SettingError, match="is not an origin: write scheme, host and port"):
        keepalive.setup(web.Application(), "memory://", origins=[origin])


@pytest.mark.parametrize("origin", ["http://localhost", "https://app.example:8443", "http://[::1]:8080"])
def test_origins_that_can_be(origin: str) -> None:
    keepalive.setup(web.Application(), "memory://", origins=[origin])


def test_other_stores_are_named() -> None:
    with pytest.raises(SettingError, match="use sqlite:///"):
        keepalive.setup(web.Application(), "mysql://user:password@host")


# The modules.


async def test_the_browser_modules(ann: Browser) -> None:
    manifest = await ann.get("/keepalive/client/manifest.json")
    assert manifest.headers["Content-Type"] == "application/json; charset=utf-8"
    assert manifest.json.keys() == {path.name for path in browser_files().glob("*.js")}
    for name, integrity in manifest.json.items():
        module = await ann.get(f"/keepalive/client/{name}")
        assert module.status == 200
        assert integrity == "sha384-" + b64encode(sha384(module.body).digest()).decode()
        assert module.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert module.headers["X-Content-Type-Options"] == "nosniff"
        assert "public" in module.headers["Cache-Control"]
        code = re.sub(r"/\*.*?\*/", "", module.body.decode(), flags=re.DOTALL)
        needed = set(re.findall(r"""(?:from|import|import\() ?["']\./([^"']+)["']""", code))
        assert needed <= manifest.json.keys()
        for tag in module.headers["ETag"], f'"x", W/{module.headers["ETag"]}', "*":
            again = await ann.get(f"/keepalive/client/{name}", headers={"If-None-Match": tag})
            assert (again.status, again.body, again.headers["ETag"]) == (304, b"", module.headers["ETag"])
        stale = await ann.get(f"/keepalive/client/{name}", headers={"If-None-Match": '"stale"'})
        assert stale.status == 200


@pytest.mark.parametrize("name", ["keepalive.js", "manifest.json"])
async def test_the_browser_modules_are_compressed_for_whoever_accepts_that(
    port: int, connect: Connect, name: str
) -> None:
    async def get(encoding: str | None, known: str | None = None) -> RawPage:
        wanted = {"Accept-Encoding": encoding, "If-None-Match": known, "Upgrade": None, "Connection": None}
        return await connect(port, f"/keepalive/client/{name}", wanted)

    plain, packed = await get(None), await get("gzip, deflate, br, zstd")
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body)
    assert packed.headers["Content-Type"] == plain.headers["Content-Type"]
    tag, packed_tag = plain.headers["ETag"], packed.headers["ETag"]
    assert tag != packed_tag  # else a cache could mend one with the other
    for encoding, known, status in [
        (None, tag, 304),
        (None, packed_tag, 200),
        ("gzip", packed_tag, 304),
        ("gzip", tag, 200),
    ]:
        answer = await get(encoding, known)
        assert answer.status == status
        assert answer.headers["ETag"] == (packed_tag if encoding else tag)
        assert answer.headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", True), ("GZIP", True), ("br, gzip", True), ("br;q=1.0,gzip;q=0.8,*;q=0.1", True),
        ("gzip; q=0.001", True), ("gzip;q=1.000", True),
        ("", False), ("br", False), ("identity", False), ("notgzip, gzip-not", False),
        ("gzip;q=0", False), ("gzip; Q=0.000 , br", False),
    ],
)  # fmt: skip
async def test_who_accepts_gzip(port: int, connect: Connect, encoding: str, packed: bool) -> None:
    wanted = {"Accept-Encoding": encoding, "Upgrade": None, "Connection": None}
    page = await connect(port, "/keepalive/client/define.js", wanted)
    assert page.status == 200
    assert ("Content-Encoding" in page.headers) is packed


@pytest.mark.parametrize(
    "name",
    ["nothing.js", "", "package.json", "tsconfig.json", "..%2fpackage.json", "%2e%2e/web.py", "..%5cx",
     "demo/index.html", "/etc/passwd", "keepalive.js%00", "keepalive.js/"],
)  # fmt: skip
async def test_no_other_files(port: int, connect: Connect, name: str) -> None:
    page = await connect(port, f"/keepalive/client/{name}", {"Upgrade": None, "Connection": None})
    assert page.status == 404


# The shutdown.


async def test_all_sockets_are_told_of_a_restart(serve: Serve, browse: Browse) -> None:
    server = await serve(make_app(limits=Limits(pages_per_session=50)), shutdown_timeout=60)
    ann = await signed_in(browse, server.port, "ann")
    pages = [await ann.page() for _ in range(50)]
    before = asyncio.all_tasks()

    async def said(page: RawPage) -> int:
        code = await page.close_code()
        page.send(frame(code.to_bytes(2), CLOSE))
        page.cut()
        return code

    goodbyes = asyncio.gather(*map(said, pages))
    began = monotonic()
    await server.runner.cleanup()
    assert monotonic() - began < 1
    assert set(await goodbyes) == {1012}
    await until(lambda: asyncio.all_tasks() < before)


async def test_a_page_that_does_not_answer_does_not_hold_up_a_shutdown(serve: Serve, browse: Browse) -> None:
    server = await serve(make_app(), shutdown_timeout=60)
    page = await (await signed_in(browse, server.port, "ann")).page()
    began = monotonic()
    await server.runner.cleanup()
    assert 1 < monotonic() - began < 3
    assert await page.close_code() == 1012
    assert await page.end_of_stream() == b""


async def test_a_handshake_during_the_shutdown(serve: Serve, browse: Browse) -> None:
    """Nobody would close its socket any more."""
    store = open_store("memory://")
    arrived, proceed = asyncio.Event(), asyncio.Event()
    load = store.load

    async def slow_load(key: bytes) -> Any:
        arrived.set()
        await proceed.wait()
        return await load(key)

    app = make_app(store)
    server = await serve(app, shutdown_timeout=60)
    ann = await signed_in(browse, server.port, "ann")
    store.load = slow_load  # type: ignore[method-assign]
    opening = asyncio.create_task(ann.page())
    await arrived.wait()
    stopping = asyncio.create_task(server.runner.cleanup())
    await until(lambda: app[keepalive.KEEPALIVE]._connections.closing)
    proceed.set()
    page = await opening
    assert page.status == 101
    assert await page.close_code() == 1012
    assert await page.end_of_stream() == b""
    await asyncio.wait_for(stopping, 2)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
async def test_a_process_is_gone_within_its_drain(tmp_path: Path, browse: Browse, count: int) -> None:
    """Though all goes wrong: the store hangs, no page answers the close, and a request never comes whole.

    Others would take the pages in over 8 s, but the drain leaves 1.5.
    """
    drain, few, many = 6, f"{count // 8}", f"{2 * count}"
    secret = tmp_path / "secret"
    secret.write_bytes(Fernet.generate_key())
    secret.chmod(0o600)
    options = ["--drain", f"{drain}", "--touch-every", "0", "--handshakes-per-second", few]
    options += ["--secret-file", str(secret)]
    for limit in ("session", "user", "address"):
        options += [f"--pages-per-{limit}", many]
    many_files()
    with redis_server(tmp_path) as redis:
        async with running(tmp_path, "--store", redis.url, *options) as server:
            ann = await browse(server.port)
            assert (await ann.post("/login", data={"name": "ann"})).status == 303
            pages: list[RawPage] = []
            while len(pages) < count:
                page = await ann.page()
                if page.status == 101:
                    await page.message("hello")
                    pages.append(page)
                else:  # no more are let in just now
                    assert page.status == 503
                    await asyncio.sleep(0.05)
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            redis.call("CLIENT", "PAUSE", 30_000)
            for page in pages:
                page.send(ping(1))
            code, seconds = await server.stop()
            writer.transport.abort()
            assert code == 0
            assert seconds < drain
            assert [await page.close_code() for page in pages] == [1012] * count
