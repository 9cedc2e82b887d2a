"""`Toucher`: the narrow part of a session store that the heart needs.

Our own stores are touchers; sessions that others keep get one from this package.
A session goes by its *key*, the SHA-256 of its id, so that no id is ever stored or logged.
All times are seconds that remain, on the store's own clock: no two clocks are compared.
"""

from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol

from ..policy import Policy, Reason

MOST_PAGES = 32
"""How many pages of a session are counted, the newest ones: a store must not grow with what a page sends."""


def key_of(session_id: str) -> bytes:
    """The key of a session: 32 bytes that do not give the id away."""
    return sha256(session_id.encode()).digest()


class Pages(NamedTuple):
    """What a server knows of the pages of a session that ends with the last of them.

    Page ids are 1 to 32 characters of `A-Z a-z 0-9 _ -`. An id that has gone for good does not come
    back, so that news which overtake each other on their way from two servers do no harm.
    """

    here: tuple[str, ...]
    """Those that are open here, `MOST_PAGES` at most; told with every touch, so that no loss lasts."""
    gone: tuple[str, ...]
    """Those that were closed for good."""
    end_after: float
    """In how many seconds the session ends when none is left after that."""


class Touch(NamedTuple):
    """One session's line in a batch."""

    key: bytes
    keep: float | None
    """The idle deadline shall be at least this many seconds from the call; may be negative.
    `None` moves nothing and merely asks."""
    idle: float | None = None
    """Seconds since the user's last input, where a page has reported it."""
    pages: Pages | None = None
    """News of the session's pages. A page that is here takes back the end that the last one brought on;
    so does whatever else moves or reports something, such as a request, which has no news of pages."""


class Left(NamedTuple):
    """What remains of a session that lives."""

    idle: float
    """Seconds until the idle deadline; already capped by the absolute one, and by the end that the
    closing of the last page has brought on."""
    absolute: float
    """Seconds until the absolute deadline; `inf` without one."""
    renew: bool = False
    """Whether the browser's cookie is due for a fresh one."""
    closing: bool = False
    """Whether the last page was closed, and the session ends for that unless someone comes back."""


class Ticket(NamedTuple):
    """What lets a page in: its session, as the store has just had it."""

    key: bytes
    policy: Policy
    user: str | None
    left: Left


class Ended(NamedTuple):
    """A session that was ended, by whichever process."""

    key: bytes
    reason: Reason


class Pushed(NamedTuple):
    """What an app has said to the pages of a session or of a user, on whichever servers they are."""

    origin: str
    """The server that has told its own pages already."""
    key: bytes | None
    """The session,"""
    user: str | None
    """or the user."""
    message: bytes
    """The `push`, encoded."""


News = Ended | Pushed
"""What the servers that share a store hear of each other."""


class Toucher(Protocol):
    """Moves idle deadlines and ends sessions; never creates one, never writes data.

    Every method raises `StoreUnavailable` when the store could not be asked. That is not the end
    of a session, and an end that could not be stored has not happened.
    """

    async def touch(self, batch: Sequence[Touch]) -> Sequence[Left | Reason]:
        """Move the idle deadlines of a batch, in one round trip.

        Idempotent, capped by each absolute deadline, and safe against a concurrent end or save. Of
        pages it only knows what it is told: see `Pages`.

        Returns:
            One result a line, in order: what remains, or why the session is over.
        """

    async def peek(self, key: bytes) -> Left | Reason:
        """What remains of a session, without touching it."""

    async def end(self, key: bytes, reason: Reason) -> bool:
        """End a session; once this has returned no load and no touch succeeds, for ever.

        Returns:
            Whether it was alive.
        """

    def watch(self) -> AsyncIterator[News]:
        """Sessions that are ended from now on, by any process that shares the store; of one that carries
        pushes, these too.

        It counts from the call, not from the first iteration: of whatever is asked of the store
        after it, either the answer says that the session is over or the watch will. Each end is
        told once, and those of this process at once. The iteration survives a store that cannot
        be asked for a while, and finishes when the store is closed. Deadlines that pass by
        themselves are not told; they are known beforehand.
        """
