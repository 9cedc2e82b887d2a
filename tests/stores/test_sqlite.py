"""What only the SQLite store promises; the rest is in test_contract."""

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from keepalive.clock import ManualClock, SystemClock
from keepalive.errors import StoreCorrupt, StoreError, StoreUnavailable
from keepalive.policy import Policy, Reason
from keepalive.stores import Record
from keepalive.stores.sqlite import SqliteStore
from keepalive.stores.sqlite_file import APPLICATION_ID, VERSION
from keepalive.stores.sqlite_thread import Safety
from keepalive.touchers import Ended, Left, Touch, key_of

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


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
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
    assert await inside(store, rows) == ([(C,)], [(A, None, "logout")])


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


@pytest.mark.parametrize("make", [not_sqlite, empty, foreign, foreign_by_its_mark, newer, damaged, cut])
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


@pytest.mark.parametrize("where", [".", "file/sessions.db"])
async def test_a_path_that_cannot_be_a_file_is_unavailable(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    store = SqliteStore(tmp_path / where, SystemClock())
    with pytest.raises(StoreUnavailable) as caught:
        await store.open()
    assert caught.value.solution
    await until(lambda: not store_threads())


# Faults


async def test_a_locked_file_is_unavailable_soon_and_can_still_be_read(
    store: SqliteStore, path: Path
) -> None:
    await signed_in(store, A)
    before = await store.load(A)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        since = time.monotonic()
        calls = [store.touch([Touch(A, IDLE)]), store.end(A, Reason.LOGOUT), store.sweep()]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [StoreUnavailable] * 3
        assert time.monotonic() - since < 1
        assert await store.load(A) == before
    assert await store.end(A, Reason.LOGOUT)


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


# Groups


@contextmanager
def held(store: SqliteStore) -> Iterator[None]:
    """Everything asked of the store inside forms one group."""
    release = threading.Event()
    store._running().submit(lambda db: release.wait(10), Safety.READ)
    try:
        yield
    finally:
        release.set()


async def test_a_touch_that_had_to_wait_earns_no_more_for_it(store: SqliteStore, clock: ManualClock) -> None:
    await signed_in(store, A)
    with held(store):
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
    with held(store):
        saves = [asyncio.ensure_future(store.save(A, data=b"x", user="ann")) for _ in range(20)]
        touches = [asyncio.ensure_future(store.touch([Touch(B, IDLE)])) for _ in range(20)]
        await asyncio.sleep(0.01)
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
    with held(store):
        touch = asyncio.ensure_future(store.touch([Touch(A, IDLE)]))
        ours = asyncio.ensure_future(calls[what]())
        await asyncio.sleep(0.01)
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
    with held(store):
        calls = [
            asyncio.ensure_future(call)
            for call in (
                store.create(B, data=b"", user=None, policy=POLICY),
                store.create(C, data=bytes(1_000_000), user=None, policy=POLICY),
                store.create(A, data=b"", user=None, policy=POLICY),
                store.end(A, Reason.LOGOUT),
            )
        ]
        await asyncio.sleep(0.01)
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

    with held(store):
        touch = asyncio.ensure_future(store.touch([Touch(A, IDLE)]))
        broken = store._running().submit(bug, Safety.NORMAL)
        await asyncio.sleep(0.01)
    assert isinstance((await touch)[0], Left)
    with pytest.raises(ZeroDivisionError):
        await broken


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


async def test_an_end_in_another_process_is_told(path: Path) -> None:
    store = SqliteStore(path, SystemClock())
    await store.open()
    await signed_in(store, A, B)
    await asyncio.sleep(0.05)  # its thread has nothing to do and sleeps, until somebody watches
    watch = store.watch()
    with child(path, "end", A.hex()):
        assert await asyncio.wait_for(anext(watch), 10) == Ended(A, Reason.LOGOUT)
    await store.end(B, Reason.REVOKED)
    assert await asyncio.wait_for(anext(watch), 1) == Ended(B, Reason.REVOKED)
    await store.close()


async def test_ends_of_others_are_told_soon_and_only_from_the_call_on(
    store: SqliteStore, path: Path, clock: ManualClock
) -> None:
    other = SqliteStore(path, clock)
    await other.open()
    await signed_in(store, A, B, C)
    await other.end(A, Reason.LOGOUT)
    watch = store.watch()
    await store.peek(B)  # whatever is asked after watch() finds it watching
    await other.end(B, Reason.LOGOUT)
    since = time.monotonic()
    assert await asyncio.wait_for(anext(watch), 1) == Ended(B, Reason.LOGOUT)
    assert time.monotonic() - since < 0.25
    clock.advance(10 * 86400)
    assert await other.sweep() == 3  # with all that was written of their ends
    await signed_in(store, key_of("d"))
    await other.end(key_of("d"), Reason.LOGOUT)
    assert await asyncio.wait_for(anext(watch), 1) == Ended(key_of("d"), Reason.LOGOUT)
    await other.close()


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
    assert await asyncio.wait_for(anext(watch), 1) == Ended(A, Reason.LOGOUT)
    await other.close()


async def test_kill_9_loses_nothing_that_was_acknowledged(path: Path) -> None:
    for _ in range(6):
        with child(path, "write") as process:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            time.sleep(random.uniform(0, 0.3))
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


def store_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "keepalive-sqlite"]


async def test_close_finishes_what_was_asked_and_leaves_no_thread(path: Path, clock: ManualClock) -> None:
    store = SqliteStore(path, clock)
    await store.open()
    await signed_in(store, A)
    assert len(store_threads()) == 1
    ending = asyncio.ensure_future(store.end(A, Reason.LOGOUT))
    await asyncio.sleep(0)
    await store.close()
    assert await ending is True
    assert store_threads() == []
    assert [file.name for file in path.parent.iterdir()] == ["sessions.db"]


async def test_a_caller_who_gives_up_opening_leaves_no_thread(path: Path, clock: ManualClock) -> None:
    opening = asyncio.ensure_future(SqliteStore(path, clock).open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await until(lambda: not store_threads())


async def test_without_a_watch_the_thread_sleeps(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[object] = []

    def look(db: sqlite3.Connection) -> list[Ended]:
        looks.append(db)
        return []

    monkeypatch.setattr(store._running(), "_news", look)
    watch = store.watch()
    await until(lambda: len(looks) > 2)
    del watch
    await until(lambda: not store._watches)
    await store.peek(A)
    await store.peek(A)
    looks.clear()
    await asyncio.sleep(0.2)
    assert looks == []
