"""What only Redis can do to the roll: lose it, in whole or in part."""

from collections.abc import AsyncIterator, Iterator

import pytest

from keepalive.presence import KEPT, Online, Presence, Report
from keepalive.stores import SessionStore, open_store
from keepalive.touchers import key_of

from ..redis import RedisServer, redis_server

A, B = (key_of(name) for name in "ab")
ROLLS = {"one": [Online(A, "ann", 2)], "two": [Online(A, "ann", 1), Online(B, "bob", 1)]}
ALL = Presence(pages=4, sessions=2, users=2, nodes=2)
SLACK = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def store(server: RedisServer, patient: None) -> AsyncIterator[SessionStore]:
    """One with two nodes that have told their rolls."""
    server.call("FLUSHALL")
    store = open_store(server.url)
    await store.open()
    assert await tell(store, number=1, anew=True) == [True, True]
    assert await store.roll.presence() == ALL
    yield store
    await store.close()


async def tell(store: SessionStore, *, number: int, anew: bool) -> list[bool]:
    """Have every node report; which reports were taken."""
    return [
        await store.roll.report(Report(node, number, lines if anew else [], b"", anew))
        for node, lines in ROLLS.items()
    ]


def keys(server: RedisServer) -> list[str]:
    return sorted(name.decode() for name in server.call("KEYS", "*"))


async def test_all_of_it_is_in_one_slot_and_forgotten_by_itself(
    server: RedisServer, store: SessionStore
) -> None:
    parts = ("nodes", "nodes:one", "nodes:two", "sessions", "users")
    assert keys(server) == [f"keepalive:{{online}}:{part}" for part in parts]
    await store.roll.report(Report("two", 2, [], b""))
    for key in keys(server):  # together, so that the counts never lack what they counted
        assert server.call("PTTL", key) / 1000 == pytest.approx(KEPT + SLACK, abs=5)
    assert len({server.call("PEXPIRETIME", key) for key in keys(server)}) == 1


@pytest.mark.parametrize("lost", ["nodes", "sessions", "users", "nodes:one", "nodes:two"])
@pytest.mark.parametrize("first", ["a node reports", "an app asks"])
async def test_should_one_part_be_lost_all_of_it_is_told_anew(
    server: RedisServer, store: SessionStore, lost: str, first: str
) -> None:
    assert server.call("DEL", f"keepalive:{{online}}:{lost}") == 1
    if first == "an app asks":
        assert await store.roll.presence() == Presence(0, 0, 0, 0)
    assert await tell(store, number=2, anew=False) == [False, False]
    assert await tell(store, number=2, anew=True) == [True, True]
    assert await store.roll.presence() == ALL
    assert await tell(store, number=3, anew=False) == [True, True]


async def test_after_a_flush_it_is_told_anew(server: RedisServer, store: SessionStore) -> None:
    server.call("FLUSHALL")
    assert await store.roll.presence() == Presence(0, 0, 0, 0)
    assert await tell(store, number=2, anew=False) == [False, False]
    assert await tell(store, number=2, anew=True) == [True, True]
    assert await store.roll.presence() == ALL
