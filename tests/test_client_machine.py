"""The client's machine where nobody can call it: it polls, and has to warn in time by itself."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from keepalive.client.machine import Closed, Connect, Effect, Emit, Fact, Machine, Post, Posted, State
from keepalive.messages import HttpBeat, Warning
from keepalive.policy import Mode, Reason

INTERVAL = 25.0
Session = Callable[[float], tuple[float, float | None]]
"""What remains at a time, until the nearer deadline and until the absolute one."""


class Polling:
    """A heart whose socket never opens, and a server that answers its every POST at once."""

    def __init__(self, session: Session, warn_before: float, mode: Mode, random: float) -> None:
        self.machine = Machine()
        self.pings: list[float] = []
        self.warnings: list[tuple[float, Warning]] = []
        self._session = session
        self._rules = warn_before, mode
        self._random = random

    def run(self, until: float) -> "Polling":
        """Live from 0 on."""
        self._meet(self.machine.take(Fact.START, 0.0, self._random), 0.0)
        while (now := self.machine.due) <= until:
            self._meet(self.machine.take(Fact.TICK, now, self._random), now)
        return self

    def _meet(self, effects: list[Effect], now: float) -> None:
        for effect in effects:
            match effect:
                case Connect():
                    self._meet(self.machine.take(Closed(1006), now, self._random), now)
                case Post(n):
                    self.pings.append(now)
                    left, ends_in = self._session(now)
                    warn_before, mode = self._rules
                    beat = HttpBeat(n, left, ends_in, interval=INTERVAL, warn_before=warn_before, mode=mode)
                    self._meet(self.machine.take(Posted(n, beat), now, self._random), now)
                case Emit(Warning() as warning):
                    self.warnings.append((now, warning))


def ending(end: float) -> Session:
    """A session that nothing extends."""
    return lambda now: (end - now, None)


@pytest.mark.parametrize("warn_before", [25, 60])
@pytest.mark.parametrize("mode", [Mode.ACTIVITY, Mode.OBSERVE])
def test_it_is_warned_in_time_whatever_the_phase(mode: Mode, warn_before: float) -> None:
    for more in range(20, 1_300, 7):
        end = warn_before + more
        heart = Polling(ending(end), warn_before, mode, more % 10 / 10).run(end)
        assert heart.machine.state is State.POLLING
        ((at, warning),) = heart.warnings
        assert warn_before - 1 <= end - at <= warn_before, f"{end - at} s left of {end}"
        assert (warning.why, warning.extendable) == (Reason.IDLE, mode is Mode.ACTIVITY)


@pytest.mark.parametrize("end", range(300, 350, 3))
def test_it_is_warned_in_time_of_the_absolute_deadline(end: float) -> None:
    heart = Polling(lambda now: (min(75, end - now), end - now), 60, Mode.PRESENCE, 0.5).run(end)
    ((at, warning),) = heart.warnings
    assert 59 <= end - at <= 60
    assert (warning.why, warning.extendable) == (Reason.ABSOLUTE, False)


def test_it_pings_no_more_often_where_a_ping_extends_the_session() -> None:
    kept = Polling(lambda now: (75, 40_000), 60, Mode.PRESENCE, 0.5).run(600)
    free = Polling(lambda now: (1800, None), 60, Mode.PRESENCE, 0.5).run(600)
    assert kept.warnings == []
    assert kept.pings == free.pings


def test_it_does_not_flood_a_server_whose_clock_is_slower() -> None:
    pings = Polling(lambda now: (25.001, None), 25, Mode.ACTIVITY, 0.5).run(60).pings
    steady = pings[2:]  # the first tells that only the socket fails, the second is the first poll
    assert len(steady) > 10
    assert min(after - before for before, after in pairwise(steady)) >= 1


def test_it_asks_once_for_a_warning_and_then_goes_on_as_before() -> None:
    heart = Polling(ending(112.5), 25, Mode.ACTIVITY, 0.5).run(160)
    assert [at - heart.pings[1] for at in heart.pings[1:]] == [0, 25, 50, 75, 85, 110, 135]
