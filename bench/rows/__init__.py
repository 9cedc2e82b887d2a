"""The rows of the table: what each measures, and the bars that keepalive has to pass in it."""

from collections.abc import Callable
from typing import NamedTuple

from ..machine import Missing, TooSmall
from ..processes import Failed
from ..suite import Suite
from . import crowd, handshakes, memory, operations, pings, wire
from .row import Bar, Row


class Kind(NamedTuple):
    """A row that can be measured."""

    title: str
    measure: Callable[[Suite], Row]


KINDS = {
    "pings": Kind("Pings answered per second and core", pings.pings),
    "store": Kind("Pings per second and core, every one confirmed by the store", pings.store),
    "bytes": Kind("Bytes on the wire per keepalive, both directions", wire.wire),
    "memory": Kind("Process memory of an idle page with its session", memory.memory),
    "handshakes": Kind("Handshakes per second, session loaded and cookie checked", handshakes.handshakes),
    "share": Kind("Processor share of a crowd that pings every 25 s", crowd.share),
    "latency": Kind("From ping to beat, over a crowd and over a hundred pages", crowd.latency),
    "operations": Kind("Store operations", operations.operations),
    "storm": Kind("Reconnect storm: a whole crowd dropped and back", crowd.storm),
    "workers": Kind("Two workers on two cores", pings.workers),
}
"""In the order of the table. Where polling is measured comes first: its cookies last half an hour."""


def measure(suite: Suite, name: str) -> Row | str:
    """One row, or why it had to be left out."""
    try:
        return KINDS[name].measure(suite)
    except Failed as error:
        return Row("", (), [], [Bar("", f"keepalive failed, as {error}; it says why above", False)], {})
    except Missing as error:
        suite.miss(f"the row {name}", error)
        return str(error)
    except TooSmall as error:
        return str(error)


__all__ = ["KINDS", "Kind", "Row", "measure"]
