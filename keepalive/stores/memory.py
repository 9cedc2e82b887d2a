"""`MemoryStore`: sessions in a dictionary of this process. For tests; a restart forgets them."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from ..clock import Clock
from ..errors import StoreError, StoreUnavailable
from ..policy import Policy, Reason
from ..touchers import Ended, Left, News, Pushed, Touch
from . import Record, check_user
from .lifetime import Lifetime
from .memory_roll import MemoryRoll
from .watches import Watches


@dataclass(slots=True)
class _Session:
    data: bytes
    user: str | None
    created: float
    life: Lifetime


class MemoryStore:
    """A `SessionStore` that needs nothing.

    No method awaits anything, so each is atomic to the others.

    Args:
        clock: whose wall time decides.
    """

    path = None
    forgets = True

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open = False
        self._sessions: dict[bytes, _Session] = {}
        self._watches = Watches()
        self.roll = MemoryRoll(self._now, self._idle)

    async def open(self) -> None:
        self._open = True

    async def close(self) -> None:
        self._open = False
        self._sessions.clear()
        self._watches.finish()

    async def create(self, key: bytes, *, data: bytes, user: str | None, policy: Policy) -> Left:
        check_user(user)
        return self._create(self._now(), key, data, user, policy)

    async def load(self, key: bytes) -> Record | Reason:
        left = await self.peek(key)
        if isinstance(left, Reason):
            return left
        session = self._sessions[key]
        return Record(session.data, session.user, session.created, left)

    async def save(self, key: bytes, *, data: bytes, user: str | None) -> Left | Reason:
        check_user(user)
        left = await self.peek(key)
        if isinstance(left, Left):
            session = self._sessions[key]
            session.data, session.user = data, user
        return left

    async def peek(self, key: bytes) -> Left | Reason:
        now = self._now()
        session = self._sessions.get(key)
        return Reason.UNKNOWN if session is None else session.life.left(now)

    async def touch(self, batch: Sequence[Touch]) -> Sequence[Left | Reason]:
        now = self._now()
        results: list[Left | Reason] = []
        for line in batch:
            session = self._sessions.get(line.key)
            results.append(Reason.UNKNOWN if session is None else session.life.touch(now, line, now))
        return results

    async def end(self, key: bytes, reason: Reason) -> bool:
        return self._end(self._now(), key, reason)

    async def rotate(self, old: bytes, new: bytes, *, data: bytes, user: str | None, policy: Policy) -> Left:
        check_user(user)
        now = self._now()
        left = self._create(now, new, data, user, policy)
        self._end(now, old, Reason.ROTATED)
        return left

    async def end_user(self, user: str, reason: Reason, *, keep: bytes | None = None) -> int:
        check_user(user)
        now = self._now()
        keys = [key for key, session in self._sessions.items() if session.user == user and key != keep]
        return sum(self._end(now, key, reason) for key in keys)

    async def sweep(self) -> int:
        now = self._now()
        for session in self._sessions.values():
            # For good, though the clock be set back: its data is gone.
            session.life.reason = session.life.over(now)
            if session.life.reason is not None:
                session.data, session.user = b"", None
        gone = [key for key, session in self._sessions.items() if session.life.forgettable(now)]
        for key in gone:
            del self._sessions[key]
        return len(gone)

    async def publish(self, batch: Sequence[Pushed]) -> None:
        self._now()
        self._watches.tell(batch)

    def watch(self) -> AsyncIterator[News]:
        self._now()
        return self._watches.add()

    def _now(self) -> float:
        if not self._open:
            raise StoreUnavailable("the session store is not open", "await open() first")
        return self._clock.wall()

    def _idle(self, key: bytes) -> float | None:
        session, now = self._sessions.get(key), self._now()
        return None if session is None or session.life.over(now) else now - session.life.last_active

    def _create(self, now: float, key: bytes, data: bytes, user: str | None, policy: Policy) -> Left:
        if key in self._sessions:
            raise StoreError("a session with this key exists", "make a fresh random id for every session")
        life = Lifetime.begin(now, policy)
        self._sessions[key] = _Session(data, user, now, life)
        return Left(life.idle_at - now, life.absolute_at - now)

    def _end(self, now: float, key: bytes, reason: Reason) -> bool:
        session = self._sessions.get(key)
        if session is None or not session.life.end(now, reason):
            return False
        session.data, session.user = b"", None
        self._watches.tell([Ended(key, reason)])
        return True
