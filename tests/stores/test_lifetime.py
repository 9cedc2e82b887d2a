"""The times of a session that no store shows, but each keeps."""

from math import inf, nan

import pytest

from keepalive.policy import Policy, Reason
from keepalive.stores.lifetime import KEEP_OVER, Lifetime
from keepalive.touchers import Touch

KEY = bytes(32)


def begun(absolute: float | None = 43200.0) -> Lifetime:
    return Lifetime.begin(0.0, Policy(idle_timeout=1800.0, absolute_timeout=absolute))


@pytest.mark.parametrize(
    ("keep", "idle", "seen"),
    [(None, None, 0.0), (5.0, None, 100.0), (None, 1.0, 100.0), (None, -1.0, 0.0)],
)
def test_asking_is_not_being_seen(keep: float | None, idle: float | None, seen: float) -> None:
    """Nor is an absurd `idle`, which says nothing, in any store."""
    life = begun()
    life.touch(100.0, Touch(KEY, keep, idle), 100.0)
    assert life.last_seen == seen


@pytest.mark.parametrize(
    ("idle", "active"),
    [(None, 50.0), (0.0, 100.0), (20.0, 80.0), (60.0, 50.0), (-5.0, 50.0), (inf, 50.0), (nan, 50.0)],
)
def test_activity_is_the_latest_evidence_and_never_in_the_future(idle: float | None, active: float) -> None:
    life = begun()
    life.touch(50.0, Touch(KEY, None, 0.0), 50.0)
    life.touch(100.0, Touch(KEY, 1800.0, idle), 100.0)
    assert life.last_active == active


def test_what_is_over_is_not_seen() -> None:
    life = begun()
    assert life.touch(1800.0, Touch(KEY, 1800.0, 0.0), 1799.0) is Reason.IDLE
    assert (life.last_seen, life.last_active, life.idle_at) == (0.0, 0.0, 1800.0)


@pytest.mark.parametrize(
    ("absolute", "ended_at", "forgotten_at"),
    [
        (43200.0, None, 1800.0 + KEEP_OVER),
        (43200.0, 100.0, 100.0 + KEEP_OVER),
        (None, None, 1800.0 + KEEP_OVER),
        (None, 100.0, 100.0 + KEEP_OVER),
        (1e6, None, 1e6),
        (1e6, 100.0, 1e6),
    ],
)
def test_when_it_may_be_forgotten(
    absolute: float | None, ended_at: float | None, forgotten_at: float
) -> None:
    life = begun(absolute)
    if ended_at is not None:
        life.end(ended_at, Reason.LOGOUT)
    assert not life.forgettable(forgotten_at - 0.001)
    assert life.forgettable(forgotten_at)
