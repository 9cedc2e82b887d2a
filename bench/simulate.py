"""What many open pages need, on paper: ping load, touch coalescing, and the return after a restart.

    python -m bench.simulate       prints the tables, and puts them into docs/scale.md

How often the store is asked is told by the product's own heart, with a clock that is moved by hand; the
return is a queue before a process that admits so many pages a second; the rest is arithmetic on
`MEASURED`. It comes out the same on every machine.
"""

import asyncio
import heapq
from collections.abc import Iterable
from math import ceil, inf
from pathlib import Path
from random import Random
from typing import NamedTuple

from keepalive import frames
from keepalive.messages import Beat, Ping, encode
from keepalive.policy import Policy

from .simulated import Operations, simulate

REPORT = Path(__file__).parent.parent / "docs" / "scale.md"
BEGIN, END = "<!-- simulated: begin -->\n", "<!-- simulated: end -->\n"


class Measured(NamedTuple):
    """What things take; docs/scale.md tells where each figure comes from."""

    process: float = 58e6
    """Bytes of memory of a server without pages."""
    page: float = 2303
    """Bytes of memory that a page with its session adds to it, on uvloop."""
    socket: float = 3960
    """Bytes of kernel memory for the server's end of an idle TCP connection."""
    pings: float = 78_797
    """A second and core, answered from the store's last word."""
    handshakes: float = 2_608
    """A second and core, each with its session loaded."""
    sqlite: float = 31_194
    """Touches a second, of one process."""
    redis: float = 57_384
    """Touches a second and core of Redis, in batches of 200."""


MEASURED = Measured()
PAGES = (10_000, 1_000_000, 100_000_000)
PROCESS = 25_000
"""Pages for each process. `returns` shows why not many more."""
SESSIONS, SECONDS = 100, 1800.0
"""Of the simulated heart."""
HEADERS = 3 * (20 + 32)
"""Bytes of IPv4 and of TCP with time stamps: around a ping, its beat, and the ACK of that."""

# How a page returns; from web/machine.js.
GREETING = 10.0
LEAST_DELAY, MOST_DELAY = 0.5, 30.0
PATIENCE = 2
"""A process whose pages have given up so often on average has fallen behind."""


class Return(NamedTuple):
    """How the pages of one process came back to it."""

    seconds: float
    """Until the last one was greeted; `inf` if the process has fallen behind."""
    given_up: int
    """Attempts that were not answered in time."""


def come_back(pages: int, spread: float, handshakes: float) -> Return:
    """Let all pages of a process lose their sockets at once.

    Each tries again after a random part of `spread` seconds, and the process admits one after the other,
    `handshakes` a second. A page that is not greeted in time gives up and tries again after a random part
    of a pause that doubles; its handshake has cost the process no less.
    """
    random = Random(0)
    attempts = [(max(LEAST_DELAY, spread * random.random()), 1) for _ in range(pages)]
    heapq.heapify(attempts)
    free = 0.0
    given_up = 0
    while attempts:
        began, failures = heapq.heappop(attempts)
        if given_up > PATIENCE * pages:
            return Return(inf, given_up)
        free = max(free, began) + 1 / handshakes
        if free - began > GREETING:
            given_up += 1
            most = min(MOST_DELAY, 2.0**failures)
            heapq.heappush(
                attempts, (began + GREETING + max(LEAST_DELAY, most * random.random()), failures + 1)
            )
    return Return(free, given_up)


def bytes_a_ping() -> int:
    """On the wire for a ping and its beat, both ways, without TLS."""
    ping = encode(Ping(1000, idle=12.3))
    beat = encode(Beat(1000, expires_in=1799.123, ends_in=41234.567))
    return len(frames.text(ping)) + 4 + len(frames.text(beat)) + HEADERS  # 4: what a page sends is masked


def touches() -> tuple[list[Operations], str]:
    found = [asyncio.run(simulate(SESSIONS, SESSIONS * tabs, SECONDS)) for tabs in (1, 2, 4)]
    minutes = SESSIONS * SECONDS / 60
    lines = [
        (
            f"{each.pages // each.sessions}",
            f"{each.pings / minutes:.2f}",
            f"{each.touches / minutes:.2f}",
            f"{each.pings / each.touches:.1f}",
        )
        for each in found
    ]
    return found, table(
        ("pages of a session", "pings a minute", "touches a minute", "pings for each touch"), lines
    )


def returns() -> str:
    spreads = (3, 10, 20, 40, 80)
    lines = []
    for pages in (10_000, 25_000, 50_000, 100_000):
        line = [f"{pages:,}"]
        for spread in spreads:
            back = come_back(pages, spread, MEASURED.handshakes)
            line.append("falls behind" if back.seconds == inf else f"{back.seconds:.0f} s")
            if back.given_up and back.seconds < inf:
                line[-1] += f", {back.given_up:,} given up"
        lines.append(line)
    return table(("pages of one process", *(f"spread over {spread} s" for spread in spreads)), lines)


def needs(touched: float) -> str:
    """What so many pages need, with one session each, which is touched so often in a second."""
    interval = Policy().ping_interval
    columns: list[tuple[str, ...]] = [
        ("open pages", "processes", "their memory", "the kernel's", "pings/s", "cores for them", "touches/s",
         "of SQLite", "cores of Redis", "network, Mbit/s", "all back after, at best")
    ]  # fmt: skip
    for pages in PAGES:
        processes = max(2, ceil(pages / PROCESS))
        pings, touches = pages / interval, pages * touched
        columns.append(
            (
                f"{pages:,}",
                f"{processes:,}",
                f"{(processes * MEASURED.process + pages * MEASURED.page) / 1e9:,.2f} GB",
                f"{pages * MEASURED.socket / 1e9:,.2f} GB",
                f"{pings:,.0f}",
                f"{pings / MEASURED.pings:,.2f}",
                f"{touches:,.0f}",
                f"{touches / MEASURED.sqlite:,.0%}",
                f"{touches / MEASURED.redis:,.3f}",
                f"{pings * bytes_a_ping() * 8 / 1e6:,.1f}",
                f"{pages / processes / MEASURED.handshakes:,.0f} s",
            )
        )
    head, *lines = zip(*columns, strict=True)
    return table(head, lines)


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    rows = [list(head), *map(list, lines)]
    rows.insert(1, ["--:"] * len(rows[0]))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def report() -> str:
    found, coalescing = touches()
    one = found[0]
    return "\n".join(
        [
            f"What they need ({bytes_a_ping()} bytes on the wire for a ping and its beat):\n",
            needs(one.touches / one.sessions / one.seconds),
            "How often a session goes to the store:\n",
            coalescing,
            f"When the pages of a process that admits {MEASURED.handshakes:,.0f} a second are all back; it"
            " falls behind where they have given up twice each, on average, and still are not:\n",
            returns(),
        ]
    )


def main() -> None:
    text = REPORT.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    found = report()
    REPORT.write_text(f"{before}{BEGIN}{found}{END}{after}")
    print(found)


if __name__ == "__main__":
    main()
