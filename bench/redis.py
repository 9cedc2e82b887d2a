"""What a Redis does for many nodes: `python -m bench.redis redis://127.0.0.1:6379`.

Prints how long an end takes from one store to the watch of another, how many touches one core of Redis takes
in a second, and what it costs to know who is online. Two keys a session, under a prefix of its own; they stay
until Redis forgets them.
"""

import asyncio
import sys
from secrets import token_bytes, token_hex
from statistics import median
from time import perf_counter

from redis.asyncio import Redis

from keepalive.policy import Policy, Reason
from keepalive.presence import Online, Report
from keepalive.reporter import SLICE
from keepalive.stores import SessionStore, open_store
from keepalive.touchers import Touch

SESSIONS, BATCH, ROUNDS, ENDS = 15_000, 200, 5, 1_000
NODES, JOINS, ASKED = 3, 500, 200
DATA = b"x" * 200
POLICY = Policy(idle_timeout=60, ping_interval=20, absolute_timeout=600)


async def main(url: str) -> None:
    prefix = f"bench-{token_hex(4)}:"
    here, there = (open_store(f"{url}?prefix={prefix}") for _ in range(2))
    await here.open()
    await there.open()
    await ends(here, there)
    async with Redis.from_url(url) as redis:
        await touches(here, redis)
        await presence(here, redis)
    await here.close()
    await there.close()


async def ends(here: SessionStore, there: SessionStore) -> None:
    """From the call of `end` in one store until the watch of another has heard of it."""
    heard = there.watch()
    took = []
    for _ in range(ENDS):
        key = token_bytes(32)
        await here.create(key, data=DATA, user=None, policy=POLICY)
        began = perf_counter()
        ending = asyncio.create_task(here.end(key, Reason.LOGOUT))
        assert (await anext(heard)).key == key
        took.append((perf_counter() - began) * 1000)
        await ending
    took.sort()
    print(
        f"{ENDS} ends: p50 {median(took):.2f} ms, p99 {took[ENDS * 99 // 100]:.2f} ms, max {took[-1]:.2f} ms"
    )


async def touches(store: SessionStore, redis: Redis) -> None:
    """All sessions, so many a batch, one batch after the other."""
    keys = [token_bytes(32) for _ in range(SESSIONS)]
    for start in range(0, SESSIONS, 10):
        await asyncio.gather(
            *(store.create(key, data=DATA, user=None, policy=POLICY) for key in keys[start : start + 10])
        )
    began, busy = perf_counter(), await cpu(redis)
    for _ in range(ROUNDS):
        for start in range(0, SESSIONS, BATCH):
            await store.touch([Touch(key, 60.0, 0.0) for key in keys[start : start + BATCH]])
    took, busy = perf_counter() - began, await cpu(redis) - busy
    count = SESSIONS * ROUNDS
    print(
        f"{count} touches in batches of {BATCH}: {count / took:,.0f} a second by one caller;"
        f" {busy / count * 1e6:.1f} µs of Redis each: {count / busy:,.0f} a second on one core of it"
    )


async def presence(store: SessionStore, redis: Redis) -> None:
    """Nodes that report a page of a user each for all their sessions, one node after the other."""
    before = (await redis.info("memory"))["used_memory"]
    for count in range(1, NODES + 1):
        node = Node(store, f"node {count}")
        began, busy = perf_counter(), await cpu(redis)
        await node.join(SESSIONS, anew=True)
        took, busy = perf_counter() - began, await cpu(redis) - busy
        print(f"a roll of {SESSIONS}: {took:.2f} s, of which {busy * 1000:.0f} ms of Redis")
        if count in (1, NODES):
            await ask(store, redis, SESSIONS * count)
    spent = (await redis.info("memory"))["used_memory"] - before
    print(f"{spent / SESSIONS / NODES:.0f} bytes of Redis for each session online")
    busy = await cpu(redis)
    for _ in range(ASKED):
        await node.join(0)
    print(f"pages that stand still: {(await cpu(redis) - busy) / ASKED * 1e6:.0f} µs of Redis a report")
    busy = await cpu(redis)
    for _ in range(10):
        await node.join(JOINS)
    print(f"{JOINS} joins: {(await cpu(redis) - busy) / 10 * 1e6:,.0f} µs of Redis")
    leaving, waited, began = asyncio.create_task(store.roll.leave("node 1")), [], perf_counter()
    while not leaving.done():
        asked = perf_counter()
        await store.peek(bytes(32))
        waited.append((perf_counter() - asked) * 1000)
    took = (perf_counter() - began) * 1000
    told = f"{took:.0f} ms, in which others wait {median(waited):.1f} ms, at most {max(waited):.1f}"
    print(f"a node with {SESSIONS} sessions taken out: {told}")


async def ask(store: SessionStore, redis: Redis, users: int) -> None:
    """For the totals, one question after the other."""
    assert (await store.roll.presence()).users == users
    took, busy = [], await cpu(redis)
    for _ in range(ASKED):
        began = perf_counter()
        await store.roll.presence()
        took.append((perf_counter() - began) * 1000)
    busy = (await cpu(redis) - busy) / ASKED * 1e6
    told = f"median {median(took):.2f} ms, longest {max(took):.2f} ms, {busy:.0f} µs of Redis"
    print(f"presence() with {users} users: {told}")


class Node:
    """Tells the roll of pages that come, as a `Reporter` does."""

    def __init__(self, store: SessionStore, name: str) -> None:
        self._store = store
        self._name = name
        self._number = 0

    async def join(self, count: int, *, anew: bool = False) -> None:
        """So many pages more, each of another user; none is a report all the same."""
        for start in range(0, max(count, 1), SLICE):
            keys = [token_bytes(32) for _ in range(min(SLICE, count - start))]
            lines = [Online(key, key.hex(), 1) for key in keys]
            self._number += 1
            report = Report(self._name, self._number, lines, bytes(1000), anew and not start)
            assert await self._store.roll.report(report)


async def cpu(redis: Redis) -> float:
    """Seconds of a core that Redis has used so far."""
    info = await redis.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
