"""What every session store promises, one test a sentence, and a model that all must match."""

import asyncio
import gc
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Coroutine
from dataclasses import dataclass, field
from itertools import count
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from keepalive.clock import ManualClock
from keepalive.errors import StoreError, StoreUnavailable
from keepalive.policy import Policy, Reason, is_evidence
from keepalive.presence import Report
from keepalive.stores import Record, SessionStore
from keepalive.touchers import MOST_PAGES, Ended, Left, News, Pages, Pushed, Touch, key_of

from .conftest import FUTURE, SERVERS, STORES, server_of

IDLE, ABSOLUTE, DAY = 1800.0, 43200.0, 86400.0
POLICY = Policy(idle_timeout=IDLE, absolute_timeout=ABSOLUTE)
ENDLESS = Policy(idle_timeout=IDLE, absolute_timeout=None)
A, B, C, NOBODY = (key_of(name) for name in ("a", "b", "c", "nobody"))

T = TypeVar("T")


async def signed_in(
    store: SessionStore, key: bytes, user: str | None = "ann", policy: Policy = POLICY
) -> Left:
    return await store.create(key, data=b"cart", user=user, policy=policy)


async def at_once(awaitable: Awaitable[T]) -> T:
    """The result of what must not have to wait for anything but this process."""
    return await asyncio.wait_for(awaitable, 10)


async def told(watch: AsyncIterator[News]) -> list[Ended]:
    """All ends that a watch tells until it finishes."""
    return [news async for news in watch if isinstance(news, Ended)]


# create, load, peek


async def test_a_created_session_loads(store: SessionStore, clock: ManualClock) -> None:
    born = clock.wall()
    assert await signed_in(store, A) == Left(IDLE, ABSOLUTE)
    clock.advance(10)
    assert await store.load(A) == Record(b"cart", "ann", born, Left(IDLE - 10, ABSOLUTE - 10))
    assert await store.peek(A) == Left(IDLE - 10, ABSOLUTE - 10)


async def test_without_an_absolute_timeout_it_has_no_end(store: SessionStore) -> None:
    assert await signed_in(store, A, policy=ENDLESS) == Left(IDLE, inf)
    assert await store.peek(A) == Left(IDLE, inf)


async def test_a_session_needs_no_user_and_no_data(store: SessionStore) -> None:
    await store.create(A, data=b"", user=None, policy=POLICY)
    record = await store.load(A)
    assert isinstance(record, Record)
    assert (record.data, record.user) == (b"", None)


@pytest.mark.parametrize("name", ["", "\0", "ä 日本 😀", "a:b{c}*", "x" * 10_000])
async def test_a_user_may_have_any_name(store: SessionStore, name: str) -> None:
    await signed_in(store, A, user=name)
    await signed_in(store, B, user=f"{name}-not")
    record = await store.load(A)
    assert isinstance(record, Record)
    assert record.user == name
    assert await store.end_user(name, Reason.REVOKED) == 1
    assert await store.peek(A) is Reason.REVOKED


async def test_a_name_that_is_no_text_is_refused(store: SessionStore) -> None:
    """A lone surrogate, which JSON lets in, has no UTF-8. Refused before anything is written."""
    await signed_in(store, A)
    before = await store.load(A)
    for refused in (
        store.create(B, data=b"", user="\ud800", policy=POLICY),
        store.rotate(A, B, data=b"", user="\udfff", policy=POLICY),
        store.save(A, data=b"more", user="a\ud83db"),
        store.end_user("\ud800", Reason.REVOKED),
    ):
        with pytest.raises(StoreError, match="half of a character") as caught:
            await refused
        assert not isinstance(caught.value, StoreUnavailable)
    assert await store.load(A) == before
    assert await store.load(B) is Reason.UNKNOWN


async def test_what_never_was_is_unknown(store: SessionStore) -> None:
    assert await store.load(NOBODY) is Reason.UNKNOWN
    assert await store.peek(NOBODY) is Reason.UNKNOWN


@pytest.mark.parametrize("ended", [False, True])
async def test_a_key_is_used_once(store: SessionStore, ended: bool) -> None:
    await signed_in(store, A)
    if ended:
        await store.end(A, Reason.LOGOUT)
    before = await store.load(A)
    with pytest.raises(StoreError) as caught:
        await store.create(A, data=b"other", user="eve", policy=ENDLESS)
    assert not isinstance(caught.value, StoreUnavailable)
    assert await store.load(A) == before


# touch


async def test_a_touch_moves_the_idle_deadline(store: SessionStore, clock: ManualClock) -> None:
    await signed_in(store, A)
    clock.advance(1000)
    assert await store.touch([Touch(A, IDLE)]) == [Left(IDLE, ABSOLUTE - 1000)]
    clock.advance(IDLE - 1)
    assert await store.peek(A) == Left(1, ABSOLUTE - 1000 - IDLE + 1)


@pytest.mark.parametrize("keep", [None, 0.0, 100.0, -5.0, -1e9])
async def test_a_touch_never_moves_it_back(store: SessionStore, keep: float | None) -> None:
    await signed_in(store, A)
    assert await store.touch([Touch(A, keep)]) == [Left(IDLE, ABSOLUTE)]


async def test_a_touch_is_idempotent(store: SessionStore, clock: ManualClock) -> None:
    await signed_in(store, A)
    clock.advance(60)
    once = await store.touch([Touch(A, IDLE, 3.0)])
    assert await store.touch([Touch(A, IDLE, 3.0)]) == once


async def test_the_absolute_deadline_caps_a_touch(store: SessionStore, clock: ManualClock) -> None:
    await signed_in(store, A)
    for _ in range(int(ABSOLUTE / IDLE) * 2 - 1):
        clock.advance(IDLE / 2)
        (left,) = await store.touch([Touch(A, IDLE)])
        assert isinstance(left, Left)
        assert left.idle <= left.absolute
    assert left == Left(IDLE / 2, IDLE / 2)
    clock.advance(IDLE / 2)
    assert await store.touch([Touch(A, IDLE)]) == [Reason.ABSOLUTE]
    assert await store.load(A) is Reason.ABSOLUTE


async def test_a_batch_answers_line_by_line(store: SessionStore, clock: ManualClock) -> None:
    await signed_in(store, C, policy=ENDLESS)
    await signed_in(store, A)
    await signed_in(store, B)
    await store.end(B, Reason.REVOKED)
    clock.advance(100)
    batch = [
        Touch(A, None),
        Touch(NOBODY, IDLE),
        Touch(C, 1750.0),
        Touch(A, IDLE),
        Touch(B, IDLE),
        Touch(A, 5.0),
    ]
    assert await store.touch(batch) == [
        Left(IDLE - 100, ABSOLUTE - 100),
        Reason.UNKNOWN,
        Left(1750, inf),
        Left(IDLE, ABSOLUTE - 100),
        Reason.REVOKED,
        Left(IDLE, ABSOLUTE - 100),
    ]


async def test_an_empty_batch_is_fine(store: SessionStore) -> None:
    assert list(await store.touch([])) == []


async def test_a_large_batch_is_one_call(store: SessionStore, clock: ManualClock) -> None:
    keys = [key_of(str(number)) for number in range(1500)]
    await asyncio.gather(*[signed_in(store, key) for key in keys[::2]])
    clock.advance(7)
    results = await store.touch([Touch(key, IDLE, 1.0) for key in keys])
    assert results[::2] == [Left(IDLE, ABSOLUTE - 7)] * 750
    assert results[1::2] == [Reason.UNKNOWN] * 750


async def test_a_touch_creates_nothing(store: SessionStore) -> None:
    assert await store.touch([Touch(NOBODY, IDLE, 0.0)]) == [Reason.UNKNOWN]
    assert await store.peek(NOBODY) is Reason.UNKNOWN


async def test_a_touch_leaves_the_data_alone(store: SessionStore) -> None:
    await signed_in(store, A)
    await store.touch([Touch(A, IDLE, 0.0)])
    record = await store.load(A)
    assert isinstance(record, Record)
    assert (record.data, record.user) == (b"cart", "ann")


async def test_a_passed_deadline_is_final(store: SessionStore, clock: ManualClock) -> None:
    await signed_in(store, A)
    clock.advance(IDLE)
    assert await store.touch([Touch(A, IDLE, 0.0)]) == [Reason.IDLE]
    assert await store.save(A, data=b"late", user="ann") is Reason.IDLE
    assert await store.peek(A) is Reason.IDLE
    clock.advance(ABSOLUTE - IDLE)
    assert await store.load(A) is Reason.IDLE  # and the reason stays the first one


# save


async def test_save_replaces_data_and_user_and_moves_no_deadline(
    store: SessionStore, clock: ManualClock
) -> None:
    await signed_in(store, A)
    born = clock.wall()
    clock.advance(30)
    left = Left(IDLE - 30, ABSOLUTE - 30)
    assert await store.save(A, data=b"more", user=None) == left
    assert await store.load(A) == Record(b"more", None, born, left)
    assert await store.end_user("ann", Reason.REVOKED) == 0
    await store.save(A, data=b"more", user="bob")
    assert await store.end_user("bob", Reason.REVOKED) == 1


async def test_save_creates_nothing(store: SessionStore) -> None:
    assert await store.save(NOBODY, data=b"x", user=None) is Reason.UNKNOWN
    assert await store.load(NOBODY) is Reason.UNKNOWN


async def test_a_slow_request_does_not_bring_a_session_back(store: SessionStore) -> None:
    await signed_in(store, A)
    logged_out = asyncio.Event()

    async def slow_request() -> Left | Reason:
        record = await store.load(A)
        assert isinstance(record, Record)
        await logged_out.wait()
        return await store.save(A, data=record.data + b", shoes", user=record.user)

    request = asyncio.create_task(slow_request())
    await asyncio.sleep(0)
    assert await store.end(A, Reason.LOGOUT)
    logged_out.set()
    assert await request is Reason.LOGOUT
    assert await store.load(A) is Reason.LOGOUT

    # The same steps on storage that saves with an upsert: there the session is back.
    with sqlite3.connect(":memory:") as upserting:
        upserting.execute("CREATE TABLE sessions (key BLOB PRIMARY KEY, data BLOB)")
        upsert = "INSERT OR REPLACE INTO sessions VALUES (?, ?)"
        upserting.execute(upsert, (A, b"cart"))
        (data,) = upserting.execute("SELECT data FROM sessions").fetchone()
        upserting.execute("DELETE FROM sessions")
        upserting.execute(upsert, (A, data + b", shoes"))
        assert upserting.execute("SELECT data FROM sessions").fetchone() == (b"cart, shoes",)
    upserting.close()


async def test_a_race_of_save_touch_and_end_always_ends_the_session(store: SessionStore) -> None:
    for number in range(50):
        key = key_of(f"race {number}")
        await signed_in(store, key)
        rivals: list[Coroutine[Any, Any, object]] = [
            store.save(key, data=b"late", user="ann"),
            store.end(key, Reason.LOGOUT),
            store.touch([Touch(key, IDLE, 0.0)]),
            store.save(key, data=b"later", user="ann"),
        ]
        await asyncio.gather(*rivals[number % 4 :], *rivals[: number % 4])
        assert await store.load(key) is Reason.LOGOUT


# end


async def test_an_ended_session_is_over_for_its_reason(store: SessionStore) -> None:
    await signed_in(store, A)
    assert await store.end(A, Reason.EVICTED) is True
    assert await store.load(A) is Reason.EVICTED
    assert await store.peek(A) is Reason.EVICTED
    assert await store.save(A, data=b"x", user=None) is Reason.EVICTED
    assert await store.touch([Touch(A, IDLE)]) == [Reason.EVICTED]


async def test_the_first_reason_stands(store: SessionStore, clock: ManualClock) -> None:
    await signed_in(store, A)
    await signed_in(store, B)
    assert await store.end(A, Reason.LOGOUT)
    assert await store.end(A, Reason.REVOKED) is False
    assert await store.load(A) is Reason.LOGOUT
    clock.advance(IDLE)
    assert await store.end(B, Reason.LOGOUT) is False
    assert await store.load(B) is Reason.IDLE
    clock.advance(ABSOLUTE)
    assert await store.load(A) is Reason.LOGOUT


async def test_what_never_was_cannot_be_ended(store: SessionStore) -> None:
    assert await store.end(NOBODY, Reason.LOGOUT) is False
    assert await store.load(NOBODY) is Reason.UNKNOWN


# rotate


async def test_rotate_begins_the_new_and_ends_the_old(store: SessionStore, clock: ManualClock) -> None:
    await store.create(A, data=b"guest", user=None, policy=POLICY)
    clock.advance(500)
    assert await store.rotate(A, B, data=b"member", user="ann", policy=POLICY) == Left(IDLE, ABSOLUTE)
    assert await store.load(A) is Reason.ROTATED
    assert await store.load(B) == Record(b"member", "ann", clock.wall(), Left(IDLE, ABSOLUTE))


async def test_rotate_needs_no_old_session(store: SessionStore, clock: ManualClock) -> None:
    await signed_in(store, A)
    await signed_in(store, B)
    await store.end(A, Reason.LOGOUT)
    clock.advance(IDLE)
    for number, (old, why) in enumerate([(A, Reason.LOGOUT), (B, Reason.IDLE), (NOBODY, Reason.UNKNOWN)]):
        new = key_of(f"new {number}")
        await store.rotate(old, new, data=b"", user="ann", policy=POLICY)
        assert await store.load(old) is why
        assert isinstance(await store.load(new), Record)


@pytest.mark.parametrize("taken_by_itself", [False, True])
async def test_rotate_to_a_used_key_changes_nothing(store: SessionStore, taken_by_itself: bool) -> None:
    await signed_in(store, A)
    await signed_in(store, B, user="bob")
    before = await store.load(A), await store.load(B)
    with pytest.raises(StoreError):
        await store.rotate(A, A if taken_by_itself else B, data=b"", user="eve", policy=POLICY)
    assert (await store.load(A), await store.load(B)) == before


# end_user


async def test_end_user_ends_all_that_live_but_one(store: SessionStore, clock: ManualClock) -> None:
    old, over = key_of("old"), key_of("over")
    await signed_in(store, old)
    clock.advance(IDLE)
    for key in (A, B, C, over):
        await signed_in(store, key)
    await store.end(over, Reason.LOGOUT)
    bob, guest = key_of("bob"), key_of("guest")
    await signed_in(store, bob, user="bob")
    await signed_in(store, guest, user=None)
    assert await store.end_user("ann", Reason.REVOKED, keep=B) == 2
    assert [await store.peek(key) for key in (A, C, over, old)] == [
        Reason.REVOKED,
        Reason.REVOKED,
        Reason.LOGOUT,
        Reason.IDLE,
    ]
    for key in (B, bob, guest):
        assert isinstance(await store.load(key), Record)
    assert await store.end_user("ann", Reason.REVOKED) == 1
    assert await store.end_user("ann", Reason.REVOKED) == 0
    assert await store.end_user("nobody", Reason.REVOKED) == 0


# sweep


@pytest.fixture
def sweeping(store: SessionStore) -> SessionStore:
    if type(store).__name__ == "RedisStore":
        pytest.skip("Redis forgets by its own clock: see test_redis.py")
    return store


async def test_sweep_keeps_what_someone_may_ask_for(sweeping: SessionStore, clock: ManualClock) -> None:
    store = sweeping
    await signed_in(store, A)
    await signed_in(store, B)
    await signed_in(store, C)
    await store.end(A, Reason.LOGOUT)
    clock.advance(IDLE - 1)
    await store.touch([Touch(C, IDLE)])
    clock.advance(1)
    assert await store.sweep() == 0
    assert await store.load(A) is Reason.LOGOUT
    assert await store.load(B) is Reason.IDLE
    record = await store.load(C)
    assert isinstance(record, Record)
    assert record.data == b"cart"
    clock.advance(ABSOLUTE - IDLE)
    assert await store.sweep() == 0
    assert await store.load(A) is Reason.LOGOUT
    assert await store.load(B) is Reason.IDLE


async def test_what_was_swept_stays_over_though_the_clock_be_set_back(
    sweeping: SessionStore, clock: ManualClock
) -> None:
    store = sweeping
    await signed_in(store, A)
    await signed_in(store, B, policy=Policy(idle_timeout=IDLE, absolute_timeout=IDLE))
    await signed_in(store, C)
    await store.touch([Touch(C, None, pages=Pages((), ("p",), 20.0))])
    clock.advance(IDLE)
    assert await store.sweep() == 0
    clock.jump(-IDLE / 2)
    expected = [Reason.IDLE, Reason.ABSOLUTE, Reason.LOGOUT]
    assert [await store.load(key) for key in (A, B, C)] == expected
    assert await store.touch([Touch(key, IDLE) for key in (A, B, C)]) == expected
    assert not await store.end(A, Reason.REVOKED)
    clock.jump(IDLE / 2)
    assert [await store.load(key) for key in (A, B, C)] == expected


async def test_sweep_forgets_what_has_been_over_for_a_day(sweeping: SessionStore, clock: ManualClock) -> None:
    store = sweeping
    long = Policy(idle_timeout=IDLE, absolute_timeout=7 * DAY)
    tombstone, expired, alive = key_of("tombstone"), key_of("expired"), key_of("alive")
    await signed_in(store, A)
    await signed_in(store, B, policy=ENDLESS)
    await signed_in(store, C, policy=ENDLESS)
    await signed_in(store, tombstone, policy=long)
    await signed_in(store, expired, policy=long)
    await store.end(B, Reason.LOGOUT)
    await store.end(tombstone, Reason.LOGOUT)
    clock.advance(DAY - 1)
    assert await store.sweep() == 0
    clock.advance(1)  # B
    assert await store.sweep() == 1
    assert await store.load(B) is Reason.UNKNOWN
    clock.advance(IDLE)  # A and C
    assert await store.sweep() == 2
    assert [await store.load(key) for key in (A, C)] == [Reason.UNKNOWN] * 2
    clock.advance(5 * DAY)  # the others only after their absolute deadline
    await signed_in(store, alive)
    assert await store.sweep() == 0
    assert [await store.load(key) for key in (tombstone, expired)] == [Reason.LOGOUT, Reason.IDLE]
    clock.advance(DAY - IDLE)
    assert await store.sweep() == 2
    assert await store.sweep() == 0
    assert await store.load(alive) is Reason.IDLE


# watch


async def test_watch_tells_every_end_once_to_everyone(store: SessionStore) -> None:
    first = store.watch()
    for key in (A, B, C):
        await signed_in(store, key)
    await store.end(A, Reason.LOGOUT)
    second = store.watch()
    await store.end(A, Reason.REVOKED)
    await store.rotate(B, key_of("b2"), data=b"", user="bob", policy=POLICY)
    assert await store.end_user("ann", Reason.EVICTED) == 1
    assert await at_once(anext(first)) == Ended(A, Reason.LOGOUT)
    await store.close()
    rest = [Ended(B, Reason.ROTATED), Ended(C, Reason.EVICTED)]
    assert await at_once(told(first)) == rest
    assert await at_once(told(second)) == rest


async def test_watch_counts_from_its_call(store: SessionStore) -> None:
    await signed_in(store, A)
    await signed_in(store, B)
    await store.end(A, Reason.LOGOUT)
    watch = store.watch()
    await store.end(B, Reason.LOGOUT)
    assert await at_once(anext(watch)) == Ended(B, Reason.LOGOUT)


async def test_a_waiting_watch_hears_at_once(store: SessionStore) -> None:
    await signed_in(store, A)
    waiting = asyncio.ensure_future(anext(store.watch()))
    await store.end(A, Reason.LOGOUT)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert waiting.done()
    assert waiting.result() == Ended(A, Reason.LOGOUT)


async def test_an_end_that_did_not_happen_is_not_told(store: SessionStore, clock: ManualClock) -> None:
    await signed_in(store, A)
    watch = store.watch()
    clock.advance(IDLE)
    await store.end(A, Reason.LOGOUT)
    await store.end(NOBODY, Reason.LOGOUT)
    await store.rotate(A, B, data=b"", user=None, policy=POLICY)
    await store.sweep()
    await store.close()
    assert await at_once(told(watch)) == []


async def test_close_finishes_a_waiting_watch(store: SessionStore) -> None:
    watch = store.watch()
    waiting = asyncio.ensure_future(told(watch))
    await asyncio.sleep(0)
    await store.close()
    assert await at_once(waiting) == []
    assert await at_once(told(watch)) == []


async def test_an_abandoned_watch_costs_nothing(store: SessionStore) -> None:
    waiting = asyncio.ensure_future(anext(store.watch()))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    del waiting
    gc.collect()
    assert not store._watches  # type: ignore[attr-defined]


# publish


async def test_pushes_reach_the_watches_of_all_servers_on_the_roll(store: SessionStore) -> None:
    for node in "here", "there":
        assert await store.roll.report(Report(node, 1, [], b"", anew=True))
    await signed_in(store, A)
    watch, other = store.watch(), store.watch()
    pushes = [
        Pushed("here", A, None, b'{"type":"push","data":1}'),
        Pushed("here", None, "Anné\0", bytes(range(256)) * 128),
        Pushed("here", b"", None, b""),
    ]
    await store.publish(pushes)
    await store.publish([])
    await store.publish(pushes[:1])
    await store.end(A, Reason.LOGOUT)
    await store.publish(pushes[1:])
    for each in watch, other:
        heard = [await at_once(anext(each)) for _ in range(7)]
        assert [news for news in heard if isinstance(news, Pushed)] == [*pushes, *pushes]
        assert [news for news in heard if isinstance(news, Ended)] == [Ended(A, Reason.LOGOUT)]


# open, close, cancel


async def test_a_store_that_is_not_open_is_unavailable(unopened: SessionStore) -> None:
    store = unopened

    async def refuses_all() -> None:
        for method in (
            store.create(A, data=b"", user=None, policy=POLICY),
            store.load(A),
            store.save(A, data=b"", user=None),
            store.peek(A),
            store.touch([Touch(A, IDLE)]),
            store.end(A, Reason.LOGOUT),
            store.rotate(A, B, data=b"", user=None, policy=POLICY),
            store.end_user("ann", Reason.REVOKED),
            store.publish([Pushed("here", A, None, b"{}")]),
            store.sweep(),
        ):
            with pytest.raises(StoreUnavailable):
                await method
        with pytest.raises(StoreUnavailable):
            store.watch()

    await refuses_all()
    await store.open()
    await store.close()
    await refuses_all()
    await store.close()


async def test_cancelling_a_caller_harms_nobody(store: SessionStore) -> None:
    await signed_in(store, A)
    await signed_in(store, B)
    calls = [asyncio.ensure_future(store.touch([Touch(A, IDLE)])) for _ in range(20)]
    ending = asyncio.ensure_future(store.end(B, Reason.LOGOUT))
    await asyncio.sleep(0)
    for call in (*calls[::2], ending):
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[1::2] == [[Left(IDLE, ABSOLUTE)]] * 10
    # Whether the cancelled end was stored is not known, but it is whole.
    after = await store.load(B)
    assert after is Reason.LOGOUT or isinstance(after, Record)
    assert await store.end(B, Reason.REVOKED) is isinstance(after, Record)


# A session that ends with its last page

AFTER = 20.0


def opened(*pages: str) -> Touch:
    return Touch(A, IDLE, pages=Pages(pages, (), AFTER))


def closed(*pages: str, here: tuple[str, ...] = ()) -> Touch:
    return Touch(A, None, pages=Pages(here, pages, AFTER))


async def idle_of(store: SessionStore) -> float:
    left = await store.peek(A)
    assert isinstance(left, Left), left
    return left.idle


async def test_it_ends_once_its_last_page_has_been_closed_for_so_long(
    store: SessionStore, clock: ManualClock
) -> None:
    await signed_in(store, A)
    await store.touch([opened("p")])
    clock.advance(100)
    ending = Left(AFTER, ABSOLUTE - 100, closing=True)
    assert await store.touch([closed("p")]) == [ending]
    assert await store.peek(A) == ending
    record = await store.load(A)
    assert isinstance(record, Record)
    assert record.left == ending
    clock.advance(AFTER - 0.001)
    assert isinstance(await store.load(A), Record)
    clock.advance(0.001)
    assert await store.load(A) is Reason.LOGOUT
    assert await store.touch([opened("q")]) == [Reason.LOGOUT]
    assert await store.save(A, data=b"late", user="ann") is Reason.LOGOUT
    assert not await store.end(A, Reason.REVOKED)
    clock.advance(ABSOLUTE)
    assert await store.peek(A) in (Reason.LOGOUT, Reason.UNKNOWN)  # the first reason stands


async def test_a_reload_takes_that_back(store: SessionStore, clock: ManualClock) -> None:
    await signed_in(store, A)
    await store.touch([opened("p")])
    await store.touch([closed("p")])
    clock.advance(AFTER - 1)
    # Its page comes with no news of the user, as in the mode `activity`: the old deadline is back.
    back = [Left(IDLE - AFTER + 1, ABSOLUTE - AFTER + 1)]
    assert await store.touch([Touch(A, None, pages=Pages(("q",), (), AFTER))]) == back
    clock.advance(2 * AFTER)
    assert await idle_of(store) == IDLE - 3 * AFTER + 1


@pytest.mark.parametrize(("keep", "idle"), [(IDLE, 0.0), (None, 5.0)])
async def test_a_request_takes_it_back_too_and_asking_does_not(
    store: SessionStore, clock: ManualClock, keep: float | None, idle: float | None
) -> None:
    await signed_in(store, A)
    await store.touch([opened("p")])
    await store.touch([closed("p")])
    assert await store.touch([Touch(A, None)]) == [Left(AFTER, ABSOLUTE, closing=True)]
    assert await store.touch([Touch(A, keep, idle)]) == [Left(IDLE, ABSOLUTE)]
    clock.advance(2 * AFTER)
    assert isinstance(await store.load(A), Record)


async def test_it_does_not_end_while_another_page_is_open(store: SessionStore, clock: ManualClock) -> None:
    await signed_in(store, A)
    await store.touch([opened("p"), opened("q")])
    assert await store.touch([closed("p")]) == [Left(IDLE, ABSOLUTE)]
    clock.advance(2 * AFTER)
    assert await store.touch([closed("q")]) == [Left(AFTER, ABSOLUTE - 2 * AFTER, closing=True)]


async def test_a_reload_may_be_heard_of_the_wrong_way_round(store: SessionStore) -> None:
    await signed_in(store, A)
    await store.touch([opened("p")])
    await store.touch([opened("q")])
    assert await store.touch([closed("p")]) == [Left(IDLE, ABSOLUTE)]


async def test_a_goodbye_that_is_told_twice_counts_from_the_first(
    store: SessionStore, clock: ManualClock
) -> None:
    await signed_in(store, A)
    await store.touch([opened("p"), closed("p")])
    clock.advance(5)
    await store.touch([closed("p")])
    assert await idle_of(store) == AFTER - 5
    await store.touch([opened("q")])
    assert await store.touch([closed("p")]) == [Left(IDLE, ABSOLUTE - 5)]


async def test_a_goodbye_counts_though_the_page_was_never_heard_of(store: SessionStore) -> None:
    await signed_in(store, A)
    assert await store.touch([closed("p")]) == [Left(AFTER, ABSOLUTE, closing=True)]
    # Who is still there says so with the same line.
    assert await store.touch([closed("q", here=("r",))]) == [Left(IDLE, ABSOLUTE)]


async def test_the_nearest_deadline_counts(store: SessionStore, clock: ManualClock) -> None:
    await signed_in(store, A)
    clock.advance(IDLE - AFTER / 2)
    await store.touch([closed("p")])
    assert await idle_of(store) == AFTER / 2
    clock.advance(AFTER)
    assert await store.load(A) is Reason.IDLE


async def test_no_session_counts_more_pages_than_the_newest(store: SessionStore) -> None:
    await signed_in(store, A)
    for number in range(MOST_PAGES + 1):
        await store.touch([opened(f"p{number}")])
    last = [f"p{number}" for number in range(2, MOST_PAGES + 1)]
    assert await store.touch([closed(*last)]) == [Left(IDLE, ABSOLUTE)]
    assert await store.touch([closed("p1")]) == [Left(AFTER, ABSOLUTE, closing=True)]


async def test_a_login_begins_without_pages(store: SessionStore, clock: ManualClock) -> None:
    await signed_in(store, B)
    await store.touch([Touch(B, None, pages=Pages((), ("p",), AFTER))])
    assert await store.rotate(B, A, data=b"", user="ann", policy=POLICY) == Left(IDLE, ABSOLUTE)
    clock.advance(2 * AFTER)
    assert await store.touch([opened("q")]) == [Left(IDLE, ABSOLUTE - 2 * AFTER)]
    assert await store.touch([closed("q")]) == [Left(AFTER, ABSOLUTE - 2 * AFTER, closing=True)]


async def test_what_has_ended_so_leaves_no_data(store: SessionStore, clock: ManualClock) -> None:
    await signed_in(store, A)
    await store.touch([closed("p")])
    clock.advance(AFTER)
    await store.sweep()
    assert await store.load(A) is Reason.LOGOUT
    assert await store.end_user("ann", Reason.REVOKED) == 0


# The model


@dataclass
class Session:
    """What the model knows of a session."""

    data: bytes
    user: str | None
    created: float
    idle_at: float
    absolute_at: float
    ended_at: float | None = None
    reason: Reason | None = None
    pages: set[str] = field(default_factory=set)
    closes_at: float = inf

    def over(self, now: float) -> Reason | None:
        if self.reason:
            return self.reason
        if now >= self.closes_at < self.idle_at:
            return Reason.LOGOUT
        if now < self.idle_at:  # which is never beyond absolute_at
            return None
        return Reason.ABSOLUTE if self.idle_at == self.absolute_at else Reason.IDLE

    def count(self, pages: Pages, now: float) -> None:
        self.pages = self.pages.difference(pages.gone).union(pages.here)
        if pages.here:
            self.closes_at = inf
        elif pages.gone and not self.pages:
            self.closes_at = min(self.closes_at, now + pages.end_after)


REASONS = st.sampled_from([Reason.LOGOUT, Reason.REVOKED, Reason.EVICTED])
USERS = st.sampled_from([None, "ann", "bob"])
POLICIES = st.sampled_from([POLICY, ENDLESS, Policy(idle_timeout=IDLE, absolute_timeout=IDLE + 200)])
# Quarters are exact in binary, so the model's sums are those of every store.
IDLES = st.none() | st.sampled_from([-1.0, 0.0, 5.25, inf])
KEEPS = st.none() | st.integers(-400, 4 * int(IDLE)).map(lambda quarters: quarters / 4)
NAMES = st.lists(st.sampled_from(["p", "-q", "r_2"]), max_size=2, unique=True).map(tuple)
PAGES = st.none() | st.builds(Pages, NAMES, NAMES, st.sampled_from([5.0, 60.25]))
PAUSES = st.integers(0, 2400).map(lambda quarters: quarters / 4) | st.sampled_from([IDLE, ABSOLUTE, DAY])


class StoreMachine(RuleBasedStateMachine):
    """Drives a store and the model side by side; they must agree on all and after every step."""

    name: str
    server: str
    keys = Bundle("keys")
    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(FUTURE)
        self.model: dict[bytes, Session] = {}
        self.expected: list[Ended] = []
        self.numbers = count()
        self.runner = asyncio.Runner()
        self.folder = TemporaryDirectory()
        self.store = STORES[self.name](Path(self.folder.name), self.clock, self.server)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.get_loop().run_until_complete(work)  # the runner would mind Ctrl-C each time

    def left(self, key: bytes) -> Left | Reason:
        session = self.model.get(key)
        if session is None:
            return Reason.UNKNOWN
        now = self.clock.wall()
        closing = session.closes_at < inf
        idle = min(session.idle_at, session.closes_at) - now
        return session.over(now) or Left(idle, session.absolute_at - now, closing=closing)

    def begin(self, data: bytes, user: str | None, policy: Policy) -> bytes:
        key, now = key_of(f"session {next(self.numbers)}"), self.clock.wall()
        absolute_at = inf if policy.absolute_timeout is None else now + policy.absolute_timeout
        self.model[key] = Session(data, user, now, now + policy.idle_timeout, absolute_at)
        return key

    def finish(self, key: bytes, reason: Reason) -> bool:
        session = self.model[key]
        if session.over(self.clock.wall()):
            return False
        session.ended_at, session.reason, session.user = self.clock.wall(), reason, None
        self.expected.append(Ended(key, reason))
        return True

    async def open(self) -> None:
        await self.store.open()
        self.watch = self.store.watch()

    async def shut(self) -> None:
        await self.store.close()
        assert sorted(await told(self.watch)) == sorted(self.expected)
        self.expected.clear()

    @initialize()
    def start(self) -> None:
        self.run(self.open())

    @rule(target=keys, data=st.binary(max_size=20), user=USERS, policy=POLICIES)
    def create(self, data: bytes, user: str | None, policy: Policy) -> bytes:
        key = self.begin(data, user, policy)
        assert self.run(self.store.create(key, data=data, user=user, policy=policy)) == self.left(key)
        return key

    @rule(target=keys, old=keys, data=st.binary(max_size=20), user=USERS, policy=POLICIES)
    def sign_in(self, old: bytes, data: bytes, user: str | None, policy: Policy) -> bytes:
        if old in self.model:
            self.finish(old, Reason.ROTATED)
        new = self.begin(data, user, policy)
        assert self.run(self.store.rotate(old, new, data=data, user=user, policy=policy)) == self.left(new)
        return new

    @rule(lines=st.lists(st.builds(Touch, keys, KEEPS, IDLES, PAGES), max_size=8))
    def touch(self, lines: list[Touch]) -> None:
        expected, now = [], self.clock.wall()
        for line in lines:
            if isinstance(self.left(line.key), Left):
                session = self.model[line.key]
                if line.keep is not None:
                    session.idle_at = min(max(session.idle_at, now + line.keep), session.absolute_at)
                if line.pages is not None:
                    session.count(line.pages, now)
                elif line.keep is not None or is_evidence(line.idle):
                    session.closes_at = inf
            expected.append(self.left(line.key))
        assert list(self.run(self.store.touch(lines))) == expected

    @rule(target=requests, key=keys)
    def begin_request(self, key: bytes) -> Any:
        loaded = self.run(self.store.load(key))
        if isinstance(loaded, Reason):
            return multiple()
        session = self.model[key]
        assert loaded[:3] == (session.data, session.user, session.created)
        return key, loaded.data

    @rule(request=requests, more=st.binary(max_size=5), user=USERS)
    def finish_request(self, request: tuple[bytes, bytes], more: bytes, user: str | None) -> None:
        key, data = request
        left = self.left(key)
        if isinstance(left, Left):
            self.model[key].data, self.model[key].user = data + more, user
        assert self.run(self.store.save(key, data=data + more, user=user)) == left

    @rule(key=keys, reason=REASONS)
    def end(self, key: bytes, reason: Reason) -> None:
        lived = key in self.model and self.finish(key, reason)
        assert self.run(self.store.end(key, reason)) is lived

    @rule(user=st.sampled_from(["ann", "bob"]), reason=REASONS, keep=st.none() | keys)
    def end_user(self, user: str, reason: Reason, keep: bytes | None) -> None:
        already = len(self.expected)
        for key, session in self.model.items():
            if session.user == user and key != keep:
                self.finish(key, reason)
        assert self.run(self.store.end_user(user, reason, keep=keep)) == len(self.expected) - already

    @rule(seconds=PAUSES)
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.name not in SERVERS)  # which forget by their own clock
    @rule()
    def sweep(self) -> None:
        now = self.clock.wall()
        gone = [
            key
            for key, session in self.model.items()
            if (session.absolute_at == inf or now >= session.absolute_at)
            and now >= (session.ended_at or session.idle_at) + DAY
        ]
        for key in gone:
            del self.model[key]
        assert self.run(self.store.sweep()) == len(gone)

    @precondition(lambda self: self.name != "memory")
    @rule()
    def reopen(self) -> None:
        self.run(self.shut())
        self.run(self.open())

    @invariant()
    def agrees(self) -> None:
        for (key, session), loaded in zip(self.model.items(), self.run(self.load_all()), strict=True):
            left = self.left(key)
            if isinstance(left, Left):
                assert loaded == Record(session.data, session.user, session.created, left)
            else:
                assert loaded is left

    async def load_all(self) -> list[Record | Reason]:
        return await asyncio.gather(*map(self.store.load, self.model))

    def teardown(self) -> None:
        self.run(self.shut())
        self.runner.close()
        self.folder.cleanup()


EXAMPLES = {"memory": 60, "sqlite": 30, "redis": 15, "cluster": 15}
"""Each question to one that is not in memory is a round trip."""


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("effort", [1, pytest.param(5, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
def test_the_store_matches_the_model(
    name: str, effort: int, request: pytest.FixtureRequest, patient: None
) -> None:
    machine = type("Machine", (StoreMachine,), {"name": name, "server": server_of(name, request)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=effort * EXAMPLES[name],
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
