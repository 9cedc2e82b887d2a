"""docs/scale.md says what the simulator does."""

from math import inf

from bench.simulate import BEGIN, END, REPORT, come_back, report


def test_the_document_quotes_the_simulator() -> None:
    quoted = REPORT.read_text().partition(BEGIN)[2].partition(END)[0]
    assert quoted == report(), "run python -m bench.simulate"


def test_pages_that_are_spread_enough_come_back_without_a_queue() -> None:
    back = come_back(1000, spread=20, handshakes=100)
    assert 19 < back.seconds < 21
    assert back.given_up == 0


def test_a_short_queue_is_worked_off() -> None:
    back = come_back(1000, spread=1, handshakes=200)
    assert 5 <= back.seconds < 6
    assert back.given_up == 0


def test_too_long_a_queue_never_ends() -> None:
    """Once all that is admitted has given up, nobody is greeted any more."""
    back = come_back(10_000, spread=1, handshakes=100)
    assert back.seconds == inf
    assert back.given_up > 10_000
