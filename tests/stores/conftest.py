"""Every store, open and empty, on a clock that only the test moves."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from keepalive.clock import ManualClock
from keepalive.stores import SessionStore, open_store, redis_link

from ..redis import Cluster, cluster

MakeStore = Callable[[Path, ManualClock, str], SessionStore]

STORES: dict[str, MakeStore] = {
    "memory": lambda folder, clock, server: open_store("memory://", clock=clock),
    "sqlite": lambda folder, clock, server: open_store(f"sqlite:///{folder}/sessions.db", clock=clock),
    "redis": lambda folder, clock, server: open_store(f"{server}?prefix={folder}:", clock=clock),
    "cluster": lambda folder, clock, server: open_store(f"{server}?prefix={folder}:", clock=clock),
}
SERVERS = {"redis": "redis_url", "cluster": "cluster_url"}
"""Which of them need a server, and the fixture that tells where it is."""


def server_of(name: str, request: pytest.FixtureRequest) -> str:
    """The URL of a store's server; empty for one without."""
    url: str = request.getfixturevalue(SERVERS[name]) if name in SERVERS else ""
    return url


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Cluster of this test run alone; none of its nodes may be harmed."""
    with cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


@pytest.fixture(scope="session")
def cluster_url(shared_cluster: Cluster) -> str:
    return shared_cluster.url


FUTURE = 4_000_000_000.0
"""A wall time that is still to come for Redis, whose own clock says which keys have had their time."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(FUTURE)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis may take its time, as on a machine that does much else; test_redis.py is about its deadlines."""
    monkeypatch.setattr(redis_link, "DEADLINE", 20.0)
    monkeypatch.setattr(redis_link, "_SERVER", 10.0)


@pytest.fixture(params=STORES)
def unopened(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock, patient: None
) -> SessionStore:
    return STORES[request.param](tmp_path, clock, server_of(request.param, request))


@pytest.fixture
async def store(unopened: SessionStore) -> AsyncIterator[SessionStore]:
    await unopened.open()
    yield unopened
    await unopened.close()
