"""`SessionStore`: where sessions live, and `open_store(url)`, which finds the one for a URL."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from ..clock import Clock, SystemClock
from ..errors import SettingError, StoreError
from ..policy import Policy, Reason
from ..presence import Roll
from ..touchers import Left, Pushed, Toucher


class Record(NamedTuple):
    """A session that lives, as loaded."""

    data: bytes
    user: str | None
    created: float
    """Wall time of the login, in seconds since the epoch."""
    left: Left


class SessionStore(Toucher, Protocol):
    """Keeps whole sessions. Only `create` and `rotate` make one; all else only updates.

    A session that was ended leaves a tombstone, without its data, at least until its absolute
    deadline, so that whoever comes late hears the reason, and so that nothing that was in flight
    brings it back. One whose deadline has passed answers with `idle` or `absolute` until swept.
    The first reason stands.

    Before `open` and after `close` every method but those two raises `StoreUnavailable`.
    """

    @property
    def path(self) -> Path | None:
        """The file that holds the sessions; `None` where there is none."""

    @property
    def forgets(self) -> bool:
        """Whether its sessions are gone with this process."""

    @property
    def roll(self) -> Roll:
        """Who is here, over all processes that share the store."""

    async def open(self) -> None:
        """Make ready for use.

        Raises:
            StoreCorrupt: what is there is not a session store, or is damaged. It is left as it is.
            StoreUnavailable: it cannot be reached or written.
        """

    async def close(self) -> None:
        """Let go of files, threads and connections; running watches end."""

    async def create(self, key: bytes, *, data: bytes, user: str | None, policy: Policy) -> Left:
        """Begin a session.

        Raises:
            StoreError: there is or was a session with this key; nothing has changed.
        """

    async def load(self, key: bytes) -> Record | Reason:
        """The whole session, or why it is over. Does not touch it."""

    async def save(self, key: bytes, *, data: bytes, user: str | None) -> Left | Reason:
        """Replace the data of a session that lives; moves no deadline, revives nothing."""

    async def rotate(self, old: bytes, new: bytes, *, data: bytes, user: str | None, policy: Policy) -> Left:
        """Begin the session `new` and end `old` with reason `rotated`, both or neither.

        `old` need not be alive.

        Raises:
            StoreError: there is or was a session `new`; nothing has changed.
        """

    async def end_user(self, user: str, reason: Reason, *, keep: bytes | None = None) -> int:
        """End every session of a user, but for the one with key `keep`; returns how many."""

    async def publish(self, batch: Sequence[Pushed]) -> None:
        """Have the watches of all other servers on the roll hear of one server's pushes, in this order.

        Nobody keeps them: a server that cannot be reached just now misses them. Whether the one that has
        published them hears of them, too, is left open.
        """

    async def sweep(self) -> int:
        """Forget what no one can ask for any more; returns how many records went.

        That is what is past its absolute deadline and has been over for a day; of all else that is
        over only the data goes.
        """


def check_user(user: str | None) -> None:
    """See that every store can hold this name.

    Raises:
        StoreError: UTF-8 has no form for it.
    """
    try:
        (user or "").encode()
    except UnicodeEncodeError as error:
        raise StoreError(
            "a user's name has half of a character in it (a lone surrogate)",
            "refuse such a name where it comes in",
        ) from error


_REDIS = {f"{tls}{kind}" for tls in ("redis", "rediss") for kind in ("", "+sentinel", "+cluster")}


def open_store(url: str, *, clock: Clock | None = None) -> SessionStore:
    """The store for a URL, not opened yet.

    Args:
        url: `memory://`, `sqlite:///relative/path` or `sqlite:////absolute/path`, or with the extra `redis`
            `redis://`, `redis+sentinel://` or `redis+cluster://`, with `rediss` for TLS.
        clock: whose wall time decides; by default the machine's, or that of Redis.

    Raises:
        SettingError: no store goes by such a URL.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise SettingError(
            "the store's URL is none", "write special characters in its password as %XX, such as %5B for ["
        ) from None
    if parts.scheme in _REDIS:
        try:
            from .redis import RedisStore
        except ModuleNotFoundError as error:
            raise SettingError(
                "sessions in Redis need redis-py", 'run pip install "session-keepalive[redis]"'
            ) from error
        return RedisStore(url, clock)
    clock = clock or SystemClock()
    if parts.scheme == "memory":
        from .memory import MemoryStore

        return MemoryStore(clock)
    if (
        parts.scheme == "sqlite"
        and parts.path.strip("/")
        and not (parts.netloc or parts.query or parts.fragment)
    ):
        from .sqlite import SqliteStore

        return SqliteStore(parts.path[1:], clock)
    # Only the scheme is named: a URL may hold a password.
    raise SettingError(
        f"no store goes by this {parts.scheme or 'relative'} URL",
        "use sqlite:///path/to/sessions.db, redis://host:6379/0 or memory://",
    )
