"""`setup(app, …)`: mounts the keepalive on an aiohttp application.

Routes, the Origin check, start and shutdown; what the app can do with its sessions is on the
`Keepalive` that `setup` returns.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from inspect import iscoroutinefunction
from math import inf
from secrets import token_urlsafe
from typing import Any, Protocol, TypeVar

import aiohttp_session
import msgspec
from aiohttp import hdrs, web
from aiohttp_session import AbstractStorage

from . import audit, headers
from .assets import Modules
from .clock import Clock, SystemClock
from .connection import Connection, Connections
from .errors import MessageError, SettingError, StoreError, StoreUnavailable
from .gate import Gate
from .heart import STORE_TIMEOUT, TICK, Counts, Heart, Hooks
from .lag import Lag
from .limits import Limits
from .live import Page
from .messages import CLOSE_CODE, MAX_MESSAGE, SUBPROTOCOL, CloseCode, End, Ping, Wait, decode, encode
from .policy import Mode, Policy, Reason
from .presence import Presence, Roll, SessionPresence
from .reporter import Reporter
from .session import ChoosePolicy, KeepaliveStorage
from .stats import teller
from .stores import Record, SessionStore, open_store
from .stores.memory_roll import MemoryRoll
from .tasks import stop
from .touchers import Left, Ticket, Toucher
from .touchers.aiohttp_session import CookieBorneStorage
from .trust import Trust
from .upgrade import Upgrade

log = logging.getLogger(__name__)
T = TypeVar("T")

SWEEP_EVERY = 60.0
"""How often the store forgets what no one can ask for any more, in seconds."""
LAST_WORDS = 2.0
"""How long a shutdown has for the store once the pages are closed, in seconds: to note what they have earned,
and that this node leaves."""
GOODBYE = 1.0
"""How long it then waits for the pages to answer the close, in seconds."""
EXIT = 1.5
"""How long the rest may take, in seconds: aiohttp waits for requests that are under way (for 1 s, where it is
the standalone server), the store is closed, and Python ends."""
LET_IN_AT_ONCE = 64
"""How many handshakes are under way at the same time. When thousands come at once the others wait: the
pages that are here need the event loop for their beats."""
BODY_TIMEOUT = 5.0
"""A ping that comes by POST must be whole within this many seconds."""
TOO_MANY = 2.0
"""When a session that asks too often over HTTP may come again, in seconds."""
_SAME_SITE = {"same-origin", "none"}
_NO_STORE = {hdrs.CACHE_CONTROL: "no-store"}


class Door(Protocol):
    """What `web` needs of the storage: who may come in, and the toucher for the heart."""

    trust: Trust

    @property
    def toucher(self) -> Toucher: ...
    @property
    def user_key(self) -> str: ...
    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def sweep(self) -> None: ...
    def is_secure(self, request: web.Request) -> bool: ...
    def presents(self, request: web.Request) -> bool: ...
    async def key(self, request: web.Request) -> bytes | None: ...
    async def look(self, request: web.Request) -> tuple[Policy, Left] | Reason: ...
    async def admit(self, request: web.Request, response: web.StreamResponse) -> Ticket | Reason: ...
    async def end_user(self, user: str, reason: Reason, *, keep: bytes | None = None) -> int: ...


class State(msgspec.Struct, omit_defaults=True):
    """What remains of a session, in seconds."""

    expires_in: float
    mode: Mode
    idle_timeout: float
    warn_before: float
    ends_in: float | None = None


class Keepalive:
    """The sessions of one application. Made by `setup`.

    Where a `session` is asked for, a request stands for the session that it presents, and bytes
    are the key that a hook has been given (`Live.key`).
    """

    def __init__(
        self,
        door: Door,
        clock: Clock,
        *,
        hooks: Hooks,
        origins: Collection[str],
        login: str | None,
        limits: Limits,
        drain: float,
    ) -> None:
        self._door = door
        self._clock = clock
        self._origins = frozenset(origins)
        self._login = login
        publish = getattr(door.toucher, "publish", None)  # a store has it; what the browsers keep has none
        self._heart = Heart(door.toucher, clock, hooks=hooks, login=login, limits=limits, publish=publish)
        self._limits = limits
        self._gate = Gate(self._heart, limits, door.trust, clock)
        self._connections: Connections[Page] = Connections(
            self._heart, clock, max_rate=limits.messages_per_second
        )
        self._drain = drain
        self._doorway = asyncio.Semaphore(LET_IN_AT_ONCE)
        self.lag = Lag()
        """How late the event loop is."""
        # Sessions that others keep share no store: of them this process knows its own alone.
        self._roll: Roll = getattr(door.toucher, "roll", None) or MemoryRoll(clock.wall, lambda key: None)
        self.figures = teller(self._heart, self.lag, clock.monotonic, lambda: self.draining)
        """This process's figures, whenever called."""
        self._reporter = Reporter(self._roll, self._heart, lambda: msgspec.json.encode(self.figures()))
        self._reporting: asyncio.Task[None] | None = None
        self._turning: asyncio.TimerHandle | None = None
        self._stopping = False
        self._housework: asyncio.Task[None] | None = None

    # What an app calls.

    async def start(
        self, request: web.Request, user: str, data: dict[str, Any] | None = None
    ) -> aiohttp_session.Session:
        """Sign a user in: a new session with a new id, in place of the one that was presented.

        It is stored, and its cookie set, with the response to `request`; until then the request
        stands for the session that it has presented.
        """
        session = await aiohttp_session.new_session(request)
        session[self._door.user_key] = user
        session.update(data or {})
        return session

    async def end(self, session: web.Request | bytes, reason: Reason = Reason.LOGOUT) -> bool:
        """End a session, everywhere and for ever; its pages hear of it at once.

        Where it was that of a request, the response takes back the cookie, if it is a
        `web.Response`: aiohttp-session saves nothing with others.

        Returns:
            Whether it was alive.

        Raises:
            StoreError: the end could not be stored, so it has not happened.
        """
        presented = None
        if isinstance(session, web.Request) and aiohttp_session.STORAGE_KEY in session:
            presented = await aiohttp_session.get_session(session)
        key = await self._key(session)
        if key is None:
            return False
        user = await self._user(key) if audit.on() else None
        was_alive = await self._door.toucher.end(key, reason)
        if was_alive:
            address = self._door.trust.address(session) if isinstance(session, web.Request) else ""
            audit.ended(key, user, reason=reason, address=address)
        if was_alive and presented is not None and not presented.new:
            presented.invalidate()  # and nothing else: a cookie by now may be that of the next login
        return was_alive

    async def end_user(
        self, user: str, reason: Reason = Reason.REVOKED, *, keep: web.Request | None = None
    ) -> int:
        """End all sessions of a user, but for the one that `keep` presents; returns how many.

        Raises:
            StoreError: the ends could not be stored, so they have not happened.
            SettingError: the sessions live in the browsers' cookies.
        """
        kept = None if keep is None else await self._door.key(keep)
        count = await self._door.end_user(user, reason, keep=kept)
        audit.ended_all(user, reason=reason, count=count, kept=kept)
        return count

    async def push(self, session: web.Request | bytes, data: object, *, here: bool = False) -> int:
        """Send `data`, anything that JSON can hold, to the pages of a session, over all nodes that share
        the store.

        It is sent once, to those that are connected just now: what a page must not miss it has to ask for
        when it opens. Pages elsewhere may miss it, too, while the store cannot be reached; the log has that.

        Args:
            session: whose pages.
            data: what to send.
            here: whether only to the pages at this node, for data that each node comes by itself.

        Returns:
            To how many pages at this node.

        Raises:
            ValueError: it is over 32 KiB.
            TypeError: JSON cannot hold it.
        """
        key = await self._key(session)
        # Nobody has an empty key; the data is checked all the same.
        return self._heart.push(key or b"", data, here=here or key is None)

    def push_user(self, user: str, data: object, *, here: bool = False) -> int:
        """Send `data` to all pages of a user; as `push`."""
        return self._heart.push_user(user, data, here=here)

    async def state(self, request: web.Request) -> State | Reason:
        """What remains of the session that a request presents; touches nothing.

        Raises:
            StoreError: nothing is known of it.
        """
        found = await _in_time(self._door.look(request))
        if isinstance(found, Reason):
            return _outward(found)
        policy, left = found
        return State(
            expires_in=round(min(left.idle, left.absolute), 3),
            ends_in=None if policy.absolute_timeout is None else round(left.absolute, 3),
            mode=policy.mode,
            idle_timeout=policy.idle_timeout,
            warn_before=policy.warn_before,
        )

    async def drain(self) -> None:
        """Take no more pages, and part with those that are here as a shutdown does; the server goes on.

        For an operator who wants this node empty; only a restart takes it back.
        """
        self._connections.closing = True
        await self._heart.part(self._drain)

    @property
    def draining(self) -> bool:
        """Whether pages are sent away, for good."""
        return self._connections.closing

    @property
    def heart(self) -> Heart:
        """What operators look into."""
        return self._heart

    @property
    def door(self) -> Door:
        """Where the sessions live, and who comes in."""
        return self._door

    @property
    def clock(self) -> Clock:
        """By which all of this goes."""
        return self._clock

    async def presence(self) -> Presence:
        """How many pages, sessions and users are online, over all nodes that share the store.

        A page that comes or goes shows within about a second, a node that dies is gone within 5 s. It is as
        cheap with many pages as with few. Of sessions in the browsers' cookies, which share no store,
        it is what this process has.

        Raises:
            StoreError: the store could not be asked.
        """
        return await _in_time(self._roll.presence())

    async def presence_of(self, session: web.Request | bytes) -> SessionPresence:
        """The pages of one session, over all nodes as in `presence`, and how long its user has been idle.

        The last input is the newest that a page connected here has told, or the store has been. Of a page
        at another node, and of the app's own requests, the store hears once in the policy's `touch_every`.

        Raises:
            StoreError: the store could not be asked.
        """
        key = await self._key(session)
        if key is None:
            return SessionPresence(0, None)
        pages, idle = await _in_time(self._roll.presence_of(key))
        told = [seconds for seconds in (idle, self._heart.idle(key)) if seconds is not None]
        return SessionPresence(pages, min(told, default=None))

    async def nodes(self) -> Mapping[str, bytes]:
        """The processes that share the store and are alive, each with its `figures` of a moment ago, as JSON.

        Raises:
            StoreError: the store could not be asked.
        """
        return await _in_time(self._roll.nodes())

    def beside(self, door: Door) -> "Keepalive":
        """Another one at the same app, for sessions of another kind: the same limits, and no hooks."""
        return Keepalive(
            door,
            self._clock,
            hooks=Hooks(),
            origins=self._origins,
            login=None,
            limits=self._limits,
            drain=0.0,
        )

    @property
    def counts(self) -> Counts:
        """What has happened here since the start."""
        return self._heart.counts

    @property
    def connected(self) -> tuple[int, int]:
        """How many sessions have pages here, and how many sockets are open."""
        return self._heart.sessions, self._connections.open

    async def reachable(self) -> bool:
        """Whether the store answers."""
        try:
            await _in_time(self._door.toucher.peek(bytes(32)))
        except StoreError:
            return False
        return True

    async def _key(self, session: web.Request | bytes) -> bytes | None:
        return session if isinstance(session, bytes) else await self._door.key(session)

    async def _user(self, key: bytes) -> str | None:
        """Whose session it is, as far as this process, or a store, knows."""
        live = self._heart.lives.get(key)
        if live is not None:
            return live.user
        load = getattr(self._door.toucher, "load", None)  # a store has it; what the browsers keep has none
        found = None if load is None else await load(key)
        return found.user if isinstance(found, Record) else None

    # What browsers ask for.

    async def socket(self, request: web.Request) -> web.StreamResponse:
        """`GET /keepalive/ws`: the page's socket."""
        with self._gate.refusing("host"):
            self._door.trust.refuse_host(request)
        with self._gate.refusing("origin"):
            self._refuse_origin(request)
        with self._gate.refusing("malformed"):
            response = Upgrade(request, SUBPROTOCOL)
        address = self._door.trust.address(request)
        self._gate.enter(address)
        await self._doorway.acquire()
        try:
            if request.transport is None:  # the page has not waited for it
                self._gate.results["gone"] += 1
            else:
                await self._let_in(request, response, address)
        finally:
            # Not now: a store that answers at once would have thousands let in before any beat.
            asyncio.get_running_loop().call_soon(self._doorway.release)
        return response

    async def _let_in(self, request: web.Request, response: Upgrade, address: str) -> None:
        results = self._gate.results
        connection = Connection(self._connections)
        read_at = self._clock.monotonic()
        try:
            with self._gate.refusing("cookie"):
                found = await self._asked(request, lambda: self._door.admit(request, response))
        except StoreError:
            results["store"] += 1
            raise web.HTTPServiceUnavailable(headers={hdrs.RETRY_AFTER: "2"}) from None
        if isinstance(found, Reason):
            results["over"] += 1
            await response.hand_over(request, connection)
            reason = _outward(found)
            connection.send(encode(End(reason, self._login)))
            connection.close(CLOSE_CODE[reason], reason)
            return
        if not self._gate.has_room(found.user, address):
            await response.hand_over(request, connection)
            connection.close(CloseCode.OVERLOADED, "too many pages")
            return
        # Whoever does not say which page it is, is one all the same.
        page_id = _page_id(request) or token_urlsafe(12)
        connection.page = self._heart.join(found, connection, read_at, address, page_id)
        handed_over = False
        try:
            handed_over = await response.hand_over(request, connection)
        finally:
            results["accepted" if handed_over else "gone"] += 1
            if not handed_over:
                self._heart.leave(connection.page)

    async def heartbeat(self, request: web.Request) -> web.StreamResponse:
        """`GET`, `HEAD` or `POST /keepalive/heartbeat`: one ping over HTTP."""
        self.refuse_foreign(request)
        ping = await _ping_in(request)
        response = web.Response(content_type="application/json", headers=_NO_STORE)
        if not await self._may_ask(request):
            response.set_status(429)
            response.headers[hdrs.RETRY_AFTER] = f"{TOO_MANY:g}"
            response.body = encode(Wait(ping.n, retry_in=TOO_MANY, why="rate"))
            return response
        read_at = self._clock.monotonic()
        try:
            found = await self._asked(request, lambda: self._door.admit(request, response))
        except StoreError:
            message = encode(Wait(ping.n, retry_in=2.0, why="store"))
        else:
            if isinstance(found, Reason):
                message = encode(End(_outward(found), self._login))
            else:
                message = await self._heart.ping_once(found, ping, read_at, _page_id(request))
        response.set_status(_STATUS[msgspec.json.decode(message, type=_Typed).type])
        response.body = message
        return response

    async def show_state(self, request: web.Request) -> web.Response:
        """`GET /keepalive/state`: the remaining seconds; never touches."""
        self._door.trust.refuse_host(request)
        if not await self._may_ask(request):
            raise web.HTTPTooManyRequests(headers={hdrs.RETRY_AFTER: f"{TOO_MANY:g}", **_NO_STORE})
        try:
            state = await self._asked(request, lambda: self.state(request))
        except StoreError:
            raise web.HTTPServiceUnavailable(headers={hdrs.RETRY_AFTER: "2", **_NO_STORE}) from None
        if isinstance(state, Reason):
            status, body = 401, encode(End(state, self._login))
        else:
            status, body = 200, msgspec.json.encode(state)
        return web.Response(status=status, body=body, content_type="application/json", headers=_NO_STORE)

    async def _may_ask(self, request: web.Request) -> bool:
        """Whether the session that a request presents, if it does, has not asked too often."""
        key = await self._door.key(request)
        return key is None or self._gate.may_ask(key)

    async def _asked(self, request: web.Request, ask: Callable[[], Awaitable[T | Reason]]) -> T | Reason:
        """What the store says of the session that a request presents. Nobody may guess for long.

        Raises:
            StoreError: nothing is known of it.
            web.HTTPException: it cannot be told which session that is, or it was guessed too often.
        """
        if not self._door.presents(request):
            return await _in_time(ask())
        address = self._door.trust.address(request)
        self._gate.guess(address)
        found = None
        try:
            found = await _in_time(ask())
            return found
        finally:
            # What we have not sealed has cost the store nothing, and anybody in an office can send it.
            if found is not Reason.UNKNOWN or await self._door.key(request) is None:
                self._gate.forgive(address)

    def is_secure(self, request: web.Request) -> bool:
        """Whether a browser has sent a request by https, to us or to a trusted proxy."""
        return self._door.is_secure(request)

    def refuse_foreign(self, request: web.Request) -> None:
        """Let no other site speak with a user's cookie (CSWSH, CWE-1385; ASVS 5.0 4.4.2).

        SameSite does not do it: a sibling origin's handshake carries even Strict cookies. A client
        that is no browser sends no `Origin` and has no cookie but its own.

        Raises:
            web.HTTPForbidden: the request comes from a page of another origin.
            web.HTTPBadRequest, web.HTTPMisdirectedRequest: it is not for one of our hosts.
        """
        self._door.trust.refuse_host(request)
        self._refuse_origin(request)

    def _refuse_origin(self, request: web.Request) -> None:
        origins = request.headers.getall(hdrs.ORIGIN, [])
        site = request.headers.get("Sec-Fetch-Site", "same-origin")
        own = f"{'https' if self._door.is_secure(request) else 'http'}://{request.host}"
        allowed = not origins or (len(origins) == 1 and (origins[0] == own or origins[0] in self._origins))
        if not allowed or (not origins and site not in _SAME_SITE):
            raise web.HTTPForbidden(
                text="This page's origin is not allowed to use the session.\n"
                "The server's setting `origin`, or `origins` of setup(), lists those that are.\n"
            )

    # The life of a server.

    async def run(self, app: web.Application) -> AsyncIterator[None]:
        """Open what is needed, and close it after the app (an aiohttp `cleanup_ctx`)."""
        await self._door.open()
        try:
            self._gate.open(_file_limit())
            self._heart.start()
            self._housework = asyncio.create_task(self._sweep())
            self._reporting = asyncio.create_task(self._reporter.run())
            self._turn()
            yield
            await self.shut_down(app)
        finally:
            await self._door.close()

    async def shut_down(self, app: web.Application) -> None:
        """Close all sockets with 1012 (an aiohttp `on_shutdown`: later would be too late).

        `drain` is for all that comes until the process is gone: with less than 4.5 s, which is what the rest
        may take, the pages are closed at once.
        """
        if self._stopping or self._turning is None:
            return
        self._stopping = self._connections.closing = True
        spread = max(0.0, self._drain - LAST_WORDS - GOODBYE - EXIT)
        done_by = asyncio.get_running_loop().time() + spread + LAST_WORDS
        with suppress(TimeoutError):  # the heart has logged that the store does not answer
            async with asyncio.timeout_at(done_by):
                await self._heart.stop(spread)
        await stop(self._reporting)
        await self._reporter.leave(done_by)
        self._turning.cancel()
        self._turning = None
        await stop(self._housework)
        await self._connections.drained(GOODBYE)

    def tick(self) -> None:
        """Do what has come due; a running app does, every `TICK` seconds of its loop."""
        self._heart.tick()
        self._connections.tick()

    @property
    def due(self) -> float:
        """When `tick` will have something to do, in monotonic seconds, unless something happens before."""
        return min(self._heart.due, self._connections.due)

    def _turn(self, due: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()  # the loop's own clock: a machine that slept has not stalled
        if due is not None:
            self.lag.observe(now - due, now)
        self._turning = loop.call_at(now + TICK, self._turn, now + TICK)
        self.tick()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            self._gate.sweep()
            try:
                await self._door.sweep()
            except Exception as error:
                log.warning(
                    "the session store could not be swept; trying again: %s",
                    error,
                    exc_info=None if isinstance(error, StoreError) else error,
                )


KEEPALIVE = web.AppKey("KEEPALIVE", Keepalive)
"""Where `setup` leaves the `Keepalive` in the application."""


def setup(
    app: web.Application,
    sessions: str | SessionStore | AbstractStorage,
    *,
    policy: Policy | ChoosePolicy | None = None,
    prefix: str = "/keepalive",
    secure: bool | None = None,
    origins: Collection[str] = (),
    login: str | None = None,
    user_key: str = "user",
    hooks: Hooks | None = None,
    limits: Limits | None = None,
    trusted_proxies: Collection[str] = (),
    hosts: Collection[str] = (),
    drain: float = 10.0,
    clock: Clock | None = None,
) -> Keepalive:
    """Keep the sessions of an app alive. Takes the place of `aiohttp_session.setup`.

    Args:
        app: the application; its handlers use aiohttp-session as ever.
        sessions: where sessions live: the URL of a store (`sqlite:///sessions.db`), a store, a
            `KeepaliveStorage`, or one of aiohttp-session's cookie storages.
        policy: the rules, or a function that chooses them by a session's data; a
            `KeepaliveStorage` has its own.
        prefix: under which path the routes are mounted.
        secure: whether browsers reach the app by https; by default what aiohttp, or a trusted proxy,
            says of the request. Behind another that ends TLS, say `True`: then only pages of https
            are the app's own, and for http://localhost `origins` must say so. A storage has its own.
        origins: which other origins may connect, such as `https://app.example`; the app's own may.
        login: where a page whose session is over can sign in again.
        user_key: the item of a session that says whose it is.
        hooks: what the app wants to hear of its sessions.
        limits: how much a session, a user, an address and all of them may ask for.
        trusted_proxies: addresses and networks whose `X-Forwarded-For` and `X-Forwarded-Proto` count.
        hosts: the host names that a request for one of our routes may be for; by default any.
        drain: within how many seconds a shutdown is over; all but 4.5 of them may go by while its pages are
            closed one after the other.
        clock: for tests.

    Raises:
        SettingError: the settings cannot work; the message says what to change.
    """
    if isinstance(sessions, str):
        sessions = open_store(sessions, clock=clock)
    clock = clock or SystemClock()
    door: KeepaliveStorage | CookieBorneStorage
    if isinstance(sessions, AbstractStorage) and secure is not None:
        kind = type(sessions).__name__
        raise SettingError("secure belongs to the storage", f"write {kind}(..., secure={secure})")
    if isinstance(sessions, KeepaliveStorage):
        if policy is not None:
            raise SettingError("two policies", "give the policy to KeepaliveStorage alone")
        door = sessions
    elif isinstance(sessions, AbstractStorage):
        if not (policy is None or isinstance(policy, Policy)):
            raise SettingError("a policy by session needs a store", "give one Policy for all sessions")
        door = CookieBorneStorage(sessions, policy, clock, user_key=user_key)
    elif hasattr(sessions, "rotate"):
        door = KeepaliveStorage(sessions, policy, user_key=user_key, secure=secure)
    else:
        raise SettingError(
            f"{sessions!r} is no place for sessions",
            "give the URL of a store, as in keepalive.setup(app, 'sqlite:///sessions.db')",
        )
    if any(getattr(middleware, "__module__", "") == "aiohttp_session" for middleware in app.middlewares):
        raise SettingError(
            "aiohttp_session is set up on this app already",
            "drop aiohttp_session.setup(app, storage): keepalive.setup(app, storage) does that, too",
        )
    if not prefix.startswith("/") or prefix.endswith("/"):
        raise SettingError(f"the prefix {prefix!r} is no path", "write it as in /keepalive")
    if isinstance(origins, str):
        raise SettingError(f"origins is the text {origins!r}", f"give a list: [{origins!r}]")
    for origin in origins:
        _check_origin(origin)
    _check_hooks(hooks)
    door.trust = Trust(trusted_proxies, hosts)
    aiohttp_session.setup(app, door)
    keepalive = Keepalive(
        door,
        clock,
        hooks=hooks or Hooks(),
        origins=origins,
        login=login,
        limits=limits or Limits(),
        drain=drain,
    )
    app[KEEPALIVE] = keepalive
    app.cleanup_ctx.append(keepalive.run)
    app.on_shutdown.append(keepalive.shut_down)
    ours = {
        app.router.add_get(f"{prefix}/ws", keepalive.socket, allow_head=False).resource,
        app.router.add_get(f"{prefix}/heartbeat", keepalive.heartbeat).resource,
        app.router.add_post(f"{prefix}/heartbeat", keepalive.heartbeat).resource,
        app.router.add_get(f"{prefix}/state", keepalive.show_state).resource,
        app.router.add_get(f"{prefix}/client/{{name}}", Modules().serve).resource,
    }

    async def protect(request: web.Request, response: web.StreamResponse) -> None:
        if request.match_info.route.resource in ours:
            headers.protect(response)

    app.on_response_prepare.append(protect)
    return keepalive


class _Typed(msgspec.Struct):
    """Which message it is, of one that the heart has encoded."""

    type: str


_STATUS = {"beat": 200, "wait": 503, "end": 401}


def _page_id(request: web.Request) -> str:
    """What a page calls itself for its whole life, if it says so."""
    given = request.query.get("page", "")
    return given if re.fullmatch(r"[A-Za-z0-9_-]{1,32}", given) else ""


async def _ping_in(request: web.Request) -> Ping:
    """The ping in a request's body; without one, a ping that says nothing of the user."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            while request.method == hdrs.METH_POST and (chunk := await request.content.readany()):
                body += chunk
                if len(body) > MAX_MESSAGE:
                    raise web.HTTPRequestEntityTooLarge(MAX_MESSAGE, len(body))
        ping = decode(bytes(body)) if body else None
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="the ping was not whole in time\n") from None
    except (MessageError, ConnectionError, web.RequestPayloadError) as error:
        problem = error.problem if isinstance(error, MessageError) else "the ping did not come whole"
        raise web.HTTPBadRequest(text=f"{problem}\n") from None
    return ping or Ping(n=0)


def _file_limit() -> float:
    """How many files this process may open; on Windows there is no such limit."""
    try:
        import resource  # noqa: PLC0415 - of Unix
    except ModuleNotFoundError:
        return inf
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return inf if soft == resource.RLIM_INFINITY else soft


def _outward(reason: Reason) -> Reason:
    """What is said to whoever presents the id of a session that is over."""
    return Reason.REVOKED if reason is Reason.ROTATED else reason


async def _in_time(answer: Awaitable[T]) -> T:
    """What the store answers, unless that takes it too long."""
    try:
        async with asyncio.timeout(STORE_TIMEOUT):
            return await answer
    except TimeoutError:
        raise StoreUnavailable("the session store does not answer") from None


def _check_hooks(hooks: Hooks | None) -> None:
    if not isinstance(hooks, Hooks | None):
        raise SettingError(f"hooks is {hooks!r}", "write hooks=keepalive.Hooks(on_ping=…)")
    for name, hook in (hooks or Hooks())._asdict().items():
        if iscoroutinefunction(hook):
            raise SettingError(
                f"the hook {name} is a coroutine function",
                "make it a plain function; to await something it can start a task",
            )


def _check_origin(origin: str) -> None:
    # Browsers compare and send origins in lower case (RFC 6454 §6.2): any other would never match.
    if not re.fullmatch(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]+)?", origin):
        raise SettingError(
            f"{origin!r} is not an origin",
            "write scheme, host and port alone, in lower case, as in https://app.example:8443",
        )
