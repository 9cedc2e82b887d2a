"""What a Redis does for many nodes: `python -m bench.redis redis://127.0.0.1:6379`.

Prints how long an end takes from one store to the watch of another, and how many touches one core of
Redis takes in a second. Two keys a session, under a prefix of its own; they stay until Redis forgets them.
"""

import asyncio
import sys
from secrets import token_bytes, token_hex
from statistics import median
from time import perf_counter

from redis.asyncio import Redis

from keepalive.policy import Policy, Reason
from keepalive.stores import SessionStore, open_store
from keepalive.touchers import Touch

SESSIONS, BATCH, ROUNDS, ENDS = 15_000, 200, 5, 1_000
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
    for start in range(0, SESSIONS, 50):
        await asyncio.gather(
            *(store.create(key, data=DATA, user=None, policy=POLICY) for key in keys[start : start + 50])
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


async def cpu(redis: Redis) -> float:
    """Seconds of a core that Redis has used so far."""
    info = await redis.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
