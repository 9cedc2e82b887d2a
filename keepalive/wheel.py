"""A timer wheel: one timer for all deadlines of a kind, however many there are.

Pure; time is an argument. Deadlines here mostly move later, so nothing is ever rescheduled: what
comes due too early says when it wants to be asked again (Varghese & Lauck, "Hashed and
Hierarchical Timing Wheels", 1987, the simple scheme).
"""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import chain
from math import inf
from typing import Generic, TypeVar

T = TypeVar("T")

_ROUNDING = 0.01  # of a slot: at its very edge a division may give the one before


class Wheel(Generic[T]):
    """Hands each item to `on_time` when its time has come, never early.

    Args:
        now: monotonic seconds.
        on_time: called with the item and with what `turn` was given; returns when the item wants
            to be asked again, or `None` to be forgotten.
        resolution: how late a call may be, in seconds.
    """

    __slots__ = ("_on_time", "_order", "_resolution", "_slots", "_turned")

    def __init__(
        self, now: float, on_time: Callable[[T, float], float | None], resolution: float = 0.1
    ) -> None:
        self._on_time = on_time
        self._resolution = resolution
        self._slots: dict[int, list[T]] = {}
        self._order: list[int] = []  # a heap of the slots that there are
        self._turned = int(now / resolution)

    def add(self, item: T, when: float) -> None:
        """Have `item` called at `when`, or up to one resolution later."""
        slot = max(int(when / self._resolution), self._turned) + 1
        items = self._slots.get(slot)
        if items is None:
            self._slots[slot] = [item]
            heappush(self._order, slot)
        else:
            items.append(item)

    def __iter__(self) -> Iterator[T]:
        """All that waits; what was added more than once comes as often."""
        return chain.from_iterable(self._slots.values())

    @property
    def due(self) -> float:
        """By when the next of them is called, if `turn` is then; `inf` if nothing waits."""
        return (self._order[0] + _ROUNDING) * self._resolution if self._order else inf

    def turn(self, now: float) -> None:
        """Call all whose time has come, in the order of their times."""
        until = int(now / self._resolution)
        self._turned = max(self._turned, until)
        while self._order and self._order[0] <= until:
            for item in self._slots.pop(heappop(self._order)):
                again = self._on_time(item, now)
                if again is not None:
                    self.add(item, again)
