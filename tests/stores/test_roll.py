"""What every store promises of presence, one test a sentence, and a count by hand that all must match."""

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keepalive.clock import ManualClock
from keepalive.errors import StoreUnavailable
from keepalive.policy import Policy, Reason
from keepalive.presence import KEPT, Online, Presence, Report, SessionPresence
from keepalive.stores import Record, SessionStore, open_store
from keepalive.touchers import Touch, key_of

from .conftest import FUTURE, STORES, server_of

IDLE = 1800.0
POLICY = Policy(idle_timeout=IDLE, absolute_timeout=43200)
A, B, C = (key_of(name) for name in "abc")
NOBODY = Presence(0, 0, 0, 0)


def first(node: str, *lines: Online, number: int = 1, stats: bytes = b"") -> Report:
    """The beginning of a roll."""
    return Report(node, number, lines, stats, anew=True)


def then(node: str, number: int, *lines: Online, stats: bytes = b"") -> Report:
    """What has changed since."""
    return Report(node, number, lines, stats)


async def pages(store: SessionStore, *keys: bytes) -> list[int]:
    return [(await store.roll.presence_of(key)).pages for key in keys]


# Totals


async def test_where_no_one_has_reported_nobody_is(store: SessionStore) -> None:
    assert await store.roll.presence() == NOBODY
    assert await store.roll.presence_of(A) == SessionPresence(0, None)
    assert await store.roll.nodes() == {}


async def test_pages_sessions_and_users_add_up(store: SessionStore) -> None:
    lines = Online(A, "ann", 2), Online(B, "ann", 1), Online(C, None, 3)
    assert await store.roll.report(first("one", *lines))
    assert await store.roll.presence() == Presence(pages=6, sessions=3, users=1, nodes=1)
    assert await pages(store, A, B, C, key_of("d")) == [2, 1, 3, 0]


async def test_a_session_and_a_user_on_two_nodes_count_once(store: SessionStore) -> None:
    assert await store.roll.report(first("one", Online(A, "ann", 2), Online(B, "bob", 1)))
    assert await store.roll.report(first("two", Online(A, "ann", 1), Online(C, "bob", 1)))
    assert await store.roll.presence() == Presence(pages=5, sessions=3, users=2, nodes=2)
    assert await pages(store, A, B, C) == [3, 1, 1]


async def test_a_node_without_pages_is_a_node(store: SessionStore) -> None:
    assert await store.roll.report(first("one"))
    assert await store.roll.presence() == Presence(0, 0, 0, 1)


async def test_any_name_of_a_user_will_do(store: SessionStore) -> None:
    names = ["", " ", "ann:bob", "näme \U0001f600", "x" * 5000, "0"]
    lines = [Online(key_of(name), name, 1) for name in names]
    assert await store.roll.report(first("one", *lines))
    assert await store.roll.presence() == Presence(6, 6, 6, 1)


# Changes


async def test_what_changes_is_counted(store: SessionStore) -> None:
    assert await store.roll.report(first("one", Online(A, "ann", 1), Online(B, "bob", 1)))
    assert await store.roll.report(then("one", 2, Online(A, "ann", 3), Online(C, "cat", 1)))
    assert await store.roll.presence() == Presence(5, 3, 3, 1)
    assert await store.roll.report(then("one", 3, Online(A, None, 0), Online(C, "bob", 1)))
    assert await store.roll.presence() == Presence(2, 2, 1, 1)
    assert await pages(store, A, B, C) == [0, 1, 1]
    assert await store.roll.report(then("one", 4, Online(B, None, 0), Online(C, None, 0), Online(A, None, 0)))
    assert await store.roll.presence() == Presence(0, 0, 0, 1)


async def test_a_roll_that_begins_anew_forgets_what_was(store: SessionStore) -> None:
    assert await store.roll.report(first("one", Online(A, "ann", 2), Online(B, "bob", 1)))
    assert await store.roll.report(first("one", Online(B, "bob", 4), number=2))
    assert await store.roll.presence() == Presence(4, 1, 1, 1)
    assert await store.roll.report(then("one", 3, Online(C, None, 1)))
    assert await pages(store, A, B, C) == [0, 4, 1]


@pytest.mark.parametrize("number", [1, 2, 4])
async def test_a_report_that_is_not_the_next_changes_nothing(store: SessionStore, number: int) -> None:
    """One before it was lost, or comes late: the node has to tell its roll anew."""
    assert await store.roll.report(first("one", Online(A, "ann", 1)))
    assert await store.roll.report(then("one", 2))
    assert not await store.roll.report(then("one", number, Online(A, None, 0), Online(B, None, 1)))
    assert await store.roll.presence() == Presence(1, 1, 1, 1)


async def test_a_roll_that_comes_late_changes_nothing(store: SessionStore) -> None:
    assert await store.roll.report(first("one", number=2))
    assert not await store.roll.report(first("one", Online(A, "ann", 1)))
    assert await store.roll.presence() == Presence(0, 0, 0, 1)


async def test_of_a_node_that_is_not_known_no_change_is_taken(store: SessionStore) -> None:
    assert await store.roll.report(first("one"))
    assert not await store.roll.report(then("two", 2, Online(A, "ann", 1)))
    assert await store.roll.presence() == Presence(0, 0, 0, 1)


# The life of a node


async def test_a_node_that_is_silent_vanishes(store: SessionStore, clock: ManualClock) -> None:
    assert await store.roll.report(first("one", Online(A, "ann", 1), Online(B, "bob", 1)))
    clock.advance(KEPT - 1)
    assert await store.roll.report(first("two", Online(A, "ann", 2)))
    assert await store.roll.presence() == Presence(4, 2, 2, 2)
    clock.advance(1)
    assert await store.roll.presence() == Presence(2, 1, 1, 1)
    assert await pages(store, A, B) == [2, 0]
    assert list(await store.roll.nodes()) == ["two"]
    assert not await store.roll.report(then("one", 2))
    assert await store.roll.report(then("two", 2))


@pytest.mark.parametrize("who_asks", ["presence_of", "nodes", "report"])
async def test_whoever_asks_first_finds_it_gone(
    store: SessionStore, clock: ManualClock, who_asks: str
) -> None:
    assert await store.roll.report(first("one", Online(A, "ann", 1)))
    clock.advance(KEPT)
    if who_asks == "presence_of":
        assert await pages(store, A) == [0]
    elif who_asks == "nodes":
        assert await store.roll.nodes() == {}
    else:
        assert not await store.roll.report(then("one", 2))
    assert await store.roll.presence() == NOBODY


async def test_a_report_renews(store: SessionStore, clock: ManualClock) -> None:
    assert await store.roll.report(first("one", Online(A, "ann", 1)))
    for number in range(2, 6):
        clock.advance(KEPT - 1)
        assert await store.roll.report(then("one", number))
    assert await store.roll.presence() == Presence(1, 1, 1, 1)


async def test_a_node_that_leaves_is_gone_at_once(store: SessionStore) -> None:
    assert await store.roll.report(first("one", Online(A, "ann", 1)))
    assert await store.roll.report(first("two", Online(A, "ann", 1)))
    await store.roll.leave("one")
    await store.roll.leave("three")
    assert await store.roll.presence() == Presence(1, 1, 1, 1)
    assert not await store.roll.report(then("one", 2))
    await store.roll.leave("two")
    assert await store.roll.presence() == NOBODY


@pytest.mark.parametrize("how", ["dies", "leaves", "begins anew"])
async def test_a_large_node_is_taken_out_whole(store: SessionStore, clock: ManualClock, how: str) -> None:
    """In slices, so that nobody who touches has to wait for all of it; yet who asks sees it whole or not."""
    lines = [Online(key_of(str(number)), f"user {number}", 2) for number in range(1000)]
    assert await store.roll.report(first("one", *lines))
    clock.advance(KEPT - 1)
    assert await store.roll.report(first("two", *lines[:400]))
    everybody, rest = Presence(2800, 1000, 1000, 2), Presence(800, 400, 400, 1)
    assert await store.roll.presence() == everybody
    if how == "dies":
        clock.advance(1)
    elif how == "leaves":
        await store.roll.leave("one")
    else:
        assert await store.roll.report(first("one", Online(A, "ann", 1), number=2))
        rest = Presence(801, 401, 401, 2)
    assert await asyncio.gather(*(store.roll.presence() for _ in range(5))) == [rest] * 5


async def test_the_newest_figures_of_each_node(store: SessionStore, clock: ManualClock) -> None:
    assert await store.roll.report(first("one", stats=b"\0\xff old"))
    assert await store.roll.report(first("two", stats=b""))
    assert await store.roll.report(then("one", 2, stats=b"\0\xff new"))
    assert await store.roll.nodes() == {"one": b"\0\xff new", "two": b""}


# The last input


async def test_a_touch_tells_of_the_last_input(store: SessionStore, clock: ManualClock) -> None:
    await store.create(A, data=b"", user="ann", policy=POLICY)
    clock.advance(100)
    assert await store.roll.presence_of(A) == SessionPresence(0, 100.0)
    await store.touch([Touch(A, IDLE, 7.5)])
    clock.advance(10)
    assert await store.roll.presence_of(A) == SessionPresence(0, 17.5)


async def test_of_what_is_over_there_is_no_last_input(store: SessionStore, clock: ManualClock) -> None:
    for key in (A, B):
        await store.create(key, data=b"", user="ann", policy=POLICY)
    await store.end(A, Reason.LOGOUT)
    assert await store.roll.presence_of(A) == SessionPresence(0, None)
    clock.advance(IDLE)
    assert await store.roll.presence_of(B) == SessionPresence(0, None)


# Faults


async def test_before_it_is_open_and_after_it_is_closed(unopened: SessionStore) -> None:
    for _ in range(2):
        for ask in (unopened.roll.presence, unopened.roll.nodes):
            with pytest.raises(StoreUnavailable):
                await ask()
        with pytest.raises(StoreUnavailable):
            await unopened.roll.report(first("one"))
        with pytest.raises(StoreUnavailable):
            await unopened.roll.leave("one")
        with pytest.raises(StoreUnavailable):
            await unopened.roll.presence_of(A)
        await unopened.open()
        await unopened.close()


async def test_a_file_that_knew_no_presence_learns_it(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "sessions.db"
    store = open_store(f"sqlite:///{path}", clock=clock)
    await store.open()
    await store.create(A, data=b"cart", user="ann", policy=POLICY)
    await store.close()
    with closing(sqlite3.connect(path)) as db:  # as the first version has made it
        for table in ("online", "online_sessions", "online_users", "presence", "nodes", "pushes"):
            db.execute(f"DROP TABLE {table}")
        for column in ("closes_at", "pages"):
            db.execute(f"ALTER TABLE sessions DROP COLUMN {column}")
        db.execute("PRAGMA user_version = 1")
    for _ in range(2):
        await store.open()
        assert await store.roll.presence() == NOBODY
        assert await store.roll.report(first("one", Online(A, "ann", 1)))
        assert await store.roll.presence() == Presence(1, 1, 1, 1)
        assert isinstance(await store.load(A), Record)
        await store.roll.leave("one")
        await store.close()


# A count by hand

NODES = st.sampled_from(["one", "two", "three"])
LINES = st.builds(
    Online,
    st.sampled_from([key_of(str(number)) for number in range(5)]),
    st.sampled_from([None, "ann", "bob"]),
    st.integers(0, 3),
)
REPORTS = st.tuples(
    st.just("report"), NODES, st.lists(LINES, max_size=5, unique_by=lambda line: line.key), st.booleans()
)
STEPS = st.lists(
    REPORTS
    | st.tuples(st.just("leave"), NODES)
    | st.tuples(st.just("wait"), st.sampled_from([1.0, KEPT - 0.5, KEPT])),
    max_size=25,
)


@pytest.mark.parametrize("name", STORES)
def test_the_roll_matches_a_count_by_hand(name: str, request: pytest.FixtureRequest, patient: None) -> None:
    server = server_of(name, request)

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(STEPS)
    def check(steps: list[tuple[object, ...]]) -> None:
        with TemporaryDirectory() as folder:
            clock = ManualClock(FUTURE)
            asyncio.run(follow(STORES[name](Path(folder), clock, server), clock, steps))

    check()


async def follow(store: SessionStore, clock: ManualClock, steps: list[tuple[object, ...]]) -> None:
    """Drive a store through the steps; after each it must say what dictionaries do."""
    until: dict[str, float] = {}
    rolls: dict[str, dict[bytes, Online]] = {}
    numbers = Counter[str]()
    await store.open()
    for step in steps:
        match step:
            case "report", str(node), list(lines), bool(anew):
                taken = anew or until.get(node, 0.0) > clock.wall()
                report = Report(node, numbers[node] + 1, lines, b"", anew)
                assert await store.roll.report(report) is taken
                if taken:
                    numbers[node] += 1
                    until[node] = clock.wall() + KEPT
                    rolls[node] = ({} if anew else rolls[node]) | {line.key: line for line in lines}
            case "leave", str(node):
                await store.roll.leave(node)
                until.pop(node, None)
            case "wait", float(seconds):
                clock.advance(seconds)
        alive = [node for node in until if until[node] > clock.wall()]
        online = [line for node in alive for line in rolls[node].values() if line.pages]
        keys, users = ({line.key for line in online}, {line.user for line in online} - {None})
        total = sum(line.pages for line in online)
        assert await store.roll.presence() == Presence(total, len(keys), len(users), len(alive))
        for key in keys:
            assert await pages(store, key) == [sum(line.pages for line in online if line.key == key)]
    await store.close()
