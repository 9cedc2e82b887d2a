"""How fast pages are let in."""

from typing import NamedTuple

from ..machine import Machine
from ..rivals import BARE, KEEPALIVE, STOCK, Rival
from ..suite import Suite
from .row import Row, at_least, middle


class Handshakes(NamedTuple):
    """Pages that connect."""

    rate: float
    """A second."""
    cost: float
    """Microseconds of the server's processor time for each."""


def _handshakes(suite: Suite, rival: Rival) -> Handshakes:
    count = suite.scale.handshakes
    with suite.visit(rival) as (server, load):
        load.open(count // 10)
        used = server.cpu
        tally = load.open(count)
        return Handshakes(count / tally.seconds, (server.cpu - used) / count * 1e6)


def handshakes(suite: Suite) -> Row:
    Machine.need_files(suite.scale.handshakes * 2)
    rivals = [*KEEPALIVE, *BARE, *(STOCK if suite.scale.bystanders else ())]
    readings = suite.alternate(rivals, suite.scale.rounds, lambda rival: _handshakes(suite, rival))
    row = Row(
        f"{suite.scale.handshakes:,} pages connect, 64 at a time, until each has its hello. keepalive opens"
        " the sealed cookie and loads the session from SQLite, and so does stock aiohttp by aiohttp-session;"
        " bare aiohttp does neither, and upgrades whoever comes.",
        ("server", "loop", "handshakes/s", "µs of processor time each"),
        [
            (
                rival.name,
                rival.loop,
                f"{middle(readings, rival, 'rate'):,.0f}",
                f"{middle(readings, rival, 'cost'):,.0f}",
            )
            for rival in sorted(readings, key=lambda rival: -middle(readings, rival, "rate"))
        ],
        [],
        readings,
    )
    for ours, bare in zip(KEEPALIVE, BARE, strict=True):
        than = f"bare aiohttp, which loads no session, {ours.loop}"
        row.bars.append(at_least(0.9, than, readings, "rate", over=ours, under=bare))
    return row
