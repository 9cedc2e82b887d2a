"""Pings in a closed loop: how many a core can answer, with and without the store, and two cores."""

from typing import NamedTuple

from .. import processes
from ..machine import TooSmall
from ..rivals import CONFIRMED, KEEPALIVE, PICOWS, POLLING, POLLING_REDIS, SOCKETS, STOCK, WS, Rival
from ..suite import Suite
from .row import Bar, Readings, Row, at_least, middle

WARM_UP = 0.5
"""Seconds of pings that do not count."""
_HEAD = ("server", "loop", "pings/s", "µs of processor time each", "share of its core")


class Busy(NamedTuple):
    """Pages that ping as fast as they are answered."""

    rate: float
    """Pings a second."""
    cost: float
    """Microseconds of the server's processor time for each."""
    share: float
    """How much of its core the server had; less than 1 where others wanted it, or where it waited."""


def _busy(suite: Suite, rival: Rival) -> Busy:
    with suite.visit(rival) as (server, load):
        load.open(suite.scale.busy_pages)
        load.loop(WARM_UP)
        used = server.cpu
        tally = load.loop(suite.scale.seconds)
        used = server.cpu - used
        return Busy(tally.beats / tally.seconds, used / tally.beats * 1e6, used / tally.seconds)


def _lines(readings: Readings) -> list[tuple[str, ...]]:
    ranked = sorted(readings, key=lambda rival: -middle(readings, rival, "rate"))
    return [
        (
            rival.name,
            rival.loop,
            f"{middle(readings, rival, 'rate'):,.0f}",
            f"{middle(readings, rival, 'cost'):.1f}",
            f"{middle(readings, rival, 'share'):.0%}",
        )
        for rival in ranked
    ]


def pings(suite: Suite) -> Row:
    readings = suite.alternate(SOCKETS, suite.scale.rounds, lambda rival: _busy(suite, rival))
    row = Row(
        f"{suite.scale.busy_pages} pages ping, wait for the beat, check it, and ping again, for"
        f" {suite.scale.seconds:g} s in each of {suite.scale.rounds} rounds. The session is in memory, and"
        " keepalive answers from the deadline that the store has last confirmed. The bars are judged by the"
        " processor time of a ping, for these servers wait for nothing else.",
        _HEAD,
        _lines(readings),
        [],
        readings,
    )
    for ours, stock in zip(KEEPALIVE, STOCK, strict=True):
        row.bars.append(at_least(2, f"stock aiohttp, {ours.loop}", readings, "cost", over=stock, under=ours))
    ours, picows = KEEPALIVE[-1], PICOWS[-1]
    row.bars.append(at_least(1, f"picows, {ours.loop}", readings, "cost", over=picows, under=ours))
    for ours in KEEPALIVE:
        row.bars.append(
            at_least(1, f"Node's ws, keepalive on {ours.loop}", readings, "cost", over=WS, under=ours)
        )
    return row


def store(suite: Suite) -> Row:
    rivals = [*CONFIRMED, *POLLING]
    with suite.redis():
        readings = suite.alternate(rivals, suite.scale.rounds, lambda rival: _busy(suite, rival))
    row = Row(
        "The same with `touch_every=0` and the SQLite store, beside AJAX polling of a handler that writes"
        " the session. The bars are judged by pings per second, for these servers wait for their stores."
        " Redis has the other core.",
        _HEAD,
        _lines(readings),
        [],
        readings,
    )
    for ours, polling in zip(CONFIRMED, POLLING_REDIS, strict=True):
        than = f"polling with RedisStorage, {ours.loop}"
        row.bars.append(at_least(12, than, readings, "rate", over=ours, under=polling))
    return row


class Workers(NamedTuple):
    """Pings a second."""

    one: float
    two: float
    gain: float


def _workers(suite: Suite, rival: Rival) -> Workers:
    one = _busy(suite, rival).rate
    first, second, *_ = suite.machine.server_cores
    with (
        processes.server(suite.folder, rival, first) as server,
        processes.server(suite.folder, rival, second, server.port),
        processes.load(suite.folder, rival, server.port) as load,
    ):
        load.open(suite.scale.busy_pages)
        load.loop(WARM_UP)
        tally = load.loop(suite.scale.seconds)
    two = tally.beats / tally.seconds
    return Workers(one, two, two / one)


def workers(suite: Suite) -> Row:
    if len(suite.machine.server_cores) < 2:
        there = len(suite.machine.cores)
        raise TooSmall(f"this needs 3 cores, two for the workers and one for the load; there are {there}")
    readings = suite.alternate(KEEPALIVE, suite.scale.rounds, lambda rival: _workers(suite, rival))
    row = Row(
        f"As the first row, with {suite.scale.busy_pages} pages on one worker, and then on two that share a"
        " port. The load has a core of its own.",
        ("server", "loop", "one worker, pings/s", "two workers, pings/s"),
        [],
        [],
        readings,
    )
    for ours in readings:
        one, two = (f"{middle(readings, ours, name):,.0f}" for name in ("one", "two"))
        row.lines.append((ours.name, ours.loop, one, two))
        gain = middle(readings, ours, "gain")
        row.bars.append(Bar(f"≥ 1.6 times one worker, {ours.loop}", f"{gain:.2f} times", gain >= 1.6))
    return row
