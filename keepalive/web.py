"""`setup(app, …)`: mounts the keepalive on an aiohttp application.

Routes, the Origin check, start and shutdown; what the app can do with its sessions is on the
`Keepalive` that `setup` returns.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Collection
from inspect import iscoroutinefunction
from typing import Any, Protocol, TypeVar

import aiohttp_session
import msgspec
from aiohttp import hdrs, web
from aiohttp_session import AbstractStorage

from .assets import Modules
from .clock import Clock, SystemClock
from .connection import Connection, Connections
from .errors import MessageError, SettingError, StoreError, StoreUnavailable
from .heart import STORE_TIMEOUT, TICK, Counts, Heart, Hooks
from .live import Page
from .messages import CLOSE_CODE, MAX_MESSAGE, SUBPROTOCOL, End, Ping, Wait, decode, encode
from .policy import Mode, Policy, Reason
from .session import ChoosePolicy, KeepaliveStorage
from .stores import SessionStore, open_store
from .touchers import Left, Ticket, Toucher
from .touchers.aiohttp_session import CookieBorneStorage
from .upgrade import Upgrade

log = logging.getLogger(__name__)
T = TypeVar("T")

SWEEP_EVERY = 60.0
"""How often the store forgets what no one can ask for any more, in seconds."""
GOODBYE = 1.0
"""How long a shutdown waits for the pages to answer the close, in seconds."""
LET_IN_AT_ONCE = 64
"""How many handshakes are under way at the same time. When thousands come at once the others wait: the
pages that are here need the event loop for their beats."""
BODY_TIMEOUT = 5.0
"""A ping that comes by POST must be whole within this many seconds."""
_SAME_SITE = {"same-origin", "none"}
_NO_STORE = {hdrs.CACHE_CONTROL: "no-store"}


class _Door(Protocol):
    """What `web` needs of the storage: who may come in, and the toucher for the heart."""

    @property
    def toucher(self) -> Toucher: ...
    @property
    def user_key(self) -> str: ...
    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def sweep(self) -> None: ...
    def is_secure(self, request: web.Request) -> bool: ...
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
        door: _Door,
        clock: Clock,
        *,
        hooks: Hooks,
        origins: Collection[str],
        login: str | None,
        max_rate: float,
        drain: float,
    ) -> None:
        self._door = door
        self._clock = clock
        self._origins = frozenset(origins)
        self._login = login
        self._heart = Heart(door.toucher, clock, hooks=hooks, login=login)
        self._connections: Connections[Page] = Connections(self._heart, clock, max_rate=max_rate)
        self._drain = drain
        self._doorway = asyncio.Semaphore(LET_IN_AT_ONCE)
        self._turning: asyncio.TimerHandle | None = None
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
        was_alive = key is not None and await self._door.toucher.end(key, reason)
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
        return await self._door.end_user(user, reason, keep=kept)

    async def push(self, session: web.Request | bytes, data: object) -> int:
        """Send `data`, anything that JSON can hold, to the pages of a session connected here.

        Returns:
            To how many.

        Raises:
            ValueError: it is over 32 KiB.
            TypeError: JSON cannot hold it.
        """
        key = await self._key(session)
        return self._heart.push(key or b"", data)  # nobody has that key; the data is checked all the same

    def push_user(self, user: str, data: object) -> int:
        """Send `data` to all pages of a user connected here; returns to how many. As `push`."""
        return self._heart.push_user(user, data)

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

    # What browsers ask for.

    async def socket(self, request: web.Request) -> web.StreamResponse:
        """`GET /keepalive/ws`: the page's socket."""
        self.refuse_foreign(request)
        response = Upgrade(request, SUBPROTOCOL)
        async with self._doorway:
            if request.transport is not None:  # or the page has not waited for it
                await self._let_in(request, response)
        return response

    async def _let_in(self, request: web.Request, response: Upgrade) -> None:
        connection = Connection(self._connections)
        read_at = self._clock.monotonic()
        try:
            found = await _in_time(self._door.admit(request, response))
        except StoreError:
            raise web.HTTPServiceUnavailable(headers={hdrs.RETRY_AFTER: "2"}) from None
        if isinstance(found, Reason):
            await response.hand_over(request, connection)
            reason = _outward(found)
            connection.send(encode(End(reason, self._login)))
            connection.close(CLOSE_CODE[reason], reason)
            return
        connection.page = self._heart.join(found, connection, read_at)
        handed_over = False
        try:
            handed_over = await response.hand_over(request, connection)
        finally:
            if not handed_over:
                self._heart.leave(connection.page)

    async def heartbeat(self, request: web.Request) -> web.StreamResponse:
        """`GET`, `HEAD` or `POST /keepalive/heartbeat`: one ping over HTTP."""
        self.refuse_foreign(request)
        ping = await _ping_in(request)
        response = web.Response(content_type="application/json", headers=_NO_STORE)
        read_at = self._clock.monotonic()
        try:
            found = await _in_time(self._door.admit(request, response))
        except StoreError:
            message = encode(Wait(ping.n, retry_in=2.0, why="store"))
        else:
            if isinstance(found, Reason):
                message = encode(End(_outward(found), self._login))
            else:
                message = await self._heart.ping_once(found, ping, read_at)
        response.set_status(_STATUS[msgspec.json.decode(message, type=_Typed).type])
        response.body = message
        return response

    async def show_state(self, request: web.Request) -> web.Response:
        """`GET /keepalive/state`: the remaining seconds; never touches."""
        try:
            state = await self.state(request)
        except StoreError:
            raise web.HTTPServiceUnavailable(headers={hdrs.RETRY_AFTER: "2", **_NO_STORE}) from None
        if isinstance(state, Reason):
            status, body = 401, encode(End(state, self._login))
        else:
            status, body = 200, msgspec.json.encode(state)
        return web.Response(status=status, body=body, content_type="application/json", headers=_NO_STORE)

    def refuse_foreign(self, request: web.Request) -> None:
        """Let no other site speak with a user's cookie (CSWSH, CWE-1385; ASVS 5.0 4.4.2).

        SameSite does not do it: a sibling origin's handshake carries even Strict cookies. A client
        that is no browser sends no `Origin` and has no cookie but its own.

        Raises:
            web.HTTPForbidden: the request comes from a page of another origin.
        """
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
            self._heart.start()
            self._housework = asyncio.create_task(self._sweep())
            self._turn()
            yield
            await self.shut_down(app)
        finally:
            await self._door.close()

    async def shut_down(self, app: web.Application) -> None:
        """Close all sockets with 1012 (an aiohttp `on_shutdown`: later would be too late)."""
        if self._connections.closing or self._turning is None:
            return
        self._connections.closing = True
        await self._heart.stop(self._drain)
        self._turning.cancel()
        self._turning = None
        if self._housework is not None:
            self._housework.cancel()
            await asyncio.gather(self._housework, return_exceptions=True)
        await self._connections.drained(GOODBYE)

    def _turn(self) -> None:
        self._turning = asyncio.get_running_loop().call_later(TICK, self._turn)
        self._heart.tick()
        self._connections.tick()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY)
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
    max_rate: float = 10.0,
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
        secure: whether browsers reach the app by https; by default what aiohttp makes of the
            request. Behind a proxy that ends TLS, say `True`: then only pages of https are the
            app's own, and for http://localhost `origins` must say so. A storage has its own.
        origins: which other origins may connect, such as `https://app.example`; the app's own may.
        login: where a page whose session is over can sign in again.
        user_key: the item of a session that says whose it is.
        hooks: what the app wants to hear of its sessions.
        max_rate: messages a second that one page may send over a long time.
        drain: over how many seconds a shutdown may spread the closing of its pages.
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
    aiohttp_session.setup(app, door)
    keepalive = Keepalive(
        door,
        clock,
        hooks=hooks or Hooks(),
        origins=origins,
        login=login,
        max_rate=max_rate,
        drain=drain,
    )
    app[KEEPALIVE] = keepalive
    app.cleanup_ctx.append(keepalive.run)
    app.on_shutdown.append(keepalive.shut_down)
    app.router.add_get(f"{prefix}/ws", keepalive.socket, allow_head=False)
    app.router.add_get(f"{prefix}/heartbeat", keepalive.heartbeat)
    app.router.add_post(f"{prefix}/heartbeat", keepalive.heartbeat)
    app.router.add_get(f"{prefix}/state", keepalive.show_state)
    app.router.add_get(f"{prefix}/client/{{name}}", Modules().serve)
    return keepalive


class _Typed(msgspec.Struct):
    """Which message it is, of one that the heart has encoded."""

    type: str


_STATUS = {"beat": 200, "wait": 503, "end": 401}


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
