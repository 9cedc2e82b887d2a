"""`Toucher`: the narrow part of a session store that the heart needs.

Our own stores are touchers; sessions that others keep get one from this package.
A session goes by its *key*, the SHA-256 of its id, so that no id is ever stored or logged.
All times are seconds that remain, on the store's own clock: no two clocks are compared.
"""

from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol

from ..policy import Policy, Reason


def key_of(session_id: str) -> bytes:
    """The key of a session: 32 bytes that do not give the id away."""
    return sha256(session_id.encode()).digest()


class Touch(NamedTuple):
    """One session's line in a batch."""

    key: bytes
    keep: float | None
    """The idle deadline shall be at least this many seconds from the call; may be negative.
    `None` moves nothing and merely asks."""
    idle: float | None = None
    """Seconds since the user's last input, where a page has reported it."""


class Left(NamedTuple):
    """What remains of a session that lives."""

    idle: float
    """Seconds until the idle deadline; already capped by the absolute one."""
    absolute: float
    """Seconds until the absolute deadline; `inf` without one."""
    renew: bool = False
    """Whether the browser's cookie is due for a fresh one."""


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


class Toucher(Protocol):
    """Moves idle deadlines and ends sessions; never creates one, never writes data.

    Every method raises `StoreUnavailable` when the store could not be asked. That is not the end
    of a session, and an end that could not be stored has not happened.
    """

    async def touch(self, batch: Sequence[Touch]) -> Sequence[Left | Reason]:
        """Move the idle deadlines of a batch, in one round trip.

        Idempotent, capped by each absolute deadline, and safe against a concurrent end or save.

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

    def watch(self) -> AsyncIterator[Ended]:
        """Sessions that are ended from now on, by any process that shares the store.

        It counts from the call, not from the first iteration: of whatever is asked of the store
        after it, either the answer says that the session is over or the watch will. Each end is
        told once, and those of this process at once. The iteration survives a store that cannot
        be asked for a while, and finishes when the store is closed. Deadlines that pass by
        themselves are not told; they are known beforehand.
        """
