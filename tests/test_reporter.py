"""What a node tells of its pages, whatever the store does with it; in virtual time."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from keepalive.errors import StoreUnavailable
from keepalive.heart import Heart
from keepalive.presence import KEPT, Online, Presence, Report, SessionPresence
from keepalive.reporter import SLICE, Reporter
from keepalive.stores.memory_roll import MemoryRoll
from keepalive.touchers import key_of

from .fakes import FakePage, World, settle


class FaultyRoll(MemoryRoll):
    """Keeps what it was told, and fails on demand."""

    def __init__(self, world: World) -> None:
        super().__init__(world.clock.wall, lambda key: None)
        self.reports: list[Report] = []
        self.error: Exception | None = None
        """Raised instead of an answer,"""
        self.lost: set[int] = set()
        """as are these, though what they told has arrived; counted from 0."""

    async def report(self, report: Report) -> bool:
        self.reports.append(report)
        if self.error is not None:
            raise self.error
        taken = await super().report(report)
        if len(self.reports) - 1 in self.lost:
            raise StoreUnavailable("the answer was lost")
        return taken

    async def leave(self, node: str) -> None:
        if self.error is not None:
            raise self.error
        await super().leave(node)

    def told(self) -> list[Report]:
        """All reports since the last call."""
        reports, self.reports = self.reports, []
        return reports


class Node:
    """A heart that reports."""

    def __init__(self, world: World, roll: FaultyRoll) -> None:
        self.world = world
        self.roll = roll
        self.reporter = self.another(world.heart)

    def another(self, heart: Heart) -> Reporter:
        return Reporter(self.roll, heart, lambda: b"figures")

    async def report(self) -> list[Report]:
        """What goes out in one report."""
        self.roll.told()
        await self.reporter.report()
        return self.roll.told()

    async def totals(self) -> Presence:
        return await self.roll.presence()


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    world = await World().start()
    yield Node(world, FaultyRoll(world))
    await world.stop()


def lines(*reports: Report) -> set[Online]:
    return {line for report in reports for line in report.lines}


def online(name: str, pages: int, user: str | None = None) -> Online:
    return Online(key_of(name), user, pages)


async def test_the_first_report_is_the_whole_roll(node: Node) -> None:
    await node.world.login("a", user="ann")
    for name in ("a", "a", "b"):
        await node.world.page(name)
    (report,) = await node.report()
    assert report.anew
    assert lines(report) == {online("a", 2, "ann"), online("b", 1)}
    assert (report.node, report.stats) == (node.world.heart.node, b"figures")
    assert await node.totals() == Presence(3, 2, 1, 1)


async def test_then_only_what_has_changed(node: Node) -> None:
    await node.world.page("a")
    leaving = await node.world.page("b")
    await node.report()
    await node.world.page("c")
    leaving.leave()
    (report,) = await node.report()
    assert not report.anew
    assert lines(report) == {online("b", 0), online("c", 1)}
    assert await node.totals() == Presence(2, 2, 0, 1)


async def test_where_nothing_has_changed_it_says_that_it_lives(node: Node) -> None:
    await node.world.page("a")
    await node.report()
    for _ in range(3):
        node.world.clock.advance(KEPT - 1)
        (report,) = await node.report()
        assert not report.lines
    assert await node.totals() == Presence(1, 1, 0, 1)


async def test_a_ping_is_nothing_to_report(node: Node) -> None:
    page = await node.world.page("a")
    await node.report()
    page.ping(0.0)
    await settle()
    assert page.beat.n == 1
    assert not node.world.heart.take_changes()


async def test_the_pages_of_an_ended_session_are_gone(node: Node) -> None:
    await node.world.page("a")
    await node.report()
    await node.world.end("a")
    (report,) = await node.report()
    assert lines(report) == {online("a", 0)}
    assert await node.totals() == Presence(0, 0, 0, 1)


async def test_a_page_that_came_and_went_leaves_nothing(node: Node) -> None:
    await node.report()
    (await node.world.page("a")).leave()
    await node.report()
    assert await node.totals() == Presence(0, 0, 0, 1)


async def test_a_roll_that_the_store_has_lost_is_told_anew_at_once(node: Node) -> None:
    await node.world.page("a")
    await node.report()
    node.world.clock.advance(KEPT)
    await node.world.page("b")
    differences, roll = await node.report()
    assert (differences.anew, roll.anew) == (False, True)
    assert lines(roll) == {online("a", 1), online("b", 1)}
    assert await node.totals() == Presence(2, 2, 0, 1)


@pytest.mark.parametrize("arrives", [False, True])
async def test_after_a_failure_the_roll_is_told_anew(node: Node, arrives: bool) -> None:
    """Nobody knows what became of the report that failed."""
    await node.world.page("a")
    await node.report()
    await node.world.page("b")
    if arrives:
        node.roll.lost = {0}
    else:
        node.roll.error = StoreUnavailable("down")
    await node.report()
    node.roll.lost, node.roll.error = set(), None
    (roll,) = await node.report()
    assert roll.anew
    assert await node.totals() == Presence(2, 2, 0, 1)
    (report,) = await node.report()
    assert not report.anew


async def test_a_report_that_comes_late_changes_nothing(node: Node) -> None:
    """A store that hung takes it when it wakes up, perhaps after the next one."""
    page = await node.world.page("a")
    await node.report()
    page.leave()
    back = await node.world.page("b")
    node.roll.error = StoreUnavailable("hangs")
    (late,) = await node.report()
    node.roll.error = None
    back.leave()
    await node.report()
    assert not await node.roll.report(late)
    assert await node.totals() == Presence(0, 0, 0, 1)


async def test_a_large_roll_goes_in_slices(node: Node) -> None:
    names = [str(number) for number in range(2 * SLICE + 1)]
    for name in names:
        await node.world.page(name)
    reports = await node.report()
    assert [len(report.lines) for report in reports] == [SLICE, SLICE, 1]
    assert [report.anew for report in reports] == [True, False, False]
    assert await node.totals() == Presence(len(names), len(names), 0, 1)


@pytest.mark.parametrize("slice_", [0, 1, 2])
async def test_a_roll_that_broke_off_is_told_anew(node: Node, slice_: int) -> None:
    names = [str(number) for number in range(2 * SLICE + 1)]
    for name in names:
        await node.world.page(name)
    node.roll.lost = {slice_}
    assert len(await node.report()) == slice_ + 1
    node.roll.lost = set()
    assert len(await node.report()) == 3
    assert await node.totals() == Presence(len(names), len(names), 0, 1)


async def test_an_outage_is_one_line_in_the_log(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        caplog.clear()
        node.roll.error = StoreUnavailable("Redis does not answer")
        for _ in range(5):
            await node.report()
        (line,) = caplog.records
        assert line.levelno == logging.WARNING
        assert line.getMessage().endswith("trying again: Redis does not answer")
        assert line.exc_info is None
        node.roll.error = None
        await node.report()
        assert len(caplog.records) == 1


async def test_what_nobody_had_foreseen_is_told_with_its_traceback(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.roll.error = ZeroDivisionError("a bug")
    await node.report()
    (line,) = caplog.records
    assert line.exc_info


async def test_a_node_takes_its_leave(node: Node) -> None:
    await node.world.page("a")
    await node.report()
    await node.reporter.leave(asyncio.get_running_loop().time() + 1)
    assert await node.totals() == Presence(0, 0, 0, 0)


@pytest.mark.parametrize("error", [StoreUnavailable("down"), ZeroDivisionError("a bug")])
async def test_a_leave_that_fails_is_nobodys_trouble(node: Node, error: Exception) -> None:
    await node.report()
    node.roll.error = error
    await node.reporter.leave(asyncio.get_running_loop().time() + 1)
    node.world.clock.advance(KEPT)
    assert await node.totals() == Presence(0, 0, 0, 0)


async def test_two_nodes_have_two_names(node: Node) -> None:
    heart = Heart(node.world.toucher, node.world.clock)
    await node.world.page("a")
    ticket, read_at = await node.world.ticket("a")
    FakePage(heart, ticket, read_at, node.world.clock.monotonic)
    await node.report()
    await node.another(heart).report()
    assert await node.totals() == Presence(2, 1, 0, 2)
    assert await node.roll.presence_of(key_of("a")) == SessionPresence(2, None)
