"""The heart's tallies against a recount, whatever happens; and nothing is left behind."""

import asyncio
from collections import Counter
from collections.abc import Collection
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from keepalive.heart import LET_IN, REMEMBER_ENDS, TICK, Heart
from keepalive.limits import Limits
from keepalive.live import Page
from keepalive.policy import Policy, Reason
from keepalive.presence import Presence
from keepalive.reporter import Reporter
from keepalive.touchers import key_of

from .fakes import FakePage, World, settle

POLICY = Policy(
    idle_timeout=30,
    absolute_timeout=100,
    warn_before=8,
    ping_interval=9,
    touch_every=3,
    end_after_last_page=5,
)
ROOM = Limits(pages_per_session=3)
USERS = [None, "ann", "ann", "bob"]
ADDRESSES = ["192.0.2.1", "192.0.2.2"]
CODES = [1000, 1001, 1006, 4000]

actions = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(0, 3), st.integers(0, 1), st.integers(0, 5)),
        st.tuples(st.sampled_from(["open", "open", "fail", "ping"]), st.integers(0, 9)),
        st.tuples(st.just("close"), st.integers(0, 9), st.sampled_from(CODES)),
        st.tuples(st.just("end"), st.integers(0, 3), st.sampled_from([Reason.LOGOUT, Reason.ROTATED])),
        st.tuples(st.just("store"), st.sampled_from(["down", "up", "hold", "release"])),
        st.tuples(st.just("advance"), st.sampled_from([0.125, 1.0, 5.0, 12.0, 40.0])),
        st.tuples(st.just("part")),
    ),
    min_size=20,
    max_size=80,
)


class Crowd:
    """Pages that come and go, in all the ways there are."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.heart._limits = ROOM
        self.coming: list[FakePage] = []
        self.here: list[FakePage] = []
        self.all: list[Page] = []
        self.names = [f"s{slot}" for slot in range(len(USERS))]

    async def join(self, slot: int, address: str, name: str) -> None:
        """As a handshake does once the store has let it in."""
        while isinstance(left := await self.world.left(self.names[slot]), Reason):
            if left is not Reason.UNKNOWN:
                self.names[slot] += "'"
            await self.world.login(self.names[slot], USERS[slot])
        ticket, read_at = await self.world.ticket(self.names[slot])
        page = FakePage(self.world.heart, ticket, read_at, self.world.clock.monotonic, name, address=address)
        self.coming.append(page)
        self.all.append(page.page)

    async def do(self, action: tuple[Any, ...]) -> None:
        world = self.world
        match action:
            case "join", slot, address, name:
                await self.join(slot, ADDRESSES[address], f"p{name}")
            case "open", index if self.coming:
                page = self.coming.pop(index % len(self.coming))
                page.open()
                self.here.append(page)
            case "fail", index if self.coming:  # the client has gone before it got the 101
                world.heart.leave(self.coming.pop(index % len(self.coming)).page)
            case "ping", index if self.here:
                self.here[index % len(self.here)].ping(0.0)
            case "close", index, code if self.here:
                page = self.here.pop(index % len(self.here))
                page.leave(page.closed or code)
            case "end", slot, reason:
                await world.store.end(key_of(self.names[slot]), reason)
            case "store", "down":
                world.toucher.down()
            case "store", "hold":
                world.toucher.answers.clear()
            case "store", _:
                self.mend()
            case "advance", seconds:
                self.mend()
                await settle()
                await world.advance(seconds)
            case ("part",):
                await world.heart.part(0.0)

    def mend(self) -> None:
        self.world.toucher.up()
        self.world.toucher.answers.set()

    def check(self) -> None:
        """The tallies are what a count by hand gives."""
        heart = self.world.heart
        counted = [page for page in self.all if page in page.live.pages]
        assert heart.pages == len(counted)
        assert dict(heart.addresses) == Counter(page.address for page in counted)
        users = {user: set(pages) for user, pages in heart.users.items()}
        assert users == {user: {page for page in counted if page.live.user == user} for user in users}
        assert sum(map(len, heart.users.values())) == sum(page.live.user is not None for page in counted)
        for live in heart.lives.values():
            assert len([page for page in live.pages if page.n >= 0]) <= ROOM.pages_per_session


@settings(max_examples=150, deadline=None)
@given(actions)
async def test_the_tallies_match_a_recount(walk: list[tuple[Any, ...]]) -> None:
    world = await World(POLICY).start()
    crowd = Crowd(world)
    try:
        for action in walk:
            await crowd.do(action)
            crowd.check()
            await settle()
            crowd.check()
        crowd.mend()
        for page in crowd.coming:
            world.heart.leave(page.page)
        for page in crowd.here:
            page.leave(page.closed or 1006)
        crowd.check()
        assert not world.heart.pages
        await world.advance(2.0)
        assert empty(world.heart, but={"_deadlines", "_silent", "_old_ends", "_ends", "_changed"})
    finally:
        crowd.mend()
        await world.stop()


def empty(heart: Heart, but: Collection[str] = ()) -> bool:
    """Whether a heart holds nothing: no session, no page, no address, no user."""
    sizes = {}
    for name, value in vars(heart).items():
        if hasattr(value, "turn"):
            sizes[name] = len(list(value))
        elif hasattr(value, "__len__"):
            sizes[name] = len(value)
    assert {"_lives", "_queue", "_unanswered", "_ends", "_silent", "addresses", "users"} <= set(sizes)
    left = {name: size for name, size in sizes.items() if size and name not in {*but, "_hooks", "node"}}
    assert left == {}
    return heart.pages == 0


async def test_ten_thousand_sessions_come_and_go_and_nothing_is_left() -> None:
    world = await World(Policy(idle_timeout=600, end_after_last_page=20, touch_every=30)).start()
    reporter = Reporter(world.store.roll, world.heart, bytes)
    random = Random(7)
    for round_ in range(20):
        pages = []
        for number in range(500):
            name = f"{round_}-{number}"
            await world.login(name, f"user {number}")
            ticket, read_at = await world.ticket(name)
            page = FakePage(
                world.heart, ticket, read_at, world.clock.monotonic, "p", address=f"192.0.2.{number}"
            )
            pages.append(page)
            if number % 10:
                page.open()
                page.ping(0.0)
        await settle()
        await reporter.report()
        assert (await world.store.roll.presence()).pages == 500
        for number, page in enumerate(pages):
            match random.choice(["close", "lose", "end"]) if number % 10 else "fail":
                case "fail":
                    world.heart.leave(page.page)
                case "end":
                    await world.store.end(page.page.live.key, Reason.REVOKED)
                case how:
                    page.leave(1001 if how == "close" else 1006)
        await settle()
        await reporter.report()
        assert await world.store.roll.presence() == Presence(0, 0, 0, 1)
    await world.advance(max(REMEMBER_ENDS, 62), step=1)
    assert empty(world.heart)
    roll = world.store.roll
    (node,) = roll._nodes.values()
    assert not (node.online or roll._pages or roll._users or roll._total)
    await world.stop()


async def test_two_drains_and_a_stop_at_once_while_pages_come() -> None:
    world = await World(POLICY).start()
    heart = world.heart
    heart._limits = Limits(pages_per_session=10_000)
    await world.login("a")
    ticket, read_at = await world.ticket("a")
    pages: list[FakePage] = []

    def come(count: int) -> None:
        new = [FakePage(heart, ticket, read_at, world.clock.monotonic, "p") for _ in range(count)]
        pages.extend(new)

    come(6 * round(LET_IN * TICK))  # six turns
    for page in pages[::2]:
        page.open()
    drains = [asyncio.create_task(heart.part(10.0)) for _ in range(2)]
    await settle()
    stopping = asyncio.create_task(heart.stop(10.0))
    await settle()
    assert 0 < heart.pages < len(pages)
    come(10)
    await asyncio.gather(*drains, stopping)
    assert {page.closed for page in pages[:-10]} == {1012}
    assert heart.pages == 10
    for page in pages:  # as web.py has it: who comes while it closes is closed with the handshake
        page.leave(1012)
    await settle()
    assert empty(heart, but={"_silent", "_deadlines", "_changed"})
    await world.store.close()
