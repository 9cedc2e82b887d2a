"""`keepalive.connect`: one session kept alive over an aiohttp `ClientSession`."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from math import inf
from random import random
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

import aiohttp
from yarl import URL

from ..clock import Clock, SystemClock
from ..errors import (
    ConnectError,
    KeepaliveError,
    MessageError,
    ServerUnavailable,
    SessionEnded,
    SettingError,
)
from ..messages import Beat, CloseCode, End, HttpBeat, Ping, Wait, decode, decode_message, encode
from ..policy import Mode, Reason
from . import faults
from .address import address_of
from .events import Event, Events, StateChange
from .life import leave
from .link import Link, Socket, say
from .machine import Closed, Connect, Drop, Effect, Emit, Fact, Machine, Post, Posted, Send, State
from .machine import Event as MachineEvent

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""How long `ping` waits for a beat, over reconnects if need be, in seconds."""
MAX_DATA = 4000
"""The longest data of a ping, in bytes of JSON; the rest of its 4 KiB are for what else it says."""


def connect(
    url: str | URL,
    *,
    session: aiohttp.ClientSession | None = None,
    cookies: Mapping[str, str] | None = None,
    on_event: Callable[[Event], object] | None = None,
    clock: Clock | None = None,
) -> "Heart":
    """Keep a session alive for as long as the block runs.

        async with keepalive.connect("https://app.example/keepalive", session=session) as heart:
            ...

    Args:
        url: where the server's routes are mounted; an origin alone stands for its `/keepalive`.
        session: has the cookie of a user who is signed in, and all else that requests need; what is
            renewed goes into its cookie jar. It stays open.
        cookies: in place of a session, its cookies by name.
        on_event: a plain function, called with all that `async for event in heart` yields.
        clock: for all deadlines.

    Raises:
        SettingError: the URL is none; there is neither a session nor cookies, or both; a cookie has no
            name that can be sent.
    """
    return Heart(url, session, cookies, on_event, clock or SystemClock())


class Heart:
    """A session kept alive over one socket. Made by `connect`; entered and left once.

    It pings, answers, renews the cookie, and when the connection breaks it comes back by the rules
    of a page. Entering waits for the server's `hello`.

    Raises:
        ConnectError: on entering, one of its kinds: the server could not be reached, or is none.
            Later the heart tries again by itself.
        SessionEnded: on entering, there is no session with these cookies, or not any more.
    """

    def __init__(
        self,
        url: str | URL,
        session: aiohttp.ClientSession | None,
        cookies: Mapping[str, str] | None,
        on_event: Callable[[Event], object] | None,
        clock: Clock,
    ) -> None:
        if (session is None) is (cookies is None):
            raise SettingError(
                "a heart needs the cookies of one session", "give either session=… or cookies=…, not both"
            )
        self._address = address_of(url)
        self._http = session
        self._cookies = _cookies(cookies or {}, secure=self._address.base.scheme == "https")
        self._on_event = on_event
        self._clock = clock
        self._machine = Machine()
        self._facts: deque[MachineEvent] = deque()
        self._busy = False
        self._active_at: float | None = None
        self._data: dict[str, Any] | None = None
        self._fault: ConnectError | None = None
        self._beats: list[tuple[int, asyncio.Future[Beat | None]]] = []
        self._listeners: WeakSet[Events] = WeakSet()
        self._timer: asyncio.TimerHandle | None = None
        self._parting = CloseCode.NORMAL
        self._socket: Socket | None = None
        self._talking: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._life: asyncio.Task[None] | None = None
        self._owned: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        if self._life is not None:
            raise KeepaliveError("a heart is entered once", "make another one with connect()")
        loop = asyncio.get_running_loop()
        if self._http is None:
            jar = aiohttp.CookieJar(unsafe=True)  # which also has cookies for hosts without a name
            self._http = self._owned = aiohttp.ClientSession(cookie_jar=jar)
            jar.update_cookies(self._cookies, self._address.base)
        self._link = Link(self._http, self._address)
        self._opened: asyncio.Future[None] = loop.create_future()
        self._over = asyncio.Event()  # or left
        self._life = loop.create_task(self._live())
        try:
            await self._opened
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._leave()

    # What a program asks.

    @property
    def state(self) -> State:
        return self._machine.state

    @property
    def expires_in(self) -> float | None:
        """Seconds until the session ends unless something extends it; `None` while unknown, 0.0 after it."""
        return self._left(self._machine.expires_at)

    @property
    def ends_in(self) -> float | None:
        """Seconds until the session ends whatever happens; `None` while unknown or without such a limit."""
        return self._left(self._machine.ends_at)

    @property
    def mode(self) -> Mode | None:
        """What keeps the session alive, as the server last told; `None` while unknown."""
        return self._machine.mode

    async def ping(self, idle: float = 0.0, data: Mapping[str, Any] | None = None) -> Beat:
        """Ping now, and wait for the beat.

        While there is no connection, the next attempt comes at once, or soon.

        Args:
            idle: how long ago the user was active, in seconds. Later pings count on from there;
                without any such call they say nothing of a user.
            data: for the app, whose hook `on_ping` gets it. Later pings carry it, too, until other
                data is given.

        Raises:
            SettingError: the data is not JSON, or over 4,000 bytes of it.
            SessionEnded: there will be no beat.
            ServerUnavailable: there was none within 30 s.
        """
        self._check()
        if data is not None:
            self._data = _carried(data)
        self._active_at = self._clock.monotonic() - idle
        beat: asyncio.Future[Beat | None] = asyncio.get_running_loop().create_future()
        expected = (self._machine.n + 1, beat)
        self._beats.append(expected)
        self._dispatch(Fact.DEMAND)
        try:
            async with asyncio.timeout(PATIENCE):
                told = await beat
        except TimeoutError:
            raise ServerUnavailable(
                f"no beat within {PATIENCE:g} s",
                "look into the server's log; the heart goes on trying by itself",
            ) from None
        finally:
            self._beats.remove(expected)
        if told is None:
            raise self._gone()
        return told

    async def wait_ended(self) -> End:
        """Wait until the session is over; returns why. It is for the server to say when, if ever.

        Raises:
            KeepaliveError: the heart was left meanwhile.
        """
        if self._machine.end is None:
            self._check()
            await self._over.wait()
        if self._machine.end is None:
            raise self._gone()
        return self._machine.end

    def __aiter__(self) -> AsyncIterator[Event]:
        """All that happens from now on, until the session is over or the heart is left.

        What an app pushes to a page as soon as that opens may have come before the block begins. Who begins
        to listen before entering it hears that, too.
        """
        events = Events()
        if self._life is not None and self.state in (State.IDLE, State.ENDED):
            events.finish()
        self._listeners.add(events)
        return events

    # Time.

    @property
    def due(self) -> float:
        """When the heart wants its next `tick`, in monotonic seconds of its clock."""
        return self._machine.due

    @property
    def busy(self) -> bool:
        """Whether it waits for its server: to be greeted, or for the answer to a ping over HTTP."""
        return self._machine.busy or (self._looking is not None and not self._looking.done())

    def tick(self) -> None:
        """Do what has come due. The heart sees to it by itself, unless its clock is moved by hand."""
        self._dispatch(Fact.TICK)

    # Facts in, effects out.

    def _dispatch(self, event: MachineEvent) -> None:
        """Take a fact. One that comes up meanwhile, say in `on_event`, waits its turn."""
        self._facts.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._facts:
                self._take(self._facts.popleft())
        finally:
            self._busy = False

    def _take(self, event: MachineEvent) -> None:
        previous = self.state
        effects = self._machine.take(event, self._clock.monotonic(), random())  # noqa: S311 - spreads load
        self._arm()
        for effect in effects:
            self._run(effect)
        state = self.state
        if state is previous:
            return
        if state is State.WAITING and not self._opened.done() and self._looking is None:
            fault = self._fault or faults.no_hello(self._address.socket)
            self._looking = self._tasks.create_task(self._look_closer(fault))
        elif state in (State.OPEN, State.POLLING) and not self._opened.done():
            self._opened.set_result(None)
        self._tell(StateChange(state, previous))
        if state is State.ENDED:
            self._conclude()

    def _run(self, effect: Effect) -> None:
        match effect:
            case Connect():
                self._fault = None
                self._talking = self._tasks.create_task(self._talk())
            case Drop(returns):
                self._parting = CloseCode.RETURNING if returns else CloseCode.NORMAL
                talking, self._talking, self._socket = self._talking, None, None
                if talking is not None:
                    talking.cancel()
            case Send(n) if self._socket is not None:
                self._tasks.create_task(say(self._socket, self._ping(n)))
            case Post(n):
                self._tasks.create_task(self._post(n))
            case Emit(message):
                if isinstance(message, Beat):
                    for n, beat in self._beats:
                        if message.n >= n and not beat.done():
                            beat.set_result(message)
                if not isinstance(message, End):
                    self._tell(message)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due = self._machine.due
        pause = due - self._clock.monotonic()
        self._timer = (
            None if due == inf else asyncio.get_running_loop().call_later(max(pause, 0.0), self._on_timer)
        )

    def _on_timer(self) -> None:
        """Something is due by the machine's time: a greeting in any case, all else if the clock says so."""
        self._dispatch(Closed(1006) if self.state is State.CONNECTING else Fact.TICK)

    def _ping(self, n: int) -> bytes:
        idle = None if self._active_at is None else max(0.0, self._clock.monotonic() - self._active_at)
        return encode(Ping(n, idle=idle, data=self._data))

    def _tell(self, event: Event) -> None:
        for events in list(self._listeners):
            events.add(event)
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except (Exception, asyncio.CancelledError):  # which is of something else: this awaits nothing
            log.exception("on_event failed")  # the traceback names it

    def _conclude(self) -> None:
        """The session is over: whoever waits hears why."""
        end = self._machine.end
        assert end is not None
        self._tell(end)
        if not self._opened.done():
            error = self._gone()
            if end.reason is Reason.UNKNOWN and not self._link.has_cookies:
                error.add_note(
                    "The cookie jar has nothing for this URL. That of a host without a name, as of"
                    " http://127.0.0.1, is kept by a CookieJar(unsafe=True) alone."
                )
            self._opened.set_exception(error)
        assert self._life is not None
        self._life.cancel()

    def _check(self) -> None:
        if self._machine.end is not None:
            raise self._gone()
        if self.state is State.IDLE:
            raise KeepaliveError("the heart does not run", "use it inside of its `async with` block")

    def _gone(self) -> KeepaliveError:
        """Why nothing more will come."""
        end = self._machine.end
        return KeepaliveError("the heart was left") if end is None else SessionEnded(end.reason, end.login)

    def _left(self, at: float | None) -> float | None:
        return None if at is None else max(0.0, at - self._clock.monotonic())

    # Tasks: all of them in one group, which is left with the heart.

    async def _live(self) -> None:
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._dispatch(Fact.START)
                await asyncio.Event().wait()
        finally:  # nothing more will come: let go of whoever waits
            if self.state is not State.ENDED:  # and has failed, or been left
                self._dispatch(Fact.STOP)
            self._over.set()
            self._opened.cancel()
            for _, beat in self._beats:
                if not beat.done():
                    beat.set_result(None)
            for events in list(self._listeners):
                events.finish()

    async def _leave(self) -> None:
        """Let go of everything. If it is cancelled meanwhile, it still is gone when this returns."""
        assert self._life is not None
        if self.state is not State.ENDED:
            self._dispatch(Fact.STOP)
        try:
            await leave(self._life)
        finally:
            if self._owned is not None:
                await self._owned.close()

    async def _talk(self) -> None:
        """One socket, from the handshake to its end."""
        code = 1006
        try:
            async with self._link.connect() as socket:
                self._socket = socket
                code = await self._listen(socket)
        except (aiohttp.ClientError, OSError, ConnectError) as error:
            self._fault = faults.failed(self._address.socket, error)
            if isinstance(error, aiohttp.ClientResponseError) and error.status == 400:
                body = "" if self._opened.done() else await self._link.read_refusal()
                self._fault = faults.refused(self._address.socket, error.status, body)
        self._talking = self._socket = None
        self._dispatch(Closed(code))

    async def _listen(self, socket: Socket) -> int:
        """Hear the server to the end; returns the close code."""
        try:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    event = decode_message(message.data)
                    if event is not None:
                        self._dispatch(event)
        except asyncio.CancelledError:
            await socket.close(code=self._parting)
            raise
        return socket.close_code or 1006

    async def _look_closer(self, fault: ConnectError) -> None:
        """A first socket has failed: is it the socket alone?"""
        answer = await self._link.ask(self._ping(0))
        if isinstance(answer, HttpBeat | End):
            self._dispatch(Posted(0, answer))
        elif not self._opened.done():
            if isinstance(answer, Wait):
                fault = faults.not_now(self._address.socket, answer.why)
            self._opened.set_exception(fault)

    async def _post(self, n: int) -> None:
        self._dispatch(Posted(n, await self._link.ask(self._ping(n))))


def _cookies(given: Mapping[str, str], *, secure: bool) -> SimpleCookie:
    """Cookies for a jar.

    Args:
        given: their values by name.
        secure: a handshake follows redirects; what was given for https must not go out by http.
    """
    try:
        cookies = SimpleCookie(given)
    except CookieError:
        raise SettingError(
            "a cookie cannot be sent", "give names and values as the server set them"
        ) from None
    for cookie in cookies.values():
        cookie["path"] = "/"  # as the server sets it, so that what it renews takes its place
        cookie["secure"] = secure
    return cookies


def _carried(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """What pings shall carry: a copy, and as the server will read it."""
    try:
        ping = decode(encode(Ping(0, data=dict(data))))
    except (TypeError, ValueError, RecursionError, MessageError):
        ping = None
    if ping is None or len(encode(ping.data)) > MAX_DATA:
        raise SettingError(
            "a ping cannot carry this data", f"give an object of at most {MAX_DATA} bytes of JSON"
        )
    return ping.data
