"""The timer wheel: never early, at most a resolution late, whatever the order and the jumps."""

from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepalive.wheel import Wheel

RESOLUTION = 0.1
ROUNDING = 1e-6  # of floats, where a time lies on the edge of two slots

times = st.floats(min_value=0, max_value=200, allow_nan=False)


class Calls:
    """A wheel from second 0, and the calls that it makes."""

    def __init__(self) -> None:
        self.made: list[tuple[str, float]] = []
        self.again: dict[str, float] = {}
        self.wheel: Wheel[str] = Wheel(0.0, self._on_time, RESOLUTION)

    def _on_time(self, item: str, now: float) -> float | None:
        self.made.append((item, now))
        return self.again.pop(item, None)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.made]


@pytest.fixture
def calls() -> Calls:
    return Calls()


@given(st.lists(times, min_size=1), st.lists(st.floats(min_value=0.001, max_value=30), min_size=1))
def test_never_early_and_in_the_first_turn_a_resolution_later(whens: list[float], steps: list[float]) -> None:
    calls = Calls()
    for index, when in enumerate(whens):
        calls.wheel.add(str(index), when)
    turns = []
    now = 0.0
    for step in [*steps, 1000.0]:
        now += step
        turns.append(now)
        calls.wheel.turn(now)
    assert sorted(calls.names) == sorted(str(index) for index in range(len(whens)))
    for name, called_at in calls.made:
        when = whens[int(name)]
        assert called_at > when
        assert called_at <= next(turn for turn in turns if turn >= when + RESOLUTION + ROUNDING)


@given(st.lists(times), times)
def test_calls_come_in_the_order_of_their_times(whens: list[float], jump: float) -> None:
    calls = Calls()
    for index, when in enumerate(whens):
        calls.wheel.add(str(index), when)
    calls.wheel.turn(jump)
    order = [whens[int(name)] for name in calls.names]
    assert all(later > earlier - RESOLUTION - ROUNDING for earlier, later in pairwise(order))


def test_a_jump_of_hours_calls_each_once_in_order(calls: Calls) -> None:
    for name, when in [("c", 20000.0), ("a", 1.0), ("b", 300.0), ("later", 30000.0)]:
        calls.wheel.add(name, when)
    calls.wheel.turn(8 * 3600.0)
    assert calls.made == [("a", 28800.0), ("b", 28800.0), ("c", 28800.0)]
    calls.wheel.turn(30000.2)
    assert calls.names == ["a", "b", "c", "later"]


def test_what_is_past_already_comes_next(calls: Calls) -> None:
    calls.wheel.turn(50.0)
    calls.wheel.add("late", 1.0)
    calls.wheel.turn(50.0)
    assert calls.made == []
    calls.wheel.turn(50.0 + RESOLUTION + ROUNDING)
    assert calls.names == ["late"]


def test_who_returns_a_time_is_called_again_then(calls: Calls) -> None:
    calls.wheel.add("a", 1.0)
    calls.again["a"] = 5.0
    calls.wheel.turn(1.2)
    calls.wheel.turn(4.9)
    assert calls.made == [("a", 1.2)]
    calls.wheel.turn(5.2)
    calls.wheel.turn(100.0)
    assert calls.made == [("a", 1.2), ("a", 5.2)]


def test_who_wants_to_be_called_again_at_once_has_to_wait_for_the_next_turn(calls: Calls) -> None:
    calls.wheel.add("a", 1.0)
    calls.again["a"] = 0.0
    calls.wheel.turn(60.0)
    assert calls.made == [("a", 60.0)]
    calls.wheel.turn(60.2)
    assert calls.made == [("a", 60.0), ("a", 60.2)]


def test_what_is_added_during_a_turn_is_not_lost() -> None:
    made: list[str] = []

    def on_time(item: str, now: float) -> None:
        made.append(item)
        if item == "first":
            wheel.add("added, past", 1.0)
            wheel.add("added, same", now)
            wheel.add("added, later", now + 10)

    wheel: Wheel[str] = Wheel(0.0, on_time, RESOLUTION)
    wheel.add("first", 1.0)
    wheel.add("second", 3.0)
    wheel.turn(5.0)
    assert made == ["first", "second"]
    wheel.turn(5.2)
    assert made == ["first", "second", "added, past", "added, same"]
    wheel.turn(15.2)
    assert made[-1] == "added, later"


def test_a_clock_that_goes_back_calls_nobody_twice(calls: Calls) -> None:
    calls.wheel.add("a", 1.0)
    calls.wheel.turn(10.0)
    calls.wheel.turn(3.0)
    calls.wheel.add("b", 4.0)
    calls.wheel.turn(4.5)
    assert calls.names == ["a"]  # late, but never lost
    calls.wheel.turn(10.2)
    assert calls.names == ["a", "b"]


@given(st.lists(times), st.lists(st.floats(min_value=0.001, max_value=300), max_size=5))
def test_it_says_when_it_next_has_something_to_do(whens: list[float], steps: list[float]) -> None:
    calls = Calls()
    for index, when in enumerate(whens):
        calls.wheel.add(str(index), when)
    now = 0.0
    for step in steps:
        calls.wheel.turn(now := now + step)
    while (due := calls.wheel.due) < inf:
        called = len(calls.made)
        calls.wheel.turn(due - RESOLUTION / 50)
        assert len(calls.made) == called
        calls.wheel.turn(due)
        assert len(calls.made) > called
    assert len(calls.made) == len(whens)


def test_it_keeps_nothing_of_what_it_has_called(calls: Calls) -> None:
    for index in range(1000):
        calls.wheel.add(str(index), index / 7)
    calls.wheel.turn(1000.0)
    assert len(calls.made) == 1000
    assert not calls.wheel._slots


def test_all_that_waits_can_be_listed(calls: Calls) -> None:
    calls.wheel.add("late", 5.0)
    calls.wheel.add("soon", 1.0)
    calls.wheel.add("soon", 1.0)
    assert sorted(calls.wheel) == ["late", "soon", "soon"]
    calls.wheel.turn(2.0)
    assert list(calls.wheel) == ["late"]
