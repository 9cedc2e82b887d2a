"""The lifetime rules: which settings are refused, and the arithmetic of deadlines."""

from dataclasses import FrozenInstanceError, fields
from math import inf, isfinite, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepalive.errors import SettingError
from keepalive.policy import Mode, Policy, Reason, extended, is_evidence, verdict

moments = st.floats(min_value=-1e12, max_value=1e12)
absolute_moments = moments | st.just(inf)


# Defaults.


def test_the_defaults() -> None:
    policy = Policy()
    assert {field.name: getattr(policy, field.name) for field in fields(policy)} == {
        "idle_timeout": 1800.0,
        "absolute_timeout": 43200.0,
        "warn_before": 60.0,
        "ping_interval": 25.0,
        "hidden_interval": 25.0,
        "mode": Mode.PRESENCE,
        "touch_every": 60.0,
        "end_after_last_page": None,
    }


@pytest.mark.parametrize(("idle", "warned"), [(1800, 60), (180, 60), (90, 30), (75, 25)])
def test_the_warning_comes_a_minute_or_a_third_of_idle_ahead(idle: float, warned: float) -> None:
    assert Policy(idle_timeout=idle).warn_before == warned


@pytest.mark.parametrize(
    ("idle", "every"),
    [
        (12000, 60),  # never rarer than once a minute
        (1200, 60),
        (600, 30),  # a twentieth
        (100, 5),
        (48, 5),  # not more often than every 5 s …
        (40, 5),
        (24, 3),  # … unless that is more than an eighth
    ],
)
def test_touches_are_a_twentieth_of_idle_apart_within_bounds(idle: float, every: float) -> None:
    assert Policy(idle_timeout=idle, ping_interval=1).touch_every == every


def test_a_hidden_page_pings_as_often_unless_told_otherwise() -> None:
    assert Policy(ping_interval=20).hidden_interval == 20
    assert Policy(ping_interval=20, hidden_interval=20) == Policy(ping_interval=20)
    assert Policy(hidden_interval=60).ping_interval == 25


def test_numbers_become_floats_and_the_mode_a_mode() -> None:
    policy = Policy(
        idle_timeout=90, absolute_timeout=90, warn_before=0, ping_interval=30, hidden_interval=40,
        mode="observe", touch_every=45, end_after_last_page=50,
    )  # fmt: skip
    assert policy.mode is Mode.OBSERVE
    numbers = [getattr(policy, field.name) for field in fields(policy) if field.name != "mode"]
    assert numbers == [90.0, 90.0, 0.0, 30.0, 40.0, 45.0, 50.0]
    assert all(type(number) is float for number in numbers)


def test_no_absolute_limit_has_to_be_written_out() -> None:
    assert Policy(absolute_timeout=None).absolute_timeout is None


def test_a_policy_is_a_value() -> None:
    policy = Policy(idle_timeout=600)
    assert policy == Policy(idle_timeout=600.0)
    assert hash(policy) == hash(Policy(idle_timeout=600))
    assert policy != Policy()
    with pytest.raises(FrozenInstanceError):
        policy.idle_timeout = 10**9  # type: ignore[misc]


# What is refused, and what the error says to do about it.


@pytest.mark.parametrize("name", ["idle_timeout", "absolute_timeout", "ping_interval", "hidden_interval"])
@pytest.mark.parametrize("seconds", [0, -1, nan, inf, -inf])
def test_a_time_that_is_not_positive(name: str, seconds: float) -> None:
    settings: dict[str, Any] = {name: seconds}
    with pytest.raises(SettingError, match=f"{name} is .*: give {name} a positive number of seconds"):
        Policy(**settings)


def test_absolute_under_idle() -> None:
    with pytest.raises(SettingError, match=r"599 s.*600 s.*raise absolute_timeout or lower idle_timeout"):
        Policy(idle_timeout=600, absolute_timeout=599)
    Policy(idle_timeout=600, absolute_timeout=600)


def test_idle_shorter_than_three_pings() -> None:
    with pytest.raises(SettingError, match=r"raise idle_timeout to 75 s or lower ping_interval to 20 s$"):
        Policy(idle_timeout=60)
    Policy(idle_timeout=75)
    Policy(idle_timeout=60, ping_interval=20)


def test_hidden_pages_that_ping_more_often_than_those_that_show() -> None:
    with pytest.raises(SettingError, match=r"hidden_interval \(24 s\) is under ping_interval \(25 s\)"):
        Policy(hidden_interval=24)


def test_idle_shorter_than_three_pings_of_a_hidden_page() -> None:
    hint = r"raise idle_timeout to 603 s or lower hidden_interval to 200 s$"
    with pytest.raises(SettingError, match=rf"three times hidden_interval \(201 s\): {hint}"):
        Policy(idle_timeout=600, hidden_interval=201)
    Policy(idle_timeout=600, hidden_interval=200)


@pytest.mark.parametrize("mode", ["activity", "observe"])
def test_where_an_open_page_keeps_nothing_alive_a_hidden_one_may_be_as_quiet_as_it_likes(mode: str) -> None:
    policy = Policy(idle_timeout=600, hidden_interval=3600, mode=mode)
    assert policy.hidden_interval == 3600
    assert policy.advice() == []
    with pytest.raises(SettingError, match="three times ping_interval"):
        Policy(idle_timeout=600, ping_interval=201, hidden_interval=3600, mode=mode)


@pytest.mark.parametrize("seconds", [-1, 600, 601, nan, inf])
def test_a_warning_outside_of_the_idle_timeout(seconds: float) -> None:
    with pytest.raises(SettingError, match=r"warn_before.*give warn_before less than 600 seconds"):
        Policy(idle_timeout=600, warn_before=seconds)
    Policy(idle_timeout=600, warn_before=599)


@pytest.mark.parametrize("seconds", [-1, 301, nan, inf])
def test_touches_too_far_apart(seconds: float) -> None:
    with pytest.raises(SettingError, match=r"touch_every.*give touch_every 0 to 300 seconds"):
        Policy(idle_timeout=600, touch_every=seconds)
    assert Policy(idle_timeout=600, touch_every=300).touch_every == 300
    assert Policy(idle_timeout=600, touch_every=0).touch_every == 0


@pytest.mark.parametrize("seconds", [-1, 0, 4.9, 600, nan, inf])
def test_an_end_with_the_last_page_that_leaves_no_time_for_a_reload(seconds: float) -> None:
    with pytest.raises(SettingError, match=r"end_after_last_page.*give it 5 seconds or more, but less"):
        Policy(idle_timeout=600, end_after_last_page=seconds)
    assert Policy(idle_timeout=600, end_after_last_page=599).end_after_last_page == 599
    assert Policy(idle_timeout=600, end_after_last_page=5).end_after_last_page == 5


def test_an_unknown_mode() -> None:
    with pytest.raises(SettingError, match="no mode 'sleepy': use one of presence, activity, observe"):
        Policy(mode="sleepy")


# What is merely unwise.


def test_the_defaults_need_no_advice() -> None:
    assert Policy().advice() == []
    assert Policy(idle_timeout=180, warn_before=20).advice() == []
    assert Policy(idle_timeout=310, hidden_interval=90).advice() == []
    assert Policy(end_after_last_page=15).advice() == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"warn_before": 19.9}, "warn_before is 19.9 s"),
        ({"idle_timeout": 179}, "too late below 180 s"),
        ({"idle_timeout": 309, "hidden_interval": 90}, "too late below 310 s"),
        ({"idle_timeout": 309, "ping_interval": 90, "mode": "activity"}, "too late below 310 s"),
        ({"absolute_timeout": None}, "absolute_timeout is off"),
        ({"end_after_last_page": 14}, "end_after_last_page is 14 s"),
    ],
)
def test_what_is_unwise_is_said(settings: dict[str, Any], words: str) -> None:
    (sentence,) = Policy(**settings).advice()
    assert words in sentence


def test_all_that_is_unwise_is_said() -> None:
    assert len(Policy(idle_timeout=75, warn_before=1, absolute_timeout=None).advice()) == 3


# What a ping earns.


@pytest.mark.parametrize("idle", [None, 0.0, 5.0, 1e9, -1.0, nan, inf])
def test_in_presence_mode_every_ping_earns_the_whole_idle_timeout(idle: float | None) -> None:
    assert Policy(idle_timeout=600, mode=Mode.PRESENCE).keep(idle) == 600


@pytest.mark.parametrize(("idle", "kept"), [(0.0, 600.0), (10.0, 590.0), (600.0, 0.0), (1000.0, -400.0)])
def test_in_activity_mode_a_ping_earns_what_is_left_since_the_last_input(idle: float, kept: float) -> None:
    assert Policy(idle_timeout=600, mode=Mode.ACTIVITY).keep(idle) == kept


@pytest.mark.parametrize("idle", [None, -0.1, -1e9, nan, inf, -inf])
def test_in_activity_mode_an_absurd_idle_earns_nothing(idle: float | None) -> None:
    assert Policy(mode=Mode.ACTIVITY).keep(idle) is None


@given(idle=st.none() | st.floats())
def test_in_activity_mode_no_ping_earns_more_than_the_idle_timeout(idle: float | None) -> None:
    kept = Policy(idle_timeout=600, mode=Mode.ACTIVITY).keep(idle)
    assert kept is None or kept <= 600


@given(idle=st.none() | st.floats())
def test_in_observe_mode_no_ping_earns_anything(idle: float | None) -> None:
    assert Policy(mode=Mode.OBSERVE).keep(idle) is None


@given(idle=st.floats())
def test_evidence_is_a_finite_number_of_seconds_that_passed(idle: float) -> None:
    assert is_evidence(idle) is (isfinite(idle) and idle >= 0)


def test_silence_is_no_evidence() -> None:
    assert not is_evidence(None)


# Deadlines.


def test_the_first_deadlines() -> None:
    assert Policy(idle_timeout=600, absolute_timeout=3600).deadlines(100.0) == (700.0, 3700.0)
    assert Policy(idle_timeout=600, absolute_timeout=None).deadlines(100.0) == (700.0, inf)


def test_a_touch_moves_the_deadline_forward_only_and_up_to_the_absolute_one() -> None:
    assert extended(100.0, 1000.0, until=200.0) == 200.0
    assert extended(100.0, 1000.0, until=50.0) == 100.0
    assert extended(100.0, 1000.0, until=2000.0) == 1000.0
    assert extended(100.0, inf, until=2000.0) == 2000.0


@given(idle_at=moments, absolute_at=absolute_moments, until=st.floats())
def test_nothing_outlives_its_absolute_deadline(idle_at: float, absolute_at: float, until: float) -> None:
    assert extended(idle_at, absolute_at, until) <= absolute_at


@given(idle_at=moments, absolute_at=absolute_moments, until=st.floats())
def test_a_deadline_never_moves_back(idle_at: float, absolute_at: float, until: float) -> None:
    idle_at = min(idle_at, absolute_at)
    assert extended(idle_at, absolute_at, until) >= idle_at


@given(idle_at=moments, absolute_at=absolute_moments, untils=st.lists(moments, max_size=5))
def test_touches_may_come_twice_and_in_any_order(
    idle_at: float, absolute_at: float, untils: list[float]
) -> None:
    def after(order: list[float]) -> float:
        deadline = min(idle_at, absolute_at)
        for until in order:
            deadline = extended(deadline, absolute_at, until)
        return deadline

    assert after(untils) == after(untils[::-1]) == after(untils + untils) == after(sorted(untils))


def test_a_warning_between_the_pings_of_a_page_that_is_present_is_advised_against() -> None:
    unwise: dict[str, Any] = {"idle_timeout": 300.0, "warn_before": 251.0}
    assert any("between their pings" in advice for advice in Policy(**unwise).advice())
    assert Policy(idle_timeout=300.0, warn_before=250.0).advice() == []
    assert Policy(**unwise, mode="activity").advice() == []


def test_a_warning_between_the_pings_of_a_hidden_page_is_advised_against_too() -> None:
    unwise: dict[str, Any] = {"idle_timeout": 900.0, "hidden_interval": 300.0, "warn_before": 301.0}
    (advice,) = Policy(**unwise).advice()
    assert "between their pings, up to 300 s apart" in advice
    assert Policy(**{**unwise, "warn_before": 300.0}).advice() == []
    assert Policy(**unwise, mode="activity").advice() == []


def test_the_verdict() -> None:
    assert verdict(99.9, idle_at=100.0, absolute_at=200.0) is None
    assert verdict(100.0, idle_at=100.0, absolute_at=200.0) is Reason.IDLE
    assert verdict(200.0, idle_at=100.0, absolute_at=200.0) is Reason.IDLE
    assert verdict(199.9, idle_at=200.0, absolute_at=200.0) is None
    assert verdict(200.0, idle_at=200.0, absolute_at=200.0) is Reason.ABSOLUTE
    assert verdict(1e12, idle_at=inf, absolute_at=inf) is None


def test_who_closes_the_last_page_signs_out() -> None:
    assert verdict(49.9, idle_at=100.0, absolute_at=200.0, closes_at=50.0) is None
    assert verdict(50.0, idle_at=100.0, absolute_at=200.0, closes_at=50.0) is Reason.LOGOUT
    assert verdict(1e12, idle_at=100.0, absolute_at=200.0, closes_at=50.0) is Reason.LOGOUT
    assert verdict(100.0, idle_at=100.0, absolute_at=200.0, closes_at=100.0) is Reason.IDLE
    assert verdict(200.0, idle_at=200.0, absolute_at=200.0, closes_at=250.0) is Reason.ABSOLUTE


@given(
    now=moments,
    idle_at=moments,
    absolute_at=absolute_moments,
    closes_at=absolute_moments,
    later=st.floats(min_value=0, max_value=1e12),
)
def test_what_is_over_stays_over_for_the_same_reason(
    now: float, idle_at: float, absolute_at: float, closes_at: float, later: float
) -> None:
    over = verdict(now, idle_at, absolute_at, closes_at)
    if over is not None:
        assert verdict(now + later, idle_at, absolute_at, closes_at) is over


@given(now=moments, idle_at=moments, absolute_at=moments, until=st.floats())
def test_no_touch_saves_what_is_past_its_absolute_deadline(
    now: float, idle_at: float, absolute_at: float, until: float
) -> None:
    if now >= absolute_at:
        assert verdict(now, extended(idle_at, absolute_at, until), absolute_at) is not None
