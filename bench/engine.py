"""What a page costs: memory while it idles, time for its pings; beside stock aiohttp, in one run.

    make bench            about six minutes; writes the table into docs/engine.md
    QUICK=1 make bench    under a minute; prints it only

The server runs alone on one core and the load on another, over the loopback interface. The engines
take turns, and every figure is the median over the rounds. Bars are judged by what the server process
itself used (resident memory, user and system time), which the rest of a busy machine disturbs least.

Exits with 1 when keepalive is under a bar, with 3 when something that it needs is missing.
"""

import asyncio
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import IO, NamedTuple

from cryptography.fernet import Fernet

import keepalive
from keepalive.seal import ENVIRONMENT, Seal
from keepalive.touchers import key_of

HERE = Path(__file__).parent
REPORT = HERE.parent / "docs" / "engine.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

MEMORY_BAR = 2600
"""Most bytes of process memory that an idle page may cost on asyncio's loop."""
SPEED_BAR = 1.5
"""How many times the pings of stock aiohttp for the same processor time, on the same loop, at least."""
ENGINES = ("stock", "tuned", "keepalive")
SETTLE = 1.0
"""Seconds between the last beat and the reading of the memory."""


class Scale(NamedTuple):
    """How much is measured."""

    rounds: int
    first_pages: int
    """The memory is counted from this many connections …"""
    idle_pages: int
    """… to this many, so that what the process itself takes drops out."""
    memory_rounds: int
    busy_pages: int
    seconds: float


FULL = Scale(rounds=5, first_pages=1000, idle_pages=15000, memory_rounds=3, busy_pages=150, seconds=3.0)
QUICK = Scale(rounds=2, first_pages=300, idle_pages=2300, memory_rounds=1, busy_pages=150, seconds=0.5)


class Missing(Exception):
    """Something that the measurement needs is not here."""


class Idle(NamedTuple):
    """One reading of pages that are connected and have pinged once."""

    bytes_each: float
    handshakes: float
    """A second."""


class Busy(NamedTuple):
    """One reading of pages that ping as fast as they are answered."""

    pings: float
    """A second."""
    cpu: float
    """Microseconds of the server's user and system time for each."""
    share: float
    """How much of its core the server had; less than 1 where other processes wanted it too."""


@dataclass
class Column:
    """All readings of one engine on one loop."""

    idle: list[Idle] = field(default_factory=list)
    busy: list[Busy] = field(default_factory=list)
    confirmed: list[Busy] = field(default_factory=list)
    """Every ping confirmed by the store."""


class Bench:
    """Runs servers and loads, each on its own core.

    Args:
        folder: for the compiled load generator, the database and the cookies.
        scale: how much is measured.

    Raises:
        Missing: there is no C compiler, only one core, or too low a limit of open files.
    """

    def __init__(self, folder: Path, scale: Scale) -> None:
        if not hasattr(os, "sched_setaffinity"):
            raise Missing("this needs Linux: processes are pinned to cores and read in /proc")
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise Missing("this needs two cores: one for the server, one for the load")
        compiler = shutil.which("cc")
        if compiler is None:
            raise Missing("this needs a C compiler: install gcc or clang, so that there is a `cc`")
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files != resource.RLIM_INFINITY and files < scale.idle_pages + 100:
            raise Missing(f"this needs {scale.idle_pages + 100} open files: raise `ulimit -Hn` ({files})")
        self._scale = scale
        self._load = folder / "wsload"
        subprocess.run([compiler, "-O2", "-o", self._load, HERE / "wsload.c"], check=True)
        self._server_core, load_core = cores[-1], cores[0]
        os.sched_setaffinity(0, {load_core})  # for this process, and for the loads that it starts
        self._store_url = f"sqlite:///{folder / 'sessions.db'}"
        os.environ[ENVIRONMENT] = Fernet.generate_key().decode()  # for this process and the servers
        cookies = asyncio.run(_make_sessions(self._store_url, scale.idle_pages))
        self._first, self._others = folder / "first", folder / "others"
        self._first.write_text("".join(cookies[: scale.first_pages]))
        self._others.write_text("".join(cookies[scale.first_pages :]))

    def idle(self, engine: str, loop: str) -> Idle:
        """Connect pages, have each ping once, and see what they added to the server's memory."""
        first, others = self._scale.first_pages, self._scale.idle_pages - self._scale.first_pages
        with (
            self._server(engine, loop) as (server, port),
            self._pages("hold", port, first, 300, self._first) as output,
        ):
            _expect(output, "opened")
            _expect(output, "pinged")
            time.sleep(SETTLE)
            before = _memory(server)
            with self._pages("hold", port, others, 300, self._others) as more:
                _, seconds = _expect(more, "opened")
                _expect(more, "pinged")
                time.sleep(SETTLE)
                return Idle((_memory(server) - before) / others, others / seconds)

    def busy(self, engine: str, loop: str, touch_every: str = "") -> Busy:
        """Have pages ping as fast as they are answered."""
        scale = self._scale
        with (
            self._server(engine, loop, touch_every) as (server, port),
            self._pages("ping", port, scale.busy_pages, scale.seconds, self._first) as output,
        ):
            _expect(output, "measuring")
            used = _cpu(server)
            beats, seconds = _expect(output, "beats")
            used = _cpu(server) - used
            return Busy(beats / seconds, used / beats * 1e6, used / seconds)

    @contextmanager
    def _server(self, engine: str, loop: str, touch_every: str = "") -> Iterator[tuple[int, int]]:
        """A server; gives its process id and its port."""
        command = [sys.executable, "-m", "bench.server", engine, loop, self._store_url, touch_every]
        with _running([*command, str(self._server_core)]) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the server {engine} did not start; it says why above")
            yield process.pid, int(line)

    @contextmanager
    def _pages(self, mode: str, port: int, count: int, seconds: float, cookies: Path) -> Iterator[IO[str]]:
        """A load; gives what it prints."""
        command = [self._load, mode, port, "/keepalive/ws", count, seconds, cookies]
        with _running([str(part) for part in command]) as process:
            assert process.stdout is not None
            yield process.stdout


async def _make_sessions(url: str, count: int) -> list[str]:
    """Make sessions directly in the store; returns a Cookie header's value for each, as lines."""
    store = keepalive.open_store(url)
    seal = Seal.parse(os.environ[ENVIRONMENT])
    policy = keepalive.Policy()
    await store.open()
    try:
        ids = [f"{number:032x}" for number in range(count)]
        await asyncio.gather(
            *(
                store.create(
                    key_of(session_id),
                    data=b'{"user":"%d"}' % number,
                    user=str(number),
                    policy=policy,
                )
                for number, session_id in enumerate(ids)
            )
        )
    finally:
        await store.close()
    return [f"keepalive={seal.seal(session_id)}\n" for session_id in ids]


@contextmanager
def _running(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE.parent) as process:
        try:
            yield process
        finally:
            process.kill()


def _expect(output: IO[str], step: str) -> tuple[float, float]:
    """Read the load's output up to a step; returns its two figures, where it has them."""
    for line in output:
        name, *figures = line.split()
        if name == step:
            first, second = map(float, figures or (0, 0))
            return first, second
    raise RuntimeError("the load broke off; it says why above")


def _memory(process: int) -> int:
    """Resident memory, in bytes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()


def _cpu(process: int) -> float:
    """User and system time so far of all threads, in seconds."""
    after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def measure(bench: Bench, scale: Scale, loops: Sequence[str]) -> dict[tuple[str, str], Column]:
    """All readings, by engine and loop."""
    columns = {(engine, loop): Column() for loop in loops for engine in ENGINES}
    for turn in range(max(scale.rounds, scale.memory_rounds)):
        _progress(f"round {turn + 1} of {max(scale.rounds, scale.memory_rounds)}")
        for (engine, loop), column in columns.items():
            if turn < scale.rounds:
                column.busy.append(bench.busy(engine, loop))
        for (engine, loop), column in columns.items():
            if turn < scale.rounds and engine == "keepalive":
                column.confirmed.append(bench.busy(engine, loop, touch_every="0"))
            if turn < scale.memory_rounds and engine != "tuned":  # whose memory is that of stock
                column.idle.append(bench.idle(engine, loop))
    return columns


class Row(NamedTuple):
    """One line of the table."""

    what: str
    loop: str
    stock: str
    tuned: str
    keepalive: str
    ratio: str = ""
    """How many times better than stock."""
    tuned_ratio: str = ""
    bar: str = ""
    passed: bool | None = None


def rows(columns: dict[tuple[str, str], Column], loops: Sequence[str]) -> list[Row]:
    """The table, in the order of what a reader asks first."""
    memory, speed, cpu, confirmed, handshakes = [], [], [], [], []
    for loop in loops:
        stock, tuned, ours = (columns[engine, loop] for engine in ENGINES)

        theirs, own = (median(idle.bytes_each for idle in each.idle) for each in (stock, ours))
        line = Row("memory of an idle page, bytes", loop, f"{theirs:,.0f}", "", f"{own:,.0f}")
        line = line._replace(ratio=f"{theirs / own:.1f}")
        if loop == "asyncio":
            line = line._replace(bar=f"under {MEMORY_BAR:,} bytes", passed=own < MEMORY_BAR)
        memory.append(line)

        one, two, three = (
            f"{median(busy.pings for busy in each.busy):,.0f}" for each in (stock, tuned, ours)
        )
        speed.append(Row("pings/s on one core", loop, one, two, three))

        one, two, three = (f"{median(busy.cpu for busy in each.busy):.1f}" for each in (stock, tuned, ours))
        # The readings of a round were taken next to each other: what disturbed one, disturbed all.
        ratio, tuned_ratio = (
            median(its.cpu / own.cpu for its, own in zip(each.busy, ours.busy, strict=True))
            for each in (stock, tuned)
        )
        cpu.append(
            Row(
                "server's processor time per ping, µs",
                loop,
                one,
                two,
                three,
                ratio=f"{ratio:.2f}",
                tuned_ratio=f"{tuned_ratio:.2f}",
                bar=f"{SPEED_BAR} times stock",
                passed=ratio >= SPEED_BAR,
            )
        )

        own = median(busy.pings for busy in ours.confirmed)
        confirmed.append(Row("pings/s, each confirmed by SQLite", loop, "", "", f"{own:,.0f}"))

        theirs, own = (median(idle.handshakes for idle in each.idle) for each in (stock, ours))
        handshakes.append(
            Row("handshakes/s", loop, f"{theirs:,.0f}", "", f"{own:,.0f}", ratio=f"{own / theirs:.2f}")
        )
    return [*memory, *speed, *cpu, *confirmed, *handshakes]


def render(table: Sequence[Row], columns: dict[tuple[str, str], Column], scale: Scale) -> str:
    """The table and what it was measured with, as Markdown."""
    lines = [
        "| | loop | stock | tuned | keepalive | better than stock | than tuned | bar | |",
        "|---|---|--:|--:|--:|--:|--:|---|---|",
    ]
    verdicts = {None: "", True: "ok", False: "under"}
    lines += [f"| {' | '.join(row[:-1])} | {verdicts[row.passed]} |" for row in table]
    share = min(busy.share for column in columns.values() for busy in column.busy)
    packages = ["aiohttp", "aiohttp-session", "msgspec"] + ["uvloop"] * bool(find_spec("uvloop"))
    lines += [
        "",
        f"{datetime.now(UTC):%Y-%m-%d}; {_processor()}, {os.cpu_count()} cores; "
        f"{platform.system()} {platform.release()}; Python {platform.python_version()}, "
        f"keepalive {keepalive.__version__}, {', '.join(f'{name} {version(name)}' for name in packages)}. "
        f"Pings: {scale.busy_pages} pages, {scale.rounds} rounds of {scale.seconds:g} s. Memory: growth from "
        f"{scale.first_pages:,} to {scale.idle_pages:,} pages with a session each, after a ping each, "
        f"{scale.memory_rounds} rounds. While it was pinged, a server had at least {share:.0%} of its core.",
    ]
    return "\n".join(lines)


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    quick = os.environ.get("QUICK", "") not in ("", "0")
    scale = QUICK if quick else FULL
    loops = ["asyncio"]
    if find_spec("uvloop"):
        loops.append("uvloop")
    else:
        _progress("uvloop is not installed: without its rows")
    with tempfile.TemporaryDirectory(prefix="keepalive-bench-") as folder:
        try:
            bench = Bench(Path(folder), scale)
        except Missing as error:
            _progress(str(error))
            return 3
        columns = measure(bench, scale, loops)
    table = rows(columns, loops)
    text = render(table, columns, scale)
    print(text)
    if not quick:
        before, _, rest = REPORT.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        REPORT.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
    return 1 if any(row.passed is False for row in table) else 0


if __name__ == "__main__":
    sys.exit(main())
