"""Every store, open and empty, on a clock that only the test moves."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from keepalive.clock import ManualClock
from keepalive.stores import SessionStore, open_store

MakeStore = Callable[[Path, ManualClock, str], SessionStore]

STORES: dict[str, MakeStore] = {
    "memory": lambda folder, clock, redis: open_store("memory://", clock=clock),
    "sqlite": lambda folder, clock, redis: open_store(f"sqlite:///{folder}/sessions.db", clock=clock),
    "redis": lambda folder, clock, redis: open_store(f"{redis}?prefix={folder}:", clock=clock),
}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=STORES)
def unopened(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock, redis_url: str
) -> SessionStore:
    return STORES[request.param](tmp_path, clock, redis_url)


@pytest.fixture
async def store(unopened: SessionStore) -> AsyncIterator[SessionStore]:
    await unopened.open()
    yield unopened
    await unopened.close()
