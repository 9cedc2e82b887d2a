"""How often the store is asked: keepalive's real heart, driven by a clock that is moved by hand."""

import asyncio
import heapq
import random
from collections.abc import AsyncIterator, Sequence
from math import inf
from typing import NamedTuple

from keepalive.clock import ManualClock
from keepalive.heart import TICK, Heart
from keepalive.messages import Ping
from keepalive.policy import Policy, Reason
from keepalive.touchers import Ended, Left, Ticket, Touch


class Operations(NamedTuple):
    """What came of some simulated time."""

    sessions: int
    pages: int
    seconds: float
    pings: int
    touches: int
    """Sessions that the store was asked for."""
    batches: int
    """Round trips to the store."""
    touch_every: float

    @property
    def most(self) -> float:
        """How many touches there may be: one a session for every `touch_every`."""
        return self.sessions * self.seconds / self.touch_every


class _Store:
    """Counts what it is asked for; its sessions live as long as they are touched."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.touches = 0
        self.batches = 0

    async def touch(self, batch: Sequence[Touch]) -> list[Left | Reason]:
        self.batches += 1
        self.touches += len(batch)
        return [Left(self._policy.idle_timeout, inf)] * len(batch)

    async def peek(self, key: bytes) -> Left | Reason:
        raise NotImplementedError("a heart that only answers pings peeks at nothing")

    async def end(self, key: bytes, reason: Reason) -> bool:
        raise NotImplementedError("nor does it end anything")

    def watch(self) -> AsyncIterator[Ended]:
        raise NotImplementedError("and it was never started")


class _Socket:
    """A page that counts what it hears."""

    heard = 0

    def send(self, message: bytes) -> None:
        self.heard += 1

    def close(self, code: int, reason: str = "") -> None:
        raise AssertionError(f"a page was closed with {code}")


async def simulate(sessions: int, pages: int, seconds: float) -> Operations:
    """Let pages ping as browsers do, every interval give or take a tenth."""
    clock, policy, random_ = ManualClock(), Policy(absolute_timeout=None), random.Random(0)
    store = _Store(policy)
    heart = Heart(store, clock)  # not started: nothing ends by itself here
    sockets = [_Socket() for _ in range(pages)]
    began = clock.monotonic()
    due = []
    for number, socket in enumerate(sockets):
        key = (number % sessions).to_bytes(32)
        left = Left(policy.idle_timeout, inf)
        page = heart.join(Ticket(key, policy, None, left), socket, began)
        heart.on_open(page)
        due.append((began + random_.random() * policy.ping_interval, number, page))
    heapq.heapify(due)
    pings = 0
    while (now := clock.monotonic()) < began + seconds:
        while due[0][0] <= now:
            when, number, page = due[0]
            heart.on_ping(page, Ping(page.n + 1, idle=3.0), now)
            pings += 1
            again = when + policy.ping_interval * random_.uniform(0.9, 1.1)
            heapq.heapreplace(due, (again, number, page))
        heart.tick()
        for _ in range(3):  # the heart's task takes a batch, and has its answer
            await asyncio.sleep(0)
        clock.advance(TICK)
    heard = sum(socket.heard for socket in sockets)
    if heard != pages + pings:
        raise AssertionError(f"{pages} hellos and {pings} pings, but {heard} answers")
    return Operations(sessions, pages, seconds, pings, store.touches, store.batches, policy.touch_every)
