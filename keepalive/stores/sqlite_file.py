"""The SQLite file: its schema, and how it is made, recognised, checked and opened.

Times are whole microseconds since the epoch, so that they pass through JSON unchanged.
"""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

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

_BUSY_TIMEOUT = 0.25
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
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.touch(mode=0o600, exist_ok=False)
    except OSError as error:
        raise StoreUnavailable(
            f"{path} cannot be made ({error.strerror})", "name a file in a folder that can be written to"
        ) from error
    try:
        _check(path)
        db = _connect(path, "mode=rw")
        try:
            _prepare(db, path)
        except BaseException:
            db.close()
            raise
        return db
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
    return sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, timeout=_BUSY_TIMEOUT, isolation_level=None)


def _check(path: Path) -> None:
    # Whose file it is, is seen without a lock and without the -wal and -shm that SQLite would put
    # beside it. (Not by reading it with open(): closing that would drop the locks that another
    # store of this process holds on it.)
    with closing(_connect(path, "mode=ro&immutable=1")) as db:
        whole = not _is_ours(db, path)
    # Read-only, so that not even a journal left by a crash is written back into a damaged file.
    if not whole:
        with closing(_connect(path, "mode=ro")) as db:
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreCorrupt(f"{path} is damaged ({verdict})", _RESTORE)


def _is_ours(db: sqlite3.Connection, path: Path) -> bool:
    """Whether the database is one of ours; if not it is empty."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        if application or db.execute("SELECT 1 FROM sqlite_schema").fetchone():
            raise StoreCorrupt(f"{path} belongs to another application", "name another file for the sessions")
        return False
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise StoreCorrupt(
            f"{path} has version {version}, this program knows {VERSION}",
            "run the newer program, or name another file for the sessions",
        )
    return True


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA secure_delete = ON")  # the data of an ended session is gone, not just unlinked
    db.execute("PRAGMA cache_size = -16384")  # KiB; 100,000 sessions without their data
    db.execute("PRAGMA wal_autocheckpoint = 4000")  # pages; with the default every large batch pays
    db.execute("BEGIN IMMEDIATE")
    if not _is_ours(db, path):
        for statement in _SCHEMA.split(";"):
            db.execute(statement)
    db.execute("COMMIT")
    # The header tells whose file it is, so it must not linger in the journal alone.
    db.execute("PRAGMA wal_checkpoint")
