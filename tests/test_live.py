"""A live session: the facts it records, and what follows from them."""

from hashlib import sha256
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from keepalive.live import Live, Page, Waiting
from keepalive.messages import Ping
from keepalive.policy import Mode, Policy, Reason
from keepalive.touchers import MOST_PAGES, Left, Pages, Ticket, Touch, key_of

from .fakes import FakeSocket

KEY = key_of("ann's")
POLICY = Policy(idle_timeout=600, absolute_timeout=3600, warn_before=60, ping_interval=20, touch_every=30)
NOW = 1000.0


def live(
    mode: Mode = Mode.PRESENCE,
    *,
    idle: float = 600.0,
    absolute: float = 3600.0,
    renew: bool = False,
    user: str | None = "ann",
    hidden_interval: float | None = None,
) -> Live:
    policy = Policy(
        idle_timeout=600, absolute_timeout=3600, warn_before=60, ping_interval=20, touch_every=30, mode=mode,
        hidden_interval=hidden_interval,
    )  # fmt: skip
    return Live(Ticket(KEY, policy, user, Left(idle, absolute, renew)), NOW)


# What the store said.


def test_deadlines_count_from_before_the_store_was_asked() -> None:
    session = live(idle=100, absolute=200)
    assert (session.expires_at, session.ends_at) == (NOW + 100, NOW + 200)
    session.confirm(Left(150, 150), NOW + 50)
    assert (session.expires_at, session.ends_at) == (NOW + 200, NOW + 200)


def test_a_beat_says_what_remains_of_the_stores_word() -> None:
    session = live(idle=600, absolute=3600, renew=True)
    data = Raw(b'{"mail":3}')
    beat = session.beat(7, NOW + 10.0004, data)
    assert (beat.n, beat.expires_in, beat.ends_in, beat.renew, beat.data) == (
        7, 590.0, 3590.0, True, data,
    )  # fmt: skip
    session.confirm(Left(600, 3580), NOW + 20)
    assert not session.beat(8, NOW + 20, None).renew


def test_a_session_without_end_has_no_ends_in() -> None:
    session = live(absolute=inf)
    assert session.beat(1, NOW, None).ends_in is None
    assert session.hello(NOW, 3.0).ends_in is None
    assert session.expires_at == NOW + 600


def test_what_remains_is_never_negative() -> None:
    assert live(idle=5).beat(1, NOW + 9, None).expires_in == 0.0


def test_hello_tells_the_rules() -> None:
    hello = live(Mode.ACTIVITY, idle=500, absolute=3600).hello(NOW + 10, spread=4.0)
    assert (hello.interval, hello.idle_timeout, hello.warn_before) == (20.0, 600.0, 60.0)
    assert (hello.expires_in, hello.ends_in, hello.mode, hello.spread) == (490.0, 3590.0, "activity", 4.0)


def test_hello_tells_how_often_a_hidden_page_pings_where_that_is_another_matter() -> None:
    assert live(hidden_interval=50).hello(NOW, 3.0).hidden_interval == 50.0
    assert live(hidden_interval=20).hello(NOW, 3.0).hidden_interval is None
    assert live().hello(NOW, 3.0).hidden_interval is None


def test_hello_tells_one_user_from_another_but_not_whom() -> None:
    ann = live().hello(NOW, 3.0).who
    assert ann == sha256(b"keepalive who ann").hexdigest()[:16]
    assert live(Mode.ACTIVITY, absolute=1000).hello(NOW + 5, 3.0).who == ann
    names = ["ann", "Ann", "ann ", "", "\u00e4nn", "\ud800"]
    assert len({live(user=name).hello(NOW, 3.0).who for name in names}) == len(names)
    assert live(user=None).hello(NOW, 3.0).who is None


def test_a_warning_says_which_deadline_and_whether_anyone_can_move_it() -> None:
    idle = live(idle=60).warning(NOW + 1)
    assert (idle.expires_in, idle.why, idle.extendable) == (59.0, Reason.IDLE, True)
    observed = live(Mode.OBSERVE, idle=60).warning(NOW)
    assert (observed.why, observed.extendable) == (Reason.IDLE, False)
    # A store caps the idle deadline by the absolute one: where both are the same, nothing helps.
    capped = live(idle=60, absolute=60).warning(NOW)
    assert (capped.why, capped.extendable) == (Reason.ABSOLUTE, False)


def test_its_name_for_logs_does_not_give_the_key_away() -> None:
    assert live().session == KEY[:8].hex()


# What the pages said.


@pytest.mark.parametrize(
    ("mode", "idle", "earned"),
    [
        (Mode.PRESENCE, None, 600),
        (Mode.PRESENCE, 500.0, 600),
        (Mode.ACTIVITY, 0.0, 600),
        (Mode.ACTIVITY, 500.0, 100),
        (Mode.ACTIVITY, None, -inf),
        (Mode.ACTIVITY, -5.0, -inf),
        (Mode.ACTIVITY, nan, -inf),
        (Mode.OBSERVE, 0.0, -inf),
    ],
)
def test_what_a_ping_earns(mode: Mode, idle: float | None, earned: float) -> None:
    session = live(mode)
    session.heard(Ping(1, idle=idle), NOW)
    assert session.earned_at == NOW + earned


def test_the_newest_input_of_all_tabs_counts() -> None:
    session = live(Mode.ACTIVITY)
    for idle in (50.0, 5.0, 300.0, None):
        session.heard(Ping(1, idle=idle), NOW + 100)
    assert session.active_at == NOW + 95
    assert session.earned_at == NOW + 695


def test_a_touch_is_what_was_earned_seen_from_now() -> None:
    session = live(Mode.ACTIVITY)
    assert session.touch(NOW) == Touch(KEY, None, None)
    session.heard(Ping(1, idle=10.0), NOW)
    assert session.touch(NOW + 30) == Touch(KEY, 560.0, 40.0)
    assert session.touch(NOW + 700) == Touch(KEY, -110.0, 710.0)
    observed = live(Mode.OBSERVE)
    observed.heard(Ping(1, idle=10.0), NOW)
    assert observed.touch(NOW) == Touch(KEY, None, 10.0)


def counted() -> Live:
    """A session that ends with its last page."""
    policy = Policy(idle_timeout=600, end_after_last_page=20)
    return Live(Ticket(KEY, policy, "ann", Left(600, 3600)), NOW)


def test_who_is_here_and_who_has_gone_is_told() -> None:
    session = counted()
    assert session.touch(NOW).pages == Pages((), (), 20)
    pages = [Page(session, FakeSocket(), id=name) for name in ("p", "q", "q")]
    session.pages = tuple(pages)
    assert session.touch(NOW).pages == Pages((), (), 20)
    for page in pages:
        page.heard(Ping(1), NOW)
    assert session.touch(NOW).pages == Pages(("p", "q"), (), 20)
    session.parted(pages[0])
    session.pages = (pages[2],)
    assert session.touch(NOW).pages == Pages(("q",), ("p",), 20)


def test_where_pages_are_not_counted_nothing_is_told() -> None:
    session = live()
    page = Page(session, FakeSocket(), id="p")
    session.pages = (page,)
    assert session.touch(NOW).pages is None
    session.parted(page)
    assert (session.gone, session.touch(NOW).pages) == ((), None)


def test_a_goodbye_is_told_until_the_store_has_confirmed_it() -> None:
    session = counted()
    first, second = (Page(session, FakeSocket(), id=name) for name in ("p", "q"))
    session.parted(first)
    told = session.touch(NOW)
    session.parted(second)
    assert session.touch(NOW).pages == Pages((), ("p", "q"), 20)
    session.confirm(Left(600, 3600), NOW, told)
    assert session.touch(NOW).pages == Pages((), ("q",), 20)
    session.confirm(Left(20, 3600, closing=True), NOW, session.touch(NOW))
    assert session.touch(NOW).pages == Pages((), (), 20)
    by_request = Waiting(Page(session, FakeSocket()), 1, None)
    assert session.touch(NOW, [by_request]).pages is None


def test_a_page_that_pings_over_http_is_here_unless_it_has_gone() -> None:
    session = counted()
    first, second = (Waiting(Page(session, FakeSocket(), id=name), 1, None) for name in ("p", "q"))
    nameless = Waiting(Page(session, FakeSocket()), 1, None)
    assert session.touch(NOW, [first]).pages == Pages(("p",), (), 20)
    assert session.touch(NOW, [nameless, second]).pages == Pages(("q",), (), 20)
    session.parted(first.page)
    assert session.touch(NOW, [first, second]).pages == Pages(("q",), ("p",), 20)


def test_of_many_pages_the_newest_are_told() -> None:
    session = counted()
    names = [f"p{number}" for number in range(MOST_PAGES + 5)]
    session.pages = tuple(Page(session, FakeSocket(), id=name) for name in names)
    for page in session.pages:
        page.heard(Ping(1), NOW)
    told = session.touch(NOW).pages
    assert told is not None
    assert told.here == tuple(names[5:])


@given(
    st.lists(st.tuples(st.floats(0, 50), st.one_of(st.none(), st.floats(-10, 1000))), min_size=1, max_size=20)
)
def test_in_activity_mode_nothing_is_earned_beyond_idle_after_the_newest_input(
    pings: list[tuple[float, float | None]],
) -> None:
    session, now, newest = live(Mode.ACTIVITY), NOW, -inf
    for pause, idle in pings:
        now += pause
        session.heard(Ping(1, idle=idle), now)
        if idle is not None and idle >= 0:
            newest = max(newest, now - idle)
        assert session.earned_at == pytest.approx(newest + 600)


# Whether the store has to be asked.


def test_within_touch_every_a_ping_needs_no_store() -> None:
    session = live()
    session.heard(Ping(1), NOW + 29)
    assert not session.must_ask(NOW + 29)
    assert session.must_ask(NOW + 30)


def test_what_earns_much_more_goes_to_the_store_at_once() -> None:
    session = live(Mode.ACTIVITY, idle=590)
    session.heard(Ping(1, idle=0.0), NOW + 19)
    assert not session.must_ask(NOW + 19)  # 29 s more
    session.heard(Ping(2, idle=0.0), NOW + 20)
    assert session.must_ask(NOW + 20)


@pytest.mark.parametrize(("idle", "asks"), [(30, True), (31, False)])
def test_what_is_due_only_when_the_session_is_over_goes_to_the_store_at_once(idle: float, asks: bool) -> None:
    """So it is near the absolute deadline, where nothing earns much more; `touch_every` is 30 s."""
    session = live(idle=idle, absolute=40)
    session.heard(Ping(1), NOW + 1)
    assert session.must_ask(NOW + 1) is asks
    session.confirm(Left(39, 39), NOW + 1, session.touch(NOW + 1))
    session.heard(Ping(2), NOW + 2)
    assert not session.must_ask(NOW + 2)


def test_past_its_deadline_only_the_store_may_answer() -> None:
    assert live(idle=10).must_ask(NOW + 10)


@pytest.mark.parametrize(("why", "asks"), [(None, False), (Reason.IDLE, True), (Reason.ABSOLUTE, False)])
def test_while_a_warning_shows_that_can_be_withdrawn_the_store_is_asked(
    why: Reason | None, asks: bool
) -> None:
    session = live()
    session.warned = why
    assert session.must_ask(NOW + 1) is asks


def test_what_was_asked_for_is_owed_no_more_even_if_less_was_granted() -> None:
    session = live()
    session.heard(Ping(1), NOW + 20)
    assert session.debt == 20
    session.confirm(Left(400, 3580), NOW + 20, session.touch(NOW + 20))
    assert session.debt <= 0
    session.heard(Ping(2), NOW + 25)
    assert session.debt == 5


def test_nothing_is_owed_beyond_the_absolute_deadline() -> None:
    session = live(idle=100, absolute=100)
    session.heard(Ping(1), NOW + 50)
    assert session.debt == 0


# Warnings.


def test_a_warning_is_next_and_after_it_the_end() -> None:
    session = live(idle=100)
    assert session.next_at == NOW + 40
    session.warned = Reason.IDLE
    assert session.next_at == NOW + 100


def test_an_extension_withdraws_a_warning() -> None:
    session = live(idle=60)
    session.warned = Reason.IDLE
    session.confirm(Left(61, 3000), NOW)
    assert session.warned is None
    assert session.next_at == NOW + 1


def test_another_deadline_is_another_warning() -> None:
    session = live(idle=40, absolute=70)
    session.warned = Reason.IDLE
    session.confirm(Left(50, 50), NOW + 20)
    assert session.next_at == NOW + 10  # at once: this one has not been told
    session.warned = Reason.ABSOLUTE
    assert session.next_at == NOW + 70


# A page.


def test_an_old_or_repeated_ping_changes_nothing_but_proves_that_the_page_runs() -> None:
    page = Page(live(), FakeSocket())
    assert page.heard(Ping(4, idle=9.0, visible=False), NOW)
    page.asks = 1
    for n in (4, 3, 0):
        assert not page.heard(Ping(n, idle=0.0, visible=True), NOW + 5)
    assert (page.n, page.visible) == (4, False)
    assert (page.asks, page.overdue_at) == (0, NOW + 5 + 25)
    assert page.heard(Ping(5, idle=1.0), NOW + 6)
    assert (page.n, page.visible) == (5, True)


def test_a_hidden_page_is_overdue_later_but_must_answer_as_soon() -> None:
    page = Page(live(hidden_interval=100), FakeSocket())
    page.greeted(NOW)
    assert page.overdue_at == NOW + 25
    page.heard(Ping(1, visible=False), NOW)
    assert page.overdue_at == NOW + 125
    page.asks = 2
    assert page.overdue_at == NOW + 125 + 40
    page.heard(Ping(2, visible=True), NOW + 7)
    assert page.overdue_at == NOW + 7 + 25


def test_who_may_show_again_at_any_time_is_looked_after_as_often_as_the_others() -> None:
    page = Page(live(hidden_interval=100), FakeSocket())
    page.heard(Ping(1, visible=False), NOW)
    assert page.look_again_at(NOW + 25) == NOW + 50
    assert page.look_again_at(NOW + 120) == NOW + 125
    page.heard(Ping(2, visible=True), NOW + 120)
    assert page.look_again_at(NOW + 125) == NOW + 145
