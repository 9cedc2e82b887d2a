"""`SqliteStore`: sessions in one SQLite file, shared by the processes of one machine."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, TypeVar

from msgspec import json

from ..clock import Clock
from ..errors import StoreError, StoreUnavailable
from ..policy import Policy, Reason
from ..touchers import Left, News, Pushed, Touch
from . import Record, check_user
from .lifetime import KEEP_OVER, Lifetime, changes
from .sqlite_file import read_reason
from .sqlite_roll import SqliteRoll
from .sqlite_thread import Safety, SqliteThread
from .watches import Watches, pack

_FIND = """
SELECT last_seen, last_active, idle_at, absolute_at, ended_at, reason, closes_at, pages
FROM sessions
WHERE key = ?
"""
_LOAD = """
SELECT last_seen, last_active, idle_at, absolute_at, ended_at, reason, closes_at, pages, user, created, data
FROM sessions LEFT JOIN contents USING (key)
WHERE key = ?
"""
# A batch takes two statements, however long it is, and each gives one row at most: between any two
# rows sqlite3 lets go of the GIL, and under a busy event loop each return of it takes up to 5 ms.
# JSON cannot hold bytes, so the keys come as one blob beside it, 32 bytes each.
_FIND_BATCH = """
SELECT json_group_array(
    json_array(line.value, last_seen, last_active, idle_at, absolute_at, ended_at, reason, closes_at, pages)
)
FROM json_each(:lines) AS line
JOIN sessions ON sessions.key = substr(:keys, 1 + 32 * line.value, 32)
"""
_MOVE_BATCH = """
UPDATE sessions
SET last_seen = :now,
    last_active = json_extract(line.value, '$[0]'),
    idle_at = json_extract(line.value, '$[1]'),
    closes_at = json_extract(line.value, '$[2]'),
    pages = json_extract(line.value, '$[3]')
FROM json_each(:lines) AS line
WHERE sessions.key = substr(:keys, 1 + 32 * line.key, 32)
"""
# A sweep goes through the sessions in slices, by key, and pauses between them: whoever waits for the
# write lock, in this process or another, must not have to wait for all of it.
_SLICE = 500
"""How many sessions a sweep looks at in one transaction; 20 ms even if all of them have expired."""
_PAUSE = 0.025
"""For how long, in seconds, a sweep then leaves the file to others."""

_NEXT_SLICE = """
SELECT count(*), max(key) FROM (SELECT key FROM sessions WHERE key > ? ORDER BY key LIMIT ?)
"""
_EMPTY = """
DELETE FROM contents
WHERE key IN (
    SELECT key FROM sessions
    WHERE key > :after AND key <= :last AND min(idle_at, coalesce(closes_at, idle_at)) <= :now
)
"""
# What has been emptied stays over, for this reason, though the clock be set back.
_CLOSE = """
UPDATE sessions
SET reason = CASE
    WHEN closes_at < idle_at THEN 'logout' WHEN absolute_at <= idle_at THEN 'absolute' ELSE 'idle'
END, user = NULL
WHERE key > :after AND key <= :last
    AND reason IS NULL AND min(idle_at, coalesce(closes_at, idle_at)) <= :now
"""
# Lifetime.forgettable, for a slice.
_FORGET = """
DELETE FROM sessions
WHERE key > :after AND key <= :last
    AND coalesce(ended_at, idle_at) <= :long_ago AND (absolute_at IS NULL OR absolute_at <= :now)
"""
# Every end has a tombstone that stays as long, so there are as many slices as this needs.
_FORGET_ENDS = """
DELETE FROM ends
WHERE number IN (SELECT number FROM ends ORDER BY number LIMIT :slice) AND ended_at <= :long_ago
"""
# Other processes look for pushes many times a second; one that has not done so for so many seconds
# has missed them. A process that is alone writes none down.
_PUSHES_STAY = 10.0
_PUBLISH = """
INSERT INTO pushes (batch, published_at)
SELECT :batch, :now WHERE EXISTS (SELECT 1 FROM nodes WHERE name IS NOT :node)
"""
_FORGET_PUSHES = "DELETE FROM pushes WHERE published_at <= ?"

Result = TypeVar("Result")


class SqliteStore:
    """A `SessionStore` in a file, with a write-ahead log.

    `create`, `rotate`, `end` and `end_user` survive a power cut, all else the death of the
    process. Ends and pushes of other processes are seen within a tenth of a second.

    Args:
        path: the database file; made, with its folder, when the store is opened first.
        clock: whose wall time decides.
    """

    forgets = False

    def __init__(self, path: str | Path, clock: Clock) -> None:
        self.path = Path(path).absolute()
        self._clock = clock
        self._watches = Watches()
        self._thread: SqliteThread | None = None
        self.roll = SqliteRoll(self._run, clock.wall, lambda db, key: _idle(db, clock.wall(), key))

    async def open(self) -> None:
        thread = SqliteThread(self.path, self._watches)
        await thread.start()
        self._thread = thread

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.stop()
        self._watches.finish()

    async def create(self, key: bytes, *, data: bytes, user: str | None, policy: Policy) -> Left:
        check_user(user)

        def work(db: sqlite3.Connection) -> Left:
            return _create(db, self._clock.wall(), key, data=data, user=user, policy=policy)

        return await self._run(work, Safety.FULL)

    async def load(self, key: bytes) -> Record | Reason:
        def work(db: sqlite3.Connection) -> Record | Reason:
            row = db.execute(_LOAD, (key,)).fetchone()
            if row is None:
                return Reason.UNKNOWN
            *times, user, created, data = row
            left = _lifetime(times).left(self._clock.wall())
            return left if isinstance(left, Reason) else Record(data, user, _seconds(created), left)

        return await self._run(work, Safety.READ)

    async def save(self, key: bytes, *, data: bytes, user: str | None) -> Left | Reason:
        check_user(user)

        def work(db: sqlite3.Connection) -> Left | Reason:
            left = _left(db, self._clock.wall(), key)
            if isinstance(left, Left):
                db.execute("UPDATE sessions SET user = ? WHERE key = ? AND user IS NOT ?", (user, key, user))
                db.execute("UPDATE contents SET data = ? WHERE key = ?", (data, key))
            return left

        return await self._run(work, Safety.NORMAL)

    async def peek(self, key: bytes) -> Left | Reason:
        return await self._run(lambda db: _left(db, self._clock.wall(), key), Safety.READ)

    async def touch(self, batch: Sequence[Touch]) -> Sequence[Left | Reason]:
        safety = Safety.NORMAL if any(map(changes, batch)) else Safety.READ
        asked_at = self._clock.wall()
        return await self._run(lambda db: _touch(db, self._clock.wall(), batch, asked_at), safety)

    async def end(self, key: bytes, reason: Reason) -> bool:
        return await self._run(lambda db: _end(db, self._clock.wall(), [key], reason) == 1, Safety.FULL)

    async def rotate(self, old: bytes, new: bytes, *, data: bytes, user: str | None, policy: Policy) -> Left:
        check_user(user)

        def work(db: sqlite3.Connection) -> Left:
            now = self._clock.wall()
            left = _create(db, now, new, data=data, user=user, policy=policy)
            _end(db, now, [old], Reason.ROTATED)
            return left

        return await self._run(work, Safety.FULL)

    async def end_user(self, user: str, reason: Reason, *, keep: bytes | None = None) -> int:
        check_user(user)

        def work(db: sqlite3.Connection) -> int:
            keys = db.execute(
                "SELECT key FROM sessions WHERE user = ? AND key IS NOT ?", (user, keep)
            ).fetchall()
            return _end(db, self._clock.wall(), [key for (key,) in keys], reason)

        return await self._run(work, Safety.FULL)

    async def publish(self, batch: Sequence[Pushed]) -> None:
        def work(db: sqlite3.Connection) -> None:
            now = self._clock.wall()
            db.execute(_FORGET_PUSHES, (_micros(now - _PUSHES_STAY),))
            db.execute(_PUBLISH, {"batch": pack(batch), "now": _micros(now), "node": batch[0].origin})

        if batch:
            await self._run(work, Safety.NORMAL)

    async def sweep(self) -> int:
        forgotten, after = 0, b""
        while True:
            gone, last = await self._run(partial(_sweep, now=self._clock.wall(), after=after), Safety.NORMAL)
            forgotten += gone
            if last is None:
                return forgotten
            after = last
            await asyncio.sleep(_PAUSE)

    def watch(self) -> AsyncIterator[News]:
        thread = self._running()
        watch = self._watches.add()
        # The thread may be asleep. Whatever is asked of it after this, it watches before it answers.
        thread.submit(lambda db: None, Safety.READ)
        return watch

    def _running(self) -> SqliteThread:
        if self._thread is None:
            raise StoreUnavailable("the session store is not open", "await open() first")
        return self._thread

    async def _run(self, work: Callable[[sqlite3.Connection], Result], safety: Safety) -> Result:
        return await self._running().submit(work, safety)


def _create(
    db: sqlite3.Connection, now: float, key: bytes, *, data: bytes, user: str | None, policy: Policy
) -> Left:
    if db.execute("SELECT 1 FROM sessions WHERE key = ?", (key,)).fetchone():
        raise StoreError("a session with this key exists", "make a fresh random id for every session")
    life = Lifetime.begin(now, policy)
    db.execute(
        "INSERT INTO sessions (key, user, created, last_seen, last_active, idle_at, absolute_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            key,
            user,
            _micros(now),
            _micros(life.last_seen),
            _micros(life.last_active),
            _micros(life.idle_at),
            _micros(life.absolute_at),
        ),
    )
    db.execute("INSERT INTO contents (key, data) VALUES (?, ?)", (key, data))
    return Left(life.idle_at - now, life.absolute_at - now)


def _find(db: sqlite3.Connection, key: bytes) -> Lifetime | None:
    row = db.execute(_FIND, (key,)).fetchone()
    return None if row is None else _lifetime(row)


def _left(db: sqlite3.Connection, now: float, key: bytes) -> Left | Reason:
    life = _find(db, key)
    return Reason.UNKNOWN if life is None else life.left(now)


def _idle(db: sqlite3.Connection, now: float, key: bytes) -> float | None:
    life = _find(db, key)
    return None if life is None or life.over(now) else now - life.last_active


def _touch(
    db: sqlite3.Connection, now: float, batch: Sequence[Touch], asked_at: float
) -> list[Left | Reason]:
    keys = list(dict.fromkeys(line.key for line in batch))
    lines = json.encode(list(range(len(keys)))).decode()
    (found,) = db.execute(_FIND_BATCH, {"lines": lines, "keys": b"".join(keys)}).fetchone()
    lives = {keys[number]: _lifetime(times) for number, *times in json.decode(found)}
    results = [
        lives[line.key].touch(now, line, asked_at) if line.key in lives else Reason.UNKNOWN for line in batch
    ]
    moved = {
        line.key: lives[line.key]
        for line, result in zip(batch, results, strict=True)
        if isinstance(result, Left) and changes(line)
    }
    if moved:
        values = [
            (_micros(life.last_active), _micros(life.idle_at), _micros(life.closes_at), " ".join(life.pages))
            for life in moved.values()
        ]
        lines = json.encode(values).decode()
        db.execute(_MOVE_BATCH, {"now": _micros(asked_at), "lines": lines, "keys": b"".join(moved)})
    return results


def _end(db: sqlite3.Connection, now: float, keys: Iterable[bytes], reason: Reason) -> int:
    """Turn those sessions that live into tombstones, without data or user; how many they were."""
    ended = 0
    for key in keys:
        life = _find(db, key)
        if life is not None and life.end(now, reason):
            ended += 1
            at = _micros(now)
            db.execute(
                "UPDATE sessions SET ended_at = ?, reason = ?, user = NULL WHERE key = ?", (at, reason, key)
            )
            db.execute("DELETE FROM contents WHERE key = ?", (key,))
            db.execute("INSERT INTO ends (key, reason, ended_at) VALUES (?, ?, ?)", (key, reason, at))
    return ended


def _sweep(db: sqlite3.Connection, now: float, after: bytes) -> tuple[int, bytes | None]:
    """Sweep the slice of keys above `after`: how many records went, and the last key if more follow."""
    count, last = db.execute(_NEXT_SLICE, (after, _SLICE)).fetchone()
    values = {
        "now": _micros(now),
        "long_ago": _micros(now - KEEP_OVER),
        "after": after,
        "last": last,
        "slice": _SLICE,
    }
    db.execute(_EMPTY, values)
    db.execute(_CLOSE, values)
    db.execute(_FORGET_ENDS, values)
    db.execute(_FORGET_PUSHES, (_micros(now - _PUSHES_STAY),))
    return db.execute(_FORGET, values).rowcount, last if count == _SLICE else None


def _lifetime(times: Sequence[Any]) -> Lifetime:
    """From the first eight columns of `_FIND` and its like."""
    last_seen, last_active, idle_at, absolute_at, ended_at, reason, closes_at, pages = times
    return Lifetime(
        _seconds(last_seen),
        _seconds(last_active),
        _seconds(idle_at),
        inf if absolute_at is None else _seconds(absolute_at),
        None if ended_at is None else _seconds(ended_at),
        None if reason is None else read_reason(reason),
        inf if closes_at is None else _seconds(closes_at),
        tuple(pages.split()),
    )


def _micros(seconds: float) -> int | None:
    return None if seconds == inf else round(seconds * 1e6)


def _seconds(micros: int) -> float:
    return micros / 1e6
