"""`MemoryRoll`: who is here, of one process: that of a `MemoryStore`, and of sessions that others keep."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeVar

from ..presence import KEPT, Online, Presence, Report, SessionPresence

T = TypeVar("T")


class _Node:
    """One node, as it has told."""

    def __init__(self) -> None:
        self.number = 0
        self.until = 0.0
        self.stats = b""
        self.online: dict[bytes, Online] = {}


class MemoryRoll:
    """A `Roll` that needs nothing.

    Args:
        now: the wall time.
        idle: seconds since the last input of a session, where that is known.
    """

    def __init__(self, now: Callable[[], float], idle: Callable[[bytes], float | None]) -> None:
        self._now = now
        self._idle = idle
        self._nodes: dict[str, _Node] = {}
        self._total = 0
        """How many pages there are,"""
        self._pages: Counter[bytes] = Counter()
        """how many each session has,"""
        self._users: Counter[str] = Counter()
        """and how many sessions each user; one on two nodes counts twice."""

    async def report(self, report: Report) -> bool:
        nodes = self._alive()
        node = nodes.get(report.node)
        if report.anew:
            if node is not None:
                if report.number <= node.number:
                    return False
                self._drop(report.node)
            node = nodes[report.node] = _Node()
        elif node is None or report.number != node.number + 1:
            return False
        for line in report.lines:
            if (before := node.online.pop(line.key, None)) is not None:
                self._count(before, -1)
            if line.pages:
                node.online[line.key] = line
                self._count(line, 1)
        node.number, node.stats, node.until = report.number, report.stats, self._now() + KEPT
        return True

    async def leave(self, node: str) -> None:
        if node in self._alive():
            self._drop(node)

    async def presence(self) -> Presence:
        nodes = self._alive()
        return Presence(self._total, len(self._pages), len(self._users), len(nodes))

    async def presence_of(self, key: bytes) -> SessionPresence:
        self._alive()
        return SessionPresence(self._pages[key], self._idle(key))

    async def nodes(self) -> Mapping[str, bytes]:
        return {name: node.stats for name, node in self._alive().items()}

    def _alive(self) -> dict[str, _Node]:
        """The nodes; those that have died are taken out."""
        now = self._now()
        for name in [name for name, node in self._nodes.items() if node.until <= now]:
            self._drop(name)
        return self._nodes

    def _drop(self, name: str) -> None:
        for line in self._nodes.pop(name).online.values():
            self._count(line, -1)

    def _count(self, line: Online, sign: int) -> None:
        self._total += sign * line.pages
        _add(self._pages, line.key, sign * line.pages)
        if line.user is not None:
            _add(self._users, line.user, sign)


def _add(counter: Counter[T], what: T, count: int) -> None:
    """Count on; of what comes to nothing, nothing is kept."""
    counter[what] += count
    if not counter[what]:
        del counter[what]
