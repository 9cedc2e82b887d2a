"""Bytes on the wire."""

from typing import NamedTuple

from ..rivals import KEEPALIVE, POLLING, SOCKETS, Rival
from ..suite import Suite
from .row import Row, at_least, middle

PAGES, PINGS = 100, 10
"""How many pages ping how often: enough that numbers of one and of two digits occur."""


class Bytes(NamedTuple):
    """Bytes of the TCP streams for one ping and its answer."""

    sent: float
    received: float
    both: float


def _bytes(suite: Suite, rival: Rival) -> Bytes:
    with suite.visit(rival) as (_, load):
        load.open(PAGES)
        tallies = [load.burst() for _ in range(PINGS)]
    beats = sum(tally.beats for tally in tallies)
    sent, received = (sum(getattr(tally, way) for tally in tallies) / beats for way in Bytes._fields[:2])
    return Bytes(sent, received, sent + received)


def wire(suite: Suite) -> Row:
    sockets = SOCKETS if suite.scale.bystanders else KEEPALIVE
    rivals = [rival for rival in (*sockets, *POLLING) if rival.loop != "uvloop"]
    with suite.redis():
        readings = suite.alternate(rivals, 1, lambda rival: _bytes(suite, rival))
    row = Row(
        "What the TCP streams carry for a ping and its answer, with the headers that Chromium sends and no"
        " cookie but the session's; the headers of TCP and IP, and TLS, come on top of all alike. The loop"
        " makes no difference.",
        ("server", "to the server", "to the page", "both"),
        [
            (rival.name, *(f"{middle(readings, rival, name):.0f}" for name in Bytes._fields))
            for rival in sorted(readings, key=lambda rival: middle(readings, rival, "both"))
        ],
        [],
        readings,
    )
    for polling in POLLING:
        if polling.loop != "uvloop":
            row.bars.append(
                at_least(8, f"fewer than {polling.name}", readings, "both", over=polling, under=KEEPALIVE[0])
            )
    return row
