"""`setup(app, …)`: mounts the keepalive on an aiohttp application.

Start and shutdown; what the app can do with its sessions is on the `Keepalive` that `setup` returns.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import suppress
from inspect import iscoroutinefunction
from math import inf
from typing import Any

import aiohttp_session
import msgspec
from aiohttp import web
from aiohttp_session import AbstractStorage

from . import audit, headers
from .assets import Modules
from .clock import Clock, SystemClock
from .connection import Connections
from .door import Door, State, in_time, remains
from .errors import SettingError, StoreError
from .gate import Gate
from .heart import TICK, Counts, Heart, Hooks
from .lag import Lag
from .limits import Limits
from .live import Page
from .policy import Policy, Reason
from .presence import Presence, Roll, SessionPresence
from .reporter import Reporter
from .routes import Routes
from .session import ChoosePolicy, KeepaliveStorage
from .stats import teller
from .stores import Record, SessionStore, open_store
from .stores.memory_roll import MemoryRoll
from .tasks import stop
from .touchers.aiohttp_session import CookieBorneStorage
from .trust import Trust

log = logging.getLogger(__name__)

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
        self._origins = origins
        publish = getattr(door.toucher, "publish", None)  # a store has it; what the browsers keep has none
        self._heart = Heart(door.toucher, clock, hooks=hooks, login=login, limits=limits, publish=publish)
        self._limits = limits
        self._connections: Connections[Page] = Connections(
            self._heart, clock, max_rate=limits.messages_per_second
        )
        self._gate = Gate(self._heart, self._connections, limits, door.trust, clock)
        self._drain = drain
        self.routes = Routes(
            door, self._gate, self._heart, self._connections, clock, origins=origins, login=login
        )
        """What browsers ask for."""
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
            web.HTTPServiceUnavailable: nor could the session of the request be loaded.
        """
        presented = None
        if isinstance(session, web.Request) and aiohttp_session.STORAGE_KEY in session:
            presented = await aiohttp_session.get_session(session)
        key = await self._key(session)
        if key is None:
            # A storage's own session, from before this package came: it has no key yet, but a cookie.
            was_alive = presented is not None and not presented.new
            if presented is not None and was_alive:
                presented.invalidate()
            return was_alive
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
        return await remains(self._door, request)

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
        return await in_time(self._roll.presence())

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
        pages, idle = await in_time(self._roll.presence_of(key))
        told = [seconds for seconds in (idle, self._heart.idle(key)) if seconds is not None]
        return SessionPresence(pages, min(told, default=None))

    async def nodes(self) -> Mapping[str, bytes]:
        """The processes that share the store and are alive, each with its `figures` of a moment ago, as JSON.

        Raises:
            StoreError: the store could not be asked.
        """
        return await in_time(self._roll.nodes())

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
            await in_time(self._door.toucher.peek(bytes(32)))
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

    def is_secure(self, request: web.Request) -> bool:
        """Whether a browser has sent a request by https, to us or to a trusted proxy."""
        return self._door.is_secure(request)

    def refuse_foreign(self, request: web.Request) -> None:
        """Let no other site speak with a user's cookie (CSWSH, CWE-1385; ASVS 5.0 4.4.2).

        Raises:
            web.HTTPForbidden: the request comes from a page of another origin.
            web.HTTPBadRequest, web.HTTPMisdirectedRequest: it is not for one of our hosts.
        """
        self.routes.refuse_foreign(request)

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
    modules = app.router.add_get(f"{prefix}/client/{{name}}", Modules().serve)
    ours = {modules.resource, *keepalive.routes.mount(app, prefix)}

    async def protect(request: web.Request, response: web.StreamResponse) -> None:
        if request.match_info.route.resource in ours:
            headers.protect(response)

    app.on_response_prepare.append(protect)
    return keepalive


def _file_limit() -> float:
    """How many files this process may open; on Windows there is no such limit."""
    try:
        import resource  # noqa: PLC0415 - of Unix
    except ModuleNotFoundError:
        return inf
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return inf if soft == resource.RLIM_INFINITY else soft


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
