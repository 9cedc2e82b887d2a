"""Process memory of idle pages, as they become many."""

import time
from typing import NamedTuple

from ..machine import Machine
from ..rivals import KEEPALIVE, SOCKETS, STOCK, TUNED, Rival
from ..suite import Suite
from .row import Row, at_least, at_most, middle

SETTLE = 1.0
"""Seconds of rest before the memory is read."""


class Growth(NamedTuple):
    """The server's resident memory as pages come, each of which has pinged once."""

    memory: tuple[tuple[int, int], ...]
    """Pages, and bytes with them."""
    each: float
    """Bytes that a page added, over all,"""
    early: float
    """over the first half,"""
    late: float
    """and over the second;"""
    bend: float
    """that over this."""


def _growth(suite: Suite, rival: Rival) -> Growth:
    readings = []
    opened = 0
    with suite.visit(rival) as (server, load):
        for pages in suite.scale.memory_pages:
            load.open(pages - opened)
            opened = pages
            load.burst()
            time.sleep(SETTLE)
            readings.append((pages, server.memory))
    first, half, last = readings[0], readings[len(readings) // 2], readings[-1]
    early, late = added(first, half), added(half, last)
    return Growth(tuple(readings), added(first, last), early, late, late / early)


def added(one: tuple[int, int], other: tuple[int, int]) -> float:
    """Bytes a page between two readings."""
    return (other[1] - one[1]) / (other[0] - one[0])


def memory(suite: Suite) -> Row:
    pages = suite.scale.memory_pages
    Machine.need_files(pages[-1] + 100)
    judged = [*KEEPALIVE, *STOCK]
    bystanders = SOCKETS if suite.scale.bystanders else ()
    others = [rival for rival in bystanders if rival not in (*judged, *TUNED)]
    readings = {
        **suite.alternate(judged, suite.scale.memory_rounds, lambda rival: _growth(suite, rival)),
        **suite.alternate(others, 1, lambda rival: _growth(suite, rival)),
    }
    row = Row(
        f"What each page adds to the resident memory of the server, from {pages[0]:,} to {pages[-1]:,}"
        " pages. Each has a session of its own, and has pinged once. The kernel's socket buffers come on"
        f" top, for all alike. keepalive and stock aiohttp: median of {suite.scale.memory_rounds} rounds;"
        " the others once.",
        ("server", "loop", "bytes a page", "in the first half", "in the second"),
        [
            (
                rival.name,
                rival.loop,
                *(f"{middle(readings, rival, name):,.0f}" for name in ("each", "early", "late")),
            )
            for rival in sorted(readings, key=lambda rival: middle(readings, rival, "each"))
        ],
        [],
        readings,
    )
    for ours, stock, most in zip(KEEPALIVE, STOCK, (2300, 2100), strict=True):
        row.bars += [
            at_most(most, "bytes", readings, ours, "each"),
            at_most(1.15, "times in the second half what the first half took", readings, ours, "bend"),
            at_least(6, f"less than stock aiohttp, {ours.loop}", readings, "each", over=stock, under=ours),
        ]
    return row
