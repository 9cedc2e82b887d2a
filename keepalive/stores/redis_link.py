"""`RedisLink`: the way to Redis, with a deadline for every question, and closed while nobody answers."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from hashlib import sha1
from typing import Any, NamedTuple, NoReturn
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from ..errors import SettingError, StoreError, StoreUnavailable
from ..tasks import stop

log = logging.getLogger(__name__)

DEADLINE = 0.5
"""For how many seconds Redis may leave a question open. None is asked twice."""
OPENING = 5.0
"""The same for the first one: only a start waits for its answer, and all connections are made for it."""
AT_ONCE = 50
"""Most questions under way at once; whoever comes later waits, within the same deadline."""
MOST_WAITING = 1_000
"""Of how many at most; whoever comes then hears at once that there is no answer."""
FAILURES = 3
"""After so many in a row without an answer nobody waits for one any more,"""
PAUSE = 1.0
"""but for one who tries again, once in so many seconds."""
QUIET = 5.0
"""A subscription that hears nothing for so many seconds asks whether it still stands."""

# How long one server may take for its part: less than the deadline, so that redis-py learns which one
# it was, and there is time to ask another.
_SERVER, _SENTINEL = 0.4, 0.1
_PORT, _SENTINEL_PORT = 6379, 26379
# What a Redis that is away makes redis-py raise, as far as it is meant to: that connections break and slots
# move also makes it run into errors of its own, and into those of the event loop. RedisClusterException is
# no RedisError.
_FAULTS = (RedisError, RedisClusterException, OSError, TimeoutError)


class Script(NamedTuple):
    """What Redis runs in one step, and the name by which it remembers it."""

    source: str
    digest: str

    @classmethod
    def of(cls, source: str) -> "Script":
        return cls(source, sha1(source.encode(), usedforsecurity=False).hexdigest())


class RedisLink:
    """Connections to one Redis, to the primary that Sentinels name, or to a Cluster.

    Args:
        url: `redis://` or `rediss://` as redis-py has them, `redis+sentinel://user:password@host:port,host:port/
            service/database`, or `redis+cluster://user:password@host:port,host:port`. With TLS, also to the
            Sentinels, these begin with `rediss+`, and take redis-py's `?ssl_ca_certs=` and its like;
            `?sentinel_username=` and `?sentinel_password=` are for the Sentinels themselves.

    Raises:
        SettingError: the URL cannot be read; it is not quoted, for it may hold a password.
    """

    def __init__(self, url: str) -> None:
        self.clustered = urlsplit(url).scheme.endswith("+cluster")
        self._make, self._member = _clients_for(url)
        self._client: Any = None
        self._guides: list[Redis] = []
        self._patience = OPENING
        self._waiting = 0
        self._failures = 0
        self._again_at = 0.0
        self._log_again_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._free = asyncio.Semaphore(AT_ONCE)  # not a pool's: of some, whoever comes later is refused
        self._renewing = asyncio.Lock()
        self._patience = OPENING
        self._failures = 0
        self._client, *self._guides = self._make()

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            for each in (client, *self._guides):
                await each.aclose()

    async def run(self, script: Script, keys: Sequence[str], *args: bytes | str | float) -> Any:
        """Run a script.

        Raises:
            StoreUnavailable: there was no answer in time, or Redis cannot do it now. Whether it was done is
                not known.
        """

        async def run(client: Any) -> Any:
            try:
                return await client.evalsha(script.digest, len(keys), *keys, *args)
            except NoScriptError:  # a server that was started anew has forgotten it, and has done nothing
                return await client.eval(script.source, len(keys), *keys, *args)

        return await self._ask(run)

    async def names(self, key: str) -> list[bytes]:
        """The members of a sorted set."""

        async def read(client: Any) -> Any:
            return await client.zrange(key, 0, -1)

        names: list[bytes] = await self._ask(read)
        return names

    async def publish(self, channel: str, message: bytes) -> None:
        """Publish on a sharded channel."""

        async def publish(client: Any) -> Any:
            return await client.spublish(channel, message)

        await self._ask(publish)

    async def listen(
        self,
        channels: Collection[str],
        hear: Callable[[str, bytes], None],
        subscribed: Callable[[], Awaitable[None]],
        lost: Callable[[], None],
    ) -> NoReturn:
        """Hear what is published on sharded channels. What cannot be reached is tried again and again.

        Args:
            channels: which.
            hear: takes a channel and a message.
            subscribed: called whenever there is a subscription to all of them, and not before.
            lost: called when that to some of them is lost; what is published there from now on is missed.
        """
        missing = set(channels)
        hearing: dict[asyncio.Task[None], Collection[str]] = {}

        async def listen(dial: AbstractAsyncContextManager[Redis], channels: Collection[str]) -> None:
            try:
                async for channel, message in _subscribed(dial, channels):
                    if message is not None:
                        hear(channel, message)
                        continue
                    missing.discard(channel)
                    if not missing:
                        await subscribed()
            except Exception as error:  # whoever asks is told
                self._log(error)
            finally:
                missing.update(channels)
                lost()

        try:
            while True:
                for task in list(hearing):
                    if task.done():
                        del hearing[task]
                free = set(channels).difference(*hearing.values())
                try:
                    for dial, theirs in await self._servers(free):
                        hearing[asyncio.create_task(listen(dial, theirs))] = theirs
                except Exception as error:
                    self._log(error)
                await asyncio.sleep(PAUSE)
        finally:
            await asyncio.gather(*map(stop, hearing))

    def required(self) -> Any:
        """redis-py's client.

        Raises:
            StoreUnavailable: the link is not open.
        """
        if self._client is None:
            raise StoreUnavailable("the session store is not open", "await open() first")
        return self._client

    async def _servers(
        self, channels: Collection[str]
    ) -> Collection[tuple[AbstractAsyncContextManager[Redis], Collection[str]]]:
        """How to reach those that serve channels just now, and which of these each one serves."""
        client = self.required()
        if not channels:
            return []
        if not self.clustered:
            return [(nullcontext(client), channels)]
        async with asyncio.timeout(DEADLINE):
            await client.nodes_manager.initialize()  # the slots may have moved since
        served: dict[tuple[str, int], list[str]] = {}
        for channel in channels:
            with suppress(SlotNotCoveredError):
                node = client.get_node_from_key(channel)
                served.setdefault((node.host, node.port), []).append(channel)
        return [(self._member(*address), theirs) for address, theirs in served.items()]

    async def _ask(self, question: Callable[[Any], Awaitable[Any]]) -> Any:
        client = self.required()
        assert self._loop is not None
        if self._failures >= FAILURES:
            if self._loop.time() < self._again_at:
                raise StoreUnavailable("Redis does not answer", _ADVICE)
            self._again_at = self._loop.time() + PAUSE  # this is the one who tries
        if self._waiting >= MOST_WAITING:
            raise StoreUnavailable("more is asked of Redis than it answers", _ADVICE)
        self._waiting += 1
        deadline = self._loop.time() + self._patience
        try:
            async with asyncio.timeout_at(deadline), self._free:
                answer = await question(client)
        except Exception as error:
            self._log(error)
            if not isinstance(error, ResponseError) or isinstance(error, ReadOnlyError):
                self._failures += 1
                self._again_at = self._loop.time() + PAUSE
                if not self.clustered and not isinstance(error, TimeoutError | RedisTimeoutError):
                    await self._renew(client, deadline)
            raise _explained(error) from error
        finally:
            self._waiting -= 1
        self._failures = 0
        self._patience = DEADLINE
        return answer

    async def _renew(self, client: Any, deadline: float) -> None:
        """Close the connections that lie idle: what has befallen one, a reset or a server that is a replica
        now, has befallen the others, and each would cost whoever takes it next an answer."""
        if not self._renewing.locked():
            with suppress(Exception):
                async with self._renewing, asyncio.timeout_at(deadline):
                    await client.connection_pool.disconnect(inuse_connections=False)

    def _log(self, error: Exception) -> None:
        """Log what nobody had foreseen, once in a PAUSE: what it is and where it came from, but not its text,
        which may quote a command."""
        assert self._loop is not None
        if isinstance(error, (*_FAULTS, StoreError)) or self._loop.time() < self._log_again_at:
            return
        self._log_again_at = self._loop.time() + PAUSE
        log.error(
            "on the way to Redis there was a %s, which nobody had foreseen; it counts as no answer",
            type(error).__name__,
            exc_info=_explained(error).with_traceback(error.__traceback__),
        )


async def _subscribed(
    dial: AbstractAsyncContextManager[Any], channels: Collection[str]
) -> AsyncIterator[tuple[str, bytes | None]]:
    """What is published on channels that one server serves, for as long as it does; first, each without a
    message."""
    async with dial as client, client.pubsub() as pubsub:
        async with asyncio.timeout(DEADLINE):
            for channel in channels:  # a Cluster refuses to take several slots at a time
                await pubsub.ssubscribe(channel)
        asked = False
        while True:
            message = await pubsub.get_message(timeout=DEADLINE if asked else QUIET)
            if message is None:
                if asked:
                    raise TimeoutError
                asked = True
                await pubsub.ping()
                continue
            asked = False
            match message["type"]:
                case "ssubscribe":
                    yield message["channel"].decode(), None
                case "smessage":
                    yield message["channel"].decode(), message["data"]
                case "sunsubscribe":  # the slot has gone to another machine
                    return


_ADVICE = "see whether it runs and can be reached from here; what waits for it is told to wait"


def _explained(error: BaseException) -> StoreError:
    """The error of ours for one of redis-py's. Its text is left out: it may quote a command."""
    why = error.__cause__ or error.__context__
    if isinstance(error, RedisClusterException) and why is not None:
        return _explained(why)
    match error:
        case OutOfMemoryError():
            return StoreUnavailable("Redis has no memory left", "raise its maxmemory, or make room in it")
        case ReadOnlyError():
            return StoreUnavailable("this Redis is a replica", "wait for the fail-over, or name the primary")
        case ClusterDownError():
            return StoreUnavailable("the Cluster is down", "see what CLUSTER INFO says on its nodes")
        case AuthenticationError() | NoPermissionError():
            return StoreUnavailable(
                "Redis refuses this user",
                "check the password, and give the user the commands in docs/cluster.md",
            )
        case ResponseError() if str(error).startswith("NOREPLICAS"):
            return StoreUnavailable(
                "Redis has too few replicas in touch",
                "see to the replicas, or lower its min-replicas-to-write",
            )
        case ResponseError():
            return StoreUnavailable(
                f"Redis refuses a command ({type(error).__name__})",
                "this needs Redis 7 or newer, and for a Cluster, and only there, redis+cluster://",
            )
    return StoreUnavailable("Redis does not answer", _ADVICE)


def _clients_for(url: str) -> tuple[Callable[[], Sequence[Any]], Callable[[str, int], Redis]]:
    """How to make the client for a URL, and those of its Sentinels, and the one for a single machine of a
    Cluster; nothing is connected yet."""
    parts = urlsplit(url)
    options: dict[str, Any] = {
        "socket_timeout": _SERVER,
        "socket_connect_timeout": _SERVER,
        "retry": Retry(NoBackoff(), 0),
        # By default they are on, and then a pool gives out connections that the server has closed.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }

    def member(host: str, port: int) -> Redis:
        return Redis(host=host, port=port, **options)

    try:
        if parts.scheme in ("redis", "rediss"):
            pool: Any = Redis.from_url(url).connection_pool  # redis-py has no types for it
            pool.make_connection()  # to find out now what is wrong with the URL
            return lambda: [Redis.from_url(url, **options)], member
        user = {"username": unquote(parts.username or ""), "password": unquote(parts.password or "")}
        query = dict(parse_qsl(parts.query))
        if parts.scheme.endswith("+sentinel"):
            watch = {name: query.pop(f"sentinel_{name}", "") for name in user}
            options |= _tls(parts, query)
            hosts = _hosts(parts, _SENTINEL_PORT)
            service, _, database = parts.path.strip("/").partition("/")
            if not service:
                raise ValueError
            guide = options | watch | {"socket_timeout": _SENTINEL, "socket_connect_timeout": _SENTINEL}
            options |= user | {"db": int(database or 0)}
            make: Callable[..., Any] = Sentinel  # redis-py has no types for it

            def guided() -> Sequence[Any]:
                sentinel = make(hosts, sentinel_kwargs=guide, **options)
                return sentinel.master_for(service), *sentinel.sentinels

            return guided, member
        options |= _tls(parts, query) | user
        nodes = _hosts(parts, _PORT)
        return lambda: [RedisCluster(startup_nodes=[ClusterNode(*node) for node in nodes], **options)], member
    except (ValueError, TypeError):  # an option that redis-py does not know is of the latter
        raise SettingError(
            f"this {parts.scheme} URL names no Redis",
            "write it like redis://host:6379/0, redis+sentinel://one:26379,two:26379/service, or"
            " redis+cluster://one:6379,two:6379, and rediss for redis where there is TLS",
        ) from None


def _tls(parts: SplitResult, query: Mapping[str, str]) -> dict[str, Any]:
    """How to speak TLS, by the names that redis-py has for it; nothing where it is not asked for."""
    if not parts.scheme.startswith("rediss"):
        if query:
            raise ValueError
        return {}
    options = {"ssl": True, **parse_url(f"rediss://host?{urlencode(query)}")}
    del options["host"], options["connection_class"]
    if not all(name.startswith("ssl") for name in options):
        raise ValueError
    return options


def _hosts(parts: SplitResult, port: int) -> list[tuple[str, int]]:
    hosts = []
    for each in parts.netloc.rpartition("@")[2].split(","):
        one = urlsplit(f"//{each}")
        if not one.hostname:
            raise ValueError
        hosts.append((one.hostname, one.port or port))
    return hosts
