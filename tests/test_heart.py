"""The heart's promises, in virtual time."""

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepalive import heart as heart_module
from keepalive.errors import StoreUnavailable
from keepalive.heart import MAX_BATCH, MAX_PUSH, REMEMBER_ENDS, STORE_TIMEOUT, Hooks
from keepalive.limits import Limits
from keepalive.live import LEAST_DEBT, Live, Page
from keepalive.messages import Ask, Beat, CloseCode, End, Hello, Ping, Push, Wait, Warning
from keepalive.policy import Mode, Policy, Reason
from keepalive.touchers import Ended, Left, News, Pages, Touch, key_of

from .fakes import STEP, FakePage, World, settle, typed, until

POLICY = Policy(idle_timeout=600, absolute_timeout=7200, warn_before=60, ping_interval=25, touch_every=30)
# Pages ping so rarely that a silent one is let go only after its session's idle deadline.
RARE: dict[str, Any] = {
    "idle_timeout": 600,
    "absolute_timeout": 7200,
    "ping_interval": 200,
    "touch_every": 30,
}
ACTIVITY = Policy(**RARE, mode="activity")
OBSERVE = Policy(**RARE, mode="observe")
EVERY_PING = Policy(idle_timeout=600, absolute_timeout=7200, touch_every=0)
HIDDEN_RULES: dict[str, Any] = {"absolute_timeout": 7200, "ping_interval": 25, "hidden_interval": 100}
HIDDEN = Policy(**HIDDEN_RULES, idle_timeout=600)
ROUNDING = 0.001  # of the seconds in a message
LATE = 3 * STEP  # a wheel's resolution, the tick that finds it, and the step of the test

Begin = Callable[..., Awaitable[World]]


@pytest.fixture
async def begin() -> AsyncIterator[Begin]:
    """Makes a `World`; whatever was made is stopped, also if its test fails."""
    worlds: list[World] = []

    async def begin(*args: Any, **kwargs: Any) -> World:
        worlds.append(await World(*args, **kwargs).start())
        return worlds[-1]

    yield begin
    for world in worlds:
        world.toucher.reached.set()
        world.toucher.answers.set()
        await world.stop()


@pytest.fixture
async def world(begin: Begin) -> World:
    return await begin(POLICY)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that hangs is given up sooner: this one time is the machine's own."""
    monkeypatch.setattr(heart_module, "STORE_TIMEOUT", 0.02)


# Hello.


async def test_a_page_is_greeted_with_the_rules_of_its_session(world: World) -> None:
    await world.login("a")
    await world.advance(100)
    page = await world.page("a")
    assert page.messages == [
        Hello(
            interval=25, idle_timeout=600, expires_in=500, ends_in=7100, warn_before=60,
            mode=Mode.PRESENCE, spread=3,
        )
    ]  # fmt: skip
    assert (world.heart.counts.opens, world.heart.sessions) == (1, 1)
    assert world.toucher.batches == []


async def test_a_page_that_comes_while_the_others_are_warned_is_warned_too(begin: Begin) -> None:
    world = await begin(ACTIVITY)
    first = await world.page("a")
    await world.advance(550)
    assert len(first.of(Warning)) == 1
    second = await world.page("a")
    assert [type(message) for message in second.messages] == [Hello, Warning]
    assert second.of(Warning)[0].expires_in == pytest.approx(50, abs=LATE)
    await world.advance(5)
    assert (len(first.of(Warning)), len(second.of(Warning))) == (1, 1)


# Beats, and when the store is asked.


async def test_a_ping_within_touch_every_is_answered_from_the_stores_last_word(world: World) -> None:
    page = await world.page("a")
    await world.advance(29.5)
    page.ping()
    assert page.beat == Beat(n=1, expires_in=570.5, ends_in=7170.5)  # in the same breath
    assert world.toucher.batches == []


async def test_after_touch_every_the_store_answers(world: World) -> None:
    page = await world.page("a")
    await world.advance(30)
    page.ping()
    assert page.of(Beat) == []
    await settle()
    assert page.beat == Beat(n=1, expires_in=600, ends_in=7170)
    assert world.toucher.touches == [Touch(key_of("a"), 600.0, None)]


async def test_when_the_user_comes_back_the_store_is_asked_at_once(begin: Begin) -> None:
    world = await begin(ACTIVITY)
    page = await world.page("a")
    await world.advance(300)
    page.ping(idle=300.0)  # the store is due, and learns that nothing was earned
    await settle()
    await world.advance(1)
    page.ping(idle=301.0)
    assert page.beat.expires_in == 299
    page.ping(idle=0.0)
    await settle()
    assert page.beat.expires_in == 600
    assert len(world.toucher.batches) == 2


async def test_with_touch_every_0_each_ping_goes_to_the_store(begin: Begin) -> None:
    world = await begin(EVERY_PING)
    page = await world.page("a")
    for _ in range(5):
        page.ping()
        await settle()
    assert len(world.toucher.touches) == 5


async def test_the_store_is_asked_by_sessions_and_time_not_by_pings(begin: Begin) -> None:
    world = await begin(POLICY)
    pages = [await world.page(f"s{index % 100}") for index in range(300)]
    # 5 s is not what the policy says, but what a busy page may do.
    await world.keep_pinging(600, *pages, every=5.0)
    assert world.heart.counts.pings == world.heart.counts.beats == 300 * 120
    assert len(world.toucher.touches) == 100 * 600 / POLICY.touch_every
    assert {len(page.of(Beat)) for page in pages} == {120}


async def test_what_pings_have_earned_goes_to_the_store_by_itself(world: World) -> None:
    page = await world.page("a")
    await world.advance(25)
    page.ping()
    await world.advance(5 + LATE)
    (touch,) = world.toucher.touches
    assert touch.keep == pytest.approx(595, abs=LATE)  # no more than the ping has earned
    await world.advance(20 - LATE)
    page.ping()
    assert len(page.of(Beat)) == 2  # in the same breath
    assert page.beat.expires_in == pytest.approx(575, abs=LATE)
    await world.advance(10 + 3 * LATE)
    assert len(world.toucher.touches) == 2
    await world.advance(60)  # a page that has crashed earns nothing more
    assert len(world.toucher.touches) == 2
    assert await world.idle("a") == pytest.approx(600 - 70, abs=4 * LATE)


async def test_sessions_that_are_due_together_share_a_batch(begin: Begin) -> None:
    world = await begin(POLICY)
    pages = [await world.page(f"s{index}") for index in range(50)]
    await world.keep_pinging(25, *pages, every=12.5)
    await world.advance(5 + LATE)
    assert [len(batch) for batch in world.toucher.batches] == [50]


async def test_tabs_share_one_touch(world: World) -> None:
    pages = [await world.page("a") for _ in range(20)]
    await world.advance(30)
    for page in pages:
        page.ping()
    await settle()
    assert len(world.toucher.touches) == 1
    assert [page.beat.expires_in for page in pages] == [600] * 20


async def test_an_idle_server_sends_at_once_and_the_rest_shares_the_next_batch(begin: Begin) -> None:
    world = await begin(EVERY_PING)
    pages = [await world.page(f"s{index}") for index in range(50)]
    world.toucher.answers.clear()
    pages[0].ping()
    await settle()
    for page in pages[1:]:
        page.ping()
        await settle()
    assert [len(batch) for batch in world.toucher.batches] == [1]
    world.toucher.answers.set()
    await settle()
    assert [len(batch) for batch in world.toucher.batches] == [1, 49]
    assert all(len(page.of(Beat)) == 1 for page in pages)
    assert (world.heart.counts.batches, world.heart.counts.touches) == (2, 50)


async def test_pings_of_one_turn_of_the_loop_share_a_batch(begin: Begin) -> None:
    world = await begin(EVERY_PING)
    pages = [await world.page(f"s{index}") for index in range(10)]
    for page in pages:
        page.ping()
    await settle()
    assert [len(batch) for batch in world.toucher.batches] == [10]


async def test_a_ping_during_its_sessions_own_touch_is_not_answered_by_that(begin: Begin) -> None:
    world = await begin(EVERY_PING)
    page = await world.page("a")
    world.toucher.answers.clear()
    page.ping()
    await settle()
    page.ping()
    await settle()
    assert len(world.toucher.batches) == 1
    world.toucher.answers.set()
    await settle()
    assert [beat.n for beat in page.of(Beat)] == [1, 2]
    assert len(world.toucher.batches) == 2


async def test_batches_are_not_longer_than_the_limit(begin: Begin) -> None:
    world = await begin(EVERY_PING)
    pages = [await world.page(f"s{index}") for index in range(2 * MAX_BATCH + 1)]
    for page in pages:
        page.ping()
    await settle()
    assert [len(batch) for batch in world.toucher.batches] == [MAX_BATCH, MAX_BATCH, 1]
    assert all(len(page.of(Beat)) == 1 for page in pages)


@pytest.mark.parametrize("latency", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("mode", Mode)
async def test_a_beat_never_says_more_than_the_store_grants(begin: Begin, latency: float, mode: Mode) -> None:
    world = await begin(
        Policy(idle_timeout=100, absolute_timeout=400, ping_interval=10, warn_before=20, mode=mode)
    )
    page = await world.page("a")
    world.toucher.latency = latency
    beats = 0
    for step in range(60):
        await world.advance(7.3)
        if step % 9 == 0 and isinstance(await world.left("a"), Left):
            await world.request("a")
        page.ping(idle=step % 7 * 11.0)
        await settle()
        if len(page.of(Beat)) > beats:
            beats = len(page.of(Beat))
            left = await world.left("a")
            assert isinstance(left, Left)
            assert page.beat.expires_in <= min(left.idle, left.absolute) + ROUNDING
            assert (page.beat.ends_in or 0) <= left.absolute + ROUNDING
    assert beats >= 10
    assert page.reason in (Reason.IDLE, Reason.ABSOLUTE)


async def test_without_an_absolute_timeout_there_is_no_ends_in(begin: Begin) -> None:
    world = await begin(Policy(idle_timeout=600, absolute_timeout=None))
    page = await world.page("a")
    await world.keep_pinging(50_000, page, every=25, step=5)
    assert page.beat.ends_in is None
    assert page.beat.expires_in == 600


async def test_a_cookie_that_is_due_is_told_with_every_beat_until_it_is_renewed(world: World) -> None:
    ticket, read_at = (await world.page("a"), await world.ticket("a"))[1]
    renewed = ticket._replace(left=ticket.left._replace(renew=True))
    page = FakePage(world.heart, renewed, read_at + 0.1, world.clock.monotonic)
    page.open()
    page.ping()
    page.ping()
    assert [beat.renew for beat in page.of(Beat)] == [True, True]
    world.heart.join(ticket, page.socket, read_at + 0.2)
    page.ping()
    assert not page.beat.renew


async def test_an_old_or_repeated_ping_is_answered_and_changes_nothing(begin: Begin) -> None:
    heard: list[int] = []
    world = await begin(ACTIVITY, hooks=Hooks(on_ping=lambda page, ping: heard.append(ping.n)))
    page = await world.page("a")
    await world.advance(100)
    page.ping(idle=100.0, n=5)
    await settle()
    for n in (5, 4, 0):
        page.ping(idle=0.0, n=n)
        await settle()
        assert len(page.answers(n)) == (2 if n == 5 else 1)
    assert await world.idle("a") == 500
    assert page.page.live.earned_at == page.page.live.expires_at
    assert heard == [5]


# Modes.


async def test_presence_an_open_page_keeps_its_session_until_the_absolute_deadline(world: World) -> None:
    page = await world.page("a")
    await world.keep_pinging(7175, page)
    assert page.closed is None
    await world.advance(25 + LATE)
    assert page.gone == (Reason.ABSOLUTE, 4502)


async def test_activity_passive_pings_never_extend(begin: Begin) -> None:
    world = await begin(ACTIVITY)
    pages = [await world.page("a") for _ in range(3)]
    for second in range(1, 600):
        await world.advance(1, step=1)
        for page in pages:
            page.ping(idle=float(second) if second % 2 else None)
        await settle()
        assert await world.idle("a") <= 600 - second + ROUNDING
    await world.advance(1 + LATE)
    assert [page.reason for page in pages] == [Reason.IDLE] * 3


async def test_activity_evidence_of_the_user_extends(begin: Begin) -> None:
    world = await begin(ACTIVITY)
    pages = [await world.page("a") for _ in range(3)]
    await world.advance(550)
    pages[0].ping(idle=50.0)
    pages[1].ping(idle=20.0)
    pages[2].ping()
    await settle()
    assert await world.idle("a") == pytest.approx(580)
    await world.advance(580 - STEP)
    assert pages[0].closed is None
    await world.advance(LATE + STEP)
    assert [page.reason for page in pages] == [Reason.IDLE] * 3


async def test_activity_a_lie_about_the_user_is_no_evidence(begin: Begin) -> None:
    world = await begin(ACTIVITY)
    page = await world.page("a")
    await world.advance(100)
    for idle in (-1.0, float("inf"), float("nan"), -1e300):
        page.ping(idle=idle)
        await settle()
    assert await world.idle("a") == 500


async def test_observe_pings_never_extend_but_report_the_user(begin: Begin) -> None:
    world = await begin(OBSERVE)
    page = await world.page("a")
    await world.keep_pinging(575, page, idle=0.0)
    assert await world.idle("a") == pytest.approx(25)
    assert {line.keep for line in world.toucher.touches} == {None}
    assert world.store._sessions[key_of("a")].life.last_active == world.clock.wall()
    await world.request("a")
    await world.advance(25 + LATE)
    assert page.closed is None
    assert await world.idle("a") == pytest.approx(575, abs=1)


@pytest.mark.parametrize("mode", Mode)
async def test_nothing_outlives_the_absolute_deadline(begin: Begin, mode: Mode) -> None:
    world = await begin(
        Policy(idle_timeout=90, absolute_timeout=200, warn_before=20, mode=mode, ping_interval=5)
    )
    page = await world.page("a")
    for _ in range(39):
        await world.request("a")
        await world.keep_pinging(5, page, every=5, idle=0.0)
        assert page.closed is None
        assert page.beat.ends_in is not None
        assert page.beat.expires_in <= page.beat.ends_in
    await world.advance(5 + LATE)
    assert page.gone == (Reason.ABSOLUTE, 4502)
    assert page.of(Warning)[-1].why is Reason.ABSOLUTE
    assert not page.of(Warning)[-1].extendable


# Silent pages.


async def test_a_page_whose_ping_is_overdue_is_asked_twice_and_then_let_go(world: World) -> None:
    page = await world.page("a")
    await world.advance(25 * 1.25 - STEP)
    assert page.of(Ask) == []
    await world.advance(LATE)
    assert len(page.of(Ask)) == 1
    await world.advance(25 - LATE)
    assert len(page.of(Ask)) == 1
    await world.advance(2 * LATE)
    assert len(page.of(Ask)) == 2
    await world.advance(25 - 3 * LATE)
    assert page.closed is None
    await world.advance(2 * LATE)
    assert page.gone == (None, 4001)
    assert world.heart.counts.asks == 2
    assert await world.idle("a") == pytest.approx(600 - 25 * 3.25, abs=1)  # it only runs on


async def test_who_answers_is_not_asked_again_until_overdue(world: World) -> None:
    page = await world.page("a")
    for _ in range(10):
        await world.advance(25 * 1.25 + LATE)
        page.ping()
        await settle()
    assert len(page.of(Ask)) == 10
    assert page.closed is None


async def test_who_pings_in_time_is_never_asked(world: World) -> None:
    page = await world.page("a")
    await world.keep_pinging(1000, page)
    assert page.of(Ask) == []


async def test_a_hidden_page_is_asked_only_when_its_own_interval_is_overdue(begin: Begin) -> None:
    world = await begin(HIDDEN)
    page = await world.page("a")
    page.ping(visible=False)
    for _ in range(3):
        await world.advance(100 * 1.25 - STEP)
        assert page.of(Ask) == []
        page.ping(visible=False)
        await settle()
    await world.advance(100 * 1.25 + LATE)
    assert len(page.of(Ask)) == 1
    await world.advance(25 - LATE)
    assert len(page.of(Ask)) == 1
    await world.advance(2 * LATE)
    assert len(page.of(Ask)) == 2  # who is asked answers at once, hidden or not
    await world.advance(25)
    assert page.gone == (None, 4001)


async def test_a_hidden_page_that_shows_again_is_asked_as_soon_as_any_other(begin: Begin) -> None:
    world = await begin(HIDDEN)
    page = await world.page("a")
    page.ping(visible=False)
    await world.advance(40)
    page.ping()
    await world.advance(25 * 1.25 - STEP)
    assert page.of(Ask) == []
    await world.advance(LATE)
    assert len(page.of(Ask)) == 1


async def test_presence_a_hidden_page_that_answers_only_when_asked_keeps_its_session(begin: Begin) -> None:
    world = await begin(Policy(**HIDDEN_RULES, idle_timeout=300, warn_before=60))
    page = await world.page("a")
    page.ping(visible=False)
    asks = 0
    for _ in range(round(3000 / STEP)):
        await world.advance(STEP)
        if len(page.of(Ask)) > asks:
            asks += 1
            page.ping(visible=False)
    assert asks == pytest.approx(3000 / 125, abs=1)
    assert (page.of(Warning), page.closed) == ([], None)


async def test_one_silent_tab_does_not_take_the_others_along(world: World) -> None:
    silent, speaking = await world.page("a"), await world.page("a")
    await world.keep_pinging(100, speaking)
    assert (silent.closed, speaking.closed) == (4001, None)
    silent.leave()
    assert world.heart.push(key_of("a"), 1) == 1


# Warnings.


async def test_a_warning_comes_once_from_the_servers_own_timer(begin: Begin) -> None:
    warned: list[tuple[str, Warning]] = []
    hooks = Hooks(on_warning=lambda live, warning: warned.append((live.session, warning)))
    world = await begin(ACTIVITY, hooks=hooks)
    pages = [await world.page("a"), await world.page("a")]
    await world.advance(540 - STEP)
    assert pages[0].of(Warning) == []
    await world.advance(LATE)
    for page in pages:
        (warning,) = page.of(Warning)
        assert (warning.why, warning.extendable) == (Reason.IDLE, True)
        assert 60 - LATE <= warning.expires_in <= 60
    await world.advance(35)
    pages[0].ping()  # goes to the store, and moves nothing
    await world.advance(24)
    assert len(world.toucher.batches) == 2
    assert [len(page.of(Warning)) for page in pages] == [1, 1]
    assert world.heart.counts.warnings == 1
    assert warned == [(key_of("a")[:8].hex(), pages[0].of(Warning)[0])]


async def test_in_observe_mode_a_warning_says_that_no_ping_helps(begin: Begin) -> None:
    world = await begin(OBSERVE)
    page = await world.page("a")
    await world.keep_pinging(550, page, idle=0.0)
    (warning,) = page.of(Warning)
    assert (warning.why, warning.extendable) == (Reason.IDLE, False)


async def test_an_extension_withdraws_the_warning_and_the_next_deadline_warns_again(begin: Begin) -> None:
    world = await begin(ACTIVITY)
    page = await world.page("a")
    for round_ in range(1, 4):
        await world.keep_pinging(550, page, idle=None)
        assert len(page.of(Warning)) == round_
        page.ping(idle=0.0)
        await settle()
        assert page.beat.expires_in == 600
    await world.advance(530)
    assert len(page.of(Warning)) == 3


async def test_while_a_warning_shows_one_click_suffices(begin: Begin) -> None:
    # The user comes back 10 s after the warning and earns less than touch_every.
    world = await begin(
        Policy(idle_timeout=100, absolute_timeout=None, warn_before=60, touch_every=50, mode="activity")
    )
    page = await world.page("a")
    await world.advance(50)
    assert len(page.of(Warning)) == 1
    page.ping(idle=0.0)
    await settle()
    assert page.beat.expires_in == 100


async def test_a_warning_is_withdrawn_by_the_next_ping_after_a_request_of_the_app(begin: Begin) -> None:
    world = await begin(OBSERVE)
    page = await world.page("a")
    await world.keep_pinging(539, page, every=77)
    await world.advance(1 + LATE)
    assert len(page.of(Warning)) == 1
    page.ping()
    await settle()
    assert page.beat.expires_in <= 60
    await world.request("a")
    page.ping()
    await settle()
    assert page.beat.expires_in == 600


async def test_after_the_idle_deadline_was_moved_against_the_absolute_one_that_is_told(
    begin: Begin,
) -> None:
    world = await begin(Policy(**{**RARE, "absolute_timeout": 640}, mode="activity"))
    page = await world.page("a")
    await world.advance(590)  # 10 s to the idle, 50 s to the absolute deadline
    page.ping(idle=0.0)
    await settle()
    assert [(warning.why, warning.extendable) for warning in page.of(Warning)] == [
        (Reason.IDLE, True),
        (Reason.ABSOLUTE, False),
    ]
    await world.advance(50 + LATE)
    assert len(page.of(Warning)) == 2
    assert page.reason is Reason.ABSOLUTE


async def test_nobody_is_warned_of_a_deadline_that_was_moved_elsewhere(begin: Begin) -> None:
    world = await begin(ACTIVITY)
    page = await world.page("a")
    await world.keep_pinging(539, page, every=77)
    await world.request("a")  # another process, or the app's own request
    await world.keep_pinging(539, page, every=77)
    assert page.of(Warning) == []
    await world.advance(1 + LATE)
    assert len(page.of(Warning)) == 1


async def test_nobody_is_ended_by_a_deadline_that_was_moved_elsewhere(begin: Begin) -> None:
    world = await begin(ACTIVITY)
    page = await world.page("a")
    await world.keep_pinging(595, page, every=85)
    await world.request("a")
    await world.keep_pinging(595, page, every=85)
    assert page.gone == (None, None)
    await world.advance(5 + LATE)
    assert page.reason is Reason.IDLE


# Ends.


async def test_an_idle_session_ends_at_its_deadline_without_any_ping(begin: Begin) -> None:
    world = await begin(ACTIVITY, login="/login")
    page = await world.page("a")
    await world.advance(600 - STEP)
    assert page.closed is None
    await world.advance(LATE)
    assert page.messages[-1] == End(Reason.IDLE, "/login")
    assert page.closed == 4501
    assert world.heart.counts.ends == {Reason.IDLE: 1}


@pytest.mark.parametrize(
    ("reason", "code"), [(Reason.LOGOUT, 4503), (Reason.EVICTED, 4505), (Reason.REVOKED, 4506)]
)
async def test_an_end_closes_all_tabs_at_once(begin: Begin, reason: Reason, code: int) -> None:
    ended: list[tuple[str, Reason]] = []
    world = await begin(POLICY, hooks=Hooks(on_end=lambda live, why: ended.append((live.session, why))))
    pages = [await world.page("a") for _ in range(5)]
    other = await world.page("b")
    await world.end("a", reason)
    for page in pages:
        assert page.messages[-1] == End(reason)
        assert page.closed == code
    assert other.closed is None
    assert ended == [(key_of("a")[:8].hex(), reason)]
    assert (world.heart.sessions, world.heart.counts.ends[reason]) == (1, 1)


async def test_a_session_that_the_store_does_not_know_ends_as_unknown(world: World) -> None:
    page = await world.page("a")
    world.store._sessions.clear()
    await world.advance(30)
    page.ping()
    await settle()
    assert page.gone == (Reason.UNKNOWN, 4504)


async def test_an_end_that_no_watch_told_is_found_by_the_next_touch(world: World) -> None:
    page, other = await world.page("a"), await world.page("a")
    world.store._watches.finish()
    await world.end("a", Reason.REVOKED)
    assert page.closed is None
    await world.advance(30)
    page.ping()
    await settle()
    assert page.gone == (Reason.REVOKED, 4506)
    assert other.gone == (Reason.REVOKED, 4506)


async def test_a_rotated_session_sends_its_pages_to_fetch_the_new_cookie(world: World) -> None:
    page = await world.page("a")
    await world.store.rotate(key_of("a"), key_of("b"), data=b"", user="ann", policy=POLICY)
    await settle()
    assert (page.of(End), page.closed) == ([], 4004)


@pytest.mark.parametrize("reason", [Reason.LOGOUT, Reason.ROTATED])
async def test_an_end_during_the_handshake_is_not_missed(world: World, reason: Reason) -> None:
    await world.login("a")
    ticket = await world.ticket("a")
    await world.end("a", reason)
    page = FakePage(world.heart, *ticket, world.clock.monotonic)
    page.open()
    assert page.of(Hello) == []
    assert page.gone == ((Reason.LOGOUT, 4503) if reason is Reason.LOGOUT else (None, 4004))
    page.leave()
    assert world.heart.sessions == 0


async def test_an_end_between_join_and_open_is_told_on_open(world: World) -> None:
    await world.login("a")
    page = FakePage(world.heart, *await world.ticket("a"), world.clock.monotonic)
    assert world.heart.sessions == 1
    page.socket.close = page.socket.send = lambda *_: None  # type: ignore[method-assign, assignment]
    await world.end("a")
    del page.socket.close, page.socket.send
    page.open()
    assert page.messages == [End(Reason.LOGOUT)]
    assert page.closed == 4503


async def test_a_page_that_has_left_before_it_opened_is_closed(begin: Begin) -> None:
    """It came twice, and said goodbye over the socket that was open."""
    world = await begin(Policy(**RULES))
    await world.login("a")
    late = FakePage(world.heart, *await world.ticket("a"), world.clock.monotonic, "tab")
    opened = await world.page("a", "tab")
    late.socket.close = lambda *_: None  # type: ignore[method-assign]
    opened.leave()
    del late.socket.close
    late.open()
    assert (late.messages, late.closed) == ([], CloseCode.NO_ANSWER)


async def test_ends_are_remembered_only_for_a_while(world: World) -> None:
    for index in range(1000):
        await world.login(f"s{index}")
        await world.end(f"s{index}")
        await world.advance(REMEMBER_ENDS / 1000, step=REMEMBER_ENDS / 1000)
    assert 990 <= len(world.heart._ends) <= 1000
    await world.advance(REMEMBER_ENDS - LATE)
    assert len(world.heart._ends) >= 1
    await world.advance(2 * LATE)
    assert not world.heart._ends


async def test_many_ends_at_once_are_forgotten_without_a_pause(world: World) -> None:
    for index in range(30_000):
        await world.login(f"s{index}", user="ann")
    await world.store.end_user("ann", Reason.REVOKED)
    await settle()
    assert len(world.heart._ends) == 30_000
    world.clock.advance(REMEMBER_ENDS + 1)
    before = time.process_time()
    world.heart.tick()
    assert not world.heart._ends
    assert time.process_time() - before < 1  # takes a fiftieth of that; a search for each takes minutes


async def test_no_beat_after_an_end_whatever_was_under_way(begin: Begin) -> None:
    world = await begin(EVERY_PING)
    page = await world.page("a")
    world.toucher.answers.clear()
    page.ping()
    await settle()
    page.ping()  # behind the batch
    await world.end("a")  # after the store has touched, before its answer is here
    assert page.closed == 4503
    world.toucher.answers.set()
    await settle()
    assert page.of(Beat) == []
    assert len(page.of(End)) == 1
    assert world.heart.counts.beats == 0


async def test_what_a_page_still_says_after_the_end_is_not_heard(world: World) -> None:
    page = await world.page("a")
    await world.end("a")
    world.heart.on_ping(page.page, Ping(1), world.clock.monotonic())  # was on its way
    await settle()
    assert (world.heart.counts.pings, world.toucher.batches) == (0, [])


# A store that is down, or hangs.


async def test_store_down_every_ping_gets_a_wait_and_nothing_else_happens(begin: Begin) -> None:
    world = await begin(EVERY_PING)
    pages = [await world.page(f"s{index}") for index in range(20)]
    world.toucher.down()
    await world.advance(10)
    for page in pages:
        page.ping()
    await settle()
    for page in pages:
        (wait,) = page.of(Wait)
        assert (wait.n, wait.why) == (1, "store")
        assert 1 <= wait.retry_in <= 3
        assert [*page.of(Beat), *page.of(End)] == []
    assert await world.idle("s0") == 590
    assert world.heart.counts.waits == 20
    world.toucher.up()
    for page in pages:
        page.ping()
    await settle()
    assert [page.beat.expires_in for page in pages] == [600] * 20


async def test_store_hangs_all_get_a_wait_in_time_also_those_behind(begin: Begin) -> None:
    world = await begin(EVERY_PING)
    pages = [await world.page(f"s{index}") for index in range(MAX_BATCH + 500)]
    world.toucher.reached.clear()
    pages[0].ping()
    await settle()
    for page in pages[1:]:
        page.ping()
    pages[0].ping()
    await until(lambda: all(page.of(Wait) for page in pages))
    # One batch has timed out, and nobody waits for another: all have their answer after that.
    assert len(world.toucher.batches) == 1
    assert STORE_TIMEOUT < 1
    assert [wait.n for wait in pages[0].of(Wait)] == [1, 2]
    assert [len(page.of(Wait)) for page in pages[1:]] == [1] * (len(pages) - 1)


@pytest.mark.usefixtures("impatient")
async def test_store_hangs_no_extension_no_end_and_recovery(begin: Begin) -> None:
    world = await begin(POLICY)
    page = await world.page("a")
    await world.advance(50)
    world.toucher.reached.clear()
    for n in (1, 2, 3):
        await world.advance(5)
        page.ping()
        await until(lambda: len(page.of(Wait)) == n)  # noqa: B023
    assert [*page.of(Beat), *page.of(End)] == []
    assert await world.idle("a") == 535
    world.toucher.reached.set()
    page.ping()
    await until(lambda: page.of(Beat))
    assert page.beat.expires_in == 600


async def test_store_down_over_a_deadline_ends_nothing_until_it_can_be_asked(begin: Begin) -> None:
    world = await begin(ACTIVITY)
    pages = [await world.page("a"), await world.page("b")]
    await world.advance(500)
    world.toucher.down()
    await world.advance(120)
    assert [page.of(Warning) + page.of(End) for page in pages] == [[], []]
    assert [page.closed for page in pages] == [None, None]
    world.toucher.up()
    await world.advance(1.5)
    assert [page.reason for page in pages] == [Reason.IDLE] * 2


async def test_a_deadline_check_that_failed_together_with_a_ping_is_made_again(begin: Begin) -> None:
    world = await begin(ACTIVITY)
    page = await world.page("a")
    world.toucher.down()
    await world.advance(540 - STEP)
    world.clock.advance(2 * STEP)
    world.heart.tick()  # the check is queued,
    page.ping()  # and a ping joins it
    await settle()
    assert len(page.of(Wait)) == 1
    world.toucher.up()
    await world.advance(2)
    assert len(page.of(Warning)) == 1


async def test_store_down_is_logged_but_not_for_every_ping(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    world = await begin(EVERY_PING)
    page = await world.page("a")
    world.toucher.down()
    for _ in range(20):
        page.ping()
        await settle()
    assert len(page.of(Wait)) == 20
    assert len(caplog.records) == 1
    assert "the store is down" in caplog.text
    await world.advance(60)
    assert len(caplog.records) <= 62


@pytest.mark.usefixtures("impatient")
async def test_a_store_that_does_not_answer_is_logged_as_such(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    world = await begin(EVERY_PING)
    page = await world.page("a")
    world.toucher.reached.clear()
    page.ping()
    await until(lambda: page.of(Wait))
    assert "no answer in time" in caplog.text


async def test_whatever_a_toucher_raises_the_pings_are_answered(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    world = await begin(EVERY_PING)
    pages = [await world.page("a"), await world.page("b")]
    world.toucher.error = KeyError("a toucher's own mistake")
    for page in pages:
        page.ping()
    await settle()
    assert [len(page.of(Wait)) for page in pages] == [1, 1]
    assert "KeyError" in caplog.text
    world.toucher.up()
    pages[0].ping()
    await settle()
    assert len(pages[0].of(Beat)) == 1


async def test_a_word_that_expired_on_its_way_is_no_beat(begin: Begin) -> None:
    world = await begin(POLICY)
    page = await world.page("a")
    await world.advance(30)
    world.toucher.answers.clear()
    page.ping()
    await settle()
    world.clock.advance(8 * 3600)  # the machine sleeps, and the answer has been here all the time
    world.toucher.answers.set()
    await settle()
    assert page.of(Beat) == []
    assert len(page.of(Wait)) == 1
    await world.advance(LATE)
    assert page.reason is Reason.IDLE


# Debts: what the pings have earned is not lost with the last page.


async def test_when_the_last_page_leaves_what_it_has_earned_is_written_down(world: World) -> None:
    first, last = await world.page("a"), await world.page("a")
    await world.advance(20)
    first.ping()
    last.ping()
    await world.advance(5)
    first.leave()
    await settle()
    assert world.toucher.batches == []
    last.leave()
    await settle()
    assert await world.idle("a") == pytest.approx(595)  # 600 from the last ping on
    assert world.heart.sessions == 0
    assert len(world.toucher.touches) == 1


async def test_nothing_is_written_when_nothing_is_owed(world: World) -> None:
    silent = await world.page("a")
    await world.advance(20)
    silent.leave()
    touched = await world.page("a")
    await world.advance(30)
    touched.ping()
    await settle()
    await world.advance(10)
    before = len(world.toucher.batches)
    touched.leave()
    await settle()
    assert len(world.toucher.batches) == before == 1
    assert world.heart.sessions == 0


async def test_a_stop_closes_the_pages_and_writes_down_what_they_have_earned(world: World) -> None:
    pages = [await world.page(f"s{index}") for index in range(30)]
    await world.advance(20)
    for page in pages:
        page.ping()
    await world.advance(5)
    await world.heart.stop()
    assert {page.closed for page in pages} == {1012}
    for index in range(30):
        assert await world.idle(f"s{index}") == pytest.approx(595)
    assert world.heart.sessions == 0


async def test_a_stop_spreads_the_closing_of_many_pages_and_serves_them_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heart_module, "LET_IN", 100)
    monkeypatch.setattr(heart_module, "TICK", 0.01)
    pages = [await world.page(f"s{index}") for index in range(30)]
    closed: list[int] = []
    sleep = asyncio.sleep

    async def look_on(seconds: float) -> None:
        closed.append(sum(page.closed is not None for page in pages))
        for page in pages:
            page.ping()
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", look_on)
    await world.heart.stop(within=0.1)
    assert closed == [3, 6, 9, 12, 15, 18, 21, 24, 27]
    assert {page.closed for page in pages} == {1012}
    assert max(len(page.of(Beat)) for page in pages) == 9
    assert world.heart.sessions == 0


async def test_the_more_pages_are_here_the_longer_they_spread_their_return(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heart_module, "LET_IN", 2)
    pages = [await world.page(f"s{index % 5}") for index in range(10)]
    assert [page.of(Hello)[0].spread for page in pages] == [3, 3, 3, 3, 3, 3, 3.5, 4, 4.5, 5]
    pages[0].leave()
    pages[0].leave()
    assert world.heart.pages == 9
    await world.end("s1")
    assert world.heart.pages == 7
    await world.heart.stop()
    assert world.heart.pages == 0


async def test_where_fewer_handshakes_are_let_in_pages_spread_over_longer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other servers have the same limits as this one."""
    world.heart._limits = Limits(handshakes_per_second=2)
    pages = [await world.page(f"s{index}") for index in range(10)]
    assert pages[-1].of(Hello)[0].spread == 5
    turns: list[float] = []

    async def count(seconds: float) -> None:
        turns.append(seconds)

    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "sleep", count)
        await world.heart.part(10.0)
    assert len(turns) == 5 / heart_module.TICK - 1


async def test_a_stop_answers_who_still_waits(begin: Begin) -> None:
    world = await begin(EVERY_PING)
    await world.login("a")
    ticket = await world.ticket("a")
    world.toucher.answers.clear()
    answer = asyncio.create_task(world.heart.ping_once(ticket[0], Ping(1), ticket[1]))
    await settle()
    stopping = asyncio.create_task(world.heart.stop())
    await settle()
    assert not stopping.done()
    world.toucher.answers.set()
    await stopping
    assert isinstance(typed(await answer), Beat)


async def test_a_page_that_waits_for_the_store_is_answered_before_it_is_closed(begin: Begin) -> None:
    world = await begin(EVERY_PING)
    under_way, behind, quiet = [await world.page(name) for name in "abc"]
    world.toucher.answers.clear()
    under_way.ping()
    await settle()
    behind.ping()
    parting = asyncio.create_task(world.heart.part(0.0))
    await settle()
    assert [page.closed for page in (under_way, behind, quiet)] == [None, None, 1012]
    world.toucher.answers.set()
    await parting
    for page in (under_way, behind):
        assert [type(message) for message in page.messages] == [Hello, Beat]
        assert page.closed == 1012
    assert world.heart.pages == 0


async def test_whoever_waits_when_its_turn_comes_goes_in_a_later_turn(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await begin(EVERY_PING)
    world.heart._limits = Limits(handshakes_per_second=50)
    monkeypatch.setattr(heart_module, "TICK", 0.02)
    first, *others = [await world.page(name) for name in "abcdefghij"]
    world.toucher.answers.clear()
    first.ping()
    await settle()
    parting = asyncio.create_task(world.heart.part(10.0))
    await until(lambda: others[2].closed)
    assert first.closed is None
    world.toucher.answers.set()
    await until(lambda: first.closed)
    assert others[-1].closed is None
    await parting
    assert [type(message) for message in first.messages] == [Hello, Beat]
    assert {page.closed for page in (first, *others)} == {1012}


@pytest.mark.usefixtures("impatient")
async def test_a_store_that_hangs_does_not_hold_up_a_stop(begin: Begin) -> None:
    world = await begin(EVERY_PING)
    page = await world.page("a")
    world.toucher.reached.clear()
    page.ping()
    await settle()
    async with asyncio.timeout(1):
        await world.heart.part(0.0)
    assert [type(message) for message in page.messages] == [Hello, Wait]
    assert page.closed == 1012


async def test_a_stop_leaves_no_task_behind(world: World) -> None:
    page = await world.page("a")
    page.ping()
    await world.advance(31)
    page.ping()
    await world.heart.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_could_not_be_written_down_is_when_the_store_is_back(world: World) -> None:
    page = await world.page("a")
    await world.advance(20)
    page.ping()
    world.toucher.down()
    page.leave()
    await world.advance(10)
    assert await world.idle("a") == pytest.approx(570)
    world.toucher.up()
    await world.advance(1.5)
    assert await world.idle("a") == pytest.approx(588.5)
    assert world.heart.sessions == 0


async def test_what_could_not_be_written_down_is_by_a_stop_at_the_latest(world: World) -> None:
    page = await world.page("a")
    await world.advance(20)
    page.ping()
    world.toucher.down()
    page.leave()
    await settle()
    world.toucher.up()
    await world.heart.stop()
    assert await world.idle("a") == pytest.approx(600)


async def test_a_page_that_leaves_before_its_wait_does_not_take_its_debt_along(begin: Begin) -> None:
    world = await begin(EVERY_PING)
    page = await world.page("a")
    await world.advance(20)
    world.toucher.down()
    page.ping()
    page.leave()  # in the same turn of the loop
    await settle()
    world.toucher.up()
    await world.advance(1.5)
    assert await world.idle("a") == pytest.approx(598.5)
    assert world.heart.sessions == 0


async def test_a_store_that_grants_less_than_was_earned_is_asked_only_once(world: World) -> None:
    # Sessions in a cookie: only a renewal extends them, and a touch moves nothing.
    async def touch(batch: Sequence[Touch]) -> Sequence[Left | Reason]:
        world.toucher.batches.append(list(batch))
        if len(world.toucher.batches) > 10:
            raise AssertionError("asked again and again")
        return [await world.store.peek(line.key) for line in batch]

    world.toucher.touch = touch  # type: ignore[method-assign]
    page = await world.page("a")
    await world.advance(20)
    page.ping()
    page.leave()
    await settle()
    assert len(world.toucher.batches) == 1
    assert world.heart.sessions == 0


# Nothing is kept of what is over.


def remembered(keys: set[bytes]) -> list[object]:
    """The sessions with these keys, and their pages, that anything still holds."""
    gc.collect()
    found = gc.get_objects()
    lives = [each for each in found if isinstance(each, Live) and each.key in keys]
    return [*lives, *(each for each in found if isinstance(each, Page) and each.live.key in keys)]


async def test_sessions_that_nobody_has_open_are_forgotten(begin: Begin) -> None:
    world = await begin(POLICY)
    for index in range(1000):
        page = await world.page(f"s{index}")
        if index % 2:
            await world.advance(1, step=1)
            page.ping()
        page.leave()
        await settle()
    heart = world.heart
    assert (heart.sessions, heart._queue, list(heart._ends)) == (0, {}, [])
    await world.advance(120, step=1)
    assert heart.due == inf
    del page
    assert remembered({key_of(f"s{index}") for index in range(1000)}) == []


@pytest.mark.parametrize("how", ["logout", "idle", "rotated", "once", "once, store down"])
async def test_nothing_is_kept_however_a_session_goes(begin: Begin, how: str) -> None:
    world = await begin(ACTIVITY)
    names = [f"{how}{index}" for index in range(20)]
    for name in names:
        if how.startswith("once"):
            await world.login(name)
            ticket, read_at = await world.ticket(name)
            if "down" in how:
                world.toucher.down()
            await world.heart.ping_once(ticket, Ping(1, idle=0.0), read_at)
            world.toucher.up()
        else:
            page = await world.page(name)
            if how == "idle":
                await world.advance(601, step=1)
            else:
                await world.end(name, Reason(how))
            assert page.closed is not None
            page.leave()
            del page
    await world.advance(300, step=1)
    heart = world.heart
    assert (heart.sessions, heart._queue, len(heart._unanswered), dict(heart._ends)) == (0, {}, 0, {})
    assert len(remembered({key_of(name) for name in names})) <= 1  # the newest may be at hand still


async def test_a_page_that_comes_and_goes_adds_nothing(world: World) -> None:
    await world.login("a")
    for _ in range(10):
        for _ in range(100):
            (await world.page("a")).leave()
        await world.advance(60, step=1)
    assert len(remembered({key_of("a")})) <= 2 * 100


@pytest.mark.parametrize("ended", [False, True])
async def test_who_joins_during_the_touch_of_who_left_stays_reachable(begin: Begin, ended: bool) -> None:
    world = await begin(OBSERVE)
    page = await world.page("a")
    await world.advance(30)
    world.toucher.reached.clear()
    page.ping()
    await settle()
    page.leave()
    again = await world.page("a")
    if ended:  # elsewhere: the touch finds out, and the watch tells later
        world.store._sessions[key_of("a")].life.end(world.clock.wall(), Reason.LOGOUT)
    world.toucher.reached.set()
    await settle()
    assert world.heart.push(key_of("a"), 1) == 1
    if ended:
        world.store._watches.tell([Ended(key_of("a"), Reason.LOGOUT)])
        await settle()
        assert again.gone == (Reason.LOGOUT, 4503)


# Push.


async def test_a_push_reaches_the_pages_of_the_session_and_of_no_other(world: World) -> None:
    pages = [await world.page("a"), await world.page("a"), await world.page("b")]
    assert world.heart.push(key_of("a"), {"mail": 1}) == 2
    assert world.heart.push(key_of("nobody's"), {}) == 0
    assert [page.of(Push) for page in pages] == [[Push({"mail": 1})], [Push({"mail": 1})], []]
    assert world.heart.counts.pushes == 2


async def test_a_push_to_a_user_reaches_all_that_are_theirs(world: World) -> None:
    for name, user in [("a", "ann"), ("b", "ann"), ("c", "bob"), ("d", None)]:
        await world.login(name, user)
    pages = [await world.page(name) for name in "aabcd"]
    assert world.heart.push_user("ann", [1]) == 3
    assert world.heart.push_user("None", [2]) == 0
    assert [len(page.of(Push)) for page in pages] == [1, 1, 1, 0, 0]
    pages[0].leave()
    assert world.heart.push_user("ann", [3]) == 2


async def test_pushes_reach_pages_at_other_servers_once(world: World) -> None:
    other = world.beside()
    other.heart.start()
    for name, user in [("a", "ann"), ("b", "ann"), ("c", None)]:
        await world.login(name, user)
    here = [await world.page(name) for name in "abc"]
    there = [await other.page(name) for name in "abc"]
    assert world.heart.push(key_of("a"), 1) == 1
    assert other.heart.push_user("ann", 2) == 2
    assert world.heart.push_user("ann", 3, here=True) == 2
    assert other.heart.push(key_of("c"), 4, here=True) == 1
    assert world.heart.busy
    await settle()
    assert not world.heart.busy
    assert [[push.data for push in page.of(Push)] for page in here] == [[1, 3, 2], [3, 2], []]
    assert [[push.data for push in page.of(Push)] for page in there] == [[2, 1], [2], [4]]
    assert (world.heart.counts.pushes, other.heart.counts.pushes) == (5, 4)
    await other.heart.stop()


async def test_a_push_reaches_those_who_are_here_though_the_store_is_down(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    page = await world.page("a")
    await world.store.close()
    assert world.heart.push(key_of("a"), 1) == 1
    await settle()
    assert page.of(Push) == [Push(1)]
    assert "miss 1 pushes" in caplog.text
    assert world.heart.counts.lost_pushes == 1


async def test_what_was_pushed_last_still_goes_out(world: World) -> None:
    other = world.beside()
    other.heart.start()
    page = await other.page("a")
    world.heart.push(key_of("a"), "goodbye")
    await world.heart.stop()
    await settle()
    assert page.of(Push) == [Push("goodbye")]
    await other.heart.stop()


async def test_what_json_cannot_hold_is_refused_before_anyone_gets_it(world: World) -> None:
    page = await world.page("a")
    with pytest.raises(TypeError):
        world.heart.push(key_of("a"), object())
    assert page.of(Push) == []


@pytest.mark.parametrize("session", ["a", "nobody's"])
async def test_a_push_that_is_too_long_is_refused_whether_or_not_anyone_is_there(
    world: World, session: str
) -> None:
    page = await world.page("a")
    with pytest.raises(ValueError, match="over 32768"):
        world.heart.push(key_of(session), "x" * MAX_PUSH)
    with pytest.raises(TypeError):
        world.heart.push(key_of(session), object())
    assert page.of(Push) == []


# Hooks.


@dataclass
class Heard:
    calls: list[tuple[object, ...]] = field(default_factory=list)

    def hooks(self) -> Hooks:
        return Hooks(
            on_open=lambda page: self.calls.append(("open", page)),
            on_ping=lambda page, ping: self.calls.append(("ping", page, ping)),
            on_warning=lambda live, warning: self.calls.append(("warning", live, warning)),
            on_end=lambda live, reason: self.calls.append(("end", live, reason)),
        )


async def test_hooks_hear_the_life_of_a_session(begin: Begin) -> None:
    heard = Heard()
    world = await begin(ACTIVITY, hooks=heard.hooks())
    page = await world.page("a")
    live = page.page.live
    page.ping(idle=0.0)
    await world.advance(540 + LATE)
    await world.advance(60)
    assert heard.calls == [
        ("open", page.page),
        ("ping", page.page, Ping(n=1, idle=0.0)),
        ("warning", live, page.of(Warning)[0]),
        ("end", live, Reason.IDLE),
    ]


async def test_only_a_session_with_pages_here_is_said_to_end(begin: Begin) -> None:
    heard = Heard()
    world = await begin(EVERY_PING, hooks=heard.hooks())
    page = await world.page("a")
    await world.advance(20)
    world.toucher.reached.clear()
    page.ping()
    await settle()
    page.leave()
    world.store._watches.finish()
    await world.end("a")
    world.toucher.reached.set()
    await settle()
    assert [call[0] for call in heard.calls] == ["open", "ping"]
    assert (world.heart.sessions, world.heart.counts.ends) == (0, {})


async def test_what_on_ping_returns_rides_on_the_beat(begin: Begin) -> None:
    world = await begin(POLICY, hooks=Hooks(on_ping=lambda page, ping: {"seen": ping.n}))
    page = await world.page("a")
    page.ping()
    assert page.beat.data == {"seen": 1}
    await world.advance(30)
    page.ping()
    page.ping()
    page.ping(n=3)
    await settle()
    assert [(beat.n, beat.data) for beat in page.of(Beat)] == [
        (1, {"seen": 1}), (2, {"seen": 2}), (3, {"seen": 3}), (3, None),
    ]  # fmt: skip


async def test_a_hook_that_raises_changes_nothing(begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("the app's own mistake")

    world = await begin(ACTIVITY, hooks=Hooks(broken, broken, broken, broken))
    page = await world.page("a")
    page.ping(idle=0.0)
    await world.advance(600 + LATE)
    assert [type(message) for message in page.messages] == [Hello, Beat, Ask, Ask, Warning, End]
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 4


async def test_a_hooks_answer_that_json_cannot_hold_costs_nobody_a_beat(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    world = await begin(
        EVERY_PING,
        hooks=Hooks(on_ping=lambda page, ping: {"x": object() if page is pages[0].page else 1}),
    )
    pages = [await world.page("a"), await world.page("b")]
    for page in pages:
        page.ping()
    await settle()
    assert [[beat.data for beat in page.of(Beat)] for page in pages] == [[None], [{"x": 1}]]
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "answer", [["no object"], {"x": "y" * MAX_PUSH}, 1], ids=["a list", "over 32 KiB", "a number"]
)
async def test_what_on_ping_may_not_return_is_left_out(
    begin: Begin, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    world = await begin(EVERY_PING, hooks=Hooks(on_ping=lambda page, ping: answer))
    page = await world.page("a")
    page.ping()
    await settle()
    assert page.beat.data is None
    assert "on_ping must return an object" in caplog.text


async def test_what_on_ping_returns_is_taken_at_once(begin: Begin) -> None:
    numbers = {"seen": 1}
    world = await begin(EVERY_PING, hooks=Hooks(on_ping=lambda page, ping: numbers))
    page = await world.page("a")
    page.ping()
    numbers["seen"] = 2
    await settle()
    assert page.beat.data == {"seen": 1}


async def test_a_session_that_cannot_be_answered_costs_only_itself(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = await begin(EVERY_PING)
    pages = [await world.page(name) for name in "abc"]
    ticket = await world.ticket("b")
    whole = Live.confirm

    def broken(live: Live, *args: Any) -> None:
        if live.key == key_of("b"):
            raise RuntimeError("a mistake of ours")
        whole(live, *args)

    monkeypatch.setattr(Live, "confirm", broken)
    for page in pages:
        page.ping()
    single = asyncio.create_task(world.heart.ping_once(ticket[0], Ping(9), ticket[1] - 1))
    await settle()
    assert [len(page.of(Beat)) for page in pages] == [1, 0, 1]
    assert [page.closed for page in pages] == [None, 1011, None]
    assert isinstance(typed(await single), Wait)
    assert "a session could not be answered" in caplog.text
    pages[0].ping()
    await settle()
    assert len(pages[0].of(Beat)) == 2


async def test_a_toucher_that_answers_too_little_is_one_that_did_not_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = [await world.page(name) for name in "ab"]
    await world.advance(30)

    async def one(batch: Sequence[Touch]) -> Sequence[Left | Reason]:
        return [Left(600, 7000)]

    monkeypatch.setattr(world.toucher, "touch", one)
    for page in pages:
        page.ping()
    await settle()
    assert [(len(page.of(Beat)), len(page.of(Wait))) for page in pages] == [(0, 1), (0, 1)]


async def test_a_watch_that_breaks_off_is_begun_anew_and_nothing_is_missed(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(heart_module, "RETRY", 0.01)
    world = await begin(POLICY)
    pages = {name: await world.page(name) for name in "abc"}

    async def broken() -> AsyncIterator[Ended]:
        raise RuntimeError("the watch broke off")
        yield

    assert world.heart._watching is not None
    world.heart._watching.cancel()
    world.heart._watching = asyncio.create_task(world.heart._watch(broken()))
    tries: list[Callable[[], AsyncIterator[News]]] = [world.store._watches.add, broken]  # from the end

    def again() -> AsyncIterator[News]:
        return tries.pop()()

    monkeypatch.setattr(world.store, "watch", again)
    await world.end("a")  # while nobody watches

    def closed(page: FakePage) -> int | None:
        world.clock.advance(heart_module.TICK)
        world.heart.tick()
        return page.closed

    await until(lambda: closed(pages["a"]))
    assert pages["a"].closed == 4503
    await until(lambda: not tries)
    await world.end("b")
    await until(lambda: pages["b"].closed)
    assert (pages["b"].closed, pages["c"].closed) == (4503, None)
    assert caplog.text.count("watching anew") == 2


MANY = 15_000
MICROSECONDS = 17.4
"""A touch in Redis, measured;"""
NODES = 8
"""and so many servers have one Redis, which all of them ask at once."""


@pytest.fixture
async def crowd(begin: Begin) -> tuple[World, list[FakePage]]:
    """Very many sessions at a store that takes its time. Each ping of theirs has to go there."""
    world = await begin(EVERY_PING)
    ask = world.toucher.touch

    async def touch(batch: Sequence[Touch]) -> Sequence[Left | Reason]:
        world.clock.advance(len(batch) * NODES * MICROSECONDS / 1e6)
        return await ask(batch)

    world.toucher.touch = touch  # type: ignore[method-assign]
    return world, [await world.page(f"s{index}") for index in range(MANY)]


async def slowest_answer(world: World, pages: Sequence[FakePage], done: Callable[[], bool]) -> float:
    """How long one of these pages has waited for its answer, in virtual seconds; one pings after another."""
    heart, now, longest = world.heart, world.clock.monotonic, 0.0
    ticked_at = now()
    for page in pages:
        pinged_at = now()
        page.ping()
        while not page.of(Beat | Wait):  # type: ignore[arg-type]
            if heart.busy:
                await asyncio.sleep(0)
            else:
                world.clock.advance(0.001)
            if now() >= ticked_at + heart_module.TICK:
                ticked_at = now()
                heart.tick()
        longest = max(longest, now() - pinged_at)
        if done():
            return longest
        world.clock.advance(0.01)
    raise AssertionError("not done by then")


async def test_a_watch_that_breaks_off_costs_nobody_a_beat(
    crowd: tuple[World, list[FakePage]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sessions are looked at again, in the end; whoever pings meanwhile is answered as ever."""
    monkeypatch.setattr(heart_module, "RETRY", 0.01)
    world, pages = crowd
    world.store._watches.lose(StoreUnavailable("the subscription is lost"))
    await until(lambda: world.heart._unanswered)
    touched: set[bytes] = set()
    asked = world.toucher.batches

    def all_asked() -> bool:
        touched.update(line.key for batch in asked for line in batch)
        asked.clear()
        return len(touched) == MANY

    assert await slowest_answer(world, pages, all_asked) < 0.25
    await world.end("s7")  # and it is watched again
    assert pages[7].closed == 4503


async def test_a_store_that_is_back_is_not_asked_for_all_at_once(
    crowd: tuple[World, list[FakePage]],
) -> None:
    world, pages = crowd
    world.toucher.down()
    for page in pages[1000:]:
        page.ping()
    await settle()
    assert len(pages[-1].of(Wait)) == 1
    world.toucher.up()
    world.clock.advance(heart_module.RETRY)
    world.heart.tick()
    assert await slowest_answer(world, pages, lambda: not world.heart._unanswered) < 0.25
    await settle()
    assert len(world.toucher.touches) >= MANY - 1000


async def test_a_login_is_no_end(begin: Begin) -> None:
    heard = Heard()
    world = await begin(POLICY, hooks=heard.hooks())
    page = await world.page("a")
    await world.end("a", Reason.ROTATED)
    assert page.closed == 4004
    assert [call[0] for call in heard.calls] == ["open"]
    assert world.heart.counts.ends == {}


# One ping over HTTP.


async def test_a_single_ping_always_has_the_stores_word_and_joins_no_pages(world: World) -> None:
    page = await world.page("a")
    await world.advance(5)
    ticket = await world.ticket("a")
    answer = typed(await world.heart.ping_once(ticket[0], Ping(7), ticket[1]))
    assert answer == Beat(n=7, expires_in=600, ends_in=7195)
    assert len(world.toucher.touches) == 1
    assert world.heart.push(key_of("a"), 1) == 1
    page.leave()
    await settle()
    assert world.heart.sessions == 0


async def test_a_single_ping_extends_as_the_mode_has_it(begin: Begin) -> None:
    world = await begin(ACTIVITY)
    await world.login("a")
    await world.advance(100)
    ticket = await world.ticket("a")
    answer = typed(await world.heart.ping_once(ticket[0], Ping(0), ticket[1]))
    assert isinstance(answer, Beat)
    assert answer.expires_in == 500


async def test_a_single_ping_hears_of_the_end(begin: Begin) -> None:
    world = await begin(POLICY, login="/login")
    await world.login("a")
    ticket = await world.ticket("a")
    world.store._sessions[key_of("a")].life.end(world.clock.wall(), Reason.REVOKED)
    answer = typed(await world.heart.ping_once(ticket[0], Ping(1), ticket[1]))
    assert answer == End(Reason.REVOKED, "/login")
    assert world.heart.sessions == 0


async def test_a_single_ping_hears_of_an_end_since_its_ticket(world: World) -> None:
    await world.login("a")
    ticket = await world.ticket("a")
    await world.end("a")
    answer = typed(await world.heart.ping_once(ticket[0], Ping(1), ticket[1]))
    assert answer == End(Reason.LOGOUT)
    assert world.toucher.batches == []


async def test_a_single_ping_of_a_rotated_session_shall_come_again(world: World) -> None:
    await world.login("a")
    ticket = await world.ticket("a")
    await world.end("a", Reason.ROTATED)
    answer = typed(await world.heart.ping_once(ticket[0], Ping(4), ticket[1]))
    assert answer == Wait(n=4, retry_in=1.0, why="rotated")


async def test_a_single_ping_waits_when_the_store_is_down(world: World) -> None:
    await world.login("a")
    ticket = await world.ticket("a")
    world.toucher.down()
    answer = typed(await world.heart.ping_once(ticket[0], Ping(3), ticket[1]))
    assert isinstance(answer, Wait)
    assert (answer.n, answer.why) == (3, "store")


async def test_a_single_ping_that_was_given_up_hurts_nobody(begin: Begin) -> None:
    world = await begin(EVERY_PING)
    page = await world.page("a")
    ticket = await world.ticket("a")
    world.toucher.answers.clear()
    given_up = asyncio.create_task(world.heart.ping_once(ticket[0], Ping(3), ticket[1]))
    page.ping()
    await settle()
    given_up.cancel()
    world.toucher.answers.set()
    await settle()
    assert len(page.of(Beat)) == 1


# Clocks.


@pytest.mark.parametrize("touch_every", [0, 30, 300])
async def test_after_the_machine_slept_nobody_gets_a_beat_before_the_store_is_asked(
    begin: Begin, touch_every: float
) -> None:
    world = await begin(
        Policy(idle_timeout=600, absolute_timeout=None, ping_interval=25, touch_every=touch_every)
    )
    pages = [await world.page(f"s{index}") for index in range(10)]
    world.clock.advance(8 * 3600)
    for page in pages:
        page.ping()
    assert [page.of(Beat) for page in pages] == [[]] * 10
    world.heart.tick()
    await settle()
    assert [page.of(Beat) for page in pages] == [[]] * 10
    assert [page.reason for page in pages] == [Reason.IDLE] * 10


async def test_a_jump_of_the_stores_clock_is_noticed_by_the_next_touch(world: World) -> None:
    page = await world.page("a")
    world.clock.jump(3600)
    await world.keep_pinging(50, page)
    assert page.reason is Reason.IDLE


# A walk through all of it.

SHORT = {"idle_timeout": 30, "absolute_timeout": 100, "warn_before": 8, "ping_interval": 9, "touch_every": 3}
actions = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.integers(0, 3)),
        st.tuples(st.just("ping"), st.integers(0, 7), st.sampled_from([None, 0.0, 2.0, 25.0, 1e9, -1.0])),
        st.tuples(st.just("repeat"), st.integers(0, 7)),
        st.tuples(st.just("once"), st.integers(0, 3)),
        st.tuples(st.just("leave"), st.integers(0, 7)),
        st.tuples(st.just("end"), st.integers(0, 3), st.sampled_from([Reason.LOGOUT, Reason.ROTATED])),
        st.tuples(st.just("request"), st.integers(0, 3)),
        st.tuples(st.just("store"), st.sampled_from(["down", "up", "hold", "release"])),
        st.tuples(st.just("advance"), st.sampled_from([0.0, 0.1, 1.0, 5.0, 9.0, 25.0])),
    ),
    min_size=30,
    max_size=80,
)


class Walk:
    """Does what it is told to a world, and knows what must be so."""

    def __init__(self, world: World, mode: Mode) -> None:
        self.world = world
        self.mode = mode
        self.pages: list[FakePage] = []
        self.names: dict[int, str] = {}  # a session that is over gets a successor
        self.sent: dict[FakePage, list[int]] = {}
        self.earned: dict[str, float] = {}  # the idle deadline, as the rules have it
        self.checked: dict[FakePage, int] = {}
        self.held = False

    @property
    def now(self) -> float:
        return self.world.clock.monotonic()

    async def name(self, slot: int) -> str:
        name = self.names.setdefault(slot, f"s{slot}")
        left = await self.world.left(name)
        if isinstance(left, Reason):
            if left is not Reason.UNKNOWN:
                name = self.names[slot] = name + "'"
            await self.world.login(name)
            self.earned[name] = self.now + 30
        return name

    def earn(self, key: bytes, idle: float | None) -> None:
        (name,) = (name for name in self.earned if key_of(name) == key)
        keep = self.world.policy.keep(idle)
        if keep is not None:
            self.earned[name] = max(self.earned[name], self.now + keep)

    async def do(self, action: tuple[Any, ...]) -> None:
        world = self.world
        match action:
            case "open", slot:
                page = await world.page(await self.name(slot))
                self.pages.append(page)
                self.sent[page] = []
                self.checked[page] = 0
            case "ping", index, idle if self.pages:
                page = self.pages[index % len(self.pages)]
                if page.closed is None:
                    self.earn(page.page.live.key, idle)
                    self.sent[page].append(page.ping(idle))
            case "repeat", index if self.pages:
                page = self.pages[index % len(self.pages)]
                if page.closed is None and page.n:
                    self.sent[page].append(page.ping(0.0, n=page.n))
            case "once", slot if not self.held:
                name = await self.name(slot)
                ticket, read_at = await world.ticket(name)
                self.earn(ticket.key, None)
                answer = typed(await world.heart.ping_once(ticket, Ping(1), read_at))
                if ticket.left.idle > ROUNDING:  # so little may be over before the answer is
                    assert isinstance(answer, Wait if world.toucher.error else Beat)
            case "leave", index if self.pages:
                self.pages.pop(index % len(self.pages)).leave()
            case "end", slot, reason:
                await world.store.end(key_of(self.names.get(slot, "")), reason)
            case "request", slot:
                name = await self.name(slot)
                await world.request(name)
                self.earned[name] = max(self.earned[name], self.now + 30)
            case "store", "down":
                world.toucher.down()
            case "store", "up":
                world.toucher.up()
            case "store", "hold":
                world.toucher.answers.clear()
                self.held = True
            case "store", "release":
                self.release()
            case "advance", seconds:
                if seconds > 5:
                    self.release()
                await settle()
                await self.check()  # before time passes
                await world.advance(seconds, step=0.2 if seconds > 0.2 else STEP)

    def release(self) -> None:
        self.world.toucher.answers.set()
        self.held = False

    async def check(self) -> None:
        """What holds at every moment."""
        world = self.world
        for name, earned_at in self.earned.items():
            left = await world.left(name)
            if isinstance(left, Left):
                # Nothing lives longer than the rules allow.
                assert left.idle <= earned_at - self.now + ROUNDING
        for page in self.pages:
            left = await world.store.peek(page.page.live.key)
            new = page.messages[self.checked[page] :]
            self.checked[page] = len(page.messages)
            for message in new:
                if isinstance(message, Beat):
                    assert isinstance(left, Left)
                    assert message.expires_in <= min(left.idle, left.absolute) + ROUNDING
                if isinstance(message, End):
                    evicted = message.reason is Reason.EVICTED  # which need not end the session
                    assert left is message.reason or (evicted and isinstance(left, Left))
                    assert message is page.messages[-1]
                    assert page.closed is not None
            answered = [m.n for m in page.messages if isinstance(m, Beat | Wait)]
            if page.closed is not None or self.held:
                assert len(answered) <= len(self.sent[page])
            else:  # exactly one each
                assert sorted(answered) == sorted(self.sent[page])

    async def finish(self) -> None:
        """What holds when all faults are over."""
        world = self.world
        self.release()
        world.toucher.up()
        await world.advance(1.5)
        for page in self.pages:
            left = await world.store.peek(page.page.live.key)
            if isinstance(left, Reason):
                assert page.closed is not None
                assert page.reason == (None if left is Reason.ROTATED else left) or page.closed == 4001
            else:
                assert page.closed in (None, 4001, 4505)
        open_keys = {page.page.live.key for page in self.pages if page.closed is None}
        silent_keys = {page.page.live.key for page in self.pages if page.closed == 4001}
        assert open_keys <= set(world.heart._lives) <= open_keys | silent_keys
        for page in self.pages:
            page.leave()
        await settle()
        for name, earned_at in self.earned.items():
            left = await world.left(name)
            if isinstance(left, Left):
                # … and nothing that was earned is lost.
                assert left.idle >= min(earned_at - self.now, left.absolute) - LEAST_DEBT
        assert world.heart.sessions == 0
        assert not world.heart._queue
        await world.advance(REMEMBER_ENDS * 3, step=1)
        assert not (world.heart._ends or world.heart._silent._slots or world.heart._deadlines._slots)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(Mode), actions)
async def test_whatever_happens(mode: Mode, walk: list[tuple[Any, ...]]) -> None:
    world = await World(Policy(**SHORT, mode=mode)).start()
    walker = Walk(world, mode)
    try:
        for action in walk:
            await walker.do(action)
            await settle()
            await walker.check()
        await walker.finish()
    finally:
        walker.release()
        await world.stop()


# A session that ends with its last page.

AFTER = 20.0
RULES: dict[str, Any] = {**RARE, "end_after_last_page": AFTER}


@pytest.fixture(params=Mode)
async def shared(begin: Begin, request: pytest.FixtureRequest) -> AsyncIterator[tuple[World, World]]:
    """Two servers on one store, in each mode."""
    one = await begin(Policy(**RULES, mode=request.param))
    other = one.beside()
    other.heart.start()
    yield one, other
    await other.heart.stop()


async def begun(world: World, page: str, name: str = "a") -> FakePage:
    """Open a page of a session; its first ping follows at once, and with that it counts."""
    opened = await world.page(name, page)
    opened.ping()
    return opened


async def is_closing(world: World) -> bool:
    """Whether a session that lives ends for its last page."""
    left = await world.left("a")
    assert isinstance(left, Left)
    return left.closing


async def pass_by(worlds: Sequence[World], seconds: float) -> None:
    """Let time pass for servers with one clock."""
    for _ in range(round(seconds / STEP)):
        worlds[0].clock.advance(STEP)
        for each in worlds:
            each.heart.tick()
        await settle()


@pytest.mark.parametrize("code", [1000, 1001])
async def test_once_its_last_page_is_closed_a_session_ends(shared: tuple[World, World], code: int) -> None:
    world, _ = shared
    page = await begun(world, "p")
    await world.advance(100)
    page.leave(code)
    await settle()
    left = await world.left("a")
    assert left == Left(AFTER, 7100, closing=True)
    await world.advance(AFTER - STEP)
    assert isinstance(await world.left("a"), Left)
    await world.advance(STEP)
    assert await world.left("a") is Reason.LOGOUT
    assert world.heart.sessions == 0


async def test_it_does_so_though_the_server_that_saw_it_is_killed_at_once(
    shared: tuple[World, World],
) -> None:
    world, other = shared
    page = await begun(world, "p")
    page.leave()
    await settle()  # one turn of the loop, and the store has it; this server never does anything again
    await other.advance(AFTER)
    assert await other.left("a") is Reason.LOGOUT


async def test_a_reload_does_not_end_it(shared: tuple[World, World]) -> None:
    """At another server, and with nothing that the user has done: the page itself is enough."""
    world, other = shared
    page = await begun(world, "p")
    await settle()
    before = await world.idle("a")
    page.leave()
    await pass_by(shared, AFTER - 1)
    again = await begun(other, "q")
    await settle()
    extends = world.policy.mode is Mode.PRESENCE
    assert await world.idle("a") == (before if extends else before - AFTER + 1)
    await pass_by(shared, 5 * AFTER)
    assert again.closed is None
    again.ping()
    await settle()
    assert again.beat.expires_in > 2 * AFTER


async def test_a_reload_whose_new_page_is_the_quicker(shared: tuple[World, World]) -> None:
    world, other = shared
    page = await begun(world, "p")
    await begun(other, "q")
    await settle()
    page.leave()
    await pass_by(shared, 2 * AFTER)
    assert not await is_closing(world)


@pytest.mark.parametrize("code", [1006, 1012, 4000, 4001, 4003])
async def test_what_is_no_goodbye_does_not_end_it(shared: tuple[World, World], code: int) -> None:
    """A lost network, a restart, a frozen page: it may come back, and counts until then."""
    world, other = shared
    lost = await begun(world, "p")
    last = await begun(other, "q")
    await settle()
    lost.leave(code)
    last.leave()
    await pass_by(shared, 2 * AFTER)
    assert not await is_closing(world)
    back = await begun(other, "p")
    await settle()
    back.leave()
    await settle()
    assert await world.idle("a") == AFTER


async def test_with_a_page_at_each_of_two_servers_the_second_goodbye_counts(
    shared: tuple[World, World],
) -> None:
    world, other = shared
    here, there = await begun(world, "p"), await begun(other, "q")
    await settle()
    here.leave()
    await pass_by(shared, 2 * AFTER)
    assert there.closed is None
    there.leave()
    await settle()
    assert await world.idle("a") == AFTER
    await pass_by(shared, AFTER)
    assert await world.left("a") is Reason.LOGOUT


async def test_a_page_that_has_reconnected_is_not_closed_by_its_old_socket(
    shared: tuple[World, World],
) -> None:
    world, _ = shared
    old = await begun(world, "p")
    await begun(world, "p")
    await settle()
    old.leave(1000)
    await settle()
    assert not await is_closing(world)


async def test_a_page_that_goes_while_it_connects_is_not_waited_for(shared: tuple[World, World]) -> None:
    """A browser that closes a tab then cuts the connection, and says nothing."""
    world, other = shared
    hasty = [await world.page("a", "q"), await other.page("a", "r")]
    page = await begun(world, "p")
    await settle()
    for each in hasty:
        each.leave(1006)
    page.leave()
    await settle()
    assert await is_closing(world)


async def test_a_page_that_had_to_make_room_is_gone(begin: Begin) -> None:
    world = await begin(Policy(**RULES))
    world.heart._limits = Limits(pages_per_session=2)
    pages = []
    for name in "pqr":
        pages.append(await begun(world, name))
        await settle()
    assert pages[0].closed == 4505
    for page in pages[1:]:
        page.leave()
    await settle()
    assert await is_closing(world)


async def test_with_a_page_go_its_older_sockets(begin: Begin) -> None:
    """Lost with a network that is gone, which no server notices for a while."""
    world = await begin(Policy(**RULES))
    lost = await begun(world, "p")
    page = await begun(world, "p")
    other = await begun(world, "q")
    await settle()
    page.leave()
    assert (lost.closed, other.closed, world.heart.pages) == (4001, None, 1)
    other.leave()
    await settle()
    assert await is_closing(world)


@pytest.mark.parametrize("mode", [Mode.PRESENCE, Mode.ACTIVITY])
@pytest.mark.parametrize("after", [10.0, 50.0])  # before and after the debt is paid
async def test_what_a_lost_page_has_earned_does_not_take_back_the_end(
    begin: Begin, mode: Mode, after: float
) -> None:
    """A page comes back at another server and is closed there, before this one notices the loss."""
    rules = {**RULES, "ping_interval": 25, "touch_every": 40, "end_after_last_page": 200}
    one = await begin(Policy(**rules, mode=mode))
    other = one.beside()
    other.heart.start()
    lost = await begun(one, "p")
    await pass_by([one, other], 5)
    lost.ping(0.0)  # owed to the store
    await pass_by([one, other], 1)
    back = await begun(other, "p")
    await settle()
    back.leave()
    await settle()
    assert await is_closing(one)
    await pass_by([one, other], after)
    lost.leave(1006)
    await settle()
    assert await is_closing(one)
    await other.heart.stop()


async def test_a_ping_over_http_takes_back_the_end(shared: tuple[World, World]) -> None:
    world, other = shared
    page = await begun(world, "p")
    await settle()
    page.leave()
    await settle()
    assert await is_closing(world)
    ticket, read_at = await other.ticket("a")
    await other.heart.ping_once(ticket, Ping(1, idle=1.0), read_at)
    assert not await is_closing(world)


async def test_a_page_that_pings_over_http_is_one_of_those_that_are_open(
    shared: tuple[World, World],
) -> None:
    """Such as one whose proxy blocks sockets, beside a tab that had its own before: that one's goodbye."""
    world, other = shared
    page = await begun(world, "p")
    await settle()
    ticket, read_at = await other.ticket("a")
    await other.heart.ping_once(ticket, Ping(1), read_at, "q")
    page.leave()
    await pass_by(shared, 2 * AFTER)
    assert not await is_closing(world)
    ticket, read_at = await other.ticket("a")
    assert isinstance(typed(await other.heart.ping_once(ticket, Ping(2), read_at, "q")), Beat)
    back = await begun(world, "q")  # the same page, once it has a socket
    await settle()
    back.leave()
    await settle()
    assert await world.idle("a") == AFTER


async def test_a_ping_that_was_on_its_way_at_the_goodbye_does_not_bring_the_page_back(begin: Begin) -> None:
    world = await begin(Policy(**RULES))
    page = await begun(world, "p")
    await settle()
    world.toucher.answers.clear()
    page.ping()
    await world.advance(30)
    page.ping()
    await settle()
    page.ping()  # waits behind the batch that is on its way
    page.leave()
    world.toucher.answers.set()
    await settle()
    assert await is_closing(world)


async def test_a_goodbye_during_an_outage_is_told_afterwards(shared: tuple[World, World]) -> None:
    world, _ = shared
    page = await begun(world, "p")
    await settle()
    world.toucher.down()
    page.leave()
    await world.advance(5)
    assert not await is_closing(world)
    world.toucher.up()
    await world.advance(2)
    assert await is_closing(world)
    assert world.heart.sessions == 0


async def test_a_goodbye_just_before_the_server_stops_is_told(begin: Begin) -> None:
    world = await begin(Policy(**RULES))
    page, other = await begun(world, "p"), await begun(world, "q", "b")
    await settle()
    page.leave()
    await world.heart.stop()
    assert other.closed == 1012
    assert await world.left("a") == Left(AFTER, 7200, closing=True)
    assert await world.left("b") == Left(600, 7200)


async def test_a_page_that_the_store_has_lost_is_told_again(begin: Begin) -> None:
    """Whatever the reason: with the next touch, which a page that pings brings on."""
    world = await begin(Policy(**RULES))
    page = await begun(world, "p")
    await settle()
    await world.store.touch([Touch(key_of("a"), None, pages=Pages((), ("p",), 100.0))])
    await world.advance(35)
    page.ping()
    await settle()
    assert page.beat.expires_in == 600


async def test_a_storm_of_pages_is_told_in_batches(begin: Begin) -> None:
    world = await begin(Policy(**RULES))
    names = [f"s{number}" for number in range(5 * MAX_BATCH)]
    for name in names:
        await world.login(name)
    tickets = [await world.ticket(name) for name in names]
    for ticket in tickets:
        page = FakePage(world.heart, *ticket, world.clock.monotonic, "p")
        page.open()
        page.ping()
    await settle()
    assert [len(batch) for batch in world.toucher.batches] == [MAX_BATCH] * 5


async def test_where_pages_are_not_counted_a_page_costs_the_store_nothing(world: World) -> None:
    page = await world.page("a", "p")
    page.leave()
    await settle()
    assert world.toucher.batches == []
    assert page.page.id == ""
