"""What became of each row of docs/browser.md in each browser, told at the end of a test run."""

import re
from collections import defaultdict

import pytest

ROWS = {
    7: "open page",
    8: "back/forward cache",
    9: "frozen",
    10: "hidden",
    11: "server killed",
    12: "black hole",
    13: "forbidden by a policy",
    14: "sockets refused",
    15: "many tabs",
    16: "offline",
    17: "reduced motion, strict policy",
    18: "clock jump, waking up",
}
MODULES = {"chromium": "matrix", "firefox": "firefox"}
WITHOUT = {("firefox", 9)}
"""Browsers that have no such state."""

_TEST = re.compile(r"browser/test_(\w+)\.py::test_row_(\d\d)_")


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """One line for each row, if any of them was run."""
    outcomes: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and (found := _TEST.search(report.nodeid)):
                outcomes[found[1], int(found[2])].add(report.outcome)
    if not outcomes:
        return
    terminalreporter.section("rows of docs/browser.md")
    for row, name in ROWS.items():
        said = ", ".join(
            f"{browser} {_word(outcomes[module, row], (browser, row) in WITHOUT)}"
            for browser, module in MODULES.items()
        )
        terminalreporter.write_line(f"row {row:02} {name}: {said}")


def _word(outcomes: set[str], is_without: bool) -> str:
    if not outcomes:
        return "has no such state" if is_without else "not run"
    return next((bad.upper() for bad in ("failed", "skipped") if bad in outcomes), "ok")
