"""`Row`: what came of a row of the table, and the bars that keepalive has to pass in it.

Ratios are taken round by round, between readings next to each other, so that what disturbs one
disturbs both; then their median counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from ..rivals import Rival


class Bar(NamedTuple):
    """What keepalive has to reach, and what it did."""

    text: str
    figure: str
    passed: bool | None
    """`None` where it could not be measured."""


@dataclass
class Row:
    """What came of one row."""

    how: str
    """What was measured, in prose."""
    head: tuple[str, ...]
    lines: list[tuple[str, ...]]
    bars: list[Bar]
    readings: Any
    """For the plots and the summary."""


Readings = Mapping[Rival, Sequence[Any]]
"""A named tuple for each round."""


def middle(readings: Readings, rival: Rival, figure: str) -> float:
    """The median of a figure over the rounds."""
    return float(median(getattr(reading, figure) for reading in readings[rival]))


def ratio(readings: Readings, over: Rival, under: Rival, figure: str) -> float:
    """How many times as large a figure of one rival is as that of another: the rounds' median."""
    pairs = zip(readings[over], readings[under], strict=True)
    return float(median(getattr(one, figure) / getattr(other, figure) for one, other in pairs))


def at_least(least: float, than: str, readings: Readings, figure: str, *, over: Rival, under: Rival) -> Bar:
    """A bar on a ratio."""
    text = f"≥ {least:g} times {than}"
    if over not in readings or under not in readings:
        return Bar(text, "not measured", None)
    times = ratio(readings, over, under, figure)
    return Bar(text, f"{times:.2f} times", times >= least)


def at_most(most: float, unit: str, readings: Readings, rival: Rival, figure: str) -> Bar:
    """A bar on a figure of keepalive's own."""
    text = f"≤ {most:,g} {unit}, {rival.loop}"
    if rival not in readings:
        return Bar(text, "not measured", None)
    value = middle(readings, rival, figure)
    return Bar(text, f"{value:,.{0 if most > 100 else 2}f} {unit.partition(' ')[0]}", value <= most)
