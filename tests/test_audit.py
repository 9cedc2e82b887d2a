"""The audit log: each event once, what it says, and that nothing in it can pass for anything else."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keepalive import KEEPALIVE, KeepaliveError, Policy, Reason, admin, audit
from keepalive.clock import ManualClock
from keepalive.touchers import key_of

from .conftest import Browse, Serve
from .fakes import World, settle
from .raw import ping
from .test_web import ended, make_app, signed_in

TOKEN = "a-token-for-tests-of-44-characters-in-length"
NASTY = 'ann"\n{"event": "admin"}\r\x1b[2J\x00\u2028'


class Kept(logging.Handler):
    """What an app's own handler would see."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []
        self.setFormatter(audit.JsonLine())

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        assert line.isprintable() and line.isascii()
        self.lines.append(json.loads(line))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    level, disabled = audit.log.level, audit.log.disabled
    audit.log.addHandler(handler)
    audit.log.setLevel(logging.INFO)
    audit.log.disabled = False
    yield handler
    audit.log.removeHandler(handler)
    audit.log.setLevel(level)
    audit.log.disabled = disabled


async def test_a_life_in_lines(serve: Serve, browse: Browse, kept: Kept) -> None:
    port = (await serve(app := make_app())).port
    ann = await signed_in(browse, port, "ann")
    page = await ann.page()
    page.send(ping(0))
    await page.message("beat")
    await ann.post("/login?user=bob")
    await ann.post("/logout")
    login, again, end = kept.lines
    assert {line["node"] for line in kept.lines} == {app[KEEPALIVE].figures().name}
    assert login.pop("timestamp").endswith("Z")
    assert (login["event"], login["user"]) == ("login", "ann")
    assert (login["address"], login["idle_timeout"]) == ("127.0.0.1", 1800)
    assert login["ends_in"] == pytest.approx(43200, abs=5)
    assert "former" not in login
    assert (again["user"], again["former"]) == ("bob", login["session"])
    assert {name: end[name] for name in ("event", "session", "user", "reason", "address")} == {
        "event": "end",
        "address": "127.0.0.1",
        "session": again["session"],
        "user": "bob",
        "reason": "logout",
    }


async def test_ends_by_the_app(serve: Serve, browse: Browse, kept: Kept) -> None:
    app = make_app()
    port = (await serve(app)).port
    ann, other = await signed_in(browse, port, "ann"), await signed_in(browse, port, "ann")
    page = await ann.page()
    await page.message("hello")
    await ann.post("/end?reason=revoked")
    await ended(page)
    await ann.post("/end?reason=revoked")  # it is over already
    await other.post("/end_others?user=ann")
    (end,), (all_of_them,) = kept.of("end"), kept.of("end_user")
    assert (end["reason"], end["user"], end["session"]) == ("revoked", "ann", kept.of("login")[0]["session"])
    assert end["address"] == "127.0.0.1"
    assert (all_of_them["user"], all_of_them["sessions"], all_of_them["reason"]) == ("ann", 0, "revoked")
    assert all_of_them["kept"] == kept.of("login")[1]["session"]
    assert app[KEEPALIVE].counts.ends[Reason.REVOKED] == 1


async def test_an_end_is_one_line_wherever_its_pages_are(
    serve: Serve, browse: Browse, kept: Kept, tmp_path: Path
) -> None:
    """And says whose session it was, though the one that ends it has no page of it."""
    one, two = (make_app(f"sqlite:///{tmp_path}/sessions.db") for _ in range(2))
    browser = await signed_in(browse, (await serve(one)).port, "ann")
    pages = [await browser.page() for _ in range(2)]
    for page in pages:
        await page.message("hello")
    await serve(two)
    (key,) = one[KEEPALIVE].heart.lives
    await two[KEEPALIVE].end(key, Reason.REVOKED)
    for page in pages:
        assert await ended(page) == ("revoked", 4506)
    (login,), (end,) = kept.of("login"), kept.of("end")
    assert (end["user"], end["session"], end["reason"]) == ("ann", login["session"], "revoked")


async def test_a_deadline_is_a_line_of_each_node_with_pages(kept: Kept) -> None:
    """It passes by itself, and each tells its own pages: who counts sessions counts these once."""
    one = await World(Policy(idle_timeout=180)).start()
    two = one.beside()
    two.heart.start()
    for world in (one, two, two):
        await world.page("ann")
    for _ in range(4):
        await one.advance(46)
        two.heart.tick()
        await settle()
    for event in "warning", "end":
        assert [line["session"] for line in kept.of(event)] == 2 * [key_of("ann")[:8].hex()]
    await two.heart.stop()
    await one.stop()


async def test_a_deadline_without_pages_is_no_line(serve: Serve, browse: Browse, kept: Kept) -> None:
    """Not even where somebody asks again and again: that changes nothing."""
    clock = ManualClock()
    ann = await signed_in(browse, (await serve(make_app(clock=clock))).port, "ann")
    assert (await ann.post("/keepalive/heartbeat")).json["type"] == "beat"
    clock.advance(1800)
    for _ in range(2):
        assert (await ann.post("/keepalive/heartbeat")).json["reason"] == "idle"
    assert kept.of("end") == []


async def test_what_an_operator_did_says_to_whom(serve: Serve, browse: Browse, kept: Kept) -> None:
    app = make_app()
    admin.mount(app, app[KEEPALIVE], token=TOKEN)
    operator = await browse((await serve(app)).port)
    for token in TOKEN, "wrong":
        headers = {"Authorization": f"Bearer {token}"}
        await operator.post("/keepalive/admin/api/users/ann/push", headers=headers, json={"data": 1})
    known, stranger = kept.of("admin")
    assert (known["action"], known["status"], known["user"]) == ("push_user", 200, "ann")
    # Of strangers there is nothing that they could fill the log with.
    assert (stranger["action"], stranger["status"], stranger.get("user")) == ("push_user", 401, None)


async def test_a_session_without_a_user_starts(kept: Kept) -> None:
    audit.began(key_of("id"), None, former=None, address="", idle=60.0, ends_in=float("inf"))
    (line,) = kept.lines
    del line["timestamp"], line["node"]
    assert line == {"event": "start", "session": key_of("id")[:8].hex(), "idle_timeout": 60.0}


async def test_warnings_extensions_and_deadlines(kept: Kept) -> None:
    world = await World(Policy(mode="activity", idle_timeout=180)).start()
    await world.login("ann", user="ann")
    page = await world.page("ann")

    async def away(seconds: int) -> None:
        for since in range(25, seconds, 25):
            await world.advance(25)
            page.ping(idle=float(since))
            await settle()

    await away(150)
    (warning,) = kept.of("warning")
    assert (warning["why"], warning["user"]) == ("idle", "ann")
    page.ping(idle=0.0)
    await settle()
    (extension,) = kept.of("extension")
    assert (extension["one_in"], extension["user"]) == (1, "ann")
    assert extension["expires_in"] == pytest.approx(180, abs=1)
    await away(250)
    assert page.reason is Reason.IDLE
    (end,) = kept.of("end")
    assert (end["reason"], end["user"], end["session"]) == ("idle", "ann", key_of("ann")[:8].hex())
    await world.stop()


def test_extensions_are_sampled(kept: Kept) -> None:
    for _ in range(100 * audit.SAMPLE):
        audit.extended(bytes(32), "ann", expires_in=1.0, after_warning=False)
    assert 30 < len(kept.lines) < 200
    assert kept.lines[0]["one_in"] == audit.SAMPLE


def test_nothing_in_a_line_can_pass_for_anything_else(kept: Kept) -> None:
    audit.ended(bytes(32), NASTY, reason="logout")
    audit.log.info("admin", extra={"operator": NASTY, "what": object})
    assert [line.get("user", line.get("operator")) for line in kept.lines] == [NASTY, NASTY]


def test_when_nobody_listens_it_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit.log, "disabled", True)
    monkeypatch.setattr(audit, "_tell", lambda *_, **__: pytest.fail("it was told"))
    audit.began(bytes(32), "ann", former=None, address="", idle=1.0, ends_in=1.0)
    audit.warned(bytes(32), "ann", why="idle", expires_in=1.0)
    audit.extended(bytes(32), "ann", expires_in=1.0, after_warning=True)
    audit.ended(bytes(32), "ann", reason="idle")
    audit.ended_all("ann", reason="revoked", count=1)


def test_it_goes_to_a_file_of_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    handlers, propagate = audit.log.handlers[:], audit.log.propagate
    try:
        audit.configure(str(path))
        audit.log.setLevel(logging.INFO)
        audit.ended(bytes(32), "ann", reason="logout")
        audit.log.handlers[-1].close()
        assert json.loads(path.read_text())["user"] == "ann"
        assert path.stat().st_mode & 0o777 == 0o600
        audit.configure(None)
        assert not audit.on()
    finally:
        audit.log.handlers[:] = handlers
        audit.log.propagate, audit.log.disabled = propagate, False


def test_a_file_that_cannot_be_written_is_told_at_start(tmp_path: Path) -> None:
    propagate = audit.log.propagate
    try:
        with pytest.raises(KeepaliveError, match=r"No such file or directory.*name a file"):
            audit.configure(str(tmp_path / "missing" / "audit.log"))
    finally:
        audit.log.propagate = propagate
