"""What browsers ask for: the page's socket, one ping over HTTP, and what remains of the session.

Every request passes its host, its origin and the gate before the store hears of it.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection
from secrets import token_urlsafe
from typing import TypeVar

import msgspec
from aiohttp import hdrs, web

from .clock import Clock
from .connection import Connection, Connections
from .door import Door, in_time, outward, remains
from .errors import MessageError, StoreError
from .gate import Gate
from .heart import Heart
from .live import Page
from .messages import CLOSE_CODE, MAX_MESSAGE, SUBPROTOCOL, CloseCode, End, Ping, Wait, decode, encode
from .policy import Reason
from .upgrade import Upgrade

T = TypeVar("T")

LET_IN_AT_ONCE = 64
"""How many handshakes are under way at the same time. When thousands come at once the others wait: the
pages that are here need the event loop for their beats."""
BODY_TIMEOUT = 5.0
"""A ping that comes by POST must be whole within this many seconds."""
TOO_MANY = 2.0
"""When a session that asks too often over HTTP may come again, in seconds."""
_STATUS = {"beat": 200, "wait": 503, "end": 401}
_SAME_SITE = {"same-origin", "none"}
_NO_STORE = {hdrs.CACHE_CONTROL: "no-store"}


class Routes:
    """Answers browsers, in the name of one `Keepalive`.

    Args:
        door: tells whose session a request presents.
        gate: turns away who asks for too much.
        heart: takes the pages and the pings.
        connections: what all sockets share.
        clock: for the age of the store's word.
        origins: which others than the app's own may ask.
        login: where a page can sign in again, told with an `end`.
    """

    def __init__(
        self,
        door: Door,
        gate: Gate,
        heart: Heart,
        connections: Connections[Page],
        clock: Clock,
        *,
        origins: Collection[str],
        login: str | None,
    ) -> None:
        self._door = door
        self._gate = gate
        self._heart = heart
        self._connections = connections
        self._clock = clock
        self._origins = frozenset(origins)
        self._login = login
        self._doorway = asyncio.Semaphore(LET_IN_AT_ONCE)

    def mount(self, app: web.Application, prefix: str) -> set[web.AbstractResource]:
        """Serve all of it below `prefix`; returns the resources."""
        routes = (
            app.router.add_get(f"{prefix}/ws", self.socket, allow_head=False),
            app.router.add_get(f"{prefix}/heartbeat", self.heartbeat),
            app.router.add_post(f"{prefix}/heartbeat", self.heartbeat),
            app.router.add_get(f"{prefix}/state", self.state),
        )
        return {route.resource for route in routes if route.resource is not None}

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
                self._gate.refuse_full(address)  # by those who have come in while this one waited
                await self._let_in(request, response, address)
        finally:
            # Not now: a store that answers at once would have thousands let in before any beat.
            asyncio.get_running_loop().call_soon(self._doorway.release)
        return response

    async def _let_in(self, request: web.Request, response: Upgrade, address: str) -> None:
        results = self._gate.results
        connection = Connection(self._connections, address)
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
            reason = outward(found)
            connection.send(encode(End(reason, self._login)))
            connection.close(CLOSE_CODE[reason], reason)
            return
        if not self._gate.has_room(found.user, address):
            await response.hand_over(request, connection)
            connection.close(CloseCode.OVERLOADED, "too many pages")
            return
        # Whoever does not say which page it is, is one all the same.
        page_id = _page_id(request) or token_urlsafe(12)
        connection.page = page = self._heart.join(found, connection, read_at, address, page_id)
        handed_over = False
        try:
            handed_over = await response.hand_over(request, connection)
        finally:
            results["accepted" if handed_over else "gone"] += 1
            if not handed_over:
                self._heart.leave(page)

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
                message = encode(End(outward(found), self._login))
            else:
                message = await self._heart.ping_once(found, ping, read_at, _page_id(request))
        response.set_status(_STATUS[msgspec.json.decode(message, type=_Typed).type])
        response.body = message
        return response

    async def state(self, request: web.Request) -> web.Response:
        """`GET /keepalive/state`: the remaining seconds; never touches."""
        self._door.trust.refuse_host(request)
        if not await self._may_ask(request):
            raise web.HTTPTooManyRequests(headers={hdrs.RETRY_AFTER: f"{TOO_MANY:g}", **_NO_STORE})
        try:
            state = await self._asked(request, lambda: remains(self._door, request))
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
            return await in_time(ask())
        address = self._door.trust.address(request)
        self._gate.guess(address)
        found = None
        try:
            found = await in_time(ask())
            return found
        finally:
            # What we have not sealed has cost the store nothing, and anybody in an office can send it.
            if found is not Reason.UNKNOWN or await self._door.key(request) is None:
                self._gate.forgive(address)

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


class _Typed(msgspec.Struct):
    """Which message it is, of one that the heart has encoded."""

    type: str


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
