"""A thousand pages and more over twelve hours, and every end of theirs held against the policy."""

from collections.abc import Mapping
from math import inf
from random import Random
from typing import Any, NamedTuple, cast

import pytest
from aiohttp_session import AbstractStorage

from keepalive import Hooks, Limits, Mode, Policy, Reason
from keepalive.live import Page as LivePage
from keepalive.messages import Ping
from keepalive.testing import KeepaliveServer, OpenPage, Page, Server, VirtualClock
from keepalive.touchers import Left

PAGES = {1: 1000} | dict.fromkeys(range(2, 10), 200)
"""For each seed: one crowd that a server may have, and others that live otherwise."""
HOURS = 12
STEP = 601.7  # so that nothing happens at a deadline
LATE = 0.35
"""How late a deadline may be told: two turns of the server's wheel, and the rounding of its seconds."""
POLICIES = {
    mode: Policy(mode=mode, ping_interval=300, idle_timeout=1800, absolute_timeout=absolute, touch_every=600)
    for mode, absolute in ((Mode.PRESENCE, 6 * 3600), (Mode.ACTIVITY, 4 * 3600), (Mode.OBSERVE, 3 * 3600))
}


class Expected:
    """What a session's life has to be, by the words of the policy and nothing else."""

    def __init__(self, policy: Policy, now: float) -> None:
        self.policy = policy
        self.idle_at = now + policy.idle_timeout
        self.absolute_at = now + (policy.absolute_timeout or inf)

    def pinged(self, now: float, idle: float | None) -> None:
        if self.policy.mode is Mode.PRESENCE:
            self._extend(now, now)
        elif self.policy.mode is Mode.ACTIVITY and idle is not None:
            self._extend(now, now - idle)

    def requested(self, now: float) -> None:
        self._extend(now, now)

    def _extend(self, now: float, since: float) -> None:
        if now < self.ends_at:
            self.idle_at = max(self.idle_at, since + self.policy.idle_timeout)

    @property
    def ends_at(self) -> float:
        return min(self.idle_at, self.absolute_at)

    @property
    def reason(self) -> Reason:
        return Reason.IDLE if self.idle_at < self.absolute_at else Reason.ABSOLUTE


class User(NamedTuple):
    tab: Page
    key: bytes
    expected: Expected


def choose(session: Mapping[str, Any]) -> Policy:
    return POLICIES[Mode(session["user"].split()[0])]


@pytest.mark.parametrize(("seed", "pages"), PAGES.items())
async def test_every_end_is_the_policys(
    seed: int, pages: int, keepalive_server: KeepaliveServer, page: OpenPage, clock: VirtualClock
) -> None:
    random = Random(seed)
    users: dict[str, User] = {}

    def on_ping(page: LivePage, ping: Ping) -> None:
        if (user := users.get(page.live.user or "")) is not None:
            user.expected.pinged(clock.monotonic(), ping.idle)

    server = await keepalive_server(
        policy=cast(Any, choose), hooks=Hooks(on_ping=on_ping), limits=Limits(pages_per_address=2 * pages)
    )
    for number in range(pages):
        mode = list(POLICIES)[number % 3]
        name = f"{mode} {number}"
        tab = await page(name)
        key = await server.keepalive.door.key(server.request(tab.cookies))
        assert key is not None
        users[name] = User(tab, key, Expected(POLICIES[mode], clock.monotonic()))
    began = clock.monotonic()
    in_time = 0
    for _ in range(round(HOURS * 3600 / STEP)):
        reachable = [user for user in users.values() if await live(user, server, clock, random)]
        await clock.advance(STEP)
        for user in users.values():
            await check(user, server, clock)
        for tab, _, expected in reachable:
            if expected.ends_at < clock.monotonic() - LATE:
                assert tab.ended_after is not None
                assert 0 <= began + tab.ended_after - expected.ends_at < LATE, tab.timeline
                in_time += 1
    assert in_time > pages / 4
    for tab, _, expected in users.values():
        assert expected.ends_at < clock.monotonic(), "in twelve hours each of them is over"
        assert tab.gone or tab.reason == expected.reason or not (tab.online and tab.visible), tab.timeline
    assert {tab.reason for tab, _, _ in users.values()} == {"idle", "absolute", None}


async def live(user: User, server: Server, clock: VirtualClock, random: Random) -> bool:
    """What may happen to a page, and what its user may do, every ten minutes.

    Returns:
        Whether the page runs, and has a socket, for all of the next ten.
    """
    tab, what = user.tab, random.random()
    if what < 0.2:  # the app's own request
        storage = cast(AbstractStorage, server.keepalive.door)
        await storage.load_session(server.request(tab.cookies))
        user.expected.requested(clock.monotonic())
    if tab.gone or tab.state == "ended" or tab.asleep:
        return False
    if tab.state == "frozen":
        tab.resume()
        return False
    if not tab.online:
        if what < 0.5:
            tab.go_online()
        return False
    if what < 0.6:
        tab.show()
        tab.input()
    elif what < 0.7:
        tab.hide()
    elif what < 0.86:
        away = [lambda: tab.sleep(random.uniform(10, 3000)), tab.freeze, tab.go_offline, tab.close, tab.crash]
        random.choices(away, [5, 5, 4, 2, 1])[0]()
        return False
    return tab.state == "open"


async def check(user: User, server: Server, clock: VirtualClock) -> None:
    """The store says the same as the policy, but for what it will be told within `touch_every`."""
    left = await server.keepalive.door.toucher.peek(user.key)
    remains = user.expected.ends_at - clock.monotonic()
    if isinstance(left, Left):
        assert remains > -LATE
        assert left.idle <= remains + LATE
    else:
        assert remains < LATE
        assert left is user.expected.reason
