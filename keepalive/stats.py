"""One node's figures as it tells them to the others, and what two looks at them a moment apart say.

Counts only grow, so that whoever misses a look misses nothing: rates and quantiles are differences.
Pure, but for asking this machine its name.
"""

import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest

import msgspec

from .heart import Heart
from .histogram import quantile
from .lag import Lag


class Figures(msgspec.Struct, kw_only=True):
    """One node, now, and what has happened there since its start."""

    name: str
    """Where it runs: its machine and process."""
    up: float
    """For how many seconds."""
    lag: float = 0.0
    """How late the event loop was at worst, in the last 30 to 60 s, in seconds."""
    draining: bool = False
    """Whether it takes no more pages."""
    pages: int = 0
    sessions: int = 0
    opens: int = 0
    pings: int = 0
    beats: int = 0
    waits: int = 0
    warnings: int = 0
    pushes: int = 0
    touches: int = 0
    batches: int = 0
    ends: dict[str, int] = {}
    """By reason."""
    closes: dict[str, int] = {}
    """By close code; those that are not the protocol's together as `other`."""
    answers: list[int] = []
    """From ping to beat: how many took how long, in the steps of `keepalive.histogram`."""
    store: list[int] = []
    """From asking the store for a batch to its answer, likewise."""


class Rates(msgspec.Struct, kw_only=True):
    """What has happened between two looks; rates are per second, times in seconds."""

    pages: int = 0
    sessions: int = 0
    opens: float = 0.0
    pings: float = 0.0
    beats: float = 0.0
    waits: float = 0.0
    p50: float | None = None
    """From ping to beat, the median; `None` where there was no beat."""
    p99: float | None = None
    """From ping to beat: 99 of 100 took no longer."""
    store_p50: float | None = None
    """From asking the store to its answer; `None` where nothing was asked."""
    store_p99: float | None = None
    ends: dict[str, int] = {}
    """How many sessions ended, by reason."""
    closes: dict[str, int] = {}
    """How many sockets closed, by close code."""


def teller(
    heart: Heart, lag: Lag, now: Callable[[], float], draining: Callable[[], bool]
) -> Callable[[], Figures]:
    """What tells this process's figures whenever it is called.

    Args:
        heart: whose.
        lag: how late its event loop is.
        now: monotonic seconds.
        draining: whether it takes no more pages.
    """
    name, began = f"{socket.gethostname()}:{os.getpid()}", now()

    def tell() -> Figures:
        counts = heart.counts
        # What was answered from the store's last word took no measurable time: the first step's.
        answers = counts.batched.counts.copy()
        answers[0] += max(0, counts.beats - sum(answers))
        return Figures(
            name=name,
            up=round(now() - began, 3),
            lag=round(lag.worst, 4),
            draining=draining(),
            pages=heart.pages,
            sessions=heart.sessions,
            opens=counts.opens,
            pings=counts.pings,
            beats=counts.beats,
            waits=counts.waits,
            warnings=counts.warnings,
            pushes=counts.pushes,
            touches=counts.touches,
            batches=counts.batches,
            ends={reason.value: times for reason, times in counts.ends.items()},
            closes={code: times for code, times in counts.told_closes().items() if times},
            answers=answers,
            store=counts.store.counts.copy(),
        )

    return tell


def rates(looks: Iterable[tuple[Figures, Figures]]) -> Rates:
    """What has happened between two looks, the earlier one first, at one node or at several."""
    whole = Rates()
    answers: list[int] = []
    store: list[int] = []
    ends: Counter[str] = Counter()
    closes: Counter[str] = Counter()
    for before, after in looks:
        whole.pages += after.pages
        whole.sessions += after.sessions
        seconds = after.up - before.up
        if seconds <= 0:  # the same look twice, or another process under the old name
            continue
        for name in "opens", "pings", "beats", "waits":
            more = (getattr(after, name) - getattr(before, name)) / seconds
            setattr(whole, name, round(getattr(whole, name) + more, 3))
        answers = _sum(answers, after.answers, before.answers)
        store = _sum(store, after.store, before.store)
        ends += Counter(after.ends) - Counter(before.ends)
        closes += Counter(after.closes) - Counter(before.closes)
    whole.p50, whole.p99 = quantile(answers, 0.5), quantile(answers, 0.99)
    whole.store_p50, whole.store_p99 = quantile(store, 0.5), quantile(store, 0.99)
    whole.ends, whole.closes = dict(ends), dict(closes)
    return whole


def _sum(so_far: Sequence[int], after: Sequence[int], before: Sequence[int]) -> list[int]:
    """Step by step; another release may have other steps, and then those that are missing hold nothing."""
    steps = zip_longest(so_far, after, before, fillvalue=0)
    return [known + max(0, now - then) for known, now, then in steps]
