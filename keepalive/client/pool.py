"""`keepalive.HeartPool`: thousands of hearts in one process, for load tests and bots.

All of them share one timer. A heart is a machine, a light socket, and no task: tasks live as long
as a handshake or a POST does.
"""

import asyncio
import logging
import ssl as tls
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from http.cookies import CookieError
from itertools import count
from math import inf
from random import random
from secrets import token_hex
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from ..clock import Clock, SystemClock
from ..errors import ConnectError, KeepaliveError, ServerUnavailable, SessionEnded, SettingError
from ..messages import Answer, CloseCode, End, HttpBeat, Ping, decode_message, encode
from ..wheel import Wheel
from . import faults
from .address import address_of
from .cookies import ends_at, set_by
from .events import Event, StateChange
from .life import leave
from .link import POST_TIMEOUT, read_answer
from .machine import GREETING, Closed, Connect, Drop, Effect, Emit, Fact, Machine, Post, Posted, Send, State
from .machine import Event as MachineEvent
from .socket import Refusal, Socket, request

log = logging.getLogger(__name__)

TICK = 0.1
"""How often the wheel turns, in seconds."""
AT_ONCE = 64
"""How many hearts of those that are new may be on their way at the same time."""


class HeartPool:
    """Keeps many sessions alive at one server. Entered and left once.

    The server's limits count here as for everybody: for thousands of hearts of one machine, raise its
    `pages_per_address`.

        async with keepalive.HeartPool("https://app.example/keepalive") as pool:
            for cookies in jars:
                pool.add(cookies)
            await pool.opened()

    Args:
        url: where the server's routes are mounted; an origin alone stands for its `/keepalive`.
        ssl: whom to trust, for https; by default what Python trusts.
        on_event: a plain function, called with a heart and what has happened to it.
        clock: for all deadlines.

    Raises:
        SettingError: the URL is none.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        ssl: tls.SSLContext | None = None,
        on_event: "Callable[[PoolHeart, Event], object] | None" = None,
        clock: Clock | None = None,
    ) -> None:
        self._address = address_of(url)
        self._clock = clock or SystemClock()
        self._on_event = on_event
        secure = self._address.base.scheme == "https"
        self._tls = (ssl or tls.create_default_context()) if secure else None
        self._name = token_hex(4)  # with which, and their number, its pages have names of their own
        self._numbers = count()
        self._hearts: set[PoolHeart] = set()
        self._waiting: deque[PoolHeart] = deque()  # to be started
        self._new: set[PoolHeart] = set()  # neither greeted nor refused yet
        self._trying: set[PoolHeart] = set()  # those of them that are on their way
        self._settled = asyncio.Event()
        self._error: KeepaliveError | None = None
        self._facts: deque[tuple[PoolHeart, MachineEvent]] = deque()
        self._busy = False
        self._under_way = 0  # hearts that wait for the server
        self._wheel: Wheel[PoolHeart] = Wheel(self._clock.monotonic(), self._on_time, TICK)
        self._timer: asyncio.TimerHandle | None = None
        self._life: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._life is not None:
            raise KeepaliveError("a pool is entered once", "make another one")
        connector = aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True)
        self._http = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        started = asyncio.Event()
        self._life = asyncio.create_task(self._live(started))
        try:
            await started.wait()
        except asyncio.CancelledError:
            await self.__aexit__(None, None, None)
            raise
        self._turn()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._life is not None
        self._waiting.clear()
        for heart in list(self._hearts):
            heart.leave()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            await leave(self._life)
        finally:
            await self._http.close()

    def add(self, cookies: Mapping[str, str]) -> "PoolHeart":
        """Add a heart for a session, by its cookies. It starts when its turn has come.

        Raises:
            KeepaliveError: the pool does not run.
            SettingError: a cookie cannot be sent.
        """
        if self._timer is None:
            raise KeepaliveError("the pool does not run", "use it inside of its `async with` block")
        heart = PoolHeart(self, "; ".join(f"{name}={value}" for name, value in cookies.items()))
        self._request(heart)  # to hear of what cannot be sent
        self._hearts.add(heart)
        self._waiting.append(heart)
        self._new.add(heart)
        asyncio.get_running_loop().call_soon(self._admit)
        return heart

    async def opened(self, within: float = 60.0) -> None:
        """Wait until the server has greeted every heart that was added.

        Args:
            within: seconds.

        Raises:
            ConnectError: a heart was refused, and tries no more; or some have not been greeted in time.
            SessionEnded: a heart has come without a session that lives.
        """
        try:
            async with asyncio.timeout(within):
                while self._new:
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            raise ServerUnavailable(
                f"{len(self._new)} of {len(self._hearts)} hearts were not greeted within {within:g} s",
                "look into the server's log, or allow more time",
            ) from None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    @property
    def states(self) -> Counter[State]:
        """How many hearts are in which state."""
        return Counter(heart.state for heart in self._hearts)

    def __iter__(self) -> "Iterator[PoolHeart]":
        return iter(list(self._hearts))  # which some may leave meanwhile

    def __len__(self) -> int:
        return len(self._hearts)

    @property
    def due(self) -> float:
        """When the pool wants its next `tick`, in monotonic seconds of its clock."""
        return self._wheel.due

    @property
    def busy(self) -> bool:
        """Whether a heart waits for the server: to be greeted, or for the answer to a ping over HTTP."""
        return self._under_way > 0

    def tick(self) -> None:
        """Do what has come due. The pool sees to it by itself, unless its clock is moved by hand."""
        self._wheel.turn(self._clock.monotonic())

    # Facts in, effects out.

    def _dispatch(self, heart: "PoolHeart", event: MachineEvent) -> None:
        """Take a fact. One that comes up meanwhile, say in `on_event`, waits its turn."""
        self._facts.append((heart, event))
        if self._busy:
            return
        self._busy = True
        try:
            while self._facts:
                self._take(*self._facts.popleft())
        finally:
            self._busy = False

    def _take(self, heart: "PoolHeart", event: MachineEvent) -> None:
        machine = heart._machine
        previous, waited = machine.state, machine.busy
        effects = machine.take(event, self._clock.monotonic(), random())  # noqa: S311 - spreads load
        self._under_way += machine.busy - waited
        self._hang(heart)
        for effect in effects:
            self._run(heart, effect)
        if machine.state is previous:
            return
        self._tell(heart, StateChange(machine.state, previous))
        if machine.state is State.ENDED:
            assert machine.end is not None
            self._tell(heart, machine.end)
            if heart in self._new:
                self._error = self._error or SessionEnded(machine.end.reason, machine.end.login)
        if heart in self._new:
            self._advance(heart)

    def _run(self, heart: "PoolHeart", effect: Effect) -> None:
        match effect:
            case Connect():
                heart._socket = Socket(heart, self._request(heart))
                self._tasks.create_task(self._connect(heart, heart._socket))
            case Drop(returns):
                if heart._socket is not None:
                    heart._socket.leave(CloseCode.RETURNING if returns else CloseCode.NORMAL)
                    heart._socket = None
            case Send(n) if heart._socket is not None:
                heart._socket.send(self._ping(heart, n))
            case Post(n):
                self._tasks.create_task(self._post(heart, n))
            case Emit(message) if not isinstance(message, End):
                self._tell(heart, message)

    def _tell(self, heart: "PoolHeart", event: Event) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(heart, event)
        except (Exception, asyncio.CancelledError):  # which is of something else: this awaits nothing
            log.exception("on_event failed")  # the traceback names it

    def _lost(self, heart: "PoolHeart", code: int, fault: ConnectError | None) -> None:
        """A heart's socket is gone. Where no other one will do better, a POST tells before it gives up."""
        heart._socket = None
        if fault is None or isinstance(fault, ServerUnavailable) or heart not in self._new:
            self._dispatch(heart, Closed(code))
        else:
            self._tasks.create_task(self._look_closer(heart, fault))

    def _refused(self, heart: "PoolHeart", error: ConnectError) -> None:
        """What has never lived, and will not by trying again, is not tried again."""
        heart.error = error
        self._error = self._error or error
        self._dispatch(heart, Fact.STOP)

    def _advance(self, heart: "PoolHeart") -> None:
        """A new heart has got on, or not: the next one may try."""
        if heart.state is not State.CONNECTING:
            self._trying.discard(heart)
        if heart.state not in (State.CONNECTING, State.WAITING):
            self._new.discard(heart)
        self._admit()

    def _admit(self) -> None:
        while self._waiting and len(self._trying) < AT_ONCE:
            heart = self._waiting.popleft()
            self._trying.add(heart)
            self._dispatch(heart, Fact.START)
        if not self._new:
            self._settled.set()

    # Time.

    def _turn(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK, self._turn)
        self.tick()

    def _hang(self, heart: "PoolHeart") -> None:
        """Have a heart asked when it is due. What is on the wheel stays there, and is asked for nothing."""
        due = heart._machine.due
        if due < heart._timed_at:
            heart._timed_at = due
            self._wheel.add(heart, due)

    def _on_time(self, heart: "PoolHeart", now: float) -> None:
        if heart._timed_at > now:
            return  # it has been hung up anew since
        heart._timed_at = inf
        if heart._machine.due <= now:
            self._dispatch(heart, Fact.TICK)
        else:
            self._hang(heart)

    # Tasks: all of them in one group, which is left with the pool.

    async def _live(self, started: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as self._tasks:
            started.set()
            await asyncio.Event().wait()

    async def _connect(self, heart: "PoolHeart", socket: Socket) -> None:
        url = self._address.socket
        assert url.raw_host is not None
        assert url.port is not None
        try:
            async with asyncio.timeout(GREETING):
                await asyncio.get_running_loop().create_connection(
                    lambda: socket, url.raw_host, url.port, ssl=self._tls
                )
        except OSError as error:
            if heart._socket is socket:
                self._lost(heart, 1006, faults.failed(url, error))

    async def _look_closer(self, heart: "PoolHeart", fault: ConnectError) -> None:
        """A new heart's socket was refused for good: is it the socket alone?"""
        answer = await self._ask(heart, 0)
        if heart not in self._new:
            return
        if answer is None:
            self._refused(heart, fault)
        elif isinstance(answer, HttpBeat | End):
            self._dispatch(heart, Posted(0, answer))
        if heart._socket is None:  # it has not lost patience, and tried another one
            self._dispatch(heart, Closed(1006))

    async def _post(self, heart: "PoolHeart", n: int) -> None:
        self._dispatch(heart, Posted(n, await self._ask(heart, n)))

    async def _ask(self, heart: "PoolHeart", n: int) -> Answer | None:
        """Ping over HTTP; `None` if that gets no answer of the protocol."""
        message: Answer | None = None
        headers = {"Content-Type": "application/json"} | ({"Cookie": heart._cookie} if heart._cookie else {})
        try:
            async with self._http.post(
                self._address.heartbeat.with_query(page=self._page_of(heart)),
                data=self._ping(heart, n),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=POST_TIMEOUT),
                allow_redirects=False,  # nobody else answers for this server, or sets its cookies
            ) as response:
                message = await read_answer(response)
                heart._renew(response.headers.getall("Set-Cookie", []))
        except (aiohttp.ClientError, OSError):
            pass  # no answer; the machine tries again
        return message

    # What is sent.

    def _ping(self, heart: "PoolHeart", n: int) -> bytes:
        active_at = heart._active_at
        return encode(Ping(n, idle=None if active_at is None else self._clock.monotonic() - active_at))

    def _page_of(self, heart: "PoolHeart") -> str:
        return f"{self._name}-{heart._number:x}"

    def _request(self, heart: "PoolHeart") -> bytes:
        url = self._address.socket
        try:
            path = f"{url.raw_path}?page={self._page_of(heart)}"
            host = url.host_port_subcomponent or ""
            return request(path, host, heart._cookie, self._address.authorization)
        except ValueError:
            raise SettingError(
                "a cookie cannot be sent", "give names and values as the server set them"
            ) from None


class PoolHeart:
    """One session in a pool. Made by `HeartPool.add`."""

    __slots__ = ("_active_at", "_cookie", "_machine", "_number", "_pool", "_socket", "_timed_at", "error")

    def __init__(self, pool: HeartPool, cookie: str) -> None:
        self.error: ConnectError | None = None
        """Why it was refused, and tries no more."""
        self._pool = pool
        self._number = next(pool._numbers)
        self._cookie = cookie
        self._machine = Machine()
        self._socket: Socket | None = None
        self._timed_at = inf  # when the wheel asks for it
        self._active_at: float | None = None

    @property
    def state(self) -> State:
        return self._machine.state

    @property
    def end(self) -> End | None:
        """Why its session is over; `None` while it is not known to be."""
        return self._machine.end

    @property
    def expires_in(self) -> float | None:
        """Seconds until the session ends unless something extends it; `None` while unknown, 0.0 after it."""
        at = self._machine.expires_at
        return None if at is None else max(0.0, at - self._pool._clock.monotonic())

    def ping(self, idle: float = 0.0) -> None:
        """Ping now, as `Heart.ping`; the beat comes as an event."""
        self._active_at = self._pool._clock.monotonic() - idle
        self._pool._dispatch(self, Fact.DEMAND)

    def leave(self) -> None:
        """Leave the pool quietly. The session goes on until its idle timeout."""
        pool = self._pool
        pool._dispatch(self, Fact.STOP)
        pool._hearts.discard(self)
        if self in pool._new:
            pool._new.remove(self)
            pool._trying.discard(self)
            if self in pool._waiting:
                pool._waiting.remove(self)
            pool._admit()

    # What its socket tells.

    def on_upgraded(self, cookies: list[str]) -> None:
        self._renew(cookies)

    def on_message(self, text: bytes) -> None:
        message = decode_message(text)
        if message is not None:
            self._pool._dispatch(self, message)

    def on_closed(self, code: int, refusal: Refusal | None) -> None:
        url = self._pool._address.socket
        self._pool._lost(self, code, None if refusal is None else faults.refused(url, *refusal))

    def _renew(self, set_cookies: list[str]) -> None:
        """Take the cookies that a server sets, or takes back."""
        if not set_cookies:
            return
        now = self._pool._clock.wall()
        cookies = dict(each.split("=", 1) for each in self._cookie.split("; ") if each)
        for line in set_cookies:
            try:
                cookie = set_by(line)
            except CookieError:
                continue
            until = ends_at(cookie, now)
            if until is not None and until <= now:
                cookies.pop(cookie.key, None)
            else:
                cookies[cookie.key] = cookie.value
        self._cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
