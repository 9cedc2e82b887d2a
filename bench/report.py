"""What is told of a run: on the terminal, on the page docs/benchmarks.md, and in docs/engine.md."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import which
from statistics import median
from subprocess import run

import keepalive

from .rivals import HERE as RIVALS
from .rivals import KEEPALIVE, STOCK, TUNING
from .rows import KINDS, Row
from .rows.memory import Growth, added
from .rows.row import Bar, middle
from .suite import Suite

DOCS = Path(__file__).parent.parent / "docs"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

_RED, _PLAIN = "\x1b[31m", "\x1b[0m"
_VERDICTS = {True: "ok", False: "below", None: "left out"}
_PACKAGES = (
    "aiohttp", "aiohttp-session", "msgspec", "uvloop", "websockets", "picows", "python-socketio", "redis",
)  # fmt: skip

_INTRODUCTION = """\
# Benchmarks

What keepalive costs, beside what one would pick instead. `make bench` measures it on your machine and
writes this page; it takes about half an hour, two cores and a C compiler, and leaves out what is not
installed. `make bench QUICK=1` takes two minutes, and `ROWS="pings memory" make bench` measures
these rows alone; both only print. The exit code is 1 when a figure is below its bar, otherwise 3 when
something had to be left out that can be installed, or else 0.

Servers run alone on one core, and the load, the project's own [C program](../bench/load.c), on another
of the same machine, over the loopback interface. Servers take turns, and every figure is the median over
the rounds. [bench/rivals](../bench/rivals) holds all of them; they do the same job, and the rivals less.
"""


def bars(rows: Mapping[str, Row | str]) -> list[tuple[str, Bar]]:
    """All bars, with the names of their rows."""
    found = []
    for name, row in rows.items():
        if isinstance(row, str):
            found.append((name, Bar("", row, None)))
        else:
            found += [(name, bar) for bar in row.bars]
    return found


def show(name: str, row: Row | str) -> None:
    """Print one row."""
    print(f"\n{KINDS[name].title}")
    if not isinstance(row, str):
        widths = [max(map(len, column)) for column in zip(row.head, *row.lines, strict=True)]
        for line in (row.head, *row.lines):
            print(
                "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            )
    for _, bar in bars({name: row}):
        verdict = f"  {_VERDICTS[bar.passed]:8}  {f'{bar.text}: ' if bar.text else ''}{bar.figure}"
        red = bar.passed is False and not os.environ.get("NO_COLOR")
        print(f"{_RED}{verdict}{_PLAIN}" if red else verdict, flush=True)


def write(suite: Suite, rows: Mapping[str, Row | str]) -> None:
    """Write the page with its plots, and the figures that docs/engine.md quotes."""
    try:
        from . import plots  # noqa: PLC0415 - needs matplotlib
    except ModuleNotFoundError as error:
        suite.miss("the plots", f"the Python package {error.name} is not installed: pip install {error.name}")
        drawn = {}
    else:
        measured = {name: row for name, row in rows.items() if isinstance(row, Row)}
        drawn = plots.draw(measured, DOCS / "images")
    (DOCS / "benchmarks.md").write_text(_page(suite, rows, drawn), "utf-8")
    engine = DOCS / "engine.md"
    before, _, rest = engine.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    engine.write_text(f"{before}{BEGIN}\n{_summary(rows)}\n{END}{after}", "utf-8")


def _page(suite: Suite, rows: Mapping[str, Row | str], plots: Mapping[str, str]) -> str:
    parts = [_INTRODUCTION, _conditions(suite), "## Bars\n", _bars_table(rows)]
    for name, row in rows.items():
        parts.append(f"## {KINDS[name].title}\n")
        if isinstance(row, str):
            parts.append(f"Left out: {row}.\n")
            continue
        if row.lines:
            parts += [f"{row.how}\n", _table(row.head, row.lines)]
        if name in plots:
            parts.append(f"![{KINDS[name].title}](images/{plots[name]})\n")
    parts += [
        "## How each server is configured\n",
        _table(("server", "configuration"), list(TUNING.items())),
        "## What is left out, and why\n",
        _LEFT_OUT,
    ]
    if suite.missing:
        parts.append("In this run also:\n\n" + "".join(f"* {line}\n" for line in suite.missing))
    return "\n".join(parts)


_LEFT_OUT = """\
* TLS, and the network: they cost all alike, and would hide the rest. Kernel memory of the sockets, too.
* Compression: keepalive has none, as every compressed WebSocket takes a hundred kilobytes; all others are
  told to do without.
* Several processes on several cores, but for the last row; the figures are for one core.
"""


def _bars_table(rows: Mapping[str, Row | str]) -> str:
    lines = []
    last = ""
    for name, bar in bars(rows):
        title = "" if name == last else KINDS[name].title
        figure = f"**{bar.figure}**" if bar.passed is False else bar.figure
        lines.append((title, bar.text, figure, _VERDICTS[bar.passed]))
        last = name
    return _table(("row", "bar", "figure", ""), lines)


def _conditions(suite: Suite) -> str:
    versions = [f"Python {platform.python_version()}", f"keepalive {keepalive.__version__}"]
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    if which("node"):
        versions.append(f"Node {_says('node', '--version').lstrip('v')}")
    for package in ("ws", "socket.io"):
        manifest = RIVALS / "node_modules" / package / "package.json"
        if manifest.exists():
            versions.append(f"{package} {json.loads(manifest.read_text('utf-8'))['version']}")
    if which("redis-server"):
        versions.append(f"Redis {_says('redis-server', '--version').partition('v=')[2].partition(' ')[0]}")
    return f"Measured on {datetime.now(UTC):%Y-%m-%d}: {suite.machine}; {', '.join(versions)}.\n"


def _says(*command: str) -> str:
    return run(command, capture_output=True, text=True, check=True).stdout.strip()


def _summary(rows: Mapping[str, Row | str]) -> str:
    """What a page costs in one small table, for docs/engine.md."""
    pings, memory = rows["pings"], rows["memory"]
    if isinstance(pings, str) or isinstance(memory, str):
        return "Not measured."
    lines = []
    for ours, stock in zip(KEEPALIVE, STOCK, strict=True):
        if all(rival in row.readings for rival in (ours, stock) for row in (pings, memory)):
            sizes = [median(_of_15_000(growth) for growth in memory.readings[each]) for each in (ours, stock)]
            rates = [middle(pings.readings, each, "rate") for each in (ours, stock)]
            lines += [
                ("memory of an idle page with its session, of 15,000, bytes", ours.loop, *_beside(sizes)),
                ("pings answered per second on one core", ours.loop, *_beside(rates)),
            ]
    return _table(("", "loop", "keepalive", "stock aiohttp"), sorted(lines))


def _of_15_000(growth: Growth) -> float:
    """Bytes that a page added, up to 15,000."""
    return added(growth.memory[0], next(step for step in growth.memory if step[0] >= 15000))


def _beside(figures: Sequence[float]) -> list[str]:
    return [f"{figure:,.0f}" for figure in figures]


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; what looks like a number stands right."""
    numeric = [
        all(line[column][:1].isdigit() or not line[column] for line in lines) and bool(lines)
        for column in range(len(head))
    ]
    rule = "|".join("--:" if each else "---" for each in numeric)
    return "\n".join(
        [f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {' | '.join(line)} |" for line in lines), ""]
    )
