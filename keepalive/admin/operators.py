"""The dashboard's own socket: operators are sessions of another kind, on the same machinery.

An operator has no session in the app, and must not get one: the app would take it for a user's. So
what lets the dashboard's page in is a hook that knows the request, or a sealed cookie that the page gets
for the token. The cookie opens this socket and nothing else, and all that comes through it is figures.
"""

from collections.abc import AsyncIterator, Sequence
from hashlib import sha256

from aiohttp import web
from msgspec import json

from ..errors import SettingError
from ..policy import Mode, Policy, Reason
from ..siblings import Siblings
from ..touchers import Ended, Left, Ticket, Touch
from ..trust import cookie_in
from ..web import Keepalive
from .access import Access

COOKIE = "keepalive-operator"
SHIFT = 12 * 3600.0
"""For how long after signing in the socket may stay, in seconds."""
POLICY = Policy(idle_timeout=SHIFT, absolute_timeout=SHIFT, warn_before=60.0, mode=Mode.OBSERVE)


class Operators:
    """Lets the dashboard's pages in, and says how long they may stay.

    Whoever comes in by the hook, with a session of the app, stays as long as that lives: a sign-out in
    the app closes the dashboard, too.

    Args:
        access: has the hook, and the seal for the cookies.
        keepalive: has the app's sessions.
        path: where the cookie is sent to.
        siblings: the other workers, which know its cookies as well.
    """

    user_key = "operator"

    def __init__(self, access: Access, keepalive: Keepalive, path: str, siblings: Siblings) -> None:
        self.toucher = self
        self.trust = keepalive.door.trust
        self._access = access
        self._seal = access.seal()
        self._app = keepalive.door
        self._clock = keepalive.clock
        self._path = path
        self._until: dict[bytes, float] = {}  # who is in by a cookie, and their ends, in wall time
        self._over: set[bytes] = set()
        self._siblings = siblings
        siblings.answer("sign out", self._sign_out)

    def sign_in(self, request: web.Request, response: web.StreamResponse, operator: str) -> None:
        """Give the browser what opens the socket."""
        told = json.encode((operator, self._clock.wall()))
        response.set_cookie(
            COOKIE,
            self._seal.seal(told.decode()),
            path=self._path,
            httponly=True,
            samesite="Strict",
            secure=self.is_secure(request),
        )

    async def sign_out(self, request: web.Request, response: web.StreamResponse) -> None:
        """Take it back; at this server also from whoever has copied it. It shows figures and no more."""
        if (key := self._key_in(request)) is not None:
            await self._siblings.ask("sign out", json.encode((key, self._until[key])))
        response.del_cookie(
            COOKIE, path=self._path, secure=self.is_secure(request), httponly=True, samesite="Strict"
        )

    # What the server asks (`keepalive.door.Door`).

    async def admit(self, request: web.Request, response: web.StreamResponse) -> Ticket | Reason:
        """The ticket of a page that wants to connect."""
        key, operator = self._key_in(request), None
        if key is not None:
            operator = self._cookie_of(request)[0]
        elif (operator := await self._access.visitor(request)) is not None:
            key = await self._app.key(request)
            if key is None:  # the hook goes by something else, which nobody can look up again
                key = sha256(f"operator {operator}".encode(errors="surrogatepass")).digest()
                self._until.setdefault(key, self._clock.wall() + SHIFT)
        if key is None or operator is None:
            return Reason.UNKNOWN
        left = await self.peek(key)
        return left if isinstance(left, Reason) else Ticket(key, POLICY, operator, left)

    async def look(self, request: web.Request) -> tuple[Policy, Left] | Reason:
        found = await self.admit(request, web.Response())
        return found if isinstance(found, Reason) else (found.policy, found.left)

    async def key(self, request: web.Request) -> bytes | None:
        return self._key_in(request)

    def presents(self, request: web.Request) -> bool:
        return cookie_in(request, COOKIE) is not None

    def is_secure(self, request: web.Request) -> bool:
        return self._app.is_secure(request)

    async def open(self) -> None:
        """The app's own is open already."""

    async def close(self) -> None:
        """And it is not ours to close."""

    async def sweep(self) -> None:
        """Forget whose time is up."""
        self._access.sweep()
        now = self._clock.wall()
        self._until = {key: until for key, until in self._until.items() if until > now}
        self._over &= self._until.keys()

    async def end_user(self, user: str, reason: Reason, *, keep: bytes | None = None) -> int:
        raise SettingError("operators are not kept by name", "end them one by one")

    # What the heart calls: see `Toucher`.

    async def touch(self, batch: Sequence[Touch]) -> list[Left | Reason]:
        return [await self.peek(touch.key) for touch in batch]

    async def peek(self, key: bytes) -> Left | Reason:
        """What remains; of a session of the app, what that has. Nothing here extends it."""
        if key in self._over:
            return Reason.LOGOUT
        if key not in self._until:
            return await self._app.toucher.peek(key)
        left = self._until[key] - self._clock.wall()
        return Left(left, left) if left > 0 else Reason.ABSOLUTE

    async def end(self, key: bytes, reason: Reason) -> bool:
        was_alive = key in self._until and key not in self._over
        if was_alive:
            self._over.add(key)
        return was_alive

    def watch(self) -> AsyncIterator[Ended]:
        """Ends alone: an operator is nobody to whom the app pushes, though the name be the same."""
        watch = self._app.toucher.watch()
        return (news async for news in watch if isinstance(news, Ended))

    async def _sign_out(self, told: bytes) -> bytes:
        key, until = json.decode(told, type=tuple[bytes, float])
        self._until[key] = until
        return json.encode(await self.end(key, Reason.LOGOUT))

    def _key_in(self, request: web.Request) -> bytes | None:
        """The key of the cookie that a request presents, if we have sealed it and it is not too old."""
        operator, until = self._cookie_of(request)
        if operator is None or until <= self._clock.wall():
            return None
        key = sha256((cookie_in(request, COOKIE) or "").encode()).digest()
        self._until[key] = until
        return key

    def _cookie_of(self, request: web.Request) -> tuple[str | None, float]:
        told = self._seal.open(cookie_in(request, COOKIE) or "")
        if told is None:
            return None, 0.0
        operator, since = json.decode(told, type=tuple[str, float])
        return operator, since + SHIFT
