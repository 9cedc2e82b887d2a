"""What only the Redis store promises; the rest is in test_contract."""

import asyncio
import re
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import hiredis
import pytest
from redis import Redis
from redis.asyncio import ConnectionPool
from redis.asyncio.cluster import NodesManager
from redis.exceptions import TimeoutError as RedisTimeoutError

from keepalive.clock import ManualClock
from keepalive.errors import SettingError, StoreError, StoreUnavailable
from keepalive.policy import Policy, Reason
from keepalive.presence import Online, Presence, Report
from keepalive.stores import Record, SessionStore, open_store, redis, redis_link
from keepalive.stores.redis import BUCKETS
from keepalive.stores.redis_link import RedisLink
from keepalive.touchers import Ended, Left, Pushed, Touch, key_of

from ..ports import free_port
from ..raw import CERTIFICATE, certified, until
from ..redis import SERVICE, Cluster, RedisServer, Relay, Sentinels, cluster, redis_server, sentinels
from .conftest import FUTURE

IDLE, ABSOLUTE, DAY, SLACK, STEP = 1800.0, 43200.0, 86400.0, 60.0, 600.0
POLICY = Policy(idle_timeout=IDLE, absolute_timeout=ABSOLUTE)
ENDLESS = Policy(idle_timeout=IDLE, absolute_timeout=None)
A, B, C = (key_of(name) for name in "abc")
SECRET = "hunter2"
ANSWER = 0.5
"""Redis may leave no caller waiting for longer, in seconds,"""
SLOW = 0.4
"""and this much is allowed to a machine that is busy."""

COMMANDS = (
    *("evalsha", "eval", "zrange", "ssubscribe", "ping"),
    # and what the scripts call
    *("hmget", "hget", "hset", "hdel", "get", "set", "del", "exists", "pexpireat", "persist"),
    *("spublish", "zadd", "zcard", "time"),
    *("hincrby", "hlen", "hrandfield", "zrem"),
)
"""What a user of Redis needs,"""
CLUSTER_COMMANDS = ("cluster|slots", "command")
"""and in a Cluster also."""

Open = Callable[..., Awaitable[SessionStore]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Opens stores that do not outlive the test."""
    async with AsyncExitStack() as stack:

        async def opened(url: str, clock: ManualClock | None = None) -> SessionStore:
            store = open_store(url, clock=clock)
            await store.open()
            stack.push_async_callback(store.close)
            return store

        yield opened


async def sign_in(
    store: SessionStore, *keys: bytes, user: str | None = "ann", policy: Policy = POLICY
) -> None:
    for key in keys:
        await store.create(key, data=b"cart", user=user, policy=policy)


def names(server: RedisServer, pattern: str = "*") -> list[str]:
    return sorted(name.decode() for name in server.call("KEYS", pattern))


def listeners(server: RedisServer, prefix: str = "keepalive:") -> int:
    told = server.call("PUBSUB", "SHARDNUMSUB", *(f"{prefix}{{{number}}}:ends" for number in range(BUCKETS)))
    (count,) = set(told[1::2])
    return int(count)


def lifetimes(server: RedisServer) -> dict[str, float | None]:
    """For how many seconds each key lives yet, by its last part or `user`; `None` means for ever."""
    found: dict[str, float | None] = {}
    for name in names(server):
        left = server.call("PTTL", name)
        what = "user" if ":user:" in name else name.removeprefix("keepalive:").split(":", 1)[1]
        found[what] = None if left == -1 else left / 1000
    return found


def kept(least: float) -> Any:
    """A lifetime of a key, in seconds: at least so long, and not a step longer."""
    return pytest.approx(least + STEP / 2, abs=STEP / 2 + 5)


# What lies in Redis


async def test_how_long_keys_live(server: RedisServer, opened: Open) -> None:
    store = await opened(server.url)
    await sign_in(store, A)
    past = DAY + SLACK  # longer than until the absolute deadline
    expected = {A.hex(): kept(IDLE + past), f"{A.hex()}:data": kept(IDLE + SLACK)}
    expected["user"] = pytest.approx(ABSOLUTE + SLACK, abs=5)
    assert lifetimes(server) == expected
    await store.touch([Touch(A, 2 * IDLE)])
    expected |= {A.hex(): kept(2 * IDLE + past), f"{A.hex()}:data": kept(2 * IDLE + SLACK)}
    assert lifetimes(server) == expected
    assert await store.save(A, data=b"more", user="ann")
    assert lifetimes(server) == expected
    assert await store.end(A, Reason.LOGOUT)
    del expected[f"{A.hex()}:data"]
    assert lifetimes(server) == expected


async def test_keys_outlive_every_deadline_by_a_minute(server: RedisServer, opened: Open) -> None:
    """However little a touch moves it: Redis is told in steps."""
    store = await opened(server.url)
    await sign_in(store, A, user=None)
    for keep in range(int(IDLE), int(IDLE + 2 * STEP), 47):
        await store.touch([Touch(A, keep)])
        expected = {A.hex(): kept(keep + DAY + SLACK), f"{A.hex()}:data": kept(keep + SLACK)}
        assert lifetimes(server) == expected
    (data,) = names(server, "*:data")
    assert server.call("DEL", data) == 1  # as an eviction does, and no step is due now
    assert await store.touch([Touch(A, keep)]) == [Reason.UNKNOWN]


async def test_a_tombstone_lives_until_the_absolute_deadline(server: RedisServer, opened: Open) -> None:
    store = await opened(server.url)
    await sign_in(store, A, user=None, policy=Policy(idle_timeout=IDLE, absolute_timeout=7 * DAY))
    assert await store.end(A, Reason.LOGOUT)
    assert lifetimes(server) == {A.hex(): kept(7 * DAY + SLACK)}


async def test_without_an_absolute_deadline_only_the_list_of_a_user_stays(
    server: RedisServer, opened: Open
) -> None:
    store = await opened(server.url)
    await sign_in(store, A)
    await sign_in(store, B, policy=ENDLESS)
    await sign_in(store, C)
    expected = {key.hex(): kept(IDLE + DAY + SLACK) for key in (A, B, C)}
    expected |= {f"{key.hex()}:data": kept(IDLE + SLACK) for key in (A, B, C)}
    assert lifetimes(server) == expected | {"user": None}


async def test_every_key_has_its_time_to_live(server: RedisServer, opened: Open) -> None:
    store = await opened(server.url)
    await sign_in(store, A, B)
    await store.rotate(A, C, data=b"", user="bob", policy=POLICY)
    await store.save(C, data=b"more", user="eve")
    await store.end_user("ann", Reason.REVOKED)
    await store.touch([Touch(A, IDLE), Touch(B, IDLE, 3.0), Touch(C, IDLE, 3.0), Touch(key_of("d"), IDLE)])
    assert len(names(server)) == len({A, B, C, "data of c", "ann", "bob", "eve"})
    assert None not in lifetimes(server).values()


async def test_no_name_tells_an_id_or_a_user(server: RedisServer, opened: Open) -> None:
    store = await opened(server.url)
    await sign_in(store, key_of("the-id"), user="the-user")
    found = names(server)
    assert len(found) == 3
    assert "the-" not in " ".join(found)


@pytest.mark.parametrize("kind", ["redis", "cluster"])
async def test_the_list_of_a_user_without_deadlines_forgets_what_is_over(
    opened: Open, kind: str, request: pytest.FixtureRequest, tmp_path: Path, patient: None
) -> None:
    """Two hundred logins, one an hour, of which three sessions are kept alive."""
    url, clock = request.getfixturevalue(f"{kind}_url"), ManualClock(FUTURE)
    store = await opened(f"{url}?prefix={tmp_path}:", clock)
    kept = [key_of(f"kept {number}") for number in range(3)]
    await sign_in(store, *kept, policy=ENDLESS)
    for number in range(200):
        await store.touch([Touch(key, 2 * 3600) for key in kept])
        clock.advance(3600)
        await sign_in(store, key_of(f"login {number}"), policy=ENDLESS)
    sizes = []
    for port in re.findall(r":(\d+)", url):
        with Redis(port=port) as redis:
            sizes += [redis.zcard(name) for name in redis.keys(f"{tmp_path}:user:*")]
    assert len(sizes) == 1
    assert len(kept) < sizes[0] < 40
    assert await store.end_user("ann", Reason.REVOKED) == len(kept) + 1
    assert [await store.peek(key) for key in kept] == [Reason.REVOKED] * 3


async def test_the_list_of_a_user_forgets_what_is_over(server: RedisServer, opened: Open) -> None:
    clock = ManualClock(FUTURE)
    store = await opened(server.url, clock)
    await sign_in(store, A)
    (listed,) = names(server, "*:user:*")
    clock.advance(ABSOLUTE)
    await sign_in(store, B)
    assert server.call("ZRANGE", listed, 0, -1) == [A, B]  # a little longer than the deadline
    clock.advance(SLACK + 1)
    await sign_in(store, C)
    assert server.call("ZRANGE", listed, 0, -1) == [B, C]


async def test_what_redis_has_thrown_out_is_unknown(server: RedisServer, opened: Open) -> None:
    store = await opened(server.url)
    await sign_in(store, A)
    (data,) = names(server, "*:data")
    assert server.call("DEL", data) == 1
    assert await store.load(A) is Reason.UNKNOWN
    assert await store.save(A, data=b"late", user="ann") is Reason.UNKNOWN
    assert await store.touch([Touch(A, IDLE)]) == [Reason.UNKNOWN]
    assert await store.load(A) is Reason.UNKNOWN
    assert None not in lifetimes(server).values()


async def test_two_prefixes_share_nothing(server: RedisServer, opened: Open) -> None:
    one, other = await opened(f"{server.url}?prefix=one:"), await opened(f"{server.url}?prefix=other:")
    await sign_in(one, A)
    assert {name.partition(":")[0] for name in names(server)} == {"one"}
    assert await other.load(A) is Reason.UNKNOWN
    await sign_in(other, A, B)
    watch = other.watch()
    assert await one.end(A, Reason.LOGOUT)
    assert isinstance(await other.load(A), Record)
    assert await one.end_user("ann", Reason.REVOKED) == 0
    third = await opened(f"{server.url}?prefix=other:")
    assert await third.end(B, Reason.EVICTED)
    assert await soon(anext(watch)) == Ended(B, Reason.EVICTED)  # and A's end never came


# Time


async def test_the_clock_of_redis_decides(server: RedisServer, opened: Open) -> None:
    """An hour more on it ends sessions; an hour less lets none live longer than it had."""
    store = await opened(server.url)
    await sign_in(store, A, B)
    shift(server, A, -3600)  # as if that clock had gone ahead
    assert await store.touch([Touch(A, IDLE), Touch(B, IDLE)]) == [Reason.IDLE, about(IDLE, ABSOLUTE)]
    shift(server, B, 3600)  # or back
    assert await store.touch([Touch(B, IDLE)]) == [about(IDLE + 3600, ABSOLUTE + 3600)]
    shift(server, B, -3600 - ABSOLUTE)
    assert await store.load(B) is Reason.IDLE
    await sign_in(store, C)
    shift(server, C, 60 - ABSOLUTE, "absolute_at")
    assert await store.touch([Touch(C, IDLE)]) == [about(60, 60)]


async def test_a_batch_that_lay_in_redis_earns_no_more(server: RedisServer, opened: Open) -> None:
    store = await opened(server.url)
    await sign_in(store, A)
    await store.touch([Touch(A, None)])
    before = server.call("HGET", session_name(server, A), "seen")
    server.stop()
    asked_at = monotonic()
    late = asyncio.ensure_future(store.touch([Touch(A, IDLE + 100)]))
    with pytest.raises(StoreUnavailable):
        await late
    passed = monotonic() - asked_at
    server.go_on()
    left = await soon(recovered(lambda: store.peek(A)))
    assert server.call("HGET", session_name(server, A), "seen") > before  # so it has been carried out
    assert isinstance(left, Left)
    assert left.idle < IDLE + 100 - passed


def session_name(server: RedisServer, key: bytes) -> str:
    (name,) = names(server, f"*:{key.hex()}")
    return name


def shift(server: RedisServer, key: bytes, seconds: float, *fields: str) -> None:
    """Move the deadlines of a session, as a jump of the clock of Redis does by them."""
    for field in fields or ("idle_at", "absolute_at"):
        server.call("HINCRBY", session_name(server, key), field, int(seconds * 1e6))


def about(idle: float, absolute: float) -> Any:
    return pytest.approx(Left(idle, absolute), abs=5)


async def soon(awaitable: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(awaitable, 5)


async def recovered(ask: Callable[[], Awaitable[Any]]) -> Any:
    """The first answer of a store that was not available."""
    while True:
        try:
            return await ask()
        except StoreUnavailable:
            await asyncio.sleep(0.01)


# Who may come in


def acl(prefix: str = "keepalive:", commands: Any = COMMANDS) -> list[str]:
    """The rules for a user who may do what a store has to do, and nothing else."""
    return [f"~{prefix}*", f"&{prefix}*", "-@all", *(f"+{command}" for command in commands)]


def let_in(server: RedisServer, *rules: str) -> str:
    """Make a user; returns the URL to come by."""
    server.call("ACL", "SETUSER", "app", "reset", "on", f">{SECRET}", *rules)
    return server.url.replace("redis://", f"redis://app:{SECRET}@")


async def use_all(store: SessionStore) -> None:
    """Have a store run every script, on all their ways."""
    for policy in (POLICY, ENDLESS):
        a, b, c = (key_of(f"{name} {policy}") for name in "abc")
        await sign_in(store, a, user=None, policy=policy)
        await store.save(a, data=b"more", user="ann")
        await store.save(a, data=b"more", user=None)
        await store.touch([Touch(a, IDLE, 1.0), Touch(b, None)])
        await store.rotate(a, b, data=b"", user="ann", policy=policy)
        assert isinstance(await store.load(b), Record)
        await sign_in(store, c, policy=policy)
        assert await store.end_user("ann", Reason.REVOKED, keep=c) == 1
        assert await store.end(c, Reason.LOGOUT)
    online = [Online(a, "ann", 2), Online(b, None, 1)]
    for number in (1, 2):
        assert await store.roll.report(Report("node", number, online, b"", anew=True))
    assert await store.roll.report(Report("node", 3, [Online(a, None, 0)], b""))
    assert await store.roll.presence() == Presence(1, 1, 0, 1)
    await store.publish([Pushed("node", None, "ann", b"{}")])
    assert (await store.roll.presence_of(b)).pages == 1
    assert list(await store.roll.nodes()) == ["node"]
    await store.roll.leave("node")


async def test_a_user_needs_no_more_than_the_documented_commands(server: RedisServer, opened: Open) -> None:
    store = await opened(let_in(server, *acl()))
    await use_all(store)
    assert server.call("ACL", "LOG") == []
    assert {name.partition(":")[0] for name in names(server)} == {"keepalive"}


async def test_a_user_needs_each_of_the_documented_commands(server: RedisServer, opened: Open) -> None:
    for missing in COMMANDS:
        if missing in ("ssubscribe", "ping"):  # see below, and when nothing has happened for a while
            continue
        server.call("SCRIPT", "FLUSH")
        server.call("FLUSHALL")
        url = let_in(server, *acl(commands=[command for command in COMMANDS if command != missing]))
        with pytest.raises(StoreError) as caught:
            await use_all(await opened(url))
        assert "Redis refuses" in str(caught.value), missing
        (entry,) = server.call("ACL", "LOG")
        assert dict(zip(entry[::2], entry[1::2], strict=True))[b"object"] == missing.encode()
        server.call("ACL", "LOG", "RESET")


@pytest.mark.parametrize("without", ["&keepalive:*", "+ssubscribe"])
async def test_who_may_not_listen_is_told_so_at_the_start(
    server: RedisServer, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "OPENING", ANSWER)
    url = let_in(server, *[rule for rule in acl() if rule != without])
    await refused(url, "lets this user not listen", within=2 * ANSWER)


async def test_keys_of_others_are_out_of_reach(server: RedisServer) -> None:
    await refused(f"{let_in(server, *acl())}?prefix=other:", "refuses this user")


@pytest.mark.parametrize("login", [f"app:{SECRET}-not@", f"nobody:{SECRET}@", f":{SECRET}@", ""])
async def test_a_wrong_password_is_told_but_not_quoted(server: RedisServer, login: str) -> None:
    let_in(server, *acl())
    server.call("CONFIG", "SET", "requirepass", "another")
    await refused(server.url.replace("redis://", f"redis://{login}"), "refuses this user")


async def refused(url: str, why: str, within: float = ANSWER) -> None:
    """See a store tell why it cannot be opened: in time, in plain words, and no secret."""
    took: list[float] = []
    while not took or took[-1] >= within + SLOW:
        assert len(took) < 4, took  # a machine that stalls for reasons of its own does not do so every time
        store, began = open_store(url), monotonic()
        with pytest.raises(StoreUnavailable, match=why) as caught:
            await store.open()
        took.append(monotonic() - began)
    assert caught.value.solution
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.peek(A)
    await store.close()


# What is not the Redis that it takes to be


HELLO = b"%1\r\n$5\r\nproto\r\n:3\r\n"
Reply = Callable[[bytes], bytes | None]


@asynccontextmanager
async def pretender(reply: Reply, pause: float = 0.0) -> AsyncIterator[str]:
    """A server that answers `reply` to whatever it reads, after `pause` seconds; hangs up on `None`."""
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while asked := await reader.read(65536):
            await asyncio.sleep(pause)
            if (answer := reply(asked)) is None:
                break
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for writer in writers:
            writer.transport.abort()


NOT_REDIS: dict[str, Reply] = {
    "silence": lambda asked: b"",
    "a hang-up": lambda asked: None,
    "noise": lambda asked: bytes(range(256)) * 8,
    "HTTP": lambda asked: b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "SSH": lambda asked: b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "half an answer": lambda asked: b"*2\r\n:1\r\n$1000\r\nx",
}


@pytest.mark.parametrize("reply", NOT_REDIS.values(), ids=NOT_REDIS)
async def test_what_is_not_redis_is_unavailable(reply: Reply) -> None:
    async with pretender(reply) as url:
        await refused(url.replace("//", f"//app:{SECRET}@"), "Redis")


async def test_many_small_delays_make_a_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_link, "OPENING", redis_link.DEADLINE)
    async with pretender(lambda asked: HELLO, pause=0.3) as url:
        await refused(url, "does not answer")


async def test_tls_to_a_plain_port_is_unavailable(server: RedisServer) -> None:
    await refused(server.url.replace("redis://", f"rediss://app:{SECRET}@"), "does not answer")


async def test_a_cluster_goes_by_another_url(server: RedisServer, cluster_url: str) -> None:
    await refused(server.url.replace("redis://", "redis+cluster://"), "refuses a command")
    first = cluster_url.partition(",")[0]  # which has not the slot that is asked for
    await refused(first.replace("redis+cluster://", "redis://"), "refuses a command")


async def test_an_older_redis_is_told(server: RedisServer) -> None:
    """Redis 6 knows none of the scripts, and cannot read their first line."""
    reader = hiredis.Reader()
    asked: list[bytes] = []

    def reply(received: bytes) -> bytes:
        reader.feed(received)
        answer = b""
        while (command := reader.gets()) is not False:
            assert isinstance(command, list)
            asked.append(command[0])
            match command[0]:
                case b"HELLO":
                    answer += HELLO
                case b"EVALSHA":
                    answer += b"-NOSCRIPT No matching script. Please use EVAL.\r\n"
                case b"EVAL":
                    answer += b"-ERR Error compiling script (new function): user_script:1: near '#'\r\n"
                case _:
                    answer += b"+OK\r\n"
        return answer

    async with pretender(reply) as url:
        await refused(url, "Redis 7 or newer")
    assert asked[-1] == b"EVAL"


async def test_a_server_that_is_down_can_be_opened_later(server: RedisServer) -> None:
    server.kill()
    store = open_store(server.url)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await store.open()
    server.start()
    await store.open()
    await sign_in(store, A)
    await store.close()


@pytest.mark.parametrize(
    "url",
    [
        f"redis+sentinel://app:{SECRET}@one/sessions?ssl_ca_certs=ca.pem",
        f"rediss+sentinel://app:{SECRET}@one/sessions?sentinel_password={SECRET}&password=x",
        f"rediss+cluster://app:{SECRET}@one?sentinel_password={SECRET}",
        f"rediss+cluster://app:{SECRET}@one?ssl_min_version=new",
        f"redis://app:{SECRET}@host:port",
        f"redis+sentinel://app:{SECRET}@one,two",
        f"redis+sentinel://app:{SECRET}@one/sessions/first",
        f"redis+sentinel://app:{SECRET}@one,,two/sessions",
        f"redis+cluster://app:{SECRET}@",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_but_not_quoted(url: str) -> None:
    with pytest.raises(SettingError, match="write it like redis://") as caught:
        open_store(url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


# TLS


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    certified(tmp_path)
    return tmp_path / CERTIFICATE


async def test_tls_to_sentinels_and_to_what_they_name(tmp_path: Path, tls: Path, opened: Open) -> None:
    with sentinels(tmp_path, tls=tls, password=SECRET, watchword="sesame&more") as guarded:
        url = guarded.url.replace("redis+", "rediss+").replace("//", f"//:{SECRET}@")
        url += f"?ssl_ca_certs={tls}&sentinel_password=sesame%26more"
        store = await soon(recovered(lambda: opened(url)))  # a busy machine takes long for handshakes of TLS
        await sign_in(store, A)
        await until(lambda: len(names(guarded.replica)) == 3)
        guarded.primary.kill()
        assert isinstance(await asyncio.wait_for(recovered(lambda: store.load(A)), 15), Record)
        assert guarded.replica.info("role") == "master"
        for part, wrong in [(f"ssl_ca_certs={tls}&", ""), ("%26more", ""), (SECRET, f"{SECRET}-not")]:
            await refused(url.replace(part, wrong), "Redis", within=2.0)
        plain = url.replace("rediss+", "redis+").replace(f"ssl_ca_certs={tls}&", "")
        await refused(plain, "does not answer", within=2.0)


async def test_tls_to_a_server_alone(tmp_path: Path, tls: Path, opened: Open, patient: None) -> None:
    with redis_server(tmp_path, tls=tls) as server:
        url = f"{server.url.replace('redis://', 'rediss://')}?ssl_ca_certs={tls}"
        one, other = await opened(url), await opened(url)
        await sign_in(one, A)
        watch = other.watch()
        assert await one.end(A, Reason.LOGOUT)
        assert await soon(anext(watch)) == Ended(A, Reason.LOGOUT)
        await refused(url.partition("?")[0], "does not answer", within=5.0)  # by an authority nobody knows
        await refused(server.url.replace("rediss://", "redis://"), "does not answer", within=5.0)


async def test_tls_to_a_cluster(tmp_path: Path, tls: Path, opened: Open, patient: None) -> None:
    with cluster(tmp_path, tls=tls) as nodes:
        url = nodes.url.replace("redis+", "rediss+") + f"?ssl_ca_certs={tls}"
        one, other = await opened(url), await opened(url)
        await sign_in(one, *ALL_BUCKETS)
        watch = other.watch()
        assert await one.end(ALL_BUCKETS[0], Reason.LOGOUT)
        assert await soon(anext(watch)) == Ended(ALL_BUCKETS[0], Reason.LOGOUT)
        await refused(url.replace("rediss+", "redis+").partition("?")[0], "does not answer", within=5.0)
        await refused(url.partition("?")[0], "does not answer", within=5.0)  # whose authority nobody knows


# Ends


async def test_an_end_reaches_the_watches_of_all_stores_once(server: RedisServer, opened: Open) -> None:
    one, other = await opened(server.url), await opened(server.url)
    here, there = one.watch(), other.watch()
    keys = [key_of(f"session {number}") for number in range(50)]
    await sign_in(one, *keys)
    assert listeners(server) == 2  # so each also hears the echo of its own
    for key in keys[:25]:
        assert await one.end(key, Reason.LOGOUT)
    assert await one.end_user("ann", Reason.REVOKED) == 25
    await sign_in(other, A)
    assert await other.end(A, Reason.EVICTED)  # published after all others, and so heard after their echoes
    expected = [Ended(key, Reason.LOGOUT) for key in keys[:25]]
    for watch in (here, there):
        heard = [await soon(anext(watch)) for _ in range(51)]
        assert heard[:25] == expected
        assert sorted(heard[25:50]) == sorted(Ended(key, Reason.REVOKED) for key in keys[25:])
        assert heard[50] == Ended(A, Reason.EVICTED)


async def test_a_lost_subscription_breaks_off_the_watches(server: RedisServer, opened: Open) -> None:
    one, other = await opened(server.url), await opened(server.url)
    await sign_in(one, A, B)
    watch = one.watch()
    assert server.call("CLIENT", "KILL", "TYPE", "pubsub") == 2
    assert await other.end(A, Reason.LOGOUT)
    with pytest.raises(StoreUnavailable, match="ask anew"):
        await soon(anext(watch))
    assert await one.peek(A) is Reason.LOGOUT
    watch = one.watch()
    assert await other.end(B, Reason.LOGOUT)
    assert await soon(anext(watch)) == Ended(B, Reason.LOGOUT)


async def test_what_strangers_publish_harms_nobody(server: RedisServer, opened: Open) -> None:
    store = await opened(server.url)
    await sign_in(store, A)
    watch = store.watch()
    for message in (b"", b"\xff", A, A[:31], bytes(1000)):
        for channel in "ends", "pushes":
            assert server.call("SPUBLISH", f"keepalive:{{7}}:{channel}", message) == 1
    other = await opened(server.url)
    await sign_in(other, B)
    assert await other.end(B, Reason.LOGOUT)
    while await soon(anext(watch)) != Ended(B, Reason.LOGOUT):
        pass


async def test_a_loss_while_ends_are_made_again_is_another_loss(
    server: RedisServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with two machines of a Cluster; and it is not forgotten when to make the ends again fails."""
    callbacks: list[Any] = []

    async def listen(link: RedisLink, channels: Any, hear: Any, subscribed: Any, lost: Any) -> None:
        callbacks[:] = subscribed, lost
        await subscribed()
        await asyncio.Event().wait()

    monkeypatch.setattr(RedisLink, "listen", listen)
    store = await opened(server.url)
    subscribed, lost = callbacks
    await sign_in(store, A)
    assert await store.end(A, Reason.LOGOUT)
    lost()
    again = asyncio.create_task(subscribed())
    await asyncio.sleep(0)
    lost()
    await again
    server.call("DEL", session_name(server, A))
    await sign_in(store, A)  # so Redis has lost that end
    server.call("REPLICAOF", "127.0.0.1", 1)
    with pytest.raises(StoreUnavailable, match="is a replica"):
        await subscribed()
    server.call("REPLICAOF", "NO", "ONE")
    await subscribed()
    assert await store.peek(A) is Reason.LOGOUT


# Connections


async def ask_at_once(store: SessionStore) -> None:
    """As many questions as make many connections, or use them; all are answered."""
    asked = asyncio.gather(*(store.load(key_of(str(number))) for number in range(20)))
    assert await asked == [Reason.UNKNOWN] * 20


async def a_few_turns() -> None:
    """Until the event loop has heard of what has become of its sockets."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.both_loops
async def test_connections_that_redis_has_closed_cost_no_answer(server: RedisServer, opened: Open) -> None:
    store = await opened(server.url)
    await ask_at_once(store)
    assert server.call("CLIENT", "KILL", "TYPE", "normal") >= 10
    await a_few_turns()
    await ask_at_once(store)


@pytest.mark.both_loops
async def test_a_reset_of_all_connections_costs_one_answer(server: RedisServer, opened: Open) -> None:
    async with Relay(server).open() as relay:
        store = await opened(relay.url)
        await ask_at_once(store)
        relay.reset()
        await a_few_turns()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await store.load(A)
        await ask_at_once(store)


@pytest.mark.parametrize("fault", ["fails", "hangs"])
async def test_closing_old_connections_neither_hides_the_error_nor_takes_long(
    server: RedisServer, opened: Open, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    async def disconnect(pool: ConnectionPool, inuse_connections: bool = True) -> None:
        called.append(inuse_connections)
        if fault == "hangs":
            await asyncio.Event().wait()
        raise RedisTimeoutError

    called: list[bool] = []
    store = await opened(server.url)
    server.call("REPLICAOF", "127.0.0.1", 1)
    began = monotonic()
    with monkeypatch.context() as patch, pytest.raises(StoreUnavailable, match="is a replica"):
        patch.setattr(ConnectionPool, "disconnect", disconnect)
        await store.load(A)
    assert monotonic() - began < ANSWER + SLOW
    assert called == [False]


# Sentinels


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Sentinels]:
    with sentinels(tmp_path) as guarded:
        yield guarded


async def test_a_primary_that_is_replaced_on_purpose_lives_on_as_a_replica(
    guarded: Sentinels, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_link, "QUIET", 1.0)
    one, other = await opened(guarded.url), await opened(guarded.url)
    await sign_in(one, A)
    await until(lambda: len(names(guarded.replica)) == 3)
    watch = other.watch()
    for watcher in guarded.watchers[1:]:  # as quick as they are here, they would take it for a stray replica
        watcher.stop()
    guarded.watchers[0].call("SENTINEL", "FAILOVER", SERVICE)
    await until(lambda: guarded.primary.info("role") == "slave", within=20)
    assert isinstance(await asyncio.wait_for(recovered(lambda: one.save(A, data=b"", user="ann")), 10), Left)
    with pytest.raises(StoreUnavailable, match="ask anew"):
        await asyncio.wait_for(anext(watch), 10)
    watch = other.watch()
    assert await soon(recovered(lambda: one.end(A, Reason.LOGOUT)))
    assert await soon(anext(watch)) == Ended(A, Reason.LOGOUT)
    assert guarded.replica.info("role") == "master"


@pytest.mark.parametrize("fault", ["kill", "stop"])
async def test_sentinels_name_the_next_primary(
    guarded: Sentinels, opened: Open, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_link, "QUIET", 1.0)
    one, other = await opened(guarded.url), await opened(guarded.url)
    await sign_in(one, A, B)
    signed_in = monotonic()
    await until(lambda: len(names(guarded.replica)) == len(names(guarded.primary)) == 5)
    watch = other.watch()
    began = monotonic()
    getattr(guarded.primary, fault)()
    with pytest.raises(StoreUnavailable):
        await one.touch([Touch(A, IDLE)])
    assert monotonic() - began < ANSWER + SLOW
    assert await asyncio.wait_for(recovered(lambda: one.touch([Touch(A, IDLE)])), 10) == [
        about(IDLE, ABSOLUTE - (monotonic() - signed_in))
    ]
    assert guarded.replica.info("role") == "master"
    assert await one.end(B, Reason.LOGOUT)
    with pytest.raises(StoreUnavailable, match="ask anew"):  # it may have missed one
        await soon(anext(watch))
    await sign_in(one, C)
    watch = other.watch()
    assert await one.end(C, Reason.LOGOUT)
    assert await soon(anext(watch)) == Ended(C, Reason.LOGOUT)


async def test_an_end_that_a_fail_over_has_lost_is_made_again(
    guarded: Sentinels, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """The old primary had acknowledged it, but not passed it on; those who were told of it remember."""
    one, other = await opened(guarded.url), await opened(guarded.url)
    await sign_in(one, A, B)
    await until(lambda: len(names(guarded.replica)) == len(names(guarded.primary)) == 5)
    guarded.replica.call("CONFIG", "SET", "masteruser", "nobody")
    guarded.replica.call("CONFIG", "SET", "masterauth", "nothing")
    assert guarded.primary.call("CLIENT", "KILL", "TYPE", "replica") == 1
    watch = other.watch()
    assert await one.end(A, Reason.LOGOUT)
    assert await soon(anext(watch)) == Ended(A, Reason.LOGOUT)
    await one.close()  # so it is the other one that remembers
    assert guarded.replica.call("HGET", session_name(guarded.replica, A), "reason") is None  # it lags
    guarded.primary.kill()
    with pytest.raises(StoreUnavailable, match="ask anew"):
        await asyncio.wait_for(anext(watch), 15)
    assert guarded.replica.info("role") == "master"
    assert await other.peek(A) is Reason.LOGOUT
    assert isinstance(await other.load(B), Record)
    assert "Redis had lost 1 ends" in caplog.text


async def test_a_primary_that_has_lost_its_replica_can_be_told_to_end_nothing(
    guarded: Sentinels, opened: Open
) -> None:
    store = await opened(guarded.url)
    await sign_in(store, A)
    guarded.primary.call("CONFIG", "SET", "min-replicas-max-lag", 1)
    guarded.primary.call("CONFIG", "SET", "min-replicas-to-write", 1)
    guarded.replica.stop()
    await until(lambda: guarded.primary.info("min_slaves_good_slaves") == "0")
    for ask in (store.end(A, Reason.LOGOUT), store.touch([Touch(A, IDLE)]), store.load(A)):
        with pytest.raises(StoreUnavailable, match="too few replicas"):
            await ask
    guarded.replica.go_on()
    await until(lambda: guarded.primary.info("min_slaves_good_slaves") == "1")
    assert await store.end(A, Reason.LOGOUT)


async def test_a_sentinel_that_hangs_is_passed_over(guarded: Sentinels, opened: Open) -> None:
    guarded.watchers[0].stop()
    store = await opened(guarded.url)
    await sign_in(store, A)


# A Cluster


async def test_a_user_of_a_cluster_needs_little_more(
    shared_cluster: Cluster, opened: Open, tmp_path: Path
) -> None:
    prefix, primaries = f"{tmp_path.name}:", shared_cluster.primaries
    rules = acl(prefix, [*COMMANDS, *CLUSTER_COMMANDS])
    url = shared_cluster.url.replace("//", f"//app:{SECRET}@") + f"?prefix={prefix}"
    for missing in CLUSTER_COMMANDS:
        for node in primaries:
            let_in(node, *rules, f"-{missing}")
        await refused(url, "refuses this user")
    for node in primaries:
        let_in(node, *rules)
        node.call("ACL", "LOG", "RESET")
    await use_all(await opened(url))
    assert [node.call("ACL", "LOG") for node in primaries] == [[]] * 3
    await refused(url.replace(SECRET, f"{SECRET}-not"), "refuses this user")


ALL_BUCKETS = [bytes([bucket]) + bytes(31) for bucket in range(BUCKETS)]
"""A session for each."""


async def test_a_batch_over_all_buckets_of_a_cluster(cluster_url: str, opened: Open, tmp_path: Path) -> None:
    store = await opened(f"{cluster_url}?prefix={tmp_path}:", ManualClock(FUTURE))
    await sign_in(store, *ALL_BUCKETS[::2])
    await store.end(ALL_BUCKETS[0], Reason.LOGOUT)
    expected = [Left(IDLE, ABSOLUTE), Reason.UNKNOWN] * (BUCKETS // 2)
    expected[0] = Reason.LOGOUT
    assert await store.touch([Touch(key, IDLE, 0.0) for key in ALL_BUCKETS]) == expected
    assert await store.end_user("ann", Reason.REVOKED) == BUCKETS // 2 - 1


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path) as nodes:
        yield nodes


def told_on_the_bus(node: RedisServer) -> int:
    """How many messages of publishers a member of a Cluster has sent to the others."""
    told = dict(line.split(":") for line in node.call("CLUSTER", "INFO").decode().split())
    return sum(
        int(told.get(f"cluster_stats_messages_{kind}_sent", 0)) for kind in ("publish", "publishshard")
    )


async def test_news_reach_all_nodes_of_a_cluster_and_no_other_machine(
    shared_cluster: Cluster, opened: Open, patient: None, tmp_path: Path
) -> None:
    prefix, primaries = f"{tmp_path.name}:", shared_cluster.primaries
    stores = [await opened(f"{shared_cluster.url}?prefix={prefix}") for _ in range(3)]
    watches = [store.watch() for store in stores]
    before = [told_on_the_bus(node) for node in primaries]
    await sign_in(stores[0], *ALL_BUCKETS)
    assert min(len(names(node, f"{prefix}*")) for node in primaries) > 0  # and so all of them publish
    pushes = [Pushed(chr(97 + number), None, "ann", b"{}") for number in range(BUCKETS)]
    for key, pushed in zip(ALL_BUCKETS, pushes, strict=True):
        assert await stores[0].end(key, Reason.LOGOUT)
        await stores[1].publish([pushed])
    for watch in watches:
        heard = [await soon(anext(watch)) for _ in range(2 * BUCKETS)]
        assert sorted(news for news in heard if isinstance(news, Ended)) == [
            Ended(key, Reason.LOGOUT) for key in ALL_BUCKETS
        ]
        assert sorted(news for news in heard if isinstance(news, Pushed)) == pushes
    assert [told_on_the_bus(node) for node in primaries] == before


async def test_a_subscription_follows_a_slot_to_another_machine(
    nodes: Cluster, opened: Open, patient: None
) -> None:
    def hears(node: RedisServer) -> int:
        return int(node.call("PUBSUB", "SHARDNUMSUB", "keepalive:{0}:ends")[1])

    one, other = await opened(nodes.url), await opened(nodes.url)
    watch = one.watch()
    target = next(node for node in nodes.primaries if not hears(node))
    source = next(node for node in nodes.primaries if hears(node))
    to, slot = target.call("CLUSTER", "MYID"), target.call("CLUSTER", "KEYSLOT", "{0}")
    # As redis-cli does it, but that there are no keys to move. What was imported gets a new epoch, without
    # which the others' gossip may take the slot away again.
    target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.call("CLUSTER", "MYID"))
    source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", to)
    for node in (target, *nodes.primaries):
        node.call("CLUSTER", "SETSLOT", slot, "NODE", to)
    with pytest.raises(StoreUnavailable, match="ask anew"):
        await soon(anext(watch))
    await until(lambda: hears(target) == 2)
    watch = one.watch()
    await sign_in(other, ALL_BUCKETS[0])
    assert await soon(recovered(lambda: other.end(ALL_BUCKETS[0], Reason.LOGOUT)))
    assert await soon(anext(watch)) == Ended(ALL_BUCKETS[0], Reason.LOGOUT)


def hosts(node: RedisServer, slot: int) -> bool:
    """Whether a member of a Cluster has a slot."""
    shards = node.call("CLUSTER", "SLOTS")
    return any(first <= slot <= last and server[1] == node.port for first, last, server, *_ in shards)


async def test_a_slot_on_its_way_to_a_machine_that_had_none_is_an_outage(
    nodes: Cluster, opened: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """redis-py knows only machines with slots, and fails when it is sent to another one."""
    store, bus = await opened(nodes.url), free_port()
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", str(bus)]
    with redis_server(tmp_path, *options) as target:
        for node in nodes.primaries:
            node.call("CLUSTER", "MEET", "127.0.0.1", target.port, bus)
        to, slot = target.call("CLUSTER", "MYID"), target.call("CLUSTER", "KEYSLOT", "{0}")
        await until(lambda: all(to in node.call("CLUSTER", "NODES") for node in nodes.primaries))
        await until(lambda: b"cluster_state:ok" in target.call("CLUSTER", "INFO"))
        source = next(node for node in nodes.primaries if hosts(node, slot))
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.call("CLUSTER", "MYID"))
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", to)
        key = ALL_BUCKETS[0]
        answers = await asyncio.gather(store.load(key), store.load(key), return_exceptions=True)
        assert [type(answer) for answer in answers] == [StoreUnavailable] * 2
        (told,) = (record for record in caplog.records if record.levelname == "ERROR")
        assert "AttributeError" in told.getMessage()
        assert "object has no attribute" not in caplog.text  # for others of their texts quote commands
        for node in (target, *nodes.primaries):
            node.call("CLUSTER", "SETSLOT", slot, "NODE", to)
        assert await soon(recovered(lambda: store.load(key))) is Reason.UNKNOWN


async def test_a_subscription_survives_what_nobody_had_foreseen(
    shared_cluster: Cluster, opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(f"{shared_cluster.url}?prefix={tmp_path.name}:")
    watch, faults = store.watch(), [AttributeError()]

    async def initialize(manager: NodesManager, *args: Any, **options: Any) -> None:
        if faults:
            raise faults.pop()
        await whole(manager, *args, **options)

    whole = NodesManager.initialize
    monkeypatch.setattr(NodesManager, "initialize", initialize)
    for node in shared_cluster.primaries:
        assert node.call("CLIENT", "KILL", "TYPE", "pubsub")
    with pytest.raises(StoreUnavailable, match="ask anew"):
        await soon(anext(watch))
    assert not faults


async def test_what_the_rest_of_a_cluster_ends_is_heard_while_a_part_is_dead(
    nodes: Cluster, opened: Open
) -> None:
    one, other = await opened(nodes.url), await opened(nodes.url)
    lost, *rest = nodes.primaries
    watch = one.watch()
    await sign_in(other, *ALL_BUCKETS)
    there = [bytes.fromhex(name.split(":")[-1]) for name in names(rest[0], "*}:*0")]
    lost.kill()
    heard = []
    for key in there[:3]:
        assert await soon(recovered(lambda key=key: other.end(key, Reason.LOGOUT)))  # type: ignore[misc]
        heard.append(await soon(anext(watch)))
    assert heard == [Ended(key, Reason.LOGOUT) for key in there[:3]]


async def test_a_start_is_more_patient_than_a_page(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, opened: Open
) -> None:
    """To make all connections takes longer than a question over one, and nobody waits with it."""
    monkeypatch.setattr(redis_link, "DEADLINE", 0.1)
    server.call("CLIENT", "PAUSE", "200")
    store = await opened(server.url)
    server.call("CLIENT", "PAUSE", "200")
    with pytest.raises(StoreUnavailable):
        await store.touch([Touch(A, IDLE)])


@pytest.mark.parametrize("fault", ["kill", "stop"])
async def test_a_dead_node_of_a_cluster_is_unavailable(nodes: Cluster, opened: Open, fault: str) -> None:
    store = await opened(nodes.url)
    await sign_in(store, *ALL_BUCKETS)
    lost, *others = nodes.primaries
    there = {bytes.fromhex(name.split(":")[-1]) for name in names(lost, "*}:*0")}
    getattr(lost, fault)()
    for _ in range(2):
        for ask in (store.touch([Touch(key, IDLE) for key in ALL_BUCKETS]), store.load(min(there))):
            began = monotonic()
            with pytest.raises(StoreUnavailable):
                await ask
            assert monotonic() - began < ANSWER + SLOW
    rest = [key for key in ALL_BUCKETS if key not in there]
    assert len(rest) >= len(others)
    assert await soon(recovered(lambda: store.touch([Touch(key, IDLE) for key in rest]))) == [
        about(IDLE, ABSOLUTE)
    ] * len(rest)


@pytest.mark.parametrize("fault", ["kill", "stop"])
async def test_a_cluster_fails_over(tmp_path: Path, opened: Open, fault: str) -> None:
    with cluster(tmp_path, replicas=1) as nodes:
        store = await opened(nodes.url)
        await sign_in(store, *ALL_BUCKETS)
        (replica,) = nodes.replicas
        await until(lambda: len(names(replica)) == len(names(nodes.primaries[0])))
        getattr(nodes.primaries[0], fault)()
        batch = [Touch(key, IDLE) for key in ALL_BUCKETS]
        with pytest.raises(StoreUnavailable):
            await store.touch(batch)
        left = await asyncio.wait_for(recovered(lambda: store.touch(batch)), 15)
        assert all(isinstance(each, Left) and IDLE - 15 < each.idle <= IDLE for each in left)
        assert replica.info("role") == "master"
        watch = store.watch()
        assert await store.end_user("ann", Reason.REVOKED) == BUCKETS
        assert await soon(anext(watch))
