"""How often the store is asked."""

import asyncio

from ..simulated import simulate
from ..suite import Suite
from .row import Bar, Row

MINUTES = 10
"""Of simulated time."""
TABS = (1, 2, 3, 4)
"""Pages that each session has open."""
JUDGED = 2
"""The index of those that the bar is on."""


def operations(suite: Suite) -> Row:
    sessions = suite.scale.simulated_sessions
    results = [asyncio.run(simulate(sessions, sessions * tabs, MINUTES * 60.0)) for tabs in TABS]
    row = Row(
        "keepalive's heart with a clock that is moved by hand, and a store that counts: pages ping every"
        " 25 s ± 10 % for ten minutes, and each session has one page or several. The store may be asked for a"
        " session once in every `touch_every`: what pings have earned goes there by the wheel, with all"
        " that is due.",
        ("pages", "pings", "sessions touched", "at most", "in round trips"),
        [
            tuple(
                f"{value:,.0f}" for value in (each.pages, each.pings, each.touches, each.most, each.batches)
            )
            for each in results
        ],
        [],
        results,
    )
    each = results[JUDGED]
    row.bars.append(
        Bar(
            f"{each.pages:,} pages: ≤ sessions * time / touch_every = {each.most:,.0f}",
            f"{each.touches:,} of {each.pings:,} pings",
            each.touches <= each.most,
        )
    )
    return row
