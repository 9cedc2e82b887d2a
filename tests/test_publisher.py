"""What is pushed goes out in order, many at a time, once; and what cannot go out keeps nobody waiting."""

import asyncio
from collections.abc import Sequence

import pytest

from keepalive import publisher
from keepalive.errors import StoreUnavailable
from keepalive.publisher import AT_ONCE, MOST_WAITING, Publisher
from keepalive.touchers import Pushed

from .fakes import settle


class Store:
    """Takes pushes, or does not."""

    def __init__(self) -> None:
        self.batches: list[list[Pushed]] = []
        self.error: BaseException | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def publish(self, batch: Sequence[Pushed]) -> None:
        self.batches.append(list(batch))
        await self.answers.wait()
        if self.error is not None:
            raise self.error


@pytest.fixture
async def store() -> Store:
    return Store()


@pytest.fixture
async def lost() -> list[int]:
    return []


@pytest.fixture
async def out(store: Store, lost: list[int]) -> Publisher:
    return Publisher(store.publish, lost.append)


def push(number: int, size: int = 2) -> Pushed:
    return Pushed("here", None, f"user {number}", bytes(size))


async def test_what_is_pushed_in_one_turn_goes_out_at_once_and_in_order(store: Store, out: Publisher) -> None:
    store.answers.clear()
    for number in range(100):
        out.add(push(number))
    assert store.batches == []
    await settle()
    assert store.batches == [[push(number) for number in range(100)]]
    for number in range(100, 103):  # meanwhile
        out.add(push(number))
        await settle()
    assert out.busy
    store.answers.set()
    await out.finish()
    assert store.batches[1:] == [[push(number) for number in range(100, 103)]]
    assert not out.busy
    await out.finish()


async def test_much_goes_out_in_parts(store: Store, out: Publisher) -> None:
    for number in range(30):
        out.add(push(number, AT_ONCE // 10))
    await out.finish()
    assert [len(batch) for batch in store.batches] == [11, 11, 8]
    assert [pushed.user for batch in store.batches for pushed in batch] == [f"user {n}" for n in range(30)]


@pytest.mark.parametrize("error", [StoreUnavailable("it is down"), ZeroDivisionError("a bug")])
async def test_what_a_store_did_not_take_is_lost_and_told_of_once_a_second(
    store: Store, out: Publisher, lost: list[int], caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    store.error = error
    for number in range(3):
        out.add(push(number))
        await out.finish()
    assert sum(lost) == 3
    (record,) = caplog.records
    assert "miss 1 pushes" in record.getMessage()
    assert str(error) in record.getMessage()
    assert bool(record.exc_info) is isinstance(error, ZeroDivisionError)  # where it is a bug, also where
    assert "user" not in record.getMessage()
    store.error = None
    out.add(push(4))
    await out.finish()
    assert store.batches[-1] == [push(4)]
    assert sum(lost) == 3


async def test_a_store_that_does_not_answer_is_not_waited_for(
    store: Store,
    out: Publisher,
    lost: list[int],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publisher, "PATIENCE", 0.01)
    store.answers.clear()
    out.add(push(1))
    await out.finish()
    assert sum(lost) == 1
    assert "no answer in time" in caplog.text


async def test_no_more_waits_than_there_is_room_for(
    store: Store, out: Publisher, lost: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    store.answers.clear()
    size = MOST_WAITING // 8
    for number in range(20):
        out.add(push(number, size))
    assert sum(lost) == 11
    assert "more is pushed than it takes" in caplog.text
    store.answers.set()
    await out.finish()
    assert [pushed.user for batch in store.batches for pushed in batch] == [f"user {n}" for n in range(9)]
    out.add(push(20))
    await out.finish()
    assert sum(lost) == 11
