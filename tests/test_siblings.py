"""Several workers behind one port: whichever an operator reaches answers for all of them."""

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from keepalive.commands.remote import Remote
from keepalive.siblings import PATIENCE, Siblings
from keepalive.workers import Seat

from .conftest import Answer, Browse, Browser
from .raw import CLOSE, DEADLINE, RawPage, ping
from .test_server import Start, start

__all__ = ["start"]  # a fixture

API = "/keepalive/admin/api"
TOKEN = "a-token-for-tests-of-44-characters-in-length"
OFTEN = 8
"""So many questions reach both of two workers, but for one time in 128."""


class Port:
    """A port with two workers behind it. Each request comes by a connection of its own, to either."""

    def __init__(self, number: int, browse: Browse) -> None:
        self.number = number
        self._browse = browse

    async def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        told = {"Authorization": f"Bearer {TOKEN}", "Connection": "close"} | headers
        return await (await self._browse(self.number)).get(path, method=method, headers=told)

    async def told(self, query: str) -> dict[str, Any]:
        """A list that is the same whoever is asked, but for the time that passes; rows by their users."""
        answers = [(await self.ask(f"{API}/sessions{query}")).json for _ in range(OFTEN)]
        for answer in answers:
            answer["sessions"] = {
                row["user"]: {name: row[name] for name in ("id", "nodes", "pages", "visible", "addresses")}
                for row in answer["sessions"]
            }
        assert answers[1:] == answers[:-1]
        return dict(answers[0])

    async def nodes(self) -> dict[str, Any]:
        return {node["name"]: node for node in (await self.ask(f"{API}/stats")).json["nodes"]}

    async def user(self, name: str) -> tuple[Browser, RawPage]:
        browser = await self._browse(self.number)
        login = await browser.post("/login", data={"name": name}, headers={"Connection": "close"})
        assert login.status == 303
        return browser, await self.page(browser)

    async def page(self, browser: Browser) -> RawPage:
        page = await browser.page()
        page.send(ping(0, idle=1.0))
        await page.message("beat")
        return page

    async def spread(self, name: str) -> tuple[Browser, list[RawPage]]:
        """A user with pages at both workers."""
        browser, first = await self.user(name)
        pages = [first]
        async with asyncio.timeout(2 * DEADLINE):
            while len((await self.ask(f"{API}/sessions?user={name}")).json["sessions"][0]["nodes"]) < 2:
                pages.append(await self.page(browser))
        return browser, pages


@pytest.fixture
async def port(start: Start, browse: Browse, tmp_path: Path) -> Port:
    (tmp_path / "token").write_text(TOKEN)
    server = await start("--workers", "2", "--drain", "0", "--admin-token-file", str(tmp_path / "token"))
    return Port(server.port, browse)


async def test_whichever_is_asked_knows_all_sessions(port: Port) -> None:
    _, pages = await port.spread("ann")
    for name in "bob", "cid", "dan":
        await port.user(name)

    told = await port.told("")
    one, other = told["nodes"]
    assert (told["matches"], told["missing"], told["next"]) == (4, 0, None)
    assert told["sessions"].keys() == {"ann", "bob", "cid", "dan"}
    ann = told["sessions"]["ann"]
    assert (ann["nodes"], ann["pages"], ann["visible"]) == ([one, other], len(pages), len(pages))

    there = [(await port.told(f"?node={node}"))["sessions"] for node in (one, other)]
    assert [rows["ann"] for rows in there] == [ann, ann]  # its pages at the other as well
    assert sum(map(len, there)) == 5
    refused = await port.ask(f"{API}/sessions?node=elsewhere:1")
    assert (refused.status, refused.json["error"]) == (404, "this server has no such node")
    first = await port.told("?limit=3")
    rest = await port.told(f"?limit=3&cursor={first['next']}")
    assert first["sessions"] | rest["sessions"] == told["sessions"]
    assert (len(rest["sessions"]), rest["next"]) == (1, None)

    for _ in range(OFTEN):
        why = (await port.ask(f"{API}/sessions/{ann['id']}")).json
        assert (why["alive_by"], len(why["pages"]), why["session"]["pages"]) == (
            "page",
            len(pages),
            len(pages),
        )
        assert why["sentence"].startswith("Alive because an open page answers. The last ping came ")
    remote = Remote(f"http://127.0.0.1:{port.number}", TOKEN)
    for row in told["sessions"].values():
        assert await asyncio.to_thread(remote.session, row["id"][:12]) == row["id"]

    async with asyncio.timeout(DEADLINE):  # they look once a second
        for _ in range(OFTEN):
            while (nodes := await port.nodes()).keys() != {one, other}:
                await asyncio.sleep(0.1)
            assert all(node["this"] for node in nodes.values())


async def test_one_is_drained_and_then_all(port: Port, browse: Browse) -> None:
    """One leaves its new pages to the other. Of all, nobody takes a page, nor does one that comes later."""
    ann, pages = await port.spread("ann")
    kept = [await browse(port.number) for _ in range(OFTEN)]  # as a proxy keeps its connections
    assert {(await each.get("/readyz")).status for each in kept} == {200}
    one, other = (await port.ask(f"{API}/sessions")).json["nodes"]
    refused = await port.ask(f"{API}/drain?node=elsewhere:1", "POST")
    assert (refused.status, refused.json["error"]) == (404, "this server has no such node")

    drained = await port.ask(f"{API}/drain?node={one}", "POST")
    assert (drained.status, drained.json["nodes"]) == (202, [one])
    async with asyncio.timeout(DEADLINE):  # they look once a second
        while {name: node["draining"] for name, node in (await port.nodes()).items()} != {
            one: True,
            other: False,
        }:
            await asyncio.sleep(0.1)
    stay = [page for page in pages if await is_open(page)]
    assert 0 < len(stay) < len(pages)
    assert {(await each.get("/readyz")).status for each in kept} == {200}
    for _ in range(OFTEN):
        assert (await port.ask("/readyz")).status == 200
        stay.append(await port.page(ann))
    row = (await port.told(""))["sessions"]["ann"]
    assert (row["nodes"], row["pages"]) == ([other], len(stay))

    drained = await port.ask(f"{API}/drain", "POST")
    assert (drained.status, drained.json) == (202, {"nodes": [one, other], "pages": 0, "missing": 0})
    assert [await page.close_code() for page in stay] == [1012] * len(stay)

    async def turned_away() -> None:
        for _ in range(OFTEN):
            ready = await port.ask("/readyz")
            assert (ready.status, ready.body) == (503, b"draining\n")
            assert await (await ann.page()).close_code() == 1012

    await turned_away()
    os.kill(int(one.rpartition(":")[2]), signal.SIGKILL)
    async with asyncio.timeout(8 * DEADLINE):  # another starts after a pause, and then has to import
        while len(nodes := (await port.ask(f"{API}/sessions")).json["nodes"]) < 2 or one in nodes:
            await asyncio.sleep(0.05)
    await turned_away()
    assert (await ann.get("/whoami")).json["user"] == "ann"


async def is_open(page: RawPage) -> bool:
    """Whether a page has its beat; if not, it was sent away as by a restart."""
    page.send(ping(1))
    opcode, payload = await page.frame()
    assert opcode != CLOSE or int.from_bytes(payload[:2]) == 1012
    return opcode != CLOSE


# By themselves.


async def answered(told: bytes) -> bytes:
    return b"to " + told


async def test_a_process_by_itself_has_only_itself_to_ask() -> None:
    alone = Siblings()
    alone.answer("name", answered)
    alone.announce("notice")
    assert await alone.ask("name", b"you") == {"": b"to you"}
    assert not alone.announced("notice")


async def test_one_that_hangs_is_missing_and_one_that_is_gone_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seated = [Siblings(Seat(str(number), tmp_path)) for number in range(3)]
    running = [each.run(None) for each in seated]
    for each in running:
        await anext(each)

    async def broken(told: bytes) -> bytes:
        raise RuntimeError("this one is broken")

    async def slow(told: bytes) -> bytes:
        await asyncio.sleep(3 * PATIENCE)
        return told

    for worker, answer in zip(seated, (answered, broken, slow), strict=True):
        worker.answer("name", answer)
    monkeypatch.setattr("keepalive.siblings.PATIENCE", 0.1)
    with caplog.at_level(logging.ERROR):
        assert await seated[0].ask("name") == {"0": b"to ", "1": None, "2": None}
    assert "this one is broken" in caplog.text
    (tmp_path / "2.sock").unlink()
    (tmp_path / "2.sock").touch()  # as one leaves it that was killed
    seated[1].answer("name", answered)
    assert await seated[0].ask("name", b"all") == {"0": b"to all", "1": b"to all"}
    seated[0].announce("notice")
    assert seated[1].announced("notice") and not seated[1].announced("other")
    for each in running:
        await anext(each, None)
