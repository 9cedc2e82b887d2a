"""Very many pages at once: three rows from one visit, for it takes long until all are there."""

from collections.abc import Sequence
from functools import cache
from statistics import median
from typing import NamedTuple

from ..machine import Machine
from ..processes import Tally
from ..rivals import KEEPALIVE, PICOWS, STOCK, WS, Rival
from ..suite import Suite
from .row import Row, at_most, middle

INTERVAL = 25.0
"""Seconds between two pings of a page: keepalive's default."""
RATE = 5000.0
"""Pings a second, for the latency."""
FEW = 100
"""Pages that the crowd's latency is compared with."""
KEPT, KEPT_RATE, AT_ONCE = 50, 500.0, 1000
"""Of a storm: the pages that stay, their pings a second, and how many come back at the same time."""


class Crowd(NamedTuple):
    """What a server does for very many pages."""

    pages: int
    share: float
    """Per cent of a core, while all ping every 25 s."""
    few: list[Tally]
    """Many pings a second of few pages, second by second;"""
    many: list[Tally]
    """of all;"""
    storm: Tally
    """and the beats of those who stay while all others come back."""
    slower: float
    """How many times the p99 of few pages that of all is."""
    latest: float
    """The longest that one who stayed waited for a beat, in milliseconds."""
    back: float
    """Seconds until all others had their beat again."""


def _crowd(suite: Suite, rival: Rival) -> Crowd:
    scale = suite.scale
    with suite.visit(rival) as (server, load):
        load.open(FEW)
        load.burst()
        few = [load.pace(RATE, 1) for _ in range(scale.latency_seconds)]
        load.open(scale.crowd - FEW)
        load.burst()
        used = server.cpu
        spread = load.pace(scale.crowd / INTERVAL, scale.crowd_seconds)
        used = server.cpu - used
        many = [load.pace(RATE, 1) for _ in range(scale.latency_seconds)]
        storm = load.storm(KEPT, KEPT_RATE, AT_ONCE)
    share = used / spread.seconds * 100
    slower = median(second.p99 for second in many) / median(second.p99 for second in few)
    return Crowd(scale.crowd, share, few, many, storm, slower, storm.max, storm.seconds)


@cache
def _crowds(suite: Suite) -> dict[Rival, list[Crowd]]:
    Machine.need_files(suite.scale.crowd + 100)
    # Those that have no store to tell show what the machine itself takes.
    rivals = [*KEEPALIVE, *([*STOCK, *PICOWS, WS] if suite.scale.bystanders else ())]
    return suite.alternate(rivals, suite.scale.crowd_rounds, lambda rival: _crowd(suite, rival))


def share(suite: Suite) -> Row:
    readings = _crowds(suite)
    pages = suite.scale.crowd
    row = Row(
        f"{pages:,} pages make {pages / INTERVAL:,.0f} pings a second, evenly spread, for"
        f" {suite.scale.crowd_seconds:g} s in each of {suite.scale.crowd_rounds} rounds. Each page"
        " has a session of its own.",
        ("server", "loop", "% of a core"),
        [(rival.name, rival.loop, f"{middle(readings, rival, 'share'):.1f}") for rival in readings],
        [],
        readings,
    )
    row.bars += [at_most(4, "% of a core", readings, ours, "share") for ours in KEEPALIVE]
    return row


def latency(suite: Suite) -> Row:
    readings = _crowds(suite)
    row = Row(
        "Milliseconds from when a ping was due, whether or not the server was ready for it (so nothing is"
        f" omitted while it stalls). Each of the {suite.scale.latency_seconds} seconds in each of the"
        f" {suite.scale.crowd_rounds} rounds is read by itself, and the median of them counts: a pause of the"
        " whole machine is not the server's. picows and Node's ws, which have no store to tell, show what the"
        " machine takes.",
        ("server", "loop", "pages", "median", "90 %", "99 %", "99.9 %", "longest"),
        [
            (rival.name, rival.loop, f"{pages:,}", *(f"{value:.2f}" for value in latencies(crowds, which)))
            for rival, crowds in readings.items()
            for pages, which in ((FEW, "few"), (suite.scale.crowd, "many"))
        ],
        [],
        readings,
    )
    than = f"times that of {FEW} pages at 99 %"
    row.bars += [at_most(2, than, readings, ours, "slower") for ours in KEEPALIVE]
    return row


def latencies(crowds: Sequence[Crowd], which: str) -> list[float]:
    """The percentiles of few or many pages, each the median over the seconds of all rounds."""
    tallies = [tally for crowd in crowds for tally in getattr(crowd, which)]
    return [
        median(getattr(tally, name) for tally in tallies) for name in ("p50", "p90", "p99", "p999", "max")
    ]


def storm(suite: Suite) -> Row:
    readings = _crowds(suite)
    row = Row(
        f"All but {KEPT} of {suite.scale.crowd:,} pages lose their connections at the same moment and come"
        f" back as fast as they are let in, {AT_ONCE:,} at a time; each pings as soon as it has its hello."
        f" (Real pages spread this over seconds.) The {KEPT} ping {KEPT_RATE:,.0f} times a second in all;"
        " their beats are counted from when each ping was due. Who is refused, with 503, comes back at once.",
        ("server", "loop", "99 % of the beats within, ms", "the latest, ms", "all back after, s", "refusals"),
        [
            (
                rival.name,
                rival.loop,
                f"{median(crowd.storm.p99 for crowd in crowds):,.0f}",
                f"{middle(readings, rival, 'latest'):,.0f}",
                f"{middle(readings, rival, 'back'):.1f}",
                f"{median(crowd.storm.refusals for crowd in crowds):,.0f}",
            )
            for rival, crowds in readings.items()
        ],
        [],
        readings,
    )
    row.bars += [at_most(500, "ms", readings, ours, "latest") for ours in KEEPALIVE]
    return row
