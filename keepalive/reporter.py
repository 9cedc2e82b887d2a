"""`Reporter`: tells the store which sessions have pages on this node. Never on the way of a ping."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from .errors import StoreError
from .heart import Heart
from .presence import Online, Report, Roll

log = logging.getLogger(__name__)

EVERY = 1.0
"""How often a node reports, in seconds."""
SLICE = 200
"""Most lines in one report: few enough that no beat waits for long behind it, here or in the store."""
PATIENCE = 3.0
"""After how many seconds a report, with all its slices, is given up."""


class Reporter:
    """Reports the sessions of one heart for as long as it runs.

    Usually a report is one short question that renews the node's entry and carries what has changed. The
    whole roll goes out at the start, when the store has lost the entry, and after each failure, as nobody
    knows what became of that report.

    Args:
        roll: where to report to.
        heart: whose pages.
        stats: what to tell the operator.
    """

    def __init__(self, roll: Roll, heart: Heart, stats: Callable[[], bytes]) -> None:
        self._roll = roll
        self._heart = heart
        self._stats = stats
        self._number = 0
        self._anew = True
        self._failing = False

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await self.report()
            await asyncio.sleep(EVERY)

    async def report(self) -> None:
        """Report once. What goes wrong is logged when it begins, and made good by the next that succeeds."""
        try:
            async with asyncio.timeout(PATIENCE):
                changed = self._heart.take_changes()
                if self._anew or not await self._tell(changed):
                    await self._tell_all()
        except Exception as error:
            self._anew = True
            if not self._failing:
                log.warning(
                    "the pages of this node could not be reported, and are missing from the presence of all;"
                    " trying again: %s",
                    str(error) or "no answer in time",
                    exc_info=None if isinstance(error, StoreError | TimeoutError) else error,
                )
            self._failing = True
        else:
            self._failing = False

    async def leave(self, by: float) -> None:
        """Take this node out. Should that fail, its entry expires by itself.

        Args:
            by: when to give up, in the loop's time.
        """
        try:
            async with asyncio.timeout_at(by):
                await self._roll.leave(self._heart.node)
        except Exception as error:  # a shutdown goes on, whatever it is
            log.info("this node could not take its leave, and vanishes by itself: %s", error)

    async def _tell_all(self) -> None:
        if not await self._tell(list(self._heart.lives), anew=True):
            raise StoreError("the session store lost this node's roll while it was told")
        self._anew = False

    async def _tell(self, keys: Iterable[bytes], *, anew: bool = False) -> bool:
        """Tell how many pages these sessions have now; whether the store has taken it."""
        for lines in _slices(map(self._line, keys)):
            self._number += 1
            report = Report(self._heart.node, self._number, lines, self._stats(), anew)
            if not await self._roll.report(report):
                return False
            anew = False
        return True

    def _line(self, key: bytes) -> Online:
        live = self._heart.lives.get(key)
        return Online(key, None, 0) if live is None else Online(key, live.user, len(live.pages))


def _slices(lines: Iterator[Online]) -> Iterator[list[Online]]:
    """So many at a time, and none too few: a report without lines says that the node is alive."""
    part = list(islice(lines, SLICE))
    while True:
        yield part
        if not (part := list(islice(lines, SLICE))):
            return
