"""The SQLite file: its schema, and how it is made, recognised, checked and opened.

Times are whole microseconds since the epoch, so that they pass through JSON unchanged.
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from tempfile import mkstemp

from ..errors import StoreCorrupt, StoreError, StoreUnavailable

APPLICATION_ID = 0x6B656570  # "keep"
VERSION = 1
_OLDEST_SQLITE = (3, 37, 0)  # the first with STRICT tables

# What a touch changes lives apart from the data: its rows are small, so a batch dirties few pages.
# `ends` is what other processes watch: AUTOINCREMENT never gives a number out twice, so whoever
# asks for the numbers above the last one seen misses nothing and hears nothing twice.
_SCHEMA = f"""
CREATE TABLE sessions (
    key BLOB PRIMARY KEY,
    user TEXT,
    created INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    last_active INTEGER NOT NULL,
    idle_at INTEGER NOT NULL,
    absolute_at INTEGER,
    ended_at INTEGER,
    reason TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_by_user ON sessions (user) WHERE user IS NOT NULL;
CREATE TABLE contents (
    key BLOB PRIMARY KEY,
    data BLOB NOT NULL
) STRICT;
CREATE TABLE ends (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key BLOB NOT NULL,
    reason TEXT NOT NULL,
    ended_at INTEGER NOT NULL
) STRICT;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""

# How long to wait, in seconds, for another process that holds a lock: a page's ping must hear soon
# that it is in vain, a start has time.
_BUSY_TIMEOUT = 0.25
_OPEN_TIMEOUT = 5.0
_RESTORE = "restore a backup, or move the file away to start with no sessions"


def open_file(path: Path) -> sqlite3.Connection:
    """Open the session database at `path`; make it, with its folder, where there is none.

    Only the owner may read what is made. A file that is refused is left as it is.

    Raises:
        StoreCorrupt: the file is not SQLite, not ours, of a newer version, or damaged.
        StoreUnavailable: it cannot be reached or written, or this SQLite is too old.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StoreUnavailable(
            f"SQLite {sqlite3.sqlite_version} is too old",
            "run on a Python with SQLite 3.37 or newer, or use another store",
        )
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(path)
        _check(path)
        db = _connect(path, "mode=rw")
        try:
            _prepare(db)
        except BaseException:
            db.close()
            raise
        return db
    except OSError as error:
        raise StoreUnavailable(
            f"{path} cannot be made ({error.strerror})", "name a file in a folder that can be written to"
        ) from error
    except sqlite3.Error as error:
        raise as_store_error(error, path) from error


def as_store_error(error: sqlite3.Error, path: Path) -> StoreError:
    """The error of ours that says what SQLite's means for a caller."""
    if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreCorrupt(f"{path} is not a whole session database ({error})", _RESTORE)
    return StoreUnavailable(
        f"{path} cannot be used now ({error})",
        "check that it is a writable file, that the disk has room, and that nobody holds a lock on it",
    )


def _connect(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, timeout=_OPEN_TIMEOUT, isolation_level=None)


def _make(path: Path) -> None:
    """Make an empty session database; no other process sees it under its name before it is whole."""
    descriptor, name = mkstemp(prefix=f"{path.name}-", suffix=".new", dir=path.parent)  # mode 0600
    os.close(descriptor)
    new = Path(name)
    try:
        with closing(sqlite3.connect(new, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_SCHEMA)
        with suppress(FileExistsError):  # another process was first
            path.hardlink_to(new)
    finally:
        new.unlink()


def _check(path: Path) -> None:
    # First without a lock, and without the -wal and -shm that SQLite would put beside a file that
    # may be someone else's. (Not by reading it with open(): to close that would drop the locks
    # that another store of this process holds on it.)
    try:
        with closing(_connect(path, "mode=ro&immutable=1")) as db:
            _require_ours(db, path)
    except sqlite3.DatabaseError as error:
        # Without a lock, a file that another process is writing to may look cut short.
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
    # Read-only, so that not even a journal left by a crash is written back into a damaged file.
    with closing(_connect(path, "mode=ro")) as db:
        _require_ours(db, path)
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StoreCorrupt(f"{path} is damaged ({verdict})", _RESTORE)


def _require_ours(db: sqlite3.Connection, path: Path) -> None:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise StoreCorrupt(f"{path} is not a session database", "name another file for the sessions")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise StoreCorrupt(
            f"{path} has version {version}, this program knows {VERSION}",
            "run the newer program, or name another file for the sessions",
        )


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA secure_delete = ON")  # the data of an ended session is gone, not just unlinked
    db.execute("PRAGMA cache_size = -16384")  # KiB; 100,000 sessions without their data
    db.execute("PRAGMA wal_autocheckpoint = 4000")  # pages; with the default every large batch pays
    # A file that cannot be written to is found out now.
    db.execute("BEGIN IMMEDIATE")
    db.execute("ROLLBACK")
    db.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT * 1000:.0f}")
