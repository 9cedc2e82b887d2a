"""Measures keepalive beside what a user would pick instead, in one run.

    make bench                          half an hour; writes docs/benchmarks.md
    make bench QUICK=1                  two minutes; prints only
    ROWS="pings memory" make bench      these rows alone; prints only

Exits with 1 when a figure is below its bar; else with 3 when something had to be left out that can
be installed or mended: a compiler, a rival, Node, Redis, a higher limit of open files.
"""

import os
import signal
import sys
import tempfile
from pathlib import Path

from . import processes, report, sessions
from .machine import Machine, Missing
from .rows import KINDS, measure
from .suite import FULL, QUICK, Suite


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server outlives this process
    quick = os.environ.get("QUICK", "") not in ("", "0")
    names = os.environ.get("ROWS", "").replace(",", " ").split() or list(KINDS)
    if unknown := set(names) - set(KINDS):
        print(
            f"no row is called {' or '.join(sorted(unknown))}; there are {', '.join(KINDS)}", file=sys.stderr
        )
        return 2
    try:
        machine = Machine()
    except Missing as error:
        print(error, file=sys.stderr)
        return 3
    with tempfile.TemporaryDirectory(prefix="keepalive-bench-") as folder:
        suite = Suite(machine, Path(folder), QUICK if quick else FULL)
        _prepare(suite)
        rows = {}
        for name in names:
            print(f"{KINDS[name].title} …", file=sys.stderr, flush=True)
            rows[name] = measure(suite, name)
            report.show(name, rows[name])
        if not quick and names == list(KINDS):
            report.write(suite, rows)
    if any(bar.passed is False for _, bar in report.bars(rows)):
        return 1
    return 3 if suite.missing else 0


def _prepare(suite: Suite) -> None:
    """Make what the rows need; what cannot be had is noted, and they do without."""
    sessions.make(suite.folder, suite.scale.most_pages)
    try:
        processes.install_node_packages()
    except Missing as error:
        suite.miss("the rivals on Node", error)
    try:
        processes.compile_load(suite.folder)
    except Missing as error:
        suite.miss("all but simulations", error)


if __name__ == "__main__":
    sys.exit(main())
