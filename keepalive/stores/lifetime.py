"""`Lifetime`: when a session was used, until when it lives, and why it no longer does.

Pure; the stores that keep sessions in this process or in a file share it, so that they cannot
differ in a rule. All times are wall times of the store's clock, in seconds.
"""

from dataclasses import dataclass
from math import inf, isfinite
from typing import Self

from ..policy import Policy, Reason, extended, is_evidence, verdict
from ..touchers import MOST_PAGES, Left, Pages, Touch

KEEP_OVER = 86400.0
"""For how many seconds a session that is over is remembered at least, so that a page that wakes up
late, or comes right after the absolute deadline, hears the reason rather than `unknown`."""


def changes(line: Touch) -> bool:
    """Whether a line of a batch changes a session that lives; otherwise it merely asks."""
    return line.keep is not None or is_evidence(line.idle) or line.pages is not None


@dataclass(slots=True)
class Lifetime:
    """The times of one session. `idle_at` is never beyond `absolute_at`, which may be `inf`."""

    last_seen: float
    last_active: float
    idle_at: float
    absolute_at: float
    ended_at: float | None = None
    reason: Reason | None = None
    """Why it was ended; a deadline that passes by itself leaves no mark until the next sweep."""
    closes_at: float = inf
    """When it ends because its last page was closed."""
    pages: tuple[str, ...] = ()
    """The ids of its open pages, where they are counted; the newest last."""

    @classmethod
    def begin(cls, now: float, policy: Policy) -> Self:
        """The lifetime of a session that someone signs in to `now`."""
        return cls(now, now, *policy.deadlines(now))

    def over(self, now: float) -> Reason | None:
        """Why the session is over at `now`; `None` while it lives."""
        return self.reason or verdict(now, self.idle_at, self.absolute_at, self.closes_at)

    def left(self, now: float) -> Left | Reason:
        """What remains at `now`, or why the session is over."""
        return self.over(now) or Left(
            min(self.idle_at, self.closes_at) - now, self.absolute_at - now, closing=self.closes_at < inf
        )

    def touch(self, now: float, line: Touch, asked_at: float) -> Left | Reason:
        """Apply a line of a batch that was asked for at `asked_at`; what is over stays over.

        The line counts from then: a batch that had to wait must not earn more for it.
        """
        if self.over(now) is None and changes(line):
            self.last_seen = asked_at
            if line.keep is not None:
                self.idle_at = extended(self.idle_at, self.absolute_at, asked_at + line.keep)
            if is_evidence(line.idle):
                self.last_active = max(self.last_active, asked_at - line.idle)
            if line.pages is None:
                self.closes_at = inf
            else:
                self._count(line.pages, asked_at)
        return self.left(now)

    def _count(self, pages: Pages, asked_at: float) -> None:
        """Note which pages are open; with the last of them begins the end."""
        here, gone, end_after = pages
        others = tuple(page for page in self.pages if page not in here and page not in gone)
        self.pages = (others + here)[-MOST_PAGES:]
        if here:
            self.closes_at = inf
        elif gone and not self.pages:
            self.closes_at = min(self.closes_at, asked_at + end_after)

    def end(self, now: float, reason: Reason) -> bool:
        """End the session unless it is over already; the first reason stands. Whether it lived."""
        if self.over(now) is not None:
            return False
        self.ended_at = now
        self.reason = reason
        return True

    def forgettable(self, now: float) -> bool:
        """Whether no one can ask for it any more: past the absolute deadline, and over for long."""
        over_at = self.idle_at if self.ended_at is None else self.ended_at
        past_absolute = now >= self.absolute_at or not isfinite(self.absolute_at)
        return past_absolute and now >= over_at + KEEP_OVER
