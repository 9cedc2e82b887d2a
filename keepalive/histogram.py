"""How often something took how long, or was how large: counts by step, and what can be told from them.

Pure. To add costs one search among two dozen numbers, and the counts of several processes add up.
"""

from bisect import bisect_left
from collections.abc import Sequence

BOUNDS = tuple(0.0001 * 2 ** (step / 2) for step in range(34))
"""The upper ends of the steps for durations, in seconds: 0.1 ms to 9 s, each 1.41 times the one before."""


class Histogram:
    """Counts values by the smallest bound that they do not exceed.

    Args:
        bounds: in ascending order; whatever is over the last one has a step of its own.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        """The sum of all values."""

    def add(self, value: float, times: int = 1) -> None:
        """Count a value that came so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


def quantile(counts: Sequence[int], share: float) -> float | None:
    """Which duration a `share` of those counted, from 0 to 1, did not exceed.

    Right to one step of `BOUNDS`, within which it is interpolated; what is off the scale is told as its end.

    Returns:
        Seconds; `None` if nothing was counted.
    """
    rank, below = share * sum(counts), 0
    for step, count in enumerate(counts):
        if count and below + count >= rank:
            if step == len(BOUNDS):
                break
            lower = BOUNDS[step - 1] if step else 0.0
            return lower + (BOUNDS[step] - lower) * (rank - below) / count
        below += count
    return BOUNDS[-1] if any(counts) else None
