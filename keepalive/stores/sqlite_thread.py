"""`SqliteThread`: one thread, one connection, and everything that waits in one transaction."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from enum import IntEnum
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, TypeVar

from msgspec import MsgspecError

from ..errors import StoreError, StoreUnavailable
from ..touchers import Ended, News, Pushed
from .sqlite_file import BUSY_TIMEOUT, as_store_error, open_file, read_reason
from .watches import Watches, unpack

log = logging.getLogger(__name__)

_POLL = 0.05
"""How often, in seconds, a thread looks for what other processes have to say while someone watches."""
_LOOKS = round(0.25 / BUSY_TIMEOUT)
"""How often to look for the write lock: after a quarter second a ping must hear that it is in vain."""

_NEWEST = """
SELECT (SELECT coalesce(max(number), 0) FROM ends), (SELECT coalesce(max(number), 0) FROM pushes)
"""
_ENDS = "SELECT number, key, reason FROM ends WHERE number > ? ORDER BY number"
_PUSHES = "SELECT number, batch FROM pushes WHERE number > ? ORDER BY number"

Result = TypeVar("Result")


class Safety(IntEnum):
    """What a piece of work needs; the numbers of the writing ones are those of PRAGMA synchronous."""

    READ = 0
    """It only reads."""
    NORMAL = 1
    """Once acknowledged it survives the death of the process, but perhaps not of the power."""
    FULL = 2
    """It survives both."""


class _Job(NamedTuple):
    future: asyncio.Future[Any]
    work: Callable[[sqlite3.Connection], Any]
    safety: Safety


class _Outcome(NamedTuple):
    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


class SqliteThread:
    """Runs pieces of work on a database, in groups.

    What comes in while a group is under way forms the next one: first all that reads, then all
    that writes, in a single transaction as safe as the most demanding of them needs it. Work may
    raise a `StoreError` as long as it has changed nothing. The results of a group reach the event
    loop with one wake-up.

    Args:
        path: the database file, absolute.
        watches: who hears of the ends and the pushes that any process writes to the file.
    """

    def __init__(self, path: Path, watches: Watches) -> None:
        self._path = path
        self._watches = watches
        # The numbers of the last end and of the last batch of pushes told; None while nobody watches.
        self._seen: tuple[int, int] | None = None
        self._look_at = 0.0  # when to look for news again, on the loop's clock
        self._troubled = False  # the last group met an error that nobody had foreseen
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._asked: list[_Job] = []  # in this turn of the event loop
        self._jobs: SimpleQueue[list[_Job] | None] = SimpleQueue()
        self._thread = Thread(target=self._main, name="keepalive-sqlite", daemon=True)

    async def start(self) -> None:
        """Open the database; raises what `open_file` raises."""
        self._thread.start()
        try:
            await self._opened
        except BaseException:
            self._jobs.put(None)  # a caller who was cancelled leaves no thread behind
            raise

    async def stop(self) -> None:
        """Finish what was asked for, close the database and end the thread."""
        if self._thread.is_alive():
            self._send()
            self._jobs.put(None)
            await self._closed
        self._thread.join()

    def submit(self, work: Callable[[sqlite3.Connection], Result], safety: Safety) -> asyncio.Future[Result]:
        """Queue a piece of work. To cancel the future does not call it off.

        Raises:
            StoreUnavailable: nobody would ever do it.
        """
        if not self._thread.is_alive():
            raise StoreUnavailable(
                f"the thread that serves {self._path} does not run in this process",
                "open the store anew, in each process after it was forked",
            )
        future: asyncio.Future[Result] = self._loop.create_future()
        if not self._asked:  # once a turn of the loop: to wake the thread takes longer than to read a row
            self._loop.call_soon(self._send)
        self._asked.append(_Job(future, work, safety))
        return future

    def _send(self) -> None:
        asked, self._asked = self._asked, []
        self._jobs.put(asked)

    # All below runs in the thread, but for _answer and _opened's and _closed's setters.

    def _main(self) -> None:
        try:
            db = open_file(self._path)
        except Exception as error:
            self._report([_Outcome(self._opened, error=error)])
            return
        self._report([_Outcome(self._opened)])
        try:
            with closing(db):
                while self._serve(db):
                    pass
        finally:
            self._report([_Outcome(self._closed)])

    def _serve(self, db: sqlite3.Connection) -> bool:
        """Do all that waits as one group; whether there may be more to come."""
        jobs, more = self._take()
        outcomes: list[_Outcome] = []
        news: list[News] = []
        try:
            self._begin_to_watch(db)  # ahead of all that was submitted after the call of watch()
            outcomes += [self._read(db, job) for job in jobs if job.safety is Safety.READ]
            if writes := [job for job in jobs if job.safety is not Safety.READ]:
                outcomes += self._write(db, writes)
            # Only what is FULL ends sessions here; and of others the thread must hear though it never rests.
            if any(job.safety is Safety.FULL for job in jobs) or self._loop.time() >= self._look_at:
                news = self._news(db)
            self._troubled = False
        except Exception:
            # A bug may cost this group its answers, but not the thread: all who come later would hang.
            if not self._troubled:
                log.exception("the session store met an error that nobody had foreseen, and goes on")
            self._troubled = True
            with suppress(sqlite3.Error):
                db.rollback()
            # Whoever has an outcome already keeps it: the first one counts.
            outcomes += [_Outcome(job.future, error=self._unforeseen()) for job in jobs]
        heard = self._report(outcomes, news) if outcomes or news else True
        return heard and more

    def _take(self) -> tuple[list[_Job], bool]:
        """All that waits, and whether there may be more to come."""
        jobs: list[_Job] = []
        with suppress(Empty):
            asked = self._jobs.get(timeout=_POLL if self._watches else None)
            while asked is not None:
                jobs += asked
                asked = self._jobs.get_nowait()
            return jobs, False
        return jobs, True

    def _read(self, db: sqlite3.Connection, job: _Job) -> _Outcome:
        try:
            return _Outcome(job.future, job.work(db))
        except Exception as error:
            return _Outcome(job.future, error=self._explained(error))

    def _write(self, db: sqlite3.Connection, jobs: list[_Job]) -> list[_Outcome]:
        try:
            # PRAGMA synchronous is fixed while a transaction runs.
            db.execute(f"PRAGMA synchronous = {max(job.safety for job in jobs):d}")
            _begin(db)
        except sqlite3.Error as error:
            return [_Outcome(job.future, error=self._explained(error)) for job in jobs]
        try:
            outcomes = []
            for job in jobs:
                try:
                    outcomes.append(_Outcome(job.future, job.work(db)))
                except StoreError as error:
                    outcomes.append(_Outcome(job.future, error=error))
            db.execute("COMMIT")
        except Exception as error:
            with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                db.execute("ROLLBACK")
            if len(jobs) == 1:
                return [_Outcome(jobs[0].future, error=self._explained(error))]
            # One that fails must not take the others with it: each on its own.
            return [outcome for job in jobs for outcome in self._write(db, [job])]
        return outcomes

    def _explained(self, error: Exception) -> Exception:
        # These two are about the call, not the database: a bug, which must not pass for an outage.
        if isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError):
            return error
        return as_store_error(error, self._path) if isinstance(error, sqlite3.Error) else error

    def _unforeseen(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self._path} could not be used, for a reason that nobody had foreseen",
            "look for the traceback in the log; if this goes on, restart the program and report the error",
        )

    def _begin_to_watch(self, db: sqlite3.Connection) -> None:
        if not self._watches:
            self._seen = None
        elif self._seen is None:
            with suppress(sqlite3.Error):
                self._seen = db.execute(_NEWEST).fetchone()

    def _news(self, db: sqlite3.Connection) -> list[News]:
        """What any process ended or pushed since the last look; an error only puts it off to the next."""
        self._look_at = self._loop.time() + _POLL
        if self._seen is None:
            return []
        end, batch = self._seen
        try:
            ends = db.execute(_ENDS, (end,)).fetchall()
            batches = db.execute(_PUSHES, (batch,)).fetchall()
        except sqlite3.Error:
            return []
        self._seen = ends[-1][0] if ends else end, batches[-1][0] if batches else batch
        ended = [Ended(key, read_reason(reason)) for _, key, reason in ends]
        pushes: list[Pushed] = []
        for _, packed in batches:
            try:
                pushes += unpack(packed)
            except MsgspecError:
                log.warning("a push in %s is not of this program, or of another version of it", self._path)
        return [*ended, *pushes]

    def _report(self, outcomes: list[_Outcome], news: Sequence[News] = ()) -> bool:
        """Hand over to the event loop; false when that is closed and nobody listens any more."""
        try:
            self._loop.call_soon_threadsafe(self._answer, outcomes, news)
        except RuntimeError:
            return False
        return True

    def _answer(self, outcomes: list[_Outcome], news: Sequence[News]) -> None:
        for future, result, error in outcomes:
            if future.done():
                continue  # the caller was cancelled
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
        self._watches.tell(news)


def _begin(db: sqlite3.Connection) -> None:
    """Take the write lock.

    Left to itself, SQLite looks for it ever more seldom, at last every 100 ms, and beside busy
    processes (four that never pause) one group in forty is refused. With many short looks, none is.
    """
    for _ in range(_LOOKS - 1):
        try:
            db.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
    db.execute("BEGIN IMMEDIATE")
