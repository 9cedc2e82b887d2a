"""A toucher for aiohttp-session storages that keep the whole session in the browser's cookie.

That is `SimpleCookieStorage`, `EncryptedCookieStorage` and `NaClCookieStorage`. An open socket
cannot set a cookie, so a session of theirs lives on by being *renewed*: a fresh cookie on the 101,
and later a beat with `renew`, upon which the page makes one POST. What was ended is remembered in
this process alone, as such storages have no other memory: a cookie that was copied away outlives
a logout once the server restarts. Where that matters, keep sessions in a store.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from math import inf
from secrets import token_urlsafe
from typing import TypeGuard

from aiohttp import hdrs, web
from aiohttp_session import AbstractStorage, Session

from ..clock import Clock
from ..errors import SettingError
from ..policy import Mode, Policy, Reason, verdict
from ..trust import Trust, cookie_in
from . import Ended, Left, Ticket, Touch, key_of

MARK = "keepalive"
"""The item of a session that says which one it is, and since when: `[id, wall time]`."""

_COOKIE_BORNE = {
    "aiohttp_session.SimpleCookieStorage",
    "aiohttp_session.cookie_storage.EncryptedCookieStorage",
    "aiohttp_session.nacl_storage.NaClCookieStorage",
}

# What the request's cookie held: the session's key, and whose it was.
_LOADED = web.RequestKey("keepalive_cookie", tuple[bytes, str | None])


@dataclass(slots=True)
class _Entry:
    """What this process knows of a session. Times are wall times."""

    issued_at: float
    """When its newest cookie was made; the storage counts from there."""
    absolute_at: float
    over: Reason | None = None


class CookieBorneStorage(AbstractStorage):
    """Stands around a cookie-borne storage: keeps its sessions alive, and ends them.

    Args:
        storage: the app's own.
        policy: the rules; the idle timeout is the storage's `max_age`, and the mode `presence`.
        clock: its wall time must be the one by which the storage judges a cookie's age.
        user_key: the item of a session that says whose it is.

    Raises:
        SettingError: this storage, or this policy with it, cannot be kept alive.
    """

    def __init__(
        self, storage: AbstractStorage, policy: Policy | None, clock: Clock, *, user_key: str = "user"
    ) -> None:
        super().__init__(cookie_name=storage.cookie_name, max_age=storage.max_age)
        self.toucher = self
        self._storage = storage
        self._clock = clock
        self.user_key = user_key
        self.trust = Trust()
        self._policy = _policy_for(storage, policy)
        self._entries: dict[bytes, _Entry] = {}
        self._watchers: set[asyncio.Queue[Ended]] = set()

    # What aiohttp-session calls.

    async def new_session(self) -> Session:
        return await self._storage.new_session()

    async def load_session(self, request: web.Request) -> Session:
        """The session in the cookie, unless it is over."""
        cookie_in(request, self.cookie_name)  # refuses two
        try:
            session = await self._storage.load_session(request)
        except (ValueError, TypeError, AttributeError, RecursionError):
            return await self.new_session()  # SimpleCookieStorage trusts whatever a browser sends
        if not _is_time(session.created):
            return await self.new_session()
        if (mark := _mark_in(session)) is not None:
            name, since = mark
            key = key_of(name)
            request[_LOADED] = key, self._user_of(session)
            if self._verdict(self._entry(key, since, session)) is not None:
                return await self.new_session()
        return session

    async def save_session(
        self, request: web.Request, response: web.StreamResponse, session: Session
    ) -> None:
        """Write the cookie; what was emptied ends, and a login makes it another session."""
        former, user = await self.key(request), self._user_of(session)  # `new_session` loads nothing
        if session.empty:
            if former is not None:
                await self.end(former, Reason.LOGOUT)
        else:
            if former is None or _mark_in(session) is None or user != request[_LOADED][1]:
                if former is not None:
                    await self.end(former, Reason.ROTATED)
                session[MARK] = [token_urlsafe(16), int(self._clock.wall())]
            elif isinstance(await self.peek(former), Reason):
                return  # it ended while the request was under way: this cookie is no longer its own
            else:
                session[MARK] = session[MARK]  # moves `created`, from which the storage counts
            name, since = session[MARK]
            request[_LOADED] = key_of(name), user
            self._entry(key_of(name), since, session)
        response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")  # a cache would hand the session on
        await self._storage.save_session(request, response, session)

    # What the server asks (`keepalive.door.Door`).

    async def admit(self, request: web.Request, response: web.StreamResponse) -> Ticket | Reason:
        """The session of a page that wants to connect, with a fresh cookie on the response."""
        session = await self.load_session(request)
        if session.empty:
            return self._why_over(request)
        await self.save_session(request, response, session)
        key, user = request[_LOADED]
        return Ticket(key, self._policy, user, self._left(self._entries[key]))

    async def look(self, request: web.Request) -> tuple[Policy, Left] | Reason:
        """The rules of a request's session, and what remains of it; touches nothing."""
        session = await self.load_session(request)
        if session.empty:
            return self._why_over(request)
        loaded = request.get(_LOADED)
        # One made before this package came has no mark yet: it gets it when a page connects.
        entry = self._entries[loaded[0]] if loaded else _Entry(session.created, inf)
        return self._policy, self._left(entry)

    def is_secure(self, request: web.Request) -> bool:
        """Whether the browser reaches the app by https."""
        return bool(self._storage.cookie_params["secure"]) or self.trust.is_secure(request)

    def presents(self, request: web.Request) -> bool:
        """Whether a request has a session cookie, of a session or not.

        Raises:
            web.HTTPBadRequest: it has two.
        """
        return cookie_in(request, self.cookie_name) is not None

    async def key(self, request: web.Request) -> bytes | None:
        """The key of the session that a request presents, alive or not."""
        if _LOADED not in request:
            await self.load_session(request)
        return request[_LOADED][0] if _LOADED in request else None

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def sweep(self) -> None:
        """Forget the sessions whose cookies have all expired."""
        oldest = self._clock.wall() - self._policy.idle_timeout - 1
        self._entries = {key: entry for key, entry in self._entries.items() if entry.issued_at > oldest}

    async def end_user(self, user: str, reason: Reason, *, keep: bytes | None = None) -> int:
        raise SettingError(
            "sessions that live in the browser's cookie cannot be ended by user",
            "keep them in a store: keepalive.setup(app, 'sqlite:///sessions.db')",
        )

    # What the heart calls: see `Toucher`.

    async def touch(self, batch: Sequence[Touch]) -> list[Left | Reason]:
        return [await self.peek(touch.key) for touch in batch]

    async def peek(self, key: bytes) -> Left | Reason:
        entry = self._entries.get(key)
        if entry is None:
            return Reason.UNKNOWN
        return self._verdict(entry) or self._left(entry)

    async def end(self, key: bytes, reason: Reason) -> bool:
        entry = self._entries.get(key)
        if entry is None or self._verdict(entry) is not None:
            return False
        entry.over = reason
        for watcher in self._watchers:
            watcher.put_nowait(Ended(key, reason))
        return True

    def watch(self) -> AsyncIterator[Ended]:
        queue: asyncio.Queue[Ended] = asyncio.Queue()
        self._watchers.add(queue)
        return self._listen(queue)

    async def _listen(self, queue: asyncio.Queue[Ended]) -> AsyncIterator[Ended]:
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)

    # The parts.

    def _entry(self, key: bytes, since: float, session: Session) -> _Entry:
        """What is known of a session; a cookie may be newer than what this process has seen.

        But never newer than now, whatever it says.
        """
        absolute, now = self._policy.absolute_timeout, self._clock.wall()
        entry = self._entries.get(key)
        if entry is None:
            entry = _Entry(-inf, inf if absolute is None else min(since, now) + absolute)
            self._entries[key] = entry
        entry.issued_at = max(entry.issued_at, min(session.created, now))
        return entry

    def _why_over(self, request: web.Request) -> Reason:
        """Why a request has no session."""
        if _LOADED not in request:
            return Reason.UNKNOWN
        return self._verdict(self._entries[request[_LOADED][0]]) or Reason.UNKNOWN

    def _verdict(self, entry: _Entry) -> Reason | None:
        idle_at = entry.issued_at + self._policy.idle_timeout
        return entry.over or verdict(self._clock.wall(), idle_at, entry.absolute_at)

    def _left(self, entry: _Entry) -> Left:
        now, idle_timeout = self._clock.wall(), self._policy.idle_timeout
        idle, absolute = entry.issued_at + idle_timeout - now, entry.absolute_at - now
        return Left(min(idle, absolute), absolute, renew=idle < min(idle_timeout * 2 / 3, absolute))

    def _user_of(self, session: Session) -> str | None:
        user = session.get(self.user_key)
        return None if user is None else str(user)


def _mark_in(session: Session) -> tuple[str, float] | None:
    """Which session it is, and since when, if it has a mark of ours."""
    match session.get(MARK):
        case [str(name), since] if name.isascii() and _is_time(since):
            return name, since
    return None


def _is_time(value: object) -> TypeGuard[float]:
    """Whether it can be a number of seconds; a cookie of SimpleCookieStorage may hold anything."""
    return isinstance(value, int | float) and abs(value) < 1e15


def _policy_for(storage: AbstractStorage, policy: Policy | None) -> Policy:
    names = {f"{kind.__module__}.{kind.__name__}" for kind in type(storage).__mro__}
    if not names & _COOKIE_BORNE:
        raise SettingError(
            f"sessions in {type(storage).__name__} cannot be kept alive: it has no way to extend one"
            " without writing its data",
            "let keepalive keep them: keepalive.setup(app, 'sqlite:///sessions.db')",
        )
    if storage.max_age is None:
        raise SettingError(
            f"{type(storage).__name__} has no max_age, so its sessions never end",
            f"give it one: {type(storage).__name__}(..., max_age=1800)",
        )
    if policy is None:
        return Policy(idle_timeout=storage.max_age)
    if policy.idle_timeout != storage.max_age:
        raise SettingError(
            f"idle_timeout ({policy.idle_timeout:g} s) is not the max_age of"
            f" {type(storage).__name__} ({storage.max_age} s)",
            "give both the same number of seconds",
        )
    if policy.end_after_last_page is not None:
        raise SettingError(
            "end_after_last_page needs a store: nobody else knows of the pages that other servers have",
            "keep the sessions in a store, or leave it out",
        )
    if policy.mode is not Mode.PRESENCE:
        raise SettingError(
            f"the mode {policy.mode} needs a store: a fresh cookie always lasts for the whole max_age",
            "keep the sessions in a store, or use the mode presence",
        )
    return policy
