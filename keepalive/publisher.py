"""`Publisher`: brings the pushes of one server to the others, many at a time."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from .errors import StoreError
from .touchers import Pushed

log = logging.getLogger(__name__)

MOST_WAITING = 4 * 1024 * 1024
"""How many bytes may wait for a store that is slow, or away; what comes then is lost."""
AT_ONCE = 256 * 1024
"""About how many bytes go out at once."""
PATIENCE = 0.8
"""A store that has not taken them within this many seconds counts as down."""
QUIET = 1.0
"""A store that is down is logged about once in so many seconds."""

Publish = Callable[[Sequence[Pushed]], Awaitable[None]]


class Publisher:
    """Publishes at most once, in order, and never keeps anyone waiting.

    Args:
        publish: a store's.
        lose: is told how many pushes have not been published, as far as is known.
    """

    def __init__(self, publish: Publish, lose: Callable[[int], None]) -> None:
        self._publish = publish
        self._count_lost = lose
        self._waiting: deque[Pushed] = deque()
        self._size = 0
        self._publishing: asyncio.Task[None] | None = None
        self._quiet_until = 0.0

    def add(self, pushed: Pushed) -> None:
        """Publish this, soon."""
        if self._size > MOST_WAITING:
            self._lose(1, "more is pushed than it takes")
            return
        self._waiting.append(pushed)
        self._size += len(pushed.message)
        if self._publishing is None:
            self._publishing = asyncio.create_task(self._run())

    @property
    def busy(self) -> bool:
        """Whether something is on its way."""
        return self._publishing is not None

    async def finish(self) -> None:
        """Wait until all is on its way, or lost."""
        if self._publishing is not None:
            await self._publishing

    async def _run(self) -> None:
        # A task's first step comes after all that this turn of the event loop has pushed.
        try:
            while self._waiting:
                batch = self._next_batch()
                try:
                    async with asyncio.timeout(PATIENCE):
                        await self._publish(batch)
                except Exception as error:  # not again: it may have been published, and is stale soon
                    self._lose(len(batch), str(error) or "no answer in time", error)
        finally:
            self._publishing = None

    def _next_batch(self) -> list[Pushed]:
        batch, size = [], 0
        while self._waiting and size < AT_ONCE:
            batch.append(self._waiting.popleft())
            size += len(batch[-1].message)
        self._size -= size
        return batch

    def _lose(self, count: int, why: str, error: Exception | None = None) -> None:
        self._count_lost(count)
        now = asyncio.get_running_loop().time()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET
            log.warning(
                "pages at other servers miss %d pushes, as the session store did not take them: %s",
                count, why,
                exc_info=None if isinstance(error, StoreError | TimeoutError | None) else error,
            )  # fmt: skip
