"""What operators see and do: who gets in, each line of the API, and the socket of the dashboard."""

import asyncio
import gc
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from time import thread_time
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiohttp_session import SimpleCookieStorage, get_session

import keepalive
from keepalive import KEEPALIVE, Policy, Reason, SettingError, admin
from keepalive.admin import access
from keepalive.admin.access import GUESSES, Refused, check_token
from keepalive.admin.api import MAX_BODY, OPERATIONS
from keepalive.admin.operators import COOKIE, SHIFT, Operators
from keepalive.admin.sessions import CHUNK, MOST, Explanation, Search, explain, find, merged, pick, span
from keepalive.presence import SessionPresence
from keepalive.server import make_app as make_server
from keepalive.settings import Settings
from keepalive.siblings import Siblings
from keepalive.testing import KeepaliveApp, OpenPage, VirtualClock
from keepalive.touchers import Left, Ticket, key_of
from keepalive.trust import Trust
from keepalive.workers import Seat

from .conftest import Answer, Browse, Browser, Serve
from .fakes import FakePage, FakeSocket, World
from .raw import RawPage, ping, until
from .test_web import ended, make_app, signed_in

TOKEN = "a-token-for-tests-of-44-characters-in-length"
API = "/keepalive/admin/api"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
NOWHERE = SessionPresence(0, None)


class Desk:
    """An operator at a server that has some users.

    Args:
        port: the server's.
        browse: makes browsers.
        operator: the operator's.
    """

    def __init__(self, app: web.Application, port: int, browse: Browse, operator: Browser) -> None:
        self.app = app
        self.port = port
        self._browse = browse
        self._operator = operator

    @property
    def keepalive(self) -> keepalive.Keepalive:
        return self.app[KEEPALIVE]

    async def user(self, name: str, pages: int = 1) -> tuple[Browser, list[RawPage]]:
        """A user who is signed in, with pages that have pinged."""
        browser = await signed_in(self._browse, self.port, name)
        opened = []
        for _ in range(pages):
            page = await browser.page()
            page.send(ping(0, idle=1.0))
            await page.message("beat")
            opened.append(page)
        return browser, opened

    async def ask(self, path: str, method: str = "GET", *, told: Any = None, **options: Any) -> Answer:
        """Ask the API with the right token."""
        if told is not None:
            options["json"] = told
        headers = BEARER | options.pop("headers", {})
        answer = await self._operator.get(f"{API}{path}", method=method, headers=headers, **options)
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Type"].startswith("application/json")
        return answer

    async def ids(self, query: str = "") -> list[str]:
        answer = await self.ask(f"/sessions{query}")
        assert answer.status == 200, answer.body
        return [row["id"] for row in answer.json["sessions"]]


MakeDesk = Callable[..., Awaitable[Desk]]


@pytest.fixture
async def open_desk(serve: Serve, browse: Browse) -> MakeDesk:
    async def open_desk(sessions: Any = "memory://", **options: Any) -> Desk:
        who = {name: options.pop(name) for name in ("token", "authorize") if name in options}
        siblings = Siblings(options.pop("seat", None))
        app = make_app(sessions, **options)
        app.cleanup_ctx.append(siblings.run)
        admin.mount(app, app[KEEPALIVE], **(who or {"token": TOKEN}), siblings=siblings)
        port = (await serve(app)).port
        return Desk(app, port, browse, await browse(port))

    return open_desk


@pytest.fixture
async def desk(open_desk: MakeDesk) -> Desk:
    return await open_desk()


# Who gets in.


async def test_without_an_operator_there_is_nothing(serve: Serve, browse: Browse) -> None:
    browser = await browse((await serve(make_app())).port)
    for path in "/sessions", "/stats", "/openapi.json", "/../", "/../ws", "/../admin.js":
        assert (await browser.get(f"{API}{path}", headers=BEARER)).status == 404
    app = web.Application()
    with pytest.raises(SettingError, match="neither an admin token nor"):
        admin.mount(app, keepalive.setup(app, "memory://"))


async def test_a_server_without_a_token_has_nothing(
    serve: Serve, browse: Browse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one with a token, from the environment or from a file, has it all."""
    store = "memory://"
    monkeypatch.delenv("KEEPALIVE_ADMIN_TOKEN", raising=False)
    browser = await browse((await serve(make_server(Settings(store=store)))).port)
    assert (await browser.get(f"{API}/stats", headers=BEARER)).status == 404
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    browser = await browse((await serve(make_server(Settings(store=store, admin_token_file=file)))).port)
    assert (await browser.get(f"{API}/stats", headers=BEARER)).status == 200
    monkeypatch.setenv("KEEPALIVE_ADMIN_TOKEN", TOKEN[::-1])
    browser = await browse((await serve(make_server(Settings(store=store, admin_token_file=file)))).port)
    assert (await browser.get(f"{API}/stats", headers=BEARER)).status == 401
    assert (await browser.get(f"{API}/stats", headers=_bearer(TOKEN[::-1]))).status == 200


@pytest.mark.parametrize("token", ["", "x" * 31, f"{'x' * 32}\n", f"{'x' * 32} {'x' * 8}", "ü" * 40])
def test_a_token_that_will_not_do_is_refused(token: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="token_urlsafe"):
        check_token(token)
    file = tmp_path / "token"
    with pytest.raises(SettingError, match="cannot be used"):
        admin.find_token({}, file)
    file.write_text("")
    with pytest.raises(SettingError, match="0 characters"):
        admin.find_token({}, file)


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        _bearer(TOKEN[:-1]),
        _bearer(TOKEN + "x"),
        _bearer(""),
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": f"token={TOKEN}"},
    ],
)
async def test_the_wrong_token_gets_nothing(desk: Desk, browse: Browse, headers: dict[str, str]) -> None:
    browser = await browse(desk.port)
    paths = dict.fromkeys(each.path.format(id="0" * 64, user="ann") for each in OPERATIONS)
    for path in [*list(paths)[: int(GUESSES[1]) - 2], "/nothing", f"/stats?token={TOKEN}"]:
        answer = await browser.get(f"{API}{path}", headers=headers)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.json.keys() == {"error", "solution"}


async def test_guesses_are_bounded(desk: Desk, browse: Browse) -> None:
    browser = await browse(desk.port)
    answers = [await browser.get(f"{API}/stats", headers=_bearer(f"{n:032}")) for n in range(30)]
    assert [answer.status for answer in answers] == [401] * int(GUESSES[1]) + [429] * 20
    assert int(answers[-1].headers["Retry-After"]) >= 1
    assert answers[-1].json["solution"]


@pytest.mark.usefixtures("clock")  # which stands still
async def test_nobody_keeps_the_operator_out(open_desk: MakeDesk, browse: Browse) -> None:
    """Behind a proxy that is not named, all come from its address; and under attack operators are needed."""
    desk = await open_desk()
    stranger = await browse(desk.port)
    for headers in _bearer("wrong" * 8), {}:
        answers = [await stranger.get(f"{API}/stats", headers=headers) for _ in range(120)]
        assert answers[-1].status == 429
    assert (await desk.ask("/stats")).status == 200


async def test_requests_are_bounded(desk: Desk) -> None:
    statuses = [(await desk.ask("/nothing")).status for _ in range(250)]
    assert set(statuses) == {404, 429}
    assert 100 <= statuses.count(404) < 220


async def test_other_origins_get_nothing(desk: Desk) -> None:
    """A hook may go by a cookie, which a browser sends along with what any page has it ask."""
    for headers in {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}:
        answer = await desk.ask("/stats", headers=headers)
        assert (answer.status, answer.json.keys()) == (403, {"error", "solution"})


async def test_a_hook_finds_operators(open_desk: MakeDesk) -> None:
    async def authorize(request: web.Request) -> str | None:
        session = await get_session(request)
        return "ann" if session.get("user") == "ann" else None

    desk = await open_desk(authorize=authorize)
    ann, _ = await desk.user("ann")
    bob, _ = await desk.user("bob")
    assert (await ann.post(f"{API}/operator")).json["operator"] == "ann"
    refused = await bob.get(f"{API}/stats")
    assert (refused.status, refused.json.keys()) == (403, {"error", "solution"})


async def test_every_use_is_noted(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    browser, _ = await desk.user("ann")
    (session,) = await desk.ids()
    with caplog.at_level(logging.INFO, "keepalive.audit"):
        caplog.clear()
        await desk.ask(f"/sessions/{session}", "DELETE")
        await browser.get(f"{API}/stats", headers=_bearer("wrong"))
    acts = [vars(record) for record in caplog.records if record.getMessage() == "admin"]
    told = [{name: act.get(name) for name in ("operator", "action", "status", "session")} for act in acts]
    assert told == [
        {"operator": "token", "action": "end_session", "status": 200, "session": session[:16]},
        {"operator": "nobody", "action": "stats", "status": 401, "session": None},
    ]
    assert all(act["address"] == "127.0.0.1" for act in acts)
    assert session not in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.usefixtures("clock")  # which stands still
@pytest.mark.parametrize("headers", [{}, {"Origin": "https://evil.example"}, {"Host": "a b"}, BEARER])
async def test_who_asks_too_often_does_not_fill_the_audit_log(
    open_desk: MakeDesk,
    browse: Browse,
    caplog: pytest.LogCaptureFixture,
    headers: dict[str, str],
) -> None:
    """Nor push what matters out of its queue."""
    anybody = await browse((await open_desk()).port)
    with caplog.at_level(logging.INFO, "keepalive.audit"):
        statuses = [(await anybody.get(f"{API}/stats", headers=headers)).status for _ in range(150)]
    assert statuses[100:] == [429] * 50
    assert sum(record.getMessage() == "admin" for record in caplog.records) == 100


async def test_who_has_not_asked_for_long_is_forgotten(desk: Desk, clock: VirtualClock) -> None:
    door = access.Access(TOKEN, None, clock, Trust())
    operators = Operators(door, desk.keepalive, "/", Siblings())
    request = make_mocked_request("GET", "/", headers=_bearer("wrong"))
    door.limit(request)
    with pytest.raises(Refused):
        await door.operator(request)
    await operators.sweep()
    assert (len(door._requests), len(door._guesses)) == (1, 1)
    await clock.advance(GUESSES[1] / GUESSES[0])
    await operators.sweep()
    assert (len(door._requests), len(door._guesses)) == (0, 0)


# What is bad gets an error in JSON that says what to do.


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "", 404),
        ("GET", "/", 404),
        ("GET", "/nothing", 404),
        ("GET", f"/sessions/{'0' * 64}", 404),
        ("DELETE", f"/sessions/{'0' * 64}", 404),
        ("GET", f"/sessions/{'0' * 63}", 400),
        ("GET", f"/sessions/{'F' * 64}", 400),
        ("DELETE", "/sessions/all", 400),
        ("GET", "/sessions?limit=0", 400),
        ("GET", f"/sessions?limit={MOST + 1}", 400),
        ("GET", "/sessions?limit=ten", 400),
        ("GET", "/sessions?limit=1&limit=2", 400),
        ("GET", "/sessions?cursor=last", 400),
        ("GET", "/sessions?usr=ann", 400),
        ("GET", "/stats?deep=1", 400),
        ("POST", "/sessions", 405),
        ("PUT", "/stats", 405),
        ("GET", "/drain", 405),
        ("PATCH", f"/sessions/{'0' * 64}/push", 405),
    ],
)
async def test_a_bad_request_is_told_what_to_do(desk: Desk, method: str, path: str, status: int) -> None:
    answer = await desk.ask(path, method)
    assert answer.status == status
    assert answer.json.keys() == {"error", "solution"}
    assert all(answer.json.values())
    assert ("Allow" in answer.headers) is (status == 405)


@pytest.mark.parametrize(
    ("body", "type_", "status"),
    [
        (b'{"data": 1}', "application/json", 200),
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b'"data"', "application/json", 400),
        (b"{}", "application/json", 400),
        (b'{"data": 1, "more": 2}', "application/json", 400),
        (b'{"data": "\xff"}', "application/json", 400),
        (b'{"data": 1e999}', "application/json", 400),
        (b'{"data": ' + b"[" * 20_000 + b"]" * 3_000 + b"}", "application/json", 400),
        (b'{"data": 1}', "text/plain", 415),
        (b'{"data": "' + b"x" * (MAX_BODY - 100) + b'"}', "application/json", 413),
        (b'{"data": "' + b"x" * MAX_BODY + b'"}', "application/json", 413),
    ],
)
async def test_what_is_pushed_is_checked(desk: Desk, body: bytes, type_: str, status: int) -> None:
    for path in "/users/ann/push", f"/sessions/{'0' * 64}/push":
        answer = await desk.ask(path, "POST", data=body, headers={"Content-Type": type_})
        assert answer.status == status, answer.body
        assert answer.json.keys() == ({"pages"} if status == 200 else {"error", "solution"})


async def test_a_store_that_is_down_is_told(desk: Desk) -> None:
    await desk.user("ann")
    (session,) = await desk.ids()
    await desk.keepalive.door.toucher.close()  # type: ignore[attr-defined]
    for method in "GET", "DELETE":
        answer = await desk.ask(f"/sessions/{session}", method)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        assert answer.json.keys() == {"error", "solution"}


async def test_sessions_in_cookies_cannot_be_ended_by_user(open_desk: MakeDesk) -> None:
    desk = await open_desk(SimpleCookieStorage(max_age=1800))
    answer = await desk.ask("/users/ann/sessions", "DELETE")
    assert answer.status == 409
    assert "store" in answer.json["solution"]


# Lists.


async def test_the_list_has_what_is_known(desk: Desk) -> None:
    browser, (first, _) = await desk.user("ann", pages=2)
    first.send(ping(1, visible=False, idle=40.0))
    await first.message("beat")
    answer = (await desk.ask("/sessions")).json
    (row,) = answer["sessions"]
    sealed = browser.cookie.partition("=")[2]
    assert sealed and sealed not in json.dumps(answer)
    key = await desk.keepalive.door.key(_request_with(desk, browser))
    assert key is not None and row["id"] == key.hex()
    assert (answer["matches"], answer["next"]) == (1, None)
    assert (row["user"], row["pages"], row["visible"]) == ("ann", 2, 1)
    assert (row["addresses"], row["mode"], row["nodes"]) == (["127.0.0.1"], "presence", answer["nodes"])
    assert answer["missing"] == 0
    assert 0 <= row["last_ping"] < 5
    assert 1 <= row["last_input"] < 6
    assert 0 <= row["age"] < 5
    assert 1790 < row["idle_in"] <= 1800
    assert 43190 < row["absolute_in"] <= 43200


def _request_with(desk: Desk, browser: Browser) -> web.Request:
    from aiohttp.test_utils import make_mocked_request

    return make_mocked_request("GET", "/", headers={"Cookie": browser.cookie}, app=desk.app)


async def test_sessions_are_found(desk: Desk) -> None:
    for name in "ann", "Anna", "bob":
        await desk.user(name)
    everyone = await desk.ids()
    assert everyone == sorted(everyone)
    assert len(everyone) == 3

    async def found(query: str) -> list[str]:
        return sorted(row["user"] for row in (await desk.ask(f"/sessions?{query}")).json["sessions"])

    (node,) = (await desk.ask("/sessions")).json["nodes"]
    assert await found("user=ann") == ["ann"]
    assert await found("search=ann") == ["Anna", "ann"]
    assert await found("search=%20BOB%20") == ["bob"]
    assert await found("search=127.0.") == ["Anna", "ann", "bob"]
    assert await found("address=127.0.0.1&user=bob") == ["bob"]
    assert await found("address=127.0.0") == []
    assert await found(f"node={node}&search=bob") == ["bob"]
    refused = await desk.ask("/sessions?node=another")
    assert (refused.status, refused.json["error"]) == (404, "this server has no such node")
    assert await desk.ids(f"?search={everyone[1][:16].upper()}") == [everyone[1]]


async def test_a_page_that_leaves_leaves_the_list(desk: Desk) -> None:
    _, (page,) = await desk.user("ann")
    await page.leave()
    page.cut()
    await until(lambda: desk.keepalive.heart.sessions == 0)
    assert await desk.ids() == []


async def test_the_list_comes_in_pages() -> None:
    world = await World().start()
    wanted = sorted(key_of(f"s{n}") for n in range(2 * CHUNK + 7))
    for n in range(len(wanted)):
        await world.page(f"s{n}")
    cursor: str | None = ""
    found: list[bytes] = []
    while cursor is not None:
        query = Search(limit=100, cursor=cursor)
        keys, matches, cursor = await pick([await find(world.heart.lives, "here", query)], query)
        assert matches == len(wanted)
        assert len(keys) == min(100, len(wanted) - len(found))
        found += keys
        if len(found) == 300:  # one that is gone, and one that comes, upset nobody else
            await world.end("s0")
            wanted.remove(key_of("s0"))
            found = [each for each in found if each != key_of("s0")]
            break
    while cursor is not None:
        query = Search(limit=100, cursor=cursor)
        keys, _, cursor = await pick([await find(world.heart.lives, "here", query)], query)
        found += keys
    assert found == wanted
    await world.stop()


async def test_a_long_list_blocks_nobody() -> None:
    """Of 15,000 sessions, the longest that anything else waits. In CPU time: the machine may be busy."""
    world = await World().start()
    now = world.clock.monotonic()
    for n in range(15_000):
        ticket = Ticket(key_of(f"s{n}"), world.policy, f"user {n}", Left(1800.0, 43200.0))
        world.heart.on_open(world.heart.join(ticket, FakeSocket(), now))
    longest, turns = 0.0, 0
    gc.collect()
    gc.disable()  # it would look at all that this test run holds

    async def watch() -> None:
        nonlocal longest, turns
        while True:
            began = thread_time()
            await asyncio.sleep(0)
            longest, turns = max(longest, thread_time() - began), turns + 1

    watching = asyncio.create_task(watch())
    for query in Search(limit=500), Search(search="999", limit=500), Search(search="zzz", address="x"):
        await asyncio.sleep(0)
        before = turns
        found = await find(world.heart.lives, "here", query)
        keys, matches, _ = await pick([found, found], query)
        assert len(keys) == min(500, matches)
        assert turns - before >= 15_000 / CHUNK - 1
    gc.enable()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert 0 < longest < 0.02, longest
    await world.stop()


# One session, and why it is alive.


async def explained(world: World, page: FakePage) -> Explanation:
    return explain(page.page.live, "here", SessionPresence(1, None), world.clock.monotonic())


def make_world(mode: str, **rules: Any) -> World:
    rules = {"idle_timeout": 600, "absolute_timeout": 3600} | rules
    return World(Policy(mode=mode, **rules))


async def test_presence_explains_itself() -> None:
    world = await make_world("presence").start()
    page = await world.page("ann")
    told = await explained(world, page)
    assert (told.alive_by, told.page and told.page.last_ping) == ("login", None)
    await world.keep_pinging(100, page, idle=90.0)
    await world.advance(3)
    told = await explained(world, page)
    assert told.alive_by == "page"
    assert told.page is not None and told.page.last_ping == 3.0
    assert told.ends_by is Reason.IDLE
    assert told.ends_in == 597.0
    assert told.extended_by == ["ping", "input", "request"]
    assert told.session is not None and told.session.last_input == 93.0
    assert told.sentence == (
        "Alive because an open page answers. The last ping came 3 s ago from a visible page. The last input "
        "was 1 min 33 s ago. If nothing more comes, it ends in 9 min 57 s by the idle timeout. It is "
        "extended by any page that answers, and any request of the app. "
        "The absolute timeout ends it in 58 min 17 s at the latest."
    )
    await world.stop()


async def test_activity_explains_itself() -> None:
    world = await make_world("activity").start()
    page = await world.page("ann")
    await world.advance(50)
    page.ping(20.0)
    await world.advance(5)
    page.ping(25.0, visible=False)
    await world.advance(10)
    told = await explained(world, page)
    assert (told.alive_by, told.ends_in, told.extended_by) == ("input", 565.0, ["input", "request"])
    assert "The last ping came 10 s ago from a hidden page. The last input was 35 s ago." in told.sentence
    assert "a page that is merely open does not" in told.sentence
    await world.stop()


async def test_a_request_explains_itself() -> None:
    """Input of long ago does not keep a session alive that the app's own request has extended since."""
    world = await make_world("activity", touch_every=1).start()
    page = await world.page("ann")
    page.ping(0.0)
    await world.advance(20)
    page.ping(20.0)
    await world.advance(20)
    await world.request("ann")
    page.ping(40.0)
    await world.advance(1)
    told = await explained(world, page)
    assert told.alive_by == "request"
    assert told.ends_in == 599.0
    assert told.session is not None and told.session.last_input == 41.0
    await world.stop()


async def test_observe_explains_itself() -> None:
    world = await make_world("observe").start()
    page = await world.page("ann")
    await world.keep_pinging(100, page, idle=0.0)
    told = await explained(world, page)
    assert (told.alive_by, told.ends_in, told.extended_by) == ("request", 500.0, ["request"])
    assert "requests of the app alone; its pages only watch" in told.sentence
    await world.stop()


async def test_the_absolute_timeout_explains_itself() -> None:
    world = await make_world("presence", absolute_timeout=620, warn_before=60).start()
    page = await world.page("ann")
    await world.keep_pinging(575, page, idle=0.0)
    told = await explained(world, page)
    assert (told.ends_by, told.ends_in, told.extended_by) == (Reason.ABSOLUTE, 45.0, [])
    assert told.warned
    assert "It ends in 45 s by the absolute timeout, which nothing extends." in told.sentence
    assert told.sentence.endswith("Its pages show a warning now.")
    await world.stop()


async def test_the_page_that_was_heard_last_is_named() -> None:
    world = await make_world("presence").start()
    first, second = await world.page("ann"), await world.page("ann")
    first.page.address, second.page.address = "192.0.2.1", "192.0.2.2"
    first.ping(0.0)
    await world.advance(1)
    second.ping(0.0, visible=False)
    await world.page("ann")  # a third one, which has not pinged yet
    told = await explained(world, first)
    assert told.page is not None
    assert (told.page.address, told.page.visible, told.page.pings) == ("192.0.2.2", False, 1)
    assert [page.last_ping for page in told.pages] == [1.0, 0.0, None]
    assert told.session is not None and told.session.addresses == ["192.0.2.1", "192.0.2.2"]
    assert "from a hidden page at 192.0.2.2" in told.sentence
    await world.stop()


async def test_what_two_workers_know_of_a_session_is_one_explanation() -> None:
    """One of them has only heard that the deadline moved, or not even that; the other one knows why."""
    here, there = await make_world("presence").start(), await make_world("presence").start()
    silent, pinging = await here.page("ann"), await there.page("ann")
    silent.page.address, pinging.page.address = "192.0.2.1", "192.0.2.2"
    await there.keep_pinging(100, pinging, idle=90.0)
    await here.advance(100)
    parts = [await explained(here, silent), await explained(there, pinging)]
    assert [part.alive_by for part in parts] == ["login", "page"]
    for told in merged(parts), merged(parts[::-1]):
        assert (told.alive_by, told.ends_in) == ("page", 600.0)
        assert told.page is not None and told.page.address == "192.0.2.2"
        assert sorted(page.address for page in told.pages) == ["192.0.2.1", "192.0.2.2"]
        assert told.session is not None
        assert (told.session.pages, told.session.last_ping, told.session.idle_in) == (2, 0.0, 600.0)
        assert told.session.addresses == ["192.0.2.1", "192.0.2.2"]
        assert "The last ping came 0 s ago from a visible page at 192.0.2.2." in told.sentence
    await here.stop()
    await there.stop()


async def test_a_session_without_pages_here_is_explained(desk: Desk) -> None:
    browser, (page,) = await desk.user("ann")
    (session,) = await desk.ids()
    assert (await desk.ask(f"/sessions/{session}")).json["session"]["user"] == "ann"
    await page.leave()
    page.cut()
    await until(lambda: desk.keepalive.heart.sessions == 0)

    async def gone() -> bool:
        return (await desk.keepalive.presence_of(bytes.fromhex(session))).pages == 0

    async with asyncio.timeout(10):
        while not await gone():
            await asyncio.sleep(0.05)
    told = (await desk.ask(f"/sessions/{session}")).json
    assert (told["session"], told["page"], told["pages"], told["pages_everywhere"]) == (None, None, [], 0)
    assert (told["ends_by"], told["alive_by"]) == ("idle", "request")
    assert 1700 < told["ends_in"] <= 1800
    assert "No page of it is open on this server, and no other has one." in told["sentence"]
    await browser.post("/logout")
    answer = await desk.ask(f"/sessions/{session}")
    assert (answer.status, answer.json["error"]) == (404, "this session is over: logout")


async def test_a_session_that_ends_with_its_last_page_says_so(
    open_desk: MakeDesk, keepalive_app: KeepaliveApp, page: OpenPage, clock: VirtualClock
) -> None:
    desk = await open_desk(policy=Policy(end_after_last_page=30))
    keepalive_app(desk.app)
    tab = await page("ann")
    (session,) = await desk.ids()
    told = (await desk.ask(f"/sessions/{session}")).json
    assert told["sentence"].endswith("Once its last page is closed, it ends after 30 s.")
    tab.close()
    await clock.advance(seconds=5)
    told = (await desk.ask(f"/sessions/{session}")).json
    assert (told["ends_by"], told["ends_in"]) == ("logout", 25)
    assert "The last one was closed: it ends in 25 s" in told["sentence"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (7199, "1 h 59 min"), (90_000, "1 d 1 h")],
)
def test_spans_are_for_people(seconds: float, text: str) -> None:
    assert span(seconds) == text


# What operators can do.


async def test_a_session_is_ended_everywhere(desk: Desk) -> None:
    ann, pages = await desk.user("ann", pages=2)
    bob, _ = await desk.user("bob")
    (session,) = await desk.ids("?user=ann")
    assert (await desk.ask(f"/sessions/{session}", "DELETE")).json == {"ended": 1}
    for page in pages:
        assert await ended(page) == ("revoked", 4506)
    assert (await ann.get("/whoami")).json is None
    assert (await bob.get("/whoami")).json == "bob"
    assert (await desk.ask(f"/sessions/{session}", "DELETE")).status == 404


async def test_all_sessions_of_a_user_are_ended(desk: Desk) -> None:
    name = "ann/of the%20house"
    pages = [page for _ in range(3) for page in (await desk.user(_quoted(name)))[1]]
    bob, _ = await desk.user("bob")
    assert (await desk.ask(f"/users/{_quoted(name)}/sessions", "DELETE")).json == {"ended": 3}
    for page in pages:
        assert await ended(page) == ("revoked", 4506)
    assert (await bob.get("/whoami")).json == "bob"
    assert (await desk.ask(f"/users/{_quoted(name)}/sessions", "DELETE")).json == {"ended": 0}


def _quoted(name: str) -> Any:
    from yarl import URL

    return URL.build(path=f"/{name}").raw_path[1:].replace("/", "%2F")


async def test_pages_are_pushed_to(desk: Desk) -> None:
    _, (first, second) = await desk.user("ann", pages=2)
    _, (third,) = await desk.user("ann")
    _, (other,) = await desk.user("bob")
    session = next(
        row["id"] for row in (await desk.ask("/sessions?user=ann")).json["sessions"] if row["pages"] == 2
    )
    assert (await desk.ask(f"/sessions/{session}/push", "POST", told={"data": "one"})).json == {"pages": 2}
    assert (await desk.ask("/users/ann/push", "POST", told={"data": {"n": 2}})).json == {"pages": 3}
    for page in first, second:
        assert [(await page.message("push"))["data"] for _ in range(2)] == ["one", {"n": 2}]
    assert (await third.message("push"))["data"] == {"n": 2}
    other.send(ping(5))
    assert (await other.message())["type"] == "beat"
    assert (await desk.ask(f"/sessions/{'0' * 64}/push", "POST", told={"data": 1})).json == {"pages": 0}


async def test_a_node_is_drained(serve: Serve, browse: Browse) -> None:
    """Its pages are sent away as by a restart, new ones too; but it goes on, and their sessions live."""
    app = make_server(Settings(store="memory://", drain=0.0), demo=True)
    admin.mount(app, app[KEEPALIVE], token=TOKEN)
    port = (await serve(app)).port
    ann, operator = await browse(port), await browse(port)
    await ann.post("/login", data={"name": "ann"})
    page = await ann.page()
    assert (await operator.get("/readyz")).status == 200
    answer = await operator.post(f"{API}/drain", headers=BEARER)
    (name,) = answer.json["nodes"]
    assert answer.status == 202
    assert await page.close_code() == 1012
    ready = await operator.get("/readyz")
    assert (ready.status, ready.body) == (503, b"draining\n")
    assert await (await ann.page()).close_code() == 1012
    assert (await ann.get("/whoami")).json["user"] == "ann"
    assert (await operator.get("/healthz")).status == 200
    again = await operator.post(f"{API}/drain", headers=BEARER)
    assert (again.status, again.json) == (202, {"nodes": [name], "pages": 0, "missing": 0})
    assert (await operator.post(f"{API}/drain?node={name}", headers=BEARER)).json == again.json


async def test_a_worker_that_hangs_is_told_of(
    open_desk: MakeDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has is missing; and nobody is told that there is nothing."""
    monkeypatch.setattr("keepalive.siblings.PATIENCE", 0.1)
    desk = await open_desk(seat=Seat("0", tmp_path))
    await desk.user("ann")
    asked: list[asyncio.StreamWriter] = []
    hanging = await asyncio.start_unix_server(lambda _, writer: asked.append(writer), tmp_path / "1.sock")
    listed = (await desk.ask("/sessions")).json
    (row,) = listed["sessions"]
    assert (row["user"], listed["missing"]) == ("ann", 1)
    why = (await desk.ask(f"/sessions/{row['id']}")).json
    assert why["sentence"].endswith("Nodes of this server that do not answer, and may know more: 1.")
    for method, path in ("GET", "/sessions"), ("POST", "/drain"):
        answer = await desk.ask(f"{path}?node=hanging", method)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    drained = (await desk.ask("/drain", "POST")).json
    assert (drained["nodes"], drained["missing"]) == (listed["nodes"], 1)
    hanging.close()
    for writer in asked:
        writer.close()


# What goes on.


async def test_the_figures_of_a_node(open_desk: MakeDesk) -> None:
    desk = await open_desk(policy=Policy(touch_every=0))
    ann, pages = await desk.user("ann", pages=3)
    for n in range(1, 5):
        for page in pages:
            page.send(ping(n))
            await page.message("beat")
    await ann.post("/logout")
    for page in pages:
        await ended(page)
        page.cut()
    await until(lambda: desk.keepalive.counts.closes[4503] == 3)
    await desk.user("bob", pages=2)

    async def told() -> Any:
        return (await desk.ask("/stats")).json

    async with asyncio.timeout(10):
        while not (stats := await told())["nodes"][0]["now"]["pages"] or not stats["sessions"]:
            await asyncio.sleep(0.1)
    (node,) = stats["nodes"]
    assert node["this"] and not node["draining"]
    assert (stats["sessions"], stats["users"]) == (1, 1)
    assert (node["now"]["pages"], node["now"]["sessions"]) == (2, 1)
    assert node["ends"] == {"logout": 1}
    assert node["closes"] == {"4503": 3}
    assert stats["moment"]["now"]["beats"] > 0
    assert 0 < stats["moment"]["now"]["p50"] <= stats["moment"]["now"]["p99"] < 5
    assert stats["moment"]["now"]["store_p99"] > 0
    history = (await desk.ask("/stats/history")).json["moments"]
    assert history[-1]["now"]["pages"] == 2
    assert [each["at"] for each in history] == sorted(each["at"] for each in history)


# The dashboard's own socket.


async def test_the_dashboard_is_fed_by_push(desk: Desk) -> None:
    await desk.user("ann")
    answer = await desk.ask("/operator", "POST")
    cookie = answer.headers["Set-Cookie"]
    assert all(f"; {each}" in cookie for each in ("HttpOnly", "SameSite=Strict", "Path=/keepalive/admin/"))
    dashboard = await desk._operator.page("/keepalive/admin/ws", Cookie=cookie.partition(";")[0])
    assert (await dashboard.message())["type"] == "hello"
    stats = (await dashboard.message("push"))["data"]
    assert stats["moment"]["now"]["pages"] == 1  # the operator's own is none of the app's
    assert (await dashboard.message("push"))["data"]["moment"]["at"] > stats["moment"]["at"]
    dashboard.send(ping(0))
    assert (await dashboard.message("beat"))["ends_in"] <= SHIFT
    assert await desk.ids("?search=token") == []


async def test_an_operator_gets_no_session_of_the_app(desk: Desk) -> None:
    cookie = (await desk.ask("/operator", "POST")).headers["Set-Cookie"].partition(";")[0]
    name, _, value = cookie.partition("=")
    assert name == COOKIE
    for presented in cookie, f"keepalive={value}":
        answer = await desk._operator.get("/whoami", headers={"Cookie": presented})
        assert answer.json is None
    # Nor does what opens the socket open the API.
    answer = await desk._operator.get(f"{API}/stats", headers={"Cookie": cookie})
    assert answer.status == 401


@pytest.mark.parametrize("cookie", ["", f"{COOKIE}=", f"{COOKIE}=forged"])
async def test_nobody_else_opens_the_dashboards_socket(desk: Desk, cookie: str) -> None:
    page = await desk._operator.page("/keepalive/admin/ws", Cookie=cookie or None)
    assert await ended(page) == ("unknown", 4504)


async def test_a_user_of_the_app_does_not_open_it(desk: Desk) -> None:
    ann, _ = await desk.user("ann")
    assert await ended(await ann.page("/keepalive/admin/ws")) == ("unknown", 4504)


async def test_the_socket_of_another_origin_is_refused(desk: Desk) -> None:
    cookie = (await desk.ask("/operator", "POST")).headers["Set-Cookie"].partition(";")[0]
    page = await desk._operator.page("/keepalive/admin/ws", Cookie=cookie, Origin="https://evil.example")
    assert page.status == 403


async def test_a_shift_is_over_when_it_is_over(open_desk: MakeDesk, clock: VirtualClock) -> None:
    desk = await open_desk()
    cookie = (await desk.ask("/operator", "POST")).headers["Set-Cookie"].partition(";")[0]
    await clock.advance(SHIFT - 1)
    page = await desk._operator.page("/keepalive/admin/ws", Cookie=cookie)
    assert 0 < (await page.message("hello"))["ends_in"] <= 1
    await clock.advance(2)
    assert await ended(page) == ("absolute", 4502)
    page = await desk._operator.page("/keepalive/admin/ws", Cookie=cookie)
    assert await ended(page) == ("unknown", 4504)


async def test_who_signs_out_cannot_come_back(desk: Desk) -> None:
    cookie = (await desk.ask("/operator", "POST")).headers["Set-Cookie"].partition(";")[0]
    answer = await desk.ask("/operator", "DELETE", headers={"Cookie": cookie})
    assert answer.headers["Set-Cookie"].startswith(f'{COOKIE}=""')
    page = await desk._operator.page("/keepalive/admin/ws", Cookie=cookie)
    assert await ended(page) == ("logout", 4503)


async def test_who_signs_out_is_signed_out_of_all_workers(open_desk: MakeDesk, tmp_path: Path) -> None:
    one, two = [await open_desk(seat=Seat(name, tmp_path)) for name in ("0", "1")]
    cookie = (await one.ask("/operator", "POST")).headers["Set-Cookie"].partition(";")[0]
    await two.ask("/operator", "DELETE", headers={"Cookie": cookie})
    page = await one._operator.page("/keepalive/admin/ws", Cookie=cookie)
    assert await ended(page) == ("logout", 4503)


async def test_nodes_with_the_same_token_share_operators(open_desk: MakeDesk) -> None:
    one, two, three = await open_desk(), await open_desk(), await open_desk(token=TOKEN[::-1])
    cookie = (await one.ask("/operator", "POST")).headers["Set-Cookie"].partition(";")[0]
    page = await two._operator.page("/keepalive/admin/ws", Cookie=cookie)
    assert (await page.message())["type"] == "hello"
    page = await three._operator.page("/keepalive/admin/ws", Cookie=cookie)
    assert await ended(page) == ("unknown", 4504)


async def test_who_came_by_a_session_of_the_app_leaves_with_it(open_desk: MakeDesk) -> None:
    """The socket closes with the session that has opened it; it does not keep that alive, either."""

    async def authorize(request: web.Request) -> str | None:
        return (await get_session(request)).get("user")

    desk = await open_desk(authorize=authorize)
    ann, _ = await desk.user("ann")
    page = await ann.page("/keepalive/admin/ws")
    assert (await page.message())["type"] == "hello"
    assert (await page.message("push"))["data"]["nodes"]
    await ann.post("/logout")
    assert await ended(page) == ("logout", 4503)


# The description.


async def test_the_description_names_every_operation(desk: Desk) -> None:
    described = (await desk.ask("/openapi.json")).json
    assert described["openapi"].startswith("3.1")
    told = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    assert told == {(each.method, each.path) for each in OPERATIONS}
    references = set(_references(described))
    assert {f"#/components/schemas/{name}" for name in described["components"]["schemas"]} >= references


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from _references(each)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("examples", [4, pytest.param(40, marks=pytest.mark.slow)])
async def test_the_api_is_as_described(
    open_desk: MakeDesk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, examples: int
) -> None:
    """schemathesis makes requests from the description, good ones and bad ones, and judges the answers."""
    for limit in "REQUESTS", "GUESSES":  # it asks as fast as it can, and often without a token
        monkeypatch.setattr(access, limit, (1e6, 1e6))
    desk = await open_desk()
    for name in "ann", "bob", "cid":
        await desk.user(name)
    url = f"http://127.0.0.1:{desk.port}{API}/openapi.json"
    process = await asyncio.create_subprocess_exec(
        *(str(SCHEMATHESIS), "run", url, "--header", f"Authorization: Bearer {TOKEN}"),
        *("--max-examples", f"{examples}", "--seed", "1", "--phases", "coverage,fuzzing,stateful"),
        *("--no-color", "--generation-database", "none"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(150):
            told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, told.decode()
    assert b"11 selected / 11 total" in told, told.decode()  # all but the description itself
