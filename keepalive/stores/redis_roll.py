"""`RedisRoll`: who is here, over all nodes that reach a Redis.

A report is counted as it comes in, by the script that takes it, so that whoever asks for the totals has to
wait for four numbers, however many are online.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Protocol

from ..presence import KEPT, Presence, Report, SessionPresence
from . import redis_scripts
from .redis_link import Script

_REPORT, _LEAVE, _PRESENCE, _PAGES, _STATS, _IDLE = map(
    Script.of,
    (
        redis_scripts.REPORT,
        redis_scripts.LEAVE,
        redis_scripts.PRESENCE,
        redis_scripts.PAGES,
        redis_scripts.STATS,
        redis_scripts.IDLE,
    ),
)


class _Run(Protocol):
    """How a script gets to Redis, with the time to go by as its first argument."""

    async def __call__(self, script: Script, keys: Sequence[str], *args: bytes | str) -> Any: ...


class RedisRoll:
    """A `Roll` in Redis. In a Cluster all of it is in one slot.

    Args:
        run: runs a script.
        prefix: what all keys begin with.
        keys_of: the names of a session's keys, its times first.
    """

    def __init__(self, run: _Run, prefix: str, keys_of: Callable[[bytes], list[str]]) -> None:
        self._run = run
        self._keys = [f"{prefix}{{online}}:{what}" for what in ("nodes", "sessions", "users")]
        self._keys_of = keys_of

    async def report(self, report: Report) -> bool:
        lines: list[bytes | str] = []
        for key, user, pages in report.lines:
            lines += (key, str(pages), b"" if user is None else sha256(user.encode()).digest()[:16])
        about = (report.node, str(report.number), "anew" if report.anew else "", report.stats)
        return bool(await self._ask(_REPORT, *about, f"{KEPT * 1e6:.0f}", *lines))

    async def leave(self, node: str) -> None:
        await self._ask(_LEAVE, node)

    async def presence(self) -> Presence:
        return Presence(*await self._ask(_PRESENCE))

    async def presence_of(self, key: bytes) -> SessionPresence:
        pages, idle = await asyncio.gather(self._ask(_PAGES, key), self._run(_IDLE, self._keys_of(key)[:1]))
        return SessionPresence(pages, None if idle is None else idle / 1e6)

    async def nodes(self) -> Mapping[str, bytes]:
        answer = iter(await self._ask(_STATS))
        return {name.decode(): stats for name, stats in zip(answer, answer, strict=True)}

    async def _ask(self, script: Script, *args: bytes | str) -> Any:
        """Run a script until there is nothing more of dead nodes to take out."""
        while (answer := await self._run(script, self._keys, *args)) is None:
            pass
        return answer
