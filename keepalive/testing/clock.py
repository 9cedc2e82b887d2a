"""`VirtualClock`: time that stands still until a test moves it, and then runs every timer in order.

Nothing is waited for: the clock jumps from one deadline to the next, and between two of them lets the
event loop do all that it can without time.
"""

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import floor, inf
from typing import Protocol

from ..clock import SystemClock
from ..errors import KeepaliveError

LEAST_STEP = 0.001
"""Seconds between two deadlines that are told apart; so time always moves on."""
PATIENCE = 10.0
"""How long, in seconds of the machine, the clock waits for what is under way without time."""
_ROUNDS = 5  # of the event loop


class Busy(Protocol):
    """What may be in the middle of something that takes no time."""

    @property
    def busy(self) -> bool: ...


class Timed(Busy, Protocol):
    """What has deadlines of its own: a server, a `keepalive.Heart`, or a pool of them."""

    @property
    def due(self) -> float:
        """When it wants its next `tick`, in monotonic seconds of its clock; `inf` for never."""

    def tick(self) -> None:
        """Do what has come due."""


class Wired(Protocol):
    """What has real sockets."""

    async def quiet(self) -> None:
        """Wait, on the machine's clock, for bytes that are on their way."""


class VirtualClock:
    """A `Clock` whose wall time begins with the machine's, at a full second."""

    def __init__(self) -> None:
        self._monotonic = 1000.0
        self._offset = floor(SystemClock().wall()) - self._monotonic
        self._timed: list[Timed] = []
        self._busy: list[Busy] = []
        self._wired: list[Wired] = []
        self._calls: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()  # of two calls for the same time, the earlier one comes first

    def wall(self) -> float:
        return self._monotonic + self._offset

    def monotonic(self) -> float:
        return self._monotonic

    def jump(self, seconds: float) -> None:
        """Move only the wall clock, as an operator or NTP does; may go back."""
        self._offset += seconds

    def drive(self, timed: Timed) -> None:
        """Run the deadlines of something that goes by this clock, such as a `keepalive.Heart` or `HeartPool`.

        While it is busy, time stands still.
        """
        self._timed.append(timed)
        self.await_rest(timed)

    def await_rest(self, busy: Busy) -> None:
        """Move on only while nothing is under way there."""
        self._busy.append(busy)

    def await_quiet(self, wired: Wired) -> None:
        """Move on only while no bytes are on their way there."""
        self._wired.append(wired)

    def call_at(self, when: float, callback: Callable[[], object]) -> None:
        """Call back at a monotonic time, or soon after it."""
        heappush(self._calls, (when, next(self._order), callback))

    async def advance(
        self, seconds: float = 0.0, *, minutes: float = 0.0, hours: float = 0.0, days: float = 0.0
    ) -> None:
        """Let time pass: each timer runs in its turn, at its time, and is over before the next one.

        Raises:
            ValueError: time does not go back; to shift only the wall clock use `jump`.
            KeepaliveError: something does not come to rest within 10 s of the machine's time.
        """
        seconds += 60 * minutes + 3600 * hours + 86400 * days
        if seconds < 0:
            raise ValueError("time does not go back; to shift only the wall clock use jump()")
        until = self._monotonic + seconds
        for _ in range(_ROUNDS):
            await asyncio.sleep(0)  # what the test itself has set off
        await self._run()
        while self._monotonic < until and (due := self._due()) <= until:
            self._monotonic = min(max(due, self._monotonic + LEAST_STEP), until)
            await self._run()
        self._monotonic = until

    def _due(self) -> float:
        due = self._calls[0][0] if self._calls else inf
        for timed in self._timed:
            due = min(due, timed.due)
        return due

    async def _run(self) -> None:
        """Do what has come due by now: the servers' part first, as theirs are the deadlines."""
        for timed in self._timed:
            timed.tick()
        while self._calls and self._calls[0][0] <= self._monotonic:
            heappop(self._calls)[2]()
        await self._settle()

    async def _settle(self) -> None:
        """Let the event loop do all that it can without time."""
        give_up_at = inf
        for rounds in count():
            if not self._is_busy():
                for each in self._wired:
                    await each.quiet()
                if not self._is_busy():
                    return
            now = asyncio.get_running_loop().time()
            if rounds == _ROUNDS:
                give_up_at = now + PATIENCE
            elif now > give_up_at:
                raise KeepaliveError(
                    f"time cannot go on: something takes over {PATIENCE:g} s",
                    "see what the app's hooks and the store wait for",
                )
            await asyncio.sleep(0 if rounds < 100 * _ROUNDS else LEAST_STEP)

    def _is_busy(self) -> bool:
        for each in self._busy:  # noqa: SIM110 - any() takes thrice as long, for every step
            if each.busy:
                return True
        return False
