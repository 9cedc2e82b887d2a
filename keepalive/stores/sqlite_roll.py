"""`SqliteRoll`: who is here, over the processes that share a SQLite file.

Triggers count whatever a report inserts and deletes, in its transaction, so that the totals are one row to
read. All of it is soft state: what a power cut takes back, the processes tell anew.
"""

import sqlite3
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from msgspec import json

from ..presence import KEPT, Presence, Report, SessionPresence
from .sqlite_thread import Safety

# Each is one statement, however many lines a report has; sqlite.py tells why.
_TAKE_OUT = """
DELETE FROM online
WHERE node = :node AND key IN (SELECT substr(:keys, 1 + 32 * line.key, 32) FROM json_each(:lines) AS line)
"""
_PUT_IN = """
INSERT INTO online (node, key, user, pages)
SELECT :node, substr(:keys, 1 + 32 * line.key, 32),
    json_extract(line.value, '$[0]'), json_extract(line.value, '$[1]')
FROM json_each(:lines) AS line
WHERE json_extract(line.value, '$[1]') > 0
"""
_RENEW = """
INSERT INTO nodes (name, number, until, stats) VALUES (:node, :number, :until, :stats)
ON CONFLICT (name) DO UPDATE SET number = excluded.number, until = excluded.until, stats = excluded.stats
"""
# To take out a node takes about 10 microseconds for each of its sessions.
_SLICE = 300
_CLEAR = """
DELETE FROM online
WHERE node = :node AND key IN (SELECT key FROM online WHERE node = :node LIMIT :slice)
"""
_TOTALS = "SELECT pages, sessions, users, (SELECT count(*) FROM nodes) FROM presence"

Result = TypeVar("Result")


class _Run(Protocol):
    """How a piece of work gets to the database."""

    async def __call__(self, work: Callable[[sqlite3.Connection], Result], safety: Safety) -> Result: ...


class SqliteRoll:
    """A `Roll` in the tables that sqlite_file.py has for it.

    Args:
        run: runs a piece of work on the database.
        now: the wall time.
        idle: seconds since the last input of a session that lives, by the database.
    """

    def __init__(
        self,
        run: _Run,
        now: Callable[[], float],
        idle: Callable[[sqlite3.Connection, bytes], float | None],
    ) -> None:
        self._run = run
        self._now = now
        self._idle = idle

    async def report(self, report: Report) -> bool:
        while True:
            await self._tidy()
            taken = await self._run(lambda db: _take(db, self._now(), report), Safety.NORMAL)
            if taken is not None:
                return taken

    async def leave(self, node: str) -> None:
        await self._run(lambda db: _drop(db, node), Safety.NORMAL)
        await self._tidy()

    async def presence(self) -> Presence:
        return await self._read(lambda db: Presence(*db.execute(_TOTALS).fetchone()))

    async def presence_of(self, key: bytes) -> SessionPresence:
        def work(db: sqlite3.Connection) -> SessionPresence:
            row = db.execute("SELECT pages FROM online_sessions WHERE key = ?", (key,)).fetchone()
            return SessionPresence(0 if row is None else row[0], self._idle(db, key))

        return await self._read(work)

    async def nodes(self) -> Mapping[str, bytes]:
        return await self._read(lambda db: dict(db.execute("SELECT name, stats FROM nodes").fetchall()))

    async def _read(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        await self._tidy()
        return await self._run(work, Safety.READ)

    async def _tidy(self) -> None:
        """Take out the nodes that have died, in slices: who touches must not have to wait for all of it."""
        while await self._run(lambda db: _dead(db, self._now()), Safety.READ) is not None:
            await self._run(lambda db: _clear(db, self._now()), Safety.NORMAL)


def _take(db: sqlite3.Connection, now: float, report: Report) -> bool | None:
    """Whether the report was taken; `None` if the node's last roll has to be taken out first."""
    row = db.execute("SELECT number, until FROM nodes WHERE name = ?", (report.node,)).fetchone()
    if row is not None and row[1] <= _micros(now):  # has died just now, and may be half taken out
        return None
    if report.anew:
        if row is not None and report.number > row[0]:
            _drop(db, report.node)
            return None
        if row is not None:
            return False
    elif row is None or report.number != row[0] + 1:
        return False
    if report.lines:
        lines = {
            "node": report.node,
            "keys": b"".join(line.key for line in report.lines),
            "lines": json.encode([(line.user, line.pages) for line in report.lines]).decode(),
        }
        db.execute(_TAKE_OUT, lines)
        db.execute(_PUT_IN, lines)
    until = _micros(now + KEPT)
    db.execute(_RENEW, {"node": report.node, "number": report.number, "until": until, "stats": report.stats})
    return True


def _dead(db: sqlite3.Connection, now: float) -> str | None:
    """A node that has died."""
    row = db.execute("SELECT name FROM nodes WHERE until <= ? LIMIT 1", (_micros(now),)).fetchone()
    return None if row is None else row[0]


def _drop(db: sqlite3.Connection, node: str) -> None:
    """From now on the node counts as dead, whatever becomes of the clock."""
    db.execute("UPDATE nodes SET until = 0 WHERE name = ?", (node,))


def _clear(db: sqlite3.Connection, now: float) -> None:
    """Take out a slice of a dead node's sessions; with the last of them, the node."""
    node = _dead(db, now)  # whoever was dead before this transaction may have reported anew
    if node is None:
        return
    _drop(db, node)
    if db.execute(_CLEAR, {"node": node, "slice": _SLICE}).rowcount < _SLICE:
        db.execute("DELETE FROM nodes WHERE name = ?", (node,))


def _micros(seconds: float) -> int:
    return round(seconds * 1e6)
