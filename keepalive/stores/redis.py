"""`RedisStore`: sessions in Redis, shared by all nodes that reach it.

Redis decides: by its clock, in scripts that run alone, and that only update what is there. An end is
published by the step that makes it, in a Cluster by the machine that has the session. A node that was
cut off from that breaks off its watches, so that whoever watches asks anew for all it holds.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from math import inf
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from msgspec import MsgspecError

from ..clock import Clock
from ..errors import StoreError, StoreUnavailable
from ..policy import Policy, Reason, is_evidence
from ..tasks import stop
from ..touchers import MOST_PAGES, Ended, Left, News, Pages, Pushed, Touch
from . import Record, check_user, redis_scripts
from .redis_link import OPENING, RedisLink, Script
from .redis_roll import RedisRoll
from .watches import Watches, pack, unpack

log = logging.getLogger(__name__)

BUCKETS = 32
"""Into how many slots of a Cluster the sessions go: enough to share the load, few enough for batches."""
_TOLD = 10_000
"""How many ends are remembered, for one that this process has made comes back to it."""
_UNSURE = 60.0
"""A Redis that was lost may have taken with it the ends of so many seconds before."""

_LOOKED_AT = 20
"""Of how many sessions of a user a login finds out whether they are over."""

_CREATE, _ROTATE, _LOAD, _SAVE, _TOUCH, _END, _LIST, _UNLIST = map(
    Script.of,
    (
        redis_scripts.CREATE,
        redis_scripts.ROTATE,
        redis_scripts.LOAD,
        redis_scripts.SAVE,
        redis_scripts.TOUCH,
        redis_scripts.END,
        redis_scripts.LIST,
        redis_scripts.UNLIST,
    ),
)


class RedisStore:
    """A `SessionStore` in Redis 7 or newer, alone, with Sentinels, or as a Cluster.

    Ends and pushes reach all nodes by publish and subscribe (https://redis.io/docs/latest/develop/pubsub/,
    sharded). What is acknowledged is as safe as Redis is set
    up to make it (`appendfsync`, replicas); but ends that it lost, in a fail-over to a replica that lagged
    or in a power cut, are made again by every store that had heard of them. In a Cluster, `rotate` ends
    the old session before it begins the new one: a fault in between signs the user out, and nothing worse.

    Args:
        url: see `RedisLink`; `?prefix=app:` is what all keys and channels begin with instead of
            `keepalive:`.
        clock: for tests; by default the clock of Redis decides.

    Raises:
        SettingError: the URL cannot be read.
    """

    path = None
    forgets = False

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        self._prefix = query.pop("prefix", "keepalive:")
        self._link = RedisLink(urlunsplit(parts._replace(query=urlencode(query))))
        # Sharded: in a Cluster, a machine tells only its replicas, and whoever has subscribed with it.
        self._ends = [f"{self._prefix}{{{bucket}}}:ends" for bucket in range(BUCKETS)]
        self._pushes = [f"{self._prefix}{{{bucket}}}:pushes" for bucket in range(BUCKETS)]
        self._clock = clock
        self._watches = Watches()
        self.roll = RedisRoll(self._run, self._prefix, self._keys)
        self._listening: asyncio.Task[NoReturn] | None = None
        self._subscribed = asyncio.Event()
        self._told: OrderedDict[bytes, tuple[Reason, float]] = OrderedDict()
        """The newest ends, and when they were heard of, on the loop's clock."""
        self._lost_at = inf
        """Since when the subscription, or a part of it, is lost, on that clock."""
        self._redis_at = inf
        """What Redis said the time was, in microseconds,"""
        self._heard_at = 0.0
        """and when, on the loop's clock."""

    async def open(self) -> None:
        await self._link.open()
        try:
            await self.peek(bytes(32))  # whether it is there, new enough, and lets us in
            self._subscribed.clear()
            self._listening = asyncio.create_task(
                self._link.listen(
                    [*self._ends, *self._pushes], self._hear, self._has_subscribed, self._has_lost
                )
            )
            async with asyncio.timeout(OPENING):
                await self._subscribed.wait()
        except BaseException as error:
            await self.close()
            if isinstance(error, TimeoutError):
                raise StoreUnavailable(
                    f"Redis lets this user not listen to the channels {self._prefix}*",
                    "give the user these channels",
                ) from None
            raise

    async def close(self) -> None:
        listening, self._listening = self._listening, None
        await stop(listening)
        await self._link.close()
        self._watches.finish()

    async def create(self, key: bytes, *, data: bytes, user: str | None, policy: Policy) -> Left:
        check_user(user)
        await self._list(key, user, policy.absolute_timeout)
        answer = await self._run(_CREATE, self._keys(key), data, _name(user), *_timeouts(policy))
        return _begun(answer)

    async def load(self, key: bytes) -> Record | Reason:
        answer = await self._run(_LOAD, self._keys(key))
        if isinstance(answer, bytes):
            return _reason(answer)
        idle, absolute, closing, data, user, created = answer
        if data is None:  # Redis has thrown it out, to make room
            return Reason.UNKNOWN
        left = _left([idle, absolute, closing])
        return Record(data, None if user is None else user[1:].decode(), created / 1e6, left)

    async def save(self, key: bytes, *, data: bytes, user: str | None) -> Left | Reason:
        check_user(user)
        answer = await self._run(_SAVE, self._keys(key), data, _name(user), "")
        if isinstance(answer, list) and len(answer) == 1:  # another user, who has to be listed first
            (absolute,) = answer
            await self._list(key, user, None if absolute < 0 else absolute / 1e6)
            answer = await self._run(_SAVE, self._keys(key), data, _name(user), "listed")
        return _verdict(answer)

    async def peek(self, key: bytes) -> Left | Reason:
        (answer,) = await self.touch([Touch(key, None)])
        return answer

    async def touch(self, batch: Sequence[Touch]) -> Sequence[Left | Reason]:
        if not self._link.clustered:
            return await self._touch(batch)
        # A script has to do with one slot alone.
        parts: dict[int, list[int]] = {}
        for index, line in enumerate(batch):
            parts.setdefault(_bucket(line.key), []).append(index)
        answers = await asyncio.gather(
            *(self._touch([batch[index] for index in indices]) for indices in parts.values())
        )
        results: dict[int, Left | Reason] = {}
        for indices, answer in zip(parts.values(), answers, strict=True):
            results.update(zip(indices, answer, strict=True))
        return [results[index] for index in range(len(batch))]

    async def end(self, key: bytes, reason: Reason) -> bool:
        return await self._end(key, reason, None)

    async def rotate(self, old: bytes, new: bytes, *, data: bytes, user: str | None, policy: Policy) -> Left:
        check_user(user)
        await self._list(new, user, policy.absolute_timeout)
        begin = (data, _name(user), *_timeouts(policy))
        if self._link.clustered:
            if old == new or await self.peek(new) is not Reason.UNKNOWN:
                return _begun(0)
            await self.end(old, Reason.ROTATED)
            return _begun(await self._run(_CREATE, self._keys(new), *begin))
        ended, *began = await self._run(
            _ROTATE, [*self._keys(new), *self._keys(old)], *begin, old, self._ends[_bucket(old)]
        )
        if ended:
            self._tell(Ended(old, Reason.ROTATED))
        return _begun(began or 0)

    async def end_user(self, user: str, reason: Reason, *, keep: bytes | None = None) -> int:
        check_user(user)
        keys = await self._link.names(self._list_of(user))
        ended = [await self._end(key, reason, user) for key in keys if key != keep]
        return sum(ended)

    async def publish(self, batch: Sequence[Pushed]) -> None:
        """See `SessionStore`. Any bucket would do: a server's own keeps its pushes in their order."""
        if batch:
            bucket = sum(batch[0].origin.encode()) % BUCKETS
            await self._link.publish(self._pushes[bucket], pack(batch))

    async def sweep(self) -> int:
        """Redis forgets by itself: every key has its time to live."""
        self._link.required()
        return 0

    def watch(self) -> AsyncIterator[News]:
        """See `Toucher`; breaks off with `StoreUnavailable` when it may have missed an end."""
        self._link.required()
        return self._watches.add()

    async def _touch(self, batch: Sequence[Touch]) -> list[Left | Reason]:
        keys: list[str] = []
        lines: list[str] = []
        for line in batch:
            keys += self._keys(line.key)
            idle = line.idle if is_evidence(line.idle) else None
            lines += (_micros(line.keep), _micros(idle), _pages(line.pages))
        now, *answers = await self._run(_TOUCH, keys, self._asked_at(), str(MOST_PAGES), *lines)
        self._redis_at, self._heard_at = float(now), asyncio.get_running_loop().time()
        return [_verdict(answer) for answer in answers]

    def _asked_at(self) -> str:
        """The time of Redis now, or a little less, in microseconds: a batch that lay there earns no more."""
        passed = asyncio.get_running_loop().time() - self._heard_at
        return self._now() or f"{self._redis_at + passed * 1e6:.0f}"

    def _now(self) -> str:
        """The time for a script to go by; nothing for that of Redis."""
        return "" if self._clock is None else _micros(self._clock.wall())

    async def _end(self, key: bytes, reason: Reason, user: str | None) -> bool:
        channel = self._ends[_bucket(key)]
        ended = await self._run(_END, self._keys(key), key, reason, channel, _name(user))
        if ended:
            self._tell(Ended(key, reason))
        return bool(ended)

    async def _list(self, key: bytes, user: str | None, absolute: float | None) -> None:
        """Have a session found by its user. Before it is theirs: what is listed in vain does no harm.

        The list forgets what is over. In a Cluster it has no slot in common with the sessions, so they
        are looked at from here.
        """
        if user is None:
            return
        names = [self._list_of(user)]
        due = await self._run(_LIST, names, key, _micros(absolute), str(_LOOKED_AT))
        if due:
            answers = await self.touch([Touch(each, None) for each in due])
            over = [each for each, answer in zip(due, answers, strict=True) if isinstance(answer, Reason)]
            if over:
                await self._run(_UNLIST, names, *over)

    async def _run(self, script: Script, keys: Sequence[str], *args: bytes | str) -> Any:
        return await self._link.run(script, keys, self._now(), *args)

    def _hear(self, channel: str, message: bytes) -> None:
        if channel.endswith(":ends"):
            self._tell(Ended(message[:32], _reason(message[32:])))
            return
        try:
            self._watches.tell(unpack(message))
        except MsgspecError:
            log.warning("a message on %s is not of this program, or of another version of it", channel)

    async def _has_subscribed(self) -> None:
        lost_at, self._lost_at = self._lost_at, inf  # what is lost from now on is another loss
        if self._subscribed.is_set():  # not for the first time
            try:
                await self._end_again(lost_at)
            except BaseException:
                self._lost_at = min(self._lost_at, lost_at)
                raise
            self._watches.lose(
                StoreUnavailable("the subscription was lost for a while", "ask anew for all sessions")
            )
        self._subscribed.set()

    def _has_lost(self) -> None:
        self._lost_at = min(self._lost_at, asyncio.get_running_loop().time())

    async def _end_again(self, lost_at: float) -> None:
        """Make the ends again that Redis may have lost with the subscription."""
        doubtful = [(key, reason) for key, (reason, at) in self._told.items() if at > lost_at - _UNSURE]
        lost = 0
        for key, reason in doubtful:
            lost += await self._end(key, reason, None)
        if lost:
            log.warning("Redis had lost %d ends that were acknowledged; they have been made again", lost)

    def _tell(self, ended: Ended) -> None:
        """Each end once, whether it was made here or comes from afar: no session ends twice."""
        if ended.key in self._told:
            return
        self._told[ended.key] = (ended.reason, asyncio.get_running_loop().time())
        if len(self._told) > _TOLD:
            self._told.popitem(last=False)
        self._watches.tell([ended])

    def _keys(self, key: bytes) -> list[str]:
        name = f"{self._prefix}{{{_bucket(key)}}}:{key.hex()}"
        return [name, f"{name}:data"]

    def _list_of(self, user: str) -> str:
        return f"{self._prefix}user:{sha256(user.encode()).hexdigest()}"


def _bucket(key: bytes) -> int:
    return key[0] % BUCKETS


def _name(user: str | None) -> str:
    return "" if user is None else f"u{user}"


def _micros(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e6:.0f}"


def _pages(pages: Pages | None) -> str:
    if pages is None:
        return ""
    signed = [f"-{page}" for page in pages.gone if page not in pages.here]
    return " ".join([_micros(pages.end_after), *signed, *(f"+{page}" for page in pages.here)])


def _timeouts(policy: Policy) -> tuple[str, str]:
    return _micros(policy.idle_timeout), _micros(policy.absolute_timeout)


def _begun(answer: Any) -> Left:
    if not isinstance(answer, list):
        raise StoreError("a session with this key exists", "make a fresh random id for every session")
    return _left(answer)


def _verdict(answer: Any) -> Left | Reason:
    return _reason(answer) if isinstance(answer, bytes) else _left(answer)


def _left(answer: Sequence[int]) -> Left:
    idle, absolute, closing = answer
    return Left(idle / 1e6, inf if absolute < 0 else absolute / 1e6, closing=bool(closing))


def _reason(word: bytes) -> Reason:
    """A word that this version does not know is still an end."""
    try:
        return Reason(word.decode())
    except ValueError:
        return Reason.REVOKED
