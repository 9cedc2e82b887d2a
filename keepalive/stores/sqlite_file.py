"""The SQLite file: its schema, and how it is made, recognised, checked and opened.

Times are whole microseconds since the epoch, so that they pass through JSON unchanged.
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from tempfile import mkstemp

from ..errors import StoreCorrupt, StoreError, StoreUnavailable
from ..policy import Reason

APPLICATION_ID = 0x6B656570  # "keep"
VERSION = 3
# Who is here, by node, and counted. What counts is only ever inserted and deleted.
_ROLL = (
    """
CREATE TABLE nodes (
    name TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    until INTEGER NOT NULL,
    stats BLOB NOT NULL
) STRICT, WITHOUT ROWID""",
    """
CREATE TABLE online (
    node TEXT NOT NULL,
    key BLOB NOT NULL,
    user TEXT,
    pages INTEGER NOT NULL,
    PRIMARY KEY (node, key)
) STRICT, WITHOUT ROWID""",
    """
CREATE TABLE online_sessions (
    key BLOB PRIMARY KEY,
    pages INTEGER NOT NULL
) STRICT, WITHOUT ROWID""",
    """
CREATE TABLE online_users (
    user TEXT PRIMARY KEY,
    sessions INTEGER NOT NULL
) STRICT, WITHOUT ROWID""",
    """
CREATE TABLE presence (
    pages INTEGER NOT NULL,
    sessions INTEGER NOT NULL,
    users INTEGER NOT NULL
) STRICT""",
    """
INSERT INTO presence VALUES (0, 0, 0)""",
    """
CREATE TRIGGER online_comes AFTER INSERT ON online BEGIN
    UPDATE presence SET pages = pages + new.pages;
    INSERT INTO online_sessions VALUES (new.key, new.pages)
        ON CONFLICT (key) DO UPDATE SET pages = pages + excluded.pages;
    INSERT INTO online_users SELECT new.user, 1 WHERE new.user IS NOT NULL
        ON CONFLICT (user) DO UPDATE SET sessions = sessions + 1;
END""",
    """
CREATE TRIGGER online_goes AFTER DELETE ON online BEGIN
    UPDATE presence SET pages = pages - old.pages;
    UPDATE online_sessions SET pages = pages - old.pages WHERE key = old.key;
    DELETE FROM online_sessions WHERE key = old.key AND pages = 0;
    UPDATE online_users SET sessions = sessions - 1 WHERE user = old.user;
    DELETE FROM online_users WHERE user = old.user AND sessions = 0;
END""",
    """
CREATE TRIGGER session_comes AFTER INSERT ON online_sessions BEGIN
    UPDATE presence SET sessions = sessions + 1;
END""",
    """
CREATE TRIGGER session_goes AFTER DELETE ON online_sessions BEGIN
    UPDATE presence SET sessions = sessions - 1;
END""",
    """
CREATE TRIGGER user_comes AFTER INSERT ON online_users BEGIN
    UPDATE presence SET users = users + 1;
END""",
    """
CREATE TRIGGER user_goes AFTER DELETE ON online_users BEGIN
    UPDATE presence SET users = users - 1;
END""",
)
# Like `ends`, for what an app says to pages at other processes; of these there is none for long.
_PUSHES = """
CREATE TABLE pushes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    batch BLOB NOT NULL,
    published_at INTEGER NOT NULL
) STRICT"""
_ADDED = {
    1: (
        "ALTER TABLE sessions ADD COLUMN closes_at INTEGER",
        "ALTER TABLE sessions ADD COLUMN pages TEXT NOT NULL DEFAULT ''",
        *_ROLL,
    ),
    2: (_PUSHES,),
}
"""What each version lacks of the next."""
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
    reason TEXT,
    closes_at INTEGER,
    pages TEXT NOT NULL DEFAULT ''
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
{"; ".join((*_ROLL, _PUSHES))};
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""

_OPEN_TIMEOUT = 5.0
"""How long, in seconds, a start waits for a lock that another process holds."""
BUSY_TIMEOUT = 0.002
"""And how long each look for one takes later on."""
_RESTORE = "restore a backup, or move the file away to start with no sessions"
_ACCESS = "let the user that runs this read and write the file and its folder, or name another file"
_ADVICE = {
    sqlite3.SQLITE_BUSY: "see which program holds a lock on it, such as a backup or a database shell",
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_IOERR: "check its disk",
    sqlite3.SQLITE_CANTOPEN: _ACCESS,
    sqlite3.SQLITE_PERM: _ACCESS,
    sqlite3.SQLITE_READONLY: _ACCESS,
}


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
        elif not path.is_file():
            raise StoreUnavailable(f"{path} is not a file", "name a file for the sessions, not its folder")
        _check(path)
        db = _connect(path, "mode=rw")
        try:
            _prepare(db, path)
        except BaseException:
            db.close()
            raise
        return db
    except OSError as error:
        raise StoreUnavailable(
            f"{path} cannot be made ({error.strerror})",
            f"make {path.parent} a folder that the user that runs this may write to, or name another file",
        ) from error
    except sqlite3.Error as error:
        raise as_store_error(error, path) from error


def as_store_error(error: sqlite3.Error, path: Path) -> StoreError:
    """The error of ours that says what SQLite's means for a caller."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # Python's own have none
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreCorrupt(f"{path} is not a whole session database ({error})", _RESTORE)
    return StoreUnavailable(
        f"{path} cannot be used now ({error})",
        _ADVICE.get(code, "check the file, its disk, and what else uses it"),
    )


def read_reason(cell: str) -> Reason:
    """What a `reason` in the file says: a word that this version does not know is still an end."""
    try:
        return Reason(cell)
    except ValueError:
        return Reason.REVOKED


def _connect(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, timeout=_OPEN_TIMEOUT, isolation_level=None)


def _make(path: Path) -> None:
    """Make an empty session database; no other process sees it under its name before it is whole."""
    descriptor, name = mkstemp(prefix=f"{path.name}-", suffix=".new", dir=path.parent)  # mode 0600
    os.close(descriptor)
    new = Path(name)
    try:
        with closing(sqlite3.connect(new, isolation_level=None)) as db:
            # A batch touches sessions at random, and writes each one's whole page to the log.
            db.execute("PRAGMA page_size = 1024")
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
    if version != VERSION and version not in _ADDED:
        raise StoreCorrupt(
            f"{path} has version {version}, this program knows {VERSION}",
            "run the program that made it, or name another file for the sessions",
        )


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    db.execute("PRAGMA secure_delete = ON")  # the data of an ended session is gone, not just unlinked
    db.execute("PRAGMA cache_size = -16384")  # KiB; 100,000 sessions without their data
    db.execute("PRAGMA wal_autocheckpoint = 16000")  # pages; with the default every large batch pays
    db.execute("PRAGMA journal_size_limit = 33554432")  # bytes; more it may need while a backup reads
    # A backup restored from VACUUM INTO is no longer in this mode, and readers would block writers.
    # Of several processes that see to it at once, one succeeds, and the others wait for it below.
    with suppress(sqlite3.OperationalError):
        db.execute("PRAGMA journal_mode = WAL")
    # A file that cannot be written to is found out now. BEGIN IMMEDIATE alone would not tell: on a
    # read-only file SQLite quietly begins to read.
    db.execute("BEGIN IMMEDIATE")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    for older in range(version, VERSION):
        for statement in _ADDED[older]:
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {VERSION}")
    db.execute("COMMIT" if version < VERSION else "ROLLBACK")
    (mode,) = db.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":
        raise StoreUnavailable(
            f"{path} cannot have a write-ahead log",
            "name a file on a local disk of this machine, which no other program is using",
        )
    db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT * 1000:.0f}")
