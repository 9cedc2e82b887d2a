"""URLs find their store, or say what to write instead."""

import sys
from pathlib import Path

import pytest

from keepalive.clock import SystemClock
from keepalive.errors import SettingError
from keepalive.policy import Policy
from keepalive.stores import Record, open_store
from keepalive.stores.memory import MemoryStore
from keepalive.stores.redis import RedisStore
from keepalive.stores.sqlite import SqliteStore
from keepalive.touchers import key_of


def test_memory() -> None:
    assert isinstance(open_store("memory://"), MemoryStore)


def test_nothing_is_made_before_it_is_opened(tmp_path: Path) -> None:
    assert isinstance(open_store(f"sqlite:///{tmp_path}/sessions.db"), SqliteStore)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("relative", [False, True])
async def test_sqlite_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///some/sessions.db" if relative else f"sqlite:///{tmp_path}/some/sessions.db")
    await store.open()
    await store.close()
    assert [path.name for path in (tmp_path / "some").iterdir()] == ["sessions.db"]


async def test_the_clock_of_the_machine_is_the_default() -> None:
    store = open_store("memory://")
    await store.open()
    await store.create(key_of("a"), data=b"", user=None, policy=Policy())
    record = await store.load(key_of("a"))
    await store.close()
    assert isinstance(record, Record)
    assert abs(record.created - SystemClock().wall()) < 60


@pytest.mark.parametrize(
    "url",
    [
        "",
        "sessions.db",
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite://sessions.db",
        "sqlite:///sessions.db?mode=ro",
        "sqlite:///sessions.db#1",
        "mysql://root:secret@db/sessions",
        "redis+sentinel://:secret@one:26379",
        "redis+sentinel:///mymaster",
        "redis+cluster://:secret@",
        "redis+cluster://:secret@one:port",
        "redis://:secret@one:port",
        "redis://:secret@one/0?max_connections=many",
        "redis://:secret@one/0?bogus=1",
        "redis://:secret[@one/0",
    ],
)
def test_other_urls_are_refused_with_advice(url: str) -> None:
    with pytest.raises(SettingError, match=r"use sqlite:///|write it like redis|as %XX") as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://user:secret@one:6380/2?prefix=app:",
        "rediss://one",
        "redis+sentinel://user:secret@one,two:26380/mymaster/1",
        "redis+cluster://one,two:6380?prefix=app:",
    ],
)
def test_redis(url: str) -> None:
    store = open_store(url)
    assert isinstance(store, RedisStore)
    assert store._prefix == ("app:" if "app" in url else "keepalive:")


def test_redis_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "keepalive.stores.redis")
    monkeypatch.setitem(sys.modules, "keepalive.stores.redis_link", None)
    with pytest.raises(SettingError, match=r"session-keepalive\[redis\]"):
        open_store("redis://")
