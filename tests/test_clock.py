"""Clocks: the machine's, and the one that a test moves."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keepalive.clock import Clock, ManualClock, SystemClock
from keepalive.policy import Policy, Reason
from keepalive.stores import SessionStore, open_store
from keepalive.touchers import Left, Touch


def test_both_clocks_are_clocks() -> None:
    clocks: list[Clock] = [SystemClock(), ManualClock()]
    assert all(
        isinstance(reading, float) for clock in clocks for reading in (clock.wall(), clock.monotonic())
    )


def test_the_wall_clock_is_the_machines() -> None:
    before = time.time()
    assert before <= SystemClock().wall() <= time.time()


def test_monotonic_time_never_goes_back() -> None:
    readings = [SystemClock().monotonic() for _ in range(100)]
    assert readings == sorted(readings)


def test_suspended_time_counts_where_the_machine_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepalive.clock._BOOTTIME", 7)
    monkeypatch.setattr("time.clock_gettime", {7: 42.0}.__getitem__)
    assert SystemClock().monotonic() == 42.0


def test_elsewhere_plain_monotonic_time_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepalive.clock._BOOTTIME", None)
    before = time.monotonic()
    assert before <= SystemClock().monotonic() <= time.monotonic()


def test_a_manual_clock_stands_still() -> None:
    clock = ManualClock(wall=500.0)
    assert (clock.wall(), clock.wall()) == (500.0, 500.0)
    assert clock.monotonic() == clock.monotonic()


def test_advance_moves_both_readings() -> None:
    clock = ManualClock(wall=500.0)
    monotonic = clock.monotonic()
    clock.advance(2.5)
    clock.advance(0)
    assert clock.wall() == 502.5
    assert clock.monotonic() == monotonic + 2.5


def test_time_does_not_go_back() -> None:
    clock = ManualClock()
    before = clock.wall(), clock.monotonic()
    with pytest.raises(ValueError, match=r"jump\(\)"):
        clock.advance(-0.1)
    assert (clock.wall(), clock.monotonic()) == before


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_jump_moves_only_the_wall_clock(seconds: float) -> None:
    clock = ManualClock(wall=5000.0)
    monotonic = clock.monotonic()
    clock.jump(seconds)
    assert clock.wall() == 5000.0 + seconds
    assert clock.monotonic() == monotonic


# What a step of the wall clock does to sessions; docs/security.md says so.

KEY = bytes(32)
POLICY = Policy(idle_timeout=7200, absolute_timeout=7200)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory://", "sqlite:///{}/sessions.db"], ids=["memory", "sqlite"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[SessionStore]:
    """With one session, which may live for two hours."""
    store = open_store(request.param.format(tmp_path), clock=clock)
    await store.open()
    await store.create(KEY, data=b"", user="ann", policy=POLICY)
    yield store
    await store.close()


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
async def test_a_step_moves_the_deadlines_by_as_much(
    store: SessionStore, clock: ManualClock, step: float
) -> None:
    clock.jump(step)
    assert await store.peek(KEY) == Left(7200 - step, 7200 - step)
    clock.advance(7200 - step - 1)
    assert await store.peek(KEY) == Left(1, 1)
    clock.advance(1)
    assert isinstance(await store.peek(KEY), Reason)


async def test_no_step_brings_back_what_was_ended(store: SessionStore, clock: ManualClock) -> None:
    await store.end(KEY, Reason.LOGOUT)
    for step in -3600.0, -86400.0, 30 * 86400.0, -30 * 86400.0:
        clock.jump(step)
        assert isinstance(await store.load(KEY), Reason)
        await store.sweep()
        assert (await store.touch([Touch(KEY, 7200)]))[0] in (Reason.LOGOUT, Reason.UNKNOWN)
