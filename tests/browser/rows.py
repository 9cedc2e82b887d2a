"""What became of each row of the matrix of docs/browser.md, as the test runners have written it down.

    python -m tests.browser.rows REPORT...

The reports are in JUnit's format, which pytest and node both write. A row is ok only if all its tests are in
them and have passed; the exit status is 0 only if all rows are.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROWS = {
    1: "the table of states",
    2: "arithmetic of deadlines",
    3: "an answer counts, a control pong does not",
    4: "cookie renewed, against other writes",
    5: "foreign origin, no session, no handshake",
    6: "shutdown",
    7: "open page",
    8: "back/forward cache",
    9: "frozen for a minute",
    10: "hidden for three minutes",
    11: "server killed",
    12: "black hole",
    13: "forbidden by a policy",
    14: "sockets refused",
    15: "many tabs",
    16: "offline",
    17: "reduced motion, strict policy",
    18: "clock jump, waking up",
    19: "imported in Node, typed",
    20: "Safari, phones",
}
BY_HAND = 20
CHROMIUM = "tests.browser.test_matrix::test_row_"
FIREFOX = "tests.browser.test_firefox::test_row_"

# Rows whose tests do not bear their number, or do not run in both browsers. A test's name begins with the
# file that it is in, in node with its suite, if any. For each beginning given here there has to be a test.
PROOFS = {
    1: {"node": ["the table::", "::200,000 random events"]},
    2: {"pytest": ["tests.test_policy::"]},
    3: {
        "pytest": [
            "tests.test_heart::test_presence_an_open_page_keeps_its_session_until_the_absolute_deadline",
            "tests.test_heart::test_a_page_whose_ping_is_overdue_is_asked_twice_and_then_let_go",
            "tests.test_connection::test_a_control_ping_is_answered_and_is_no_ping",
        ]
    },
    4: {
        "pytest": [
            "tests.touchers.test_aiohttp_session::test_kept_alive_by_renewal",
            "tests.touchers.test_aiohttp_session::test_a_slow_request_leaves_the_next_cookie_alone",
            "tests.test_session::test_no_order_of_requests_undoes_a_logout",
        ]
    },
    5: {
        "pytest": [
            "tests.test_web::test_origins",
            "tests.test_web::test_a_session_that_is_over",
            "tests.test_upgrade::test_what_is_no_handshake_is_refused",
        ]
    },
    6: {
        "pytest": ["tests.test_server::test_a_stop", "tests.test_web::test_all_sockets_are_told_of_a_restart"]
    },
    9: {"chromium": [f"{CHROMIUM}09_"]},  # Firefox freezes no page
    11: {"200 pages in node": [f"{CHROMIUM}11_"], "firefox": [f"{FIREFOX}11_"]},
    19: {"node": ["::imports in Node", "::exports exactly its public names", "::a page in TypeScript"]},
}


class Outcome(NamedTuple):
    """One test of a report."""

    name: str
    word: str
    seconds: float


def outcomes(reports: Iterable[Path]) -> Iterator[Outcome]:
    for report in reports:
        for suite in ElementTree.parse(report).iter():
            for case in suite.findall("testcase"):
                # The name of a file comes from pytest as the class, and of a suite from node as the parent.
                place = case.get("classname") if suite.get("name") == "pytest" else suite.get("name")
                bad = next((child.tag.upper() for child in case if child.tag in _BAD), "ok")
                yield Outcome(f"{place or ''}::{case.get('name')}", bad, float(case.get("time", 0)))


_BAD = ("failure", "error", "skipped")


def verdict(beginnings: Iterable[str], tests: Iterable[Outcome]) -> tuple[str, float]:
    """What became of tests that begin so, and how many seconds the longest of them took."""
    word, longest = "ok", 0.0
    for beginning in beginnings:
        found = [test for test in tests if test.name.startswith(beginning)]
        bad = [test.word for test in found if test.word != "ok"]
        word = bad[0] if bad else word if found else "NOT RUN"
        longest = max([longest, *(test.seconds for test in found)])
    return word, longest


def tell(reports: Iterable[Path]) -> bool:
    """Print one line for each row; whether all of them are ok."""
    tests = list(outcomes(reports))
    fine = True
    for row, name in ROWS.items():
        said = []
        proofs = PROOFS.get(row, {"chromium": [f"{CHROMIUM}{row:02}_"], "firefox": [f"{FIREFOX}{row:02}_"]})
        for where, beginnings in proofs.items() if row != BY_HAND else ():
            word, longest = verdict(beginnings, tests)
            fine = fine and word == "ok"
            said.append(f"{where} {word}" + (f" ({longest:.0f} s)" if longest >= 30 else ""))
        print(f"row {row:02} {name}: {', '.join(said) or 'by hand, see the end of docs/browser.md'}")
    return fine


if __name__ == "__main__":
    sys.exit(not tell([Path(report) for report in sys.argv[1:]]))
