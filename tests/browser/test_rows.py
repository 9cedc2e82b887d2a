"""A row of the summary is ok only if its tests were run and have passed."""

from pathlib import Path

import pytest

from .rows import BY_HAND, PROOFS, ROWS, tell

PYTEST = '<testsuites name="pytest tests"><testsuite name="pytest">{cases}</testsuite></testsuites>'
NODE = """<testsuites><testcase name="{alone}" classname="test"/>
<testsuite name="the table">{cases}</testsuite></testsuites>"""


def case(name: str, classname: str, content: str = "") -> str:
    return f'<testcase name="{name}" classname="{classname}" time="61.5">{content}</testcase>'


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """One of node, in which the table of states was tested, and the walk of many events was, too."""
    path = tmp_path / "node.xml"
    path.write_text(NODE.format(alone="200,000 random events break nothing", cases=case("x", "test")))
    return path


def line(text: str, row: int) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"row {row:02} "))


def test_every_row_has_its_line(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not tell([report])
    lines = capsys.readouterr().out.splitlines()
    assert [each[:6] for each in lines] == [f"row {row:02}" for row in range(1, 21)]
    assert lines[0].endswith(": node ok (62 s)")
    assert all("NOT RUN" in each for each in lines[1:19])
    assert "by hand" in lines[19]


@pytest.mark.parametrize("bad", ["failure", "error", "skipped"])
def test_one_test_that_did_not_pass_is_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: str
) -> None:
    cases = [case(f"test_row_07_{n}", f"tests.browser.{n}") for n in ("test_matrix", "test_firefox")]
    cases.append(case("test_row_07_more", "tests.browser.test_firefox", f"<{bad}/>"))
    path = tmp_path / "browser.xml"
    path.write_text(PYTEST.format(cases="".join(cases)))
    assert not tell([path])
    assert f"chromium ok (62 s), firefox {bad.upper()} (62 s)" in line(capsys.readouterr().out, 7)


def test_a_name_that_no_test_has_is_not_ok(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row is that of all its tests."""
    report.write_text(NODE.format(alone="another", cases=case("x", "test")))
    tell([report])
    assert "node NOT RUN" in line(capsys.readouterr().out, 1)


def test_all_that_is_named_and_passed_is_fine(tmp_path: Path) -> None:
    names = [name for proofs in PROOFS.values() for names in proofs.values() for name in names]
    browsers = ["test_matrix", "test_firefox"]
    names += [f"tests.browser.{each}::test_row_{row:02}_x" for each in browsers for row in range(7, 19)]
    suites = [name.split("::") for name in names]
    pytests = "".join(case(name, place) for place, name in suites if place.startswith("tests."))
    (tmp_path / "pytest.xml").write_text(PYTEST.format(cases=pytests))
    nodes = "".join(case(name, "test") for place, name in suites if not place)
    (tmp_path / "node.xml").write_text(f"<testsuites>{nodes}</testsuites>")
    table = NODE.format(alone="x", cases=case("x", "test"))
    (tmp_path / "table.xml").write_text(table)
    assert BY_HAND in ROWS
    assert tell(tmp_path.glob("*.xml"))
