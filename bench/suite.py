"""One run of the benchmarks: what it measures on, how much, and what it had to leave out."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from . import processes
from .machine import Machine
from .processes import Failed, Load, Server
from .rivals import KEEPALIVE, POLLING_REDIS, Rival

T = TypeVar("T")


class Scale(NamedTuple):
    """How much is measured."""

    rounds: int
    busy_pages: int
    seconds: float
    """How long each server is pinged in a round."""
    handshakes: int
    bystanders: bool
    """Whether servers are measured that no bar is about, where that takes long."""
    memory_rounds: int
    memory_pages: tuple[int, ...]
    """The memory is read at so many open pages; what the process itself takes drops out."""
    crowd_rounds: int
    crowd: int
    """Pages that are open at once, for all that such a crowd may slow down."""
    crowd_seconds: float
    """How long the crowd pings every 25 s."""
    latency_seconds: int
    """For how many seconds the latency is read, each for itself."""
    simulated_sessions: int

    @property
    def most_pages(self) -> int:
        """The most that any row opens, each with a session of its own."""
        return max(*self.memory_pages, self.crowd, self.handshakes * 2)


FULL = Scale(
    rounds=5,
    busy_pages=150,
    seconds=3.0,
    handshakes=3000,
    bystanders=True,
    memory_rounds=3,
    memory_pages=(1000, 3000, 6000, 9500, 12000, 15000, 18000),
    crowd_rounds=3,
    crowd=15000,
    crowd_seconds=25.0,
    latency_seconds=7,
    simulated_sessions=5000,
)
QUICK = Scale(
    rounds=1,
    busy_pages=150,
    seconds=0.6,
    handshakes=600,
    bystanders=False,
    memory_rounds=1,
    memory_pages=(500, 1750, 3000),
    crowd_rounds=1,
    crowd=5000,
    crowd_seconds=3.0,
    latency_seconds=3,
    simulated_sessions=500,
)


@dataclass(eq=False)
class Suite:
    """One run.

    Args:
        machine: where.
        folder: holds the sessions and the load generator: see `bench.sessions`.
        scale: how much is measured.
    """

    machine: Machine
    folder: Path
    scale: Scale
    missing: list[str] = field(default_factory=list)
    """What could not be measured, for want of something that can be installed or mended."""

    def miss(self, what: str, why: object) -> None:
        """Note that something is left out."""
        line = f"{what}: {why}"
        if line not in self.missing:
            self.missing.append(line)
            print(line, file=sys.stderr, flush=True)

    @contextmanager
    def visit(self, rival: Rival) -> Iterator[tuple[Server, Load]]:
        """A fresh server, and pages to open on it.

        Raises:
            Missing: there is no load generator.
            Failed: the server did not start.
        """
        core = self.machine.server_cores[0]
        with (
            processes.server(self.folder, rival, core) as server,
            processes.load(self.folder, rival, server.port) as load,
        ):
            yield server, load

    @contextmanager
    def redis(self) -> Iterator[None]:
        """Redis for the rivals that need it, where there is one; without, they are left out by themselves."""
        if any(rival.missing for rival in POLLING_REDIS):
            yield
        else:
            with processes.redis(self.folder):
                yield

    def alternate(
        self, rivals: Sequence[Rival], rounds: int, measure: Callable[[Rival], T]
    ) -> dict[Rival, list[T]]:
        """Measure all rivals in turn, several rounds; those that are not installed, or fail, are left out.

        Raises:
            Failed: keepalive itself did.
        """
        readings: dict[Rival, list[T]] = {}
        for rival in rivals:
            if (why := rival.missing) is None:
                readings[rival] = []
            else:
                self.miss(str(rival), why)
        for turn in range(rounds):
            for rival in list(readings):
                print(f"  round {turn + 1} of {rounds}: {rival}", file=sys.stderr, flush=True)
                try:
                    readings[rival].append(measure(rival))
                except Failed as error:
                    if rival.name == KEEPALIVE[0].name:
                        raise
                    self.miss(str(rival), f"left out, as {error}; it says why above")
                    del readings[rival]
        return readings
