"""What only the SQLite store promises; the rest is in test_contract."""

import asyncio
import logging
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest

from keepalive.clock import ManualClock, SystemClock
from keepalive.errors import StoreCorrupt, StoreError, StoreUnavailable
from keepalive.policy import Policy, Reason
from keepalive.presence import KEPT, Online, Presence, Report
from keepalive.stores import Record, sqlite, sqlite_file, sqlite_thread
from keepalive.stores.sqlite import SqliteStore
from keepalive.stores.sqlite_file import _ADDED, APPLICATION_ID, VERSION
from keepalive.stores.sqlite_roll import SqliteRoll
from keepalive.stores.sqlite_thread import Safety, SqliteThread
from keepalive.stores.watches import pack
from keepalive.touchers import Ended, Left, News, Pages, Pushed, Touch, key_of

IDLE = 1800.0
POLICY = Policy()
A, B, C = (key_of(name) for name in "abc")
ROOT = Path(__file__).parents[2]

T = TypeVar("T")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "sessions.db"


@pytest.fixture
async def store(path: Path, clock: ManualClock) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, clock)
    await store.open()
    yield store
    await store.close()


async def signed_in(store: SqliteStore, *keys: bytes, data: bytes = b"cart") -> None:
    for key in keys:
        await store.create(key, data=data, user="ann", policy=POLICY)


async def inside(store: SqliteStore, work: Callable[[sqlite3.Connection], T]) -> T:
    """Do something with the store's own connection, in its thread."""
    return await store._running().submit(work, Safety.READ)


PATIENCE = 10.0
"""Seconds after which a test gives up; nothing that works takes nearly as long."""


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


@contextmanager
def child(path: Path, *what: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.stores.child", str(path), *what]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


# The file


async def test_only_the_owner_may_read_it(store: SqliteStore, path: Path) -> None:
    await signed_in(store, A)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    files = list(path.parent.iterdir())
    assert {file.name for file in files} == {"sessions.db", "sessions.db-wal", "sessions.db-shm"}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


async def test_it_says_whose_it_is(path: Path, clock: ManualClock) -> None:
    store = SqliteStore(path, clock)
    await store.open()
    header = path.read_bytes()[:100]  # already in the file, not only in the journal
    await store.close()
    assert int.from_bytes(header[68:72], "big") == APPLICATION_ID
    assert int.from_bytes(header[60:64], "big") == VERSION


VERSION_1 = f"""
CREATE TABLE sessions (
    key BLOB PRIMARY KEY, user TEXT, created INTEGER NOT NULL, last_seen INTEGER NOT NULL,
    last_active INTEGER NOT NULL, idle_at INTEGER NOT NULL, absolute_at INTEGER, ended_at INTEGER, reason TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_by_user ON sessions (user) WHERE user IS NOT NULL;
CREATE TABLE contents (key BLOB PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE ends (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL, reason TEXT NOT NULL,
    ended_at INTEGER NOT NULL
) STRICT;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = 1;
"""


@pytest.mark.parametrize("version", [1, 2])
async def test_a_file_of_a_version_before_is_brought_up_to_date(
    path: Path, clock: ManualClock, version: int
) -> None:
    path.parent.mkdir(exist_ok=True)
    at = round(clock.wall() * 1e6)
    with closing(sqlite3.connect(path)) as db:
        db.executescript(VERSION_1)
        for statement in _ADDED[1] if version == 2 else ():
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {version}")
        idle_at, absolute_at = at + round(IDLE * 1e6), at + round(43200e6)
        row = (A, "ann", at, at, at, idle_at, absolute_at)
        columns = "key, user, created, last_seen, last_active, idle_at, absolute_at"
        db.execute(f"INSERT INTO sessions ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        db.execute("INSERT INTO contents VALUES (?, ?)", (A, b"cart"))
        db.commit()
    stores = [SqliteStore(path, clock) for _ in range(2)]
    await asyncio.gather(*(store.open() for store in stores))
    one, other = stores
    assert await one.touch([Touch(A, None, pages=Pages((), ("p",), 20.0))]) == [
        Left(20.0, 43200.0, closing=True)
    ]
    record = await other.load(A)
    assert isinstance(record, Record)
    assert (record.user, record.left.closing) == ("ann", True)
    for node in "one", "other":
        assert await one.roll.report(Report(node, 1, [], b"", anew=True))
    watch, pushed = other.watch(), Pushed("one", A, None, b"{}")
    await other.peek(A)  # whatever is asked after watch() finds it watching
    await one.publish([pushed])
    assert await asyncio.wait_for(anext(watch), PATIENCE) == pushed
    for store in stores:
        await store.close()
    header = path.read_bytes()[:100]
    assert int.from_bytes(header[60:64], "big") == VERSION


async def test_a_session_that_ended_with_its_last_page_leaves_no_data(
    store: SqliteStore, path: Path, clock: ManualClock
) -> None:
    await signed_in(store, A)
    await signed_in(store, B)
    await store.touch([Touch(A, None, pages=Pages((), ("p",), 20.0))])
    clock.advance(20)
    await store.sweep()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT key FROM contents").fetchall() == [(B,)]


async def test_no_id_and_no_data_of_the_past_is_in_it(path: Path, clock: ManualClock) -> None:
    ids = [f"an-id-that-nobody-may-read-{number:03}" for number in range(100)]
    store = SqliteStore(path, clock)
    await store.open()
    for name in ids:
        await store.create(key_of(name), data=b"data of " + name.encode()[::-1], user=None, policy=POLICY)
    watch = store.watch()
    await store.touch([Touch(key_of(name), IDLE, 0.0) for name in ids])
    for name in ids[:50]:
        await store.end(key_of(name), Reason.LOGOUT)
    contents = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert not [name for name in ids if name.encode() in contents]
    assert key_of(ids[0]) in contents
    await store.close()
    del watch
    contents = path.read_bytes()
    assert not [name for name in ids[:50] if name.encode()[::-1] in contents]
    assert all(name.encode()[::-1] in contents for name in ids[50:])


async def test_a_tombstone_holds_neither_data_nor_user(store: SqliteStore, clock: ManualClock) -> None:
    await signed_in(store, A, B, C)
    await store.end(A, Reason.LOGOUT)
    await store.save(A, data=b"late", user="ann")

    def rows(db: sqlite3.Connection) -> tuple[list[object], list[object]]:
        return (
            db.execute("SELECT key FROM contents ORDER BY key").fetchall(),
            db.execute("SELECT key, user, reason FROM sessions WHERE reason IS NOT NULL").fetchall(),
        )

    assert await inside(store, rows) == (sorted([(B,), (C,)]), [(A, None, "logout")])
    clock.advance(IDLE - 1)
    await store.touch([Touch(C, IDLE)])
    clock.advance(1)
    await store.sweep()
    assert await inside(store, rows) == ([(C,)], sorted([(A, None, "logout"), (B, None, "idle")]))


async def test_it_records_when_a_session_was_seen_and_used(store: SqliteStore, clock: ManualClock) -> None:
    await signed_in(store, A)
    born = clock.wall()
    clock.advance(10.5)
    await store.touch([Touch(A, IDLE, 4.25), Touch(B, IDLE, 0.0)])
    rows = await inside(
        store, lambda db: db.execute("SELECT created, last_seen, last_active FROM sessions").fetchall()
    )
    assert rows == [tuple(round(1e6 * seconds) for seconds in (born, born + 10.5, born + 6.25))]


async def test_sessions_survive_a_restart(path: Path, clock: ManualClock) -> None:
    store = SqliteStore(path, clock)
    await store.open()
    await signed_in(store, A, B)
    await store.end(B, Reason.LOGOUT)
    before = await store.load(A)
    await store.close()
    again = SqliteStore(path, clock)
    await again.open()
    assert await again.load(A) == before
    assert await again.load(B) is Reason.LOGOUT
    await again.close()


# Files that are refused


def not_sqlite(path: Path) -> None:
    path.write_bytes(b"Dear diary, " * 1000)


def empty(path: Path) -> None:
    path.touch()


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            "PRAGMA journal_mode = WAL; CREATE TABLE notes (text); INSERT INTO notes VALUES ('x');"
        )


def foreign_by_its_mark(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript("PRAGMA application_id = 252006675")


def newer(path: Path) -> None:
    asyncio.run(_filled(path))
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")


def marked_but_empty(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def damaged(path: Path) -> None:
    asyncio.run(_filled(path))
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\xff" * 4096 + whole[12288:])


def cut(path: Path) -> None:
    asyncio.run(_filled(path))
    os.truncate(path, path.stat().st_size // 2)


async def _filled(path: Path) -> None:
    store = SqliteStore(path, ManualClock())
    await store.open()
    for number in range(200):
        await signed_in(store, key_of(str(number)), data=bytes(500))
    await store.close()


@pytest.mark.parametrize(
    "make", [not_sqlite, empty, foreign, foreign_by_its_mark, newer, marked_but_empty, damaged, cut]
)
def test_what_is_not_ours_or_not_whole_is_refused_and_left_alone(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "sessions.db"
    make(path)
    before = path.read_bytes()

    async def refused() -> None:
        store = SqliteStore(path, ManualClock())
        with pytest.raises(StoreCorrupt) as caught:
            await store.open()
        assert caught.value.solution
        with pytest.raises(StoreUnavailable):
            await store.load(A)
        await store.close()

    asyncio.run(refused())
    assert path.read_bytes() == before
    if make not in (damaged, cut):
        assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def ordinary() -> Iterator[Path]:
    """A folder of a user who may not do everything, which the test then is; root may."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with TemporaryDirectory() as folder:  # tmp_path would be root's
            yield Path(folder)
    finally:
        if root:
            os.seteuid(0)


def read_only_folder(path: Path) -> Path:
    path.parent.mkdir()
    path.parent.chmod(0o500)
    return path


def read_only_file(path: Path) -> Path:
    asyncio.run(_filled(path))
    path.chmod(0o444)
    return path


def unreadable_file(path: Path) -> Path:
    asyncio.run(_filled(path))
    path.chmod(0)
    return path


def file_in_a_read_only_folder(path: Path) -> Path:
    asyncio.run(_filled(path))
    path.parent.chmod(0o500)
    return path


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def pipe(path: Path) -> Path:
    path.parent.mkdir()
    os.mkfifo(path)
    return path


def below_a_file(path: Path) -> Path:
    path.parent.touch()
    return path


def far_below_a_file(path: Path) -> Path:
    path.parent.touch()
    return path / "sessions.db"


def link_to_nowhere(path: Path) -> Path:
    path.parent.mkdir()
    path.symlink_to(path.parent / "nowhere" / "sessions.db")
    return path


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (read_only_folder, "make {folder} a folder that the user that runs this may write to"),
        (below_a_file, "make {folder} a folder"),
        (far_below_a_file, "make {folder} a folder"),
        (folder, "name a file"),
        (pipe, "name a file"),
        (read_only_file, "read and write the file and its folder"),
        (unreadable_file, "read and write the file and its folder"),
        (file_in_a_read_only_folder, "read and write the file and its folder"),
        (link_to_nowhere, "read and write the file and its folder"),
    ],
)
def test_what_cannot_be_written_to_is_unavailable_and_says_what_to_do(
    ordinary: Path, make: Callable[[Path], Path], advice: str
) -> None:
    parent = ordinary / "parent"
    path = make(parent / "sessions.db")

    async def refused() -> None:
        threads = store_threads()
        with pytest.raises(StoreUnavailable) as caught:
            await SqliteStore(path, ManualClock()).open()
        assert str(path) in caught.value.problem
        assert advice.format(folder=path.parent) in caught.value.solution
        await until(lambda: store_threads() <= threads)

    try:
        asyncio.run(refused())
    finally:
        if parent.is_dir():
            parent.chmod(0o700)  # so that it can be removed


async def test_a_restored_backup_gets_its_journal_back(path: Path, clock: ManualClock) -> None:
    store = SqliteStore(path, clock)
    await store.open()
    await signed_in(store, A)
    backup = path.with_name("backup.db")
    with closing(sqlite3.connect(path)) as db:
        db.execute("VACUUM INTO ?", (str(backup),))  # which does not keep the journal's mode
    before = await store.load(A)
    await store.close()
    restored = [SqliteStore(backup, clock) for _ in range(8)]
    await asyncio.gather(*[store.open() for store in restored])
    for store in restored:
        assert await inside(store, lambda db: db.execute("PRAGMA journal_mode").fetchone()) == ("wal",)
        assert await store.load(A) == before
        await store.close()


async def test_a_file_system_without_shared_memory_is_refused(
    path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(path, clock)
    await store.open()
    await store.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
    connect = sqlite_file._connect
    monkeypatch.setattr(sqlite_file, "_connect", lambda path, how: connect(path, how + "&vfs=unix-dotfile"))
    with pytest.raises(StoreUnavailable, match="local disk"):
        await store.open()


async def test_the_journal_shrinks_again_after_a_long_read(store: SqliteStore, path: Path) -> None:
    await signed_in(store, A)
    journal = path.with_name(path.name + "-wal")
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sessions").fetchone()
        for _ in range(40):
            await store.save(A, data=os.urandom(1_000_000), user=None)
        grown = journal.stat().st_size
    await store.save(A, data=b"all is written back now", user=None)
    await store.save(A, data=b"and the journal begins anew", user=None)
    assert journal.stat().st_size < grown
    assert journal.stat().st_size <= 32 * 2**20


# Faults


async def test_a_locked_file_is_unavailable_soon_and_can_still_be_read(
    store: SqliteStore, path: Path
) -> None:
    await signed_in(store, A)
    before = await store.load(A)
    statements = await traced(store)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with held(store):
            calls = [
                asyncio.ensure_future(store.touch([Touch(A, IDLE)])),
                asyncio.ensure_future(store.end(A, Reason.LOGOUT)),
                asyncio.ensure_future(store.sweep()),
            ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [StoreUnavailable] * 3
        assert await store.load(A) == before
    # They waited together, in looks of at most 2 ms each that add up to a quarter second.
    assert statements.count("BEGIN IMMEDIATE") == 125
    assert await inside(store, lambda db: db.execute("PRAGMA busy_timeout").fetchone()) == (2,)
    assert await store.end(A, Reason.LOGOUT)


async def test_a_lock_that_is_let_go_in_time_delays_and_no_more(store: SqliteStore, path: Path) -> None:
    await signed_in(store, A)
    looks = 0
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:

        def let_go(statement: str) -> None:
            nonlocal looks
            looks += statement == "BEGIN IMMEDIATE"
            if looks == 100 and other.in_transaction:
                other.execute("COMMIT")

        other.execute("BEGIN IMMEDIATE")
        await inside(store, lambda db: db.set_trace_callback(let_go))
        assert await store.end(A, Reason.LOGOUT)
    assert looks == 100


async def test_a_full_disk_leaves_nothing_half_done(store: SqliteStore) -> None:
    await signed_in(store, A, B)
    before = await store.load(A)

    def limit(db: sqlite3.Connection) -> None:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}")

    await inside(store, limit)
    watch = store.watch()
    big = bytes(1_000_000)
    with pytest.raises(StoreUnavailable, match="full"):
        await store.rotate(A, C, data=big, user="ann", policy=POLICY)
    with pytest.raises(StoreUnavailable, match="full"):
        await store.save(A, data=big, user="bob")
    assert await store.load(A) == before
    assert await store.load(C) is Reason.UNKNOWN
    assert isinstance((await store.touch([Touch(A, IDLE)]))[0], Left)
    assert await store.end(B, Reason.LOGOUT)
    await inside(store, lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone())
    await store.rotate(A, C, data=big, user="ann", policy=POLICY)
    assert await anext(watch) == Ended(B, Reason.LOGOUT)
    assert await anext(watch) == Ended(A, Reason.ROTATED)


async def test_damage_found_later_is_named(store: SqliteStore) -> None:
    await signed_in(store, A)
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT

    def damage(db: sqlite3.Connection) -> None:
        raise error

    with pytest.raises(StoreCorrupt):
        await inside(store, damage)
    assert isinstance(await store.load(A), Record)


async def test_an_unknown_reason_is_still_an_end(store: SqliteStore, path: Path) -> None:
    await signed_in(store, A, B)
    watch = store.watch()
    await store.peek(A)  # whatever is asked after watch() finds it watching
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE sessions SET reason = 'tomorrow', ended_at = 1 WHERE key = ?", (A,))
        other.execute("INSERT INTO ends (key, reason, ended_at) VALUES (?, 'tomorrow', 1)", (A,))
        other.commit()
    assert await asyncio.wait_for(anext(watch), PATIENCE) == Ended(A, Reason.REVOKED)
    assert await store.load(A) is Reason.REVOKED
    touched, living = await store.touch([Touch(A, IDLE), Touch(B, IDLE)])
    assert touched is Reason.REVOKED
    assert isinstance(living, Left)


async def test_a_call_that_makes_no_sense_is_a_bug_and_no_outage(store: SqliteStore) -> None:
    with pytest.raises(sqlite3.ProgrammingError):
        await store.create(A, data=["ann"], user=None, policy=POLICY)  # type: ignore[arg-type]
    await signed_in(store, A)


async def test_the_thread_outlives_what_nobody_had_foreseen(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await signed_in(store, A)

    def broken(self: SqliteThread, db: sqlite3.Connection, jobs: list[object]) -> None:
        db.execute("BEGIN IMMEDIATE")
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(SqliteThread, "_write", broken)
        for _ in range(2):
            async with held(store):
                reading = asyncio.ensure_future(store.peek(A))
                touching = asyncio.ensure_future(store.touch([Touch(A, IDLE)]))
            with pytest.raises(StoreUnavailable, match="look for the traceback in the log"):
                await asyncio.wait_for(touching, PATIENCE)
            assert isinstance(await reading, Left)
    assert await store.end(A, Reason.LOGOUT)
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


async def test_an_error_that_stays_is_logged_once_and_lets_the_store_close(
    path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = SqliteStore(path, clock)
    await store.open()
    looks: list[object] = []

    def broken(self: SqliteThread, db: sqlite3.Connection) -> list[Ended]:
        looks.append(db)
        raise ZeroDivisionError

    monkeypatch.setattr(SqliteThread, "_news", broken)
    watch = store.watch()
    await until(lambda: len(looks) > 3)
    await signed_in(store, A)  # what was done is answered
    await asyncio.wait_for(store.close(), PATIENCE)
    assert [ended async for ended in watch] == []
    assert [record.exc_info is not None for record in caplog.records] == [True]


# Groups


@asynccontextmanager
async def held(store: SqliteStore) -> AsyncIterator[None]:
    """All that is asked of the store inside forms one group; tasks begun inside have asked."""
    busy, release = threading.Event(), threading.Event()

    def hold(db: sqlite3.Connection) -> None:
        busy.set()
        release.wait(PATIENCE)

    holding = store._running().submit(hold, Safety.READ)
    await until(busy.is_set)
    try:
        yield
        await asyncio.sleep(0)  # every task runs up to its first wait, which is for the store
    finally:
        release.set()
        await holding


async def test_a_touch_that_had_to_wait_earns_no_more_for_it(store: SqliteStore, clock: ManualClock) -> None:
    await signed_in(store, A)
    async with held(store):
        touch = asyncio.ensure_future(store.touch([Touch(A, IDLE + 100, idle=0.0)]))
        await asyncio.sleep(0)  # now it is queued
        clock.advance(60)
    assert await touch == [Left(IDLE + 40, POLICY.deadlines(0)[1] - 60)]


async def traced(store: SqliteStore) -> list[str]:
    statements: list[str] = []
    await inside(store, lambda db: db.set_trace_callback(statements.append))
    return statements


async def test_all_that_waits_is_one_transaction(store: SqliteStore) -> None:
    await signed_in(store, A, B)
    statements = await traced(store)
    async with held(store):
        saves = [asyncio.ensure_future(store.save(A, data=b"x", user="ann")) for _ in range(20)]
        touches = [asyncio.ensure_future(store.touch([Touch(B, IDLE)])) for _ in range(20)]
    await asyncio.gather(*saves, *touches)
    assert statements.count("COMMIT") == 1
    assert statements.count("PRAGMA synchronous = 1") == 1


@pytest.mark.parametrize("what", ["create", "rotate", "end", "end_user"])
async def test_what_must_survive_a_power_cut_is_synced(store: SqliteStore, what: str) -> None:
    await signed_in(store, A)
    statements = await traced(store)
    calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "create": lambda: store.create(B, data=b"", user=None, policy=POLICY),
        "rotate": lambda: store.rotate(A, B, data=b"", user=None, policy=POLICY),
        "end": lambda: store.end(A, Reason.LOGOUT),
        "end_user": lambda: store.end_user("ann", Reason.LOGOUT),
    }
    async with held(store):
        touch = asyncio.ensure_future(store.touch([Touch(A, IDLE)]))
        ours = asyncio.ensure_future(calls[what]())
    await asyncio.gather(touch, ours)
    assert [line for line in statements if line.startswith("PRAGMA")] == ["PRAGMA synchronous = 2"]


async def test_reading_takes_no_lock(store: SqliteStore) -> None:
    await signed_in(store, A)
    statements = await traced(store)
    await store.load(A)
    await store.peek(A)
    await store.touch([Touch(A, None)])
    assert len(statements) == 3
    assert all(line.lstrip().startswith("SELECT") for line in statements)


async def test_one_that_fails_takes_nobody_with_it(store: SqliteStore) -> None:
    await signed_in(store, A)

    def limit(db: sqlite3.Connection) -> None:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages + 2}")

    await inside(store, limit)
    async with held(store):
        calls = [
            asyncio.ensure_future(call)
            for call in (
                store.create(B, data=b"", user=None, policy=POLICY),
                store.create(C, data=bytes(1_000_000), user=None, policy=POLICY),
                store.create(A, data=b"", user=None, policy=POLICY),
                store.end(A, Reason.LOGOUT),
            )
        ]
    begun, full, taken, ended = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(begun, Left)
    assert isinstance(full, StoreUnavailable)
    assert type(taken) is StoreError
    assert ended is True
    assert isinstance(await store.load(B), Record)
    assert await store.load(C) is Reason.UNKNOWN


async def test_a_bug_in_one_piece_of_work_is_its_own(store: SqliteStore) -> None:
    await signed_in(store, A)

    def bug(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM sessions")
        raise ZeroDivisionError

    async with held(store):
        touch = asyncio.ensure_future(store.touch([Touch(A, IDLE)]))
        broken = store._running().submit(bug, Safety.NORMAL)
    assert isinstance((await touch)[0], Left)
    with pytest.raises(ZeroDivisionError):
        await broken


async def test_a_sweep_lets_others_in_between_its_slices(
    store: SqliteStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [key_of(str(number)) for number in range(35)]
    await signed_in(store, *keys)
    for key in keys[::2]:
        await store.end(key, Reason.LOGOUT)
    clock.advance(10 * 86400)
    await signed_in(store, A)
    monkeypatch.setattr(sqlite, "_SLICE", 10)
    statements = await traced(store)
    sweeping = asyncio.ensure_future(store.sweep())
    await until(lambda: "COMMIT" in statements)
    assert isinstance((await store.touch([Touch(A, IDLE)]))[0], Left)
    assert not sweeping.done()
    assert await sweeping == 35
    assert statements.count("COMMIT") >= 4  # 36 sessions; one may have taken the touch along
    assert isinstance(await store.load(A), Record)
    left = await inside(
        store,
        lambda db: [
            db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("sessions", "contents", "ends")
        ],
    )
    assert left == [1, 1, 0]


# Other processes


async def test_two_stores_share_a_file(store: SqliteStore, path: Path, clock: ManualClock) -> None:
    other = SqliteStore(path, clock)
    await other.open()
    await signed_in(store, A)
    record = await other.load(A)
    assert isinstance(record, Record)
    assert await other.end(A, Reason.LOGOUT)
    assert await store.save(A, data=b"late", user=None) is Reason.LOGOUT
    await other.close()
    await signed_in(store, B)


async def test_many_may_open_a_new_file_at_once(path: Path, clock: ManualClock) -> None:
    stores = [SqliteStore(path, clock) for _ in range(8)]
    await asyncio.gather(*[store.open() for store in stores])
    await signed_in(stores[0], A)
    loaded = await asyncio.gather(*[store.load(A) for store in stores])
    assert [type(record) for record in loaded] == [Record] * 8
    await asyncio.gather(*[store.close() for store in stores])


async def test_an_end_in_another_process_is_told(path: Path, waits: list[float | None]) -> None:
    store = SqliteStore(path, SystemClock())
    await store.open()
    await signed_in(store, A, B)
    await until(lambda: len(waits) == 3)  # its thread has nothing more to do until somebody watches
    watch = store.watch()
    with child(path, "end", A.hex()):
        assert await asyncio.wait_for(anext(watch), PATIENCE) == Ended(A, Reason.LOGOUT)
    await store.end(B, Reason.REVOKED)
    assert await asyncio.wait_for(anext(watch), PATIENCE) == Ended(B, Reason.REVOKED)
    await store.close()


async def test_ends_of_others_are_told_soon_and_only_from_the_call_on(
    store: SqliteStore, path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[list[News]] = []
    look = store._running()._news

    def noted(db: sqlite3.Connection) -> list[News]:
        looks.append(look(db))
        return looks[-1]

    monkeypatch.setattr(store._running(), "_news", noted)
    other = SqliteStore(path, clock)
    await other.open()
    await signed_in(store, A, B, C)
    await other.end(A, Reason.LOGOUT)
    watch = store.watch()
    await store.peek(B)  # whatever is asked after watch() finds it watching
    await other.end(B, Reason.LOGOUT)
    missed = len(looks)
    assert await asyncio.wait_for(anext(watch), PATIENCE) == Ended(B, Reason.LOGOUT)
    # One look may have been under way; the next, a twentieth of a second later, finds it.
    assert [Ended(B, Reason.LOGOUT)] in looks[: missed + 2]
    assert sqlite_thread._POLL <= 0.05
    clock.advance(10 * 86400)
    assert await other.sweep() == 3  # with all that was written of their ends
    await signed_in(store, key_of("d"))
    await other.end(key_of("d"), Reason.LOGOUT)
    assert await asyncio.wait_for(anext(watch), PATIENCE) == Ended(key_of("d"), Reason.LOGOUT)
    await other.close()


def batches(path: Path) -> int:
    """How many batches of pushes the file has."""
    with closing(sqlite3.connect(path)) as db:
        (count,) = db.execute("SELECT count(*) FROM pushes").fetchone()
    return int(count)


async def test_pushes_are_written_down_only_for_others_and_not_for_long(
    store: SqliteStore, path: Path, clock: ManualClock
) -> None:
    watch, pushed = store.watch(), Pushed("here", None, "ann", b"{}")
    assert await store.roll.report(Report("here", 1, [], b"", anew=True))
    await store.publish([pushed])
    assert batches(path) == 0  # nobody else is on the roll
    assert await store.roll.report(Report("there", 1, [], b"", anew=True))
    await store.publish([pushed])
    assert await asyncio.wait_for(anext(watch), PATIENCE) == pushed
    clock.advance(9.0)
    await store.publish([pushed])
    assert batches(path) == 2
    clock.advance(2.0)
    await store.publish([pushed])
    assert batches(path) == 2
    clock.advance(11.0)
    await store.sweep()
    assert batches(path) == 0
    late = store.watch()
    await store.peek(A)
    await store.publish([Pushed("here", None, "late", b"{}")])
    assert await asyncio.wait_for(anext(late), PATIENCE) == Pushed("here", None, "late", b"{}")


async def test_a_push_that_nobody_understands_takes_nothing_else_with_it(
    store: SqliteStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await signed_in(store, A)
    watch, pushed = store.watch(), Pushed("there", None, "ann", b"{}")
    await store.peek(A)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")  # one look finds all of it
        db.execute("INSERT INTO ends (key, reason, ended_at) VALUES (?, 'logout', 0)", (A,))
        for batch in (b"\xc1", pack([pushed])):
            db.execute("INSERT INTO pushes (batch, published_at) VALUES (?, 0)", (batch,))
        db.execute("COMMIT")
    assert await asyncio.wait_for(anext(watch), PATIENCE) == Ended(A, Reason.LOGOUT)
    assert await asyncio.wait_for(anext(watch), PATIENCE) == pushed
    (told,) = caplog.messages
    assert "is not of this program, or of another version of it" in told


async def test_a_node_that_reports_anew_while_it_is_taken_out_stays(
    store: SqliteStore, clock: ManualClock
) -> None:
    """Another process found it dead, and had to wait for the write lock."""
    report = Report("one", 1, [Online(A, "ann", 1)], b"", anew=True)
    assert await store.roll.report(report)
    clock.advance(KEPT)
    reported: list[bool] = []

    async def run(work: Callable[[sqlite3.Connection], T], safety: Safety) -> T:
        if safety is not Safety.READ and not reported:
            reported.append(await store.roll.report(report))
        return await store._run(work, safety)

    late = SqliteRoll(run, clock.wall, lambda db, key: None)
    assert await late.presence() == Presence(1, 1, 1, 1)
    assert reported == [True]
    assert await store.roll.presence() == Presence(1, 1, 1, 1)


async def test_watch_survives_a_store_that_cannot_be_read_for_a_while(
    store: SqliteStore, path: Path, clock: ManualClock
) -> None:
    await signed_in(store, A)
    watch = store.watch()
    refused: list[str] = []
    broken = True

    def authorize(action: int, first: str | None, *_: str | None) -> int:
        if broken and first == "ends":
            refused.append(first)
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    await inside(store, lambda db: db.set_authorizer(authorize))
    other = SqliteStore(path, clock)
    await other.open()
    await other.end(A, Reason.LOGOUT)
    seen = len(refused)
    await until(lambda: len(refused) > seen + 1)
    broken = False
    assert await asyncio.wait_for(anext(watch), PATIENCE) == Ended(A, Reason.LOGOUT)
    await other.close()


async def test_kill_9_loses_nothing_that_was_acknowledged(path: Path) -> None:
    for _ in range(6):
        with child(path, "write") as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(random.randint(1, 300))]
            process.kill()
            lines += process.stdout.readlines()
        acknowledged: dict[str, dict[str, int]] = {}
        for line in lines:
            if line.endswith("\n"):  # the last one may be torn
                what, value, name = line.rstrip().split(" ", 2)
                acknowledged.setdefault(name, {})[what] = int(value)
        assert acknowledged
        store = SqliteStore(path, SystemClock())
        await store.open()
        for name, known in acknowledged.items():
            loaded = await store.load(key_of(name))
            if "end" in known:
                assert loaded is Reason.LOGOUT
            elif isinstance(loaded, Record):  # or its end was stored, but not acknowledged any more
                assert int(loaded.data) >= known["data"]
                assert loaded.left.idle > known.get("keep", 1800) - 30
            else:
                assert loaded is Reason.LOGOUT
                assert known["data"] == 3
        await store.close()
        path.unlink()


# Threads


def store_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "keepalive-sqlite"}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """How long each wait of a store's thread for something to do may take; `None` is a sound sleep."""
    noted: list[float | None] = []

    class Queue(SimpleQueue[Any]):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            noted.append(timeout)
            return super().get(block, timeout)

    monkeypatch.setattr(sqlite_thread, "SimpleQueue", Queue)
    return noted


async def test_close_finishes_what_was_asked_and_leaves_no_thread(path: Path, clock: ManualClock) -> None:
    store = SqliteStore(path, clock)
    threads = store_threads()
    await store.open()
    await signed_in(store, A)
    assert len(store_threads() - threads) == 1
    ending = asyncio.ensure_future(store.end(A, Reason.LOGOUT))
    await asyncio.sleep(0)
    await store.close()
    assert await ending is True
    assert store_threads() <= threads
    assert [file.name for file in path.parent.iterdir()] == ["sessions.db"]


async def test_a_caller_who_gives_up_opening_leaves_no_thread(path: Path, clock: ManualClock) -> None:
    threads = store_threads()
    opening = asyncio.ensure_future(SqliteStore(path, clock).open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await until(lambda: store_threads() <= threads)


async def test_without_a_watch_the_thread_sleeps(waits: list[float | None], store: SqliteStore) -> None:
    await until(lambda: waits == [None])
    watch = store.watch()
    await until(lambda: len(waits) > 3)  # it wakes up by itself now
    assert set(waits[1:]) == {sqlite_thread._POLL}
    del watch
    await until(lambda: waits[-1] is None)
    before = len(waits)
    await store.peek(A)
    await until(lambda: len(waits) > before)
    assert waits[before:] == [None]


def test_a_loop_that_was_closed_over_it_ends_the_thread_quietly(path: Path) -> None:
    async def leave() -> tuple[SqliteStore, AsyncIterator[News]]:
        store = SqliteStore(path, ManualClock())
        await store.open()
        await signed_in(store, A)
        return store, store.watch()

    async def end_elsewhere() -> None:
        store = SqliteStore(path, ManualClock())
        await store.open()
        await store.end(A, Reason.LOGOUT)
        await until(lambda: not left._running()._thread.is_alive())
        await store.close()

    left, watch = asyncio.run(leave())
    asyncio.run(end_elsewhere())
    del watch


async def test_after_a_fork_it_says_so_instead_of_waiting_for_ever(path: Path) -> None:
    with child(path, "fork") as process:
        assert process.stdout is not None
        assert process.stdout.read() == "StoreUnavailable, closed\n"
