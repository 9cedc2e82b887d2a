"""Two nodes and Redis on hosts of their own, and what pages see when packets between them are lost.

A partition is no end of anything: nobody is signed out by it, and nobody lives longer.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from signal import SIGKILL
from typing import NamedTuple

import pytest
from aiohttp import ClientSession

from .hosts import Host, Link, Network, network
from .nodes import Node, Visitor, sign_in, until, who
from .raw import DEADLINE
from .redis import RedisServer, redis_server
from .test_nodes import INTERVAL, SECRET

pytestmark = pytest.mark.timeout(120)

WAIT = 1.0
"""The longest that a ping may go without an answer, in seconds,"""
SLOW = 0.4
"""and what is allowed to a machine that is busy."""
PATIENCE = 2.0
"""After how much more than two intervals of silence a page tries anew, in seconds."""


class Place(NamedTuple):
    """A node and its links."""

    node: Node
    host: Host
    to_redis: Link
    to_pages: Link


class Machines(NamedTuple):
    """A Redis, and the network to put nodes into."""

    net: Network
    redis: RedisServer
    on: Host

    @asynccontextmanager
    async def nodes(self, *options: str) -> AsyncIterator[Sequence[Place]]:
        """Two of them; every ping asks Redis."""
        rules = ("--ping-interval", "1", "--touch-every", "0", *options)
        async with AsyncExitStack() as stack:
            places = []
            for name in ("one", "two"):
                host = self.net.host()
                to_redis = Link(f"{name}-redis", host, self.on)
                to_pages = Link(f"{name}-pages", host, self.net.here)
                node = Node(self.redis.url, SECRET, *rules, host=host)
                places.append(Place(node, host, to_redis, to_pages))
                stack.push_async_callback(node.stop, SIGKILL)
            await asyncio.gather(*(place.node.start() for place in places))
            yield places

    def reached_from(self, place: Place) -> bool:
        return place.host.reaches(self.on.address, self.redis.port)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    with network() as net:
        on = net.host()
        Link("redis-pages", on, net.here)
        with redis_server(tmp_path, host=on) as redis:
            yield Machines(net, redis, on)


@asynccontextmanager
async def visiting(*visits: tuple[Place, str]) -> AsyncIterator[list[Visitor]]:
    """Pages that have had a beat: one for each node and cookie."""
    async with ClientSession() as http:
        pages = [Visitor(http, place.node.url, cookie, PATIENCE) for place, cookie in visits]
        tasks = [asyncio.create_task(page.stay(INTERVAL)) for page in pages]
        try:
            await until(lambda: all(page.beats for page in pages))
            yield pages
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [error for error in results if isinstance(error, Exception)] == []


async def test_a_node_without_redis_makes_its_pages_wait(machines: Machines) -> None:
    async with machines.nodes("--idle-timeout", "30") as (one, two):
        ann, *others = [await sign_in(one.node.url, f"user {number}") for number in range(10)]
        visits = [(two, ann), *((two, cookie) for cookie in others), (one, others[0])]
        async with visiting(*visits) as pages:
            out, *far, near = pages
            two.to_redis.cut()
            assert not machines.reached_from(two)
            assert machines.reached_from(one)
            beats = near.beats
            await until(lambda: all(page.waits >= 4 for page in (out, *far)))
            assert near.beats > beats
            assert near.waits == 0
            assert max(page.slowest for page in pages) < WAIT + SLOW

            async with (
                ClientSession() as http,
                http.post(f"{one.node.url}/logout", headers={"Cookie": ann}) as answer,
            ):
                assert answer.status == 200
            assert await who(one.node.url, ann) is None
            waits = out.waits
            await until(lambda: out.waits >= waits + 2)
            assert out.end is None  # it cannot know
            beats, before = out.beats, [page.beats for page in far]

            two.to_redis.heal()
            await until(lambda: out.end is not None)
            assert out.end is not None
            assert out.end[0] == "logout"
            assert out.beats == beats  # at the latest one touch after the heal, so before any
            await until(lambda: all(page.beats > old for page, old in zip(far, before, strict=True)))
            assert machines.reached_from(two)
            assert [(page.end, page.closed) for page in (*far, near)] == [(None, [])] * 10
            assert [await who(one.node.url, cookie) is not None for cookie in others] == [True] * 9


async def test_nothing_outlives_its_absolute_deadline_behind_a_cut(machines: Machines) -> None:
    lifetime = 5.0
    async with machines.nodes("--idle-timeout", f"{lifetime}", "--absolute-timeout", f"{lifetime}") as (
        one,
        two,
    ):
        cookie = await sign_in(one.node.url, "ann")
        over_at = asyncio.get_running_loop().time() + lifetime
        async with visiting((two, cookie)) as (page,):
            two.to_redis.cut()
            assert not machines.reached_from(two)
            await until(lambda: page.waits >= 3)
            beats = page.beats
            await asyncio.sleep(over_at - asyncio.get_running_loop().time())
            assert await who(one.node.url, cookie) is None
            async with (
                ClientSession() as http,
                http.get(f"{two.node.url}/whoami", headers={"Cookie": cookie}) as answer,
            ):
                assert answer.status == 503
            waits = page.waits
            await until(lambda: page.waits >= waits + 2)
            assert (page.beats, page.end) == (beats, None)
            two.to_redis.heal()
            await until(lambda: page.end is not None)
            assert page.end is not None
            assert page.end[0] == "absolute"
            assert page.beats == beats


async def test_a_cut_between_a_page_and_its_node_is_the_pages_matter(machines: Machines) -> None:
    async with machines.nodes("--idle-timeout", "30") as (one, two):
        cookie = await sign_in(one.node.url, "ann")
        async with visiting((one, cookie), (two, cookie)) as (near, far):
            two.to_pages.cut()
            assert not machines.net.here.reaches(two.host.address, two.node.port)
            assert machines.reached_from(two)
            beats = near.beats
            await until(lambda: near.beats >= beats + 4)
            await until(lambda: far.reconnects > 0)  # it has heard nothing for so long
            assert far.waits == 0
            assert await who(one.node.url, cookie) == "ann"
            beats = far.beats
            two.to_pages.heal()
            await until(lambda: far.beats > beats)
            async with asyncio.timeout(4 * DEADLINE):  # the one that was cut off is not kept
                while await two.node.sockets() > 1:
                    await asyncio.sleep(0.1)
            assert (near.end, near.closed, far.end) == (None, [], None)
