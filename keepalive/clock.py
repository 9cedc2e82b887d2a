"""Wall and monotonic time, injected everywhere; no other module calls `time.*`."""

import time
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """Two readings of time, both in seconds."""

    def wall(self) -> float:
        """Seconds since the epoch. Deadlines that are stored are wall times."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back, and counts suspended time where
        the machine can tell. Deadlines that live in memory are monotonic times."""


# A machine that slept must find its deadlines passed: CLOCK_BOOTTIME goes on while it sleeps,
# CLOCK_MONOTONIC does not. Not every platform has it.
_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class SystemClock:
    """The machine's own clocks."""

    def __init__(self) -> None:
        self.wall = time.time
        self.monotonic = time.monotonic if _BOOTTIME is None else partial(time.clock_gettime, _BOOTTIME)


class ManualClock:
    """A clock that stands still until a test moves it.

    Args:
        wall: the wall time to begin with, in seconds since the epoch.
    """

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self._wall = wall
        self._monotonic = 1000.0

    def wall(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both readings on by `seconds`, which must not be negative."""
        if seconds < 0:
            raise ValueError("time does not go back; to shift only the wall clock use jump()")
        self._wall += seconds
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Move only the wall clock, as an operator or NTP does; may go back."""
        self._wall += seconds
