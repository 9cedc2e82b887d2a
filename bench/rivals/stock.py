"""The same job on aiohttp's own `WebSocketResponse`, without compression.

Twice: as aiohttp's documentation writes it, with `json()` and `send_json()`, and as fast as its public
calls allow, with bytes in and out and keepalive's own JSON codec. aiohttp-session loads the session
from the same store. Both do less than the product does: no rate limit, no warnings, and nobody hears of
a logout.
"""

import json
from collections.abc import AsyncIterator
from typing import NamedTuple

import aiohttp_session
from aiohttp import WSMsgType, web

from keepalive.clock import SystemClock
from keepalive.messages import MAX_MESSAGE, SUBPROTOCOL, Beat, Hello, decode, encode
from keepalive.policy import Policy
from keepalive.session import KeepaliveStorage
from keepalive.stores import open_store

_dumps = json.JSONEncoder(separators=(",", ":")).encode


def _socket(*, decode_text: bool = True) -> web.WebSocketResponse:
    return web.WebSocketResponse(
        compress=False, max_msg_size=MAX_MESSAGE, protocols=[SUBPROTOCOL], decode_text=decode_text
    )


class _Page(NamedTuple):
    """An open page: its socket, and the session that it keeps alive."""

    socket: web.WebSocketResponse
    session_id: str
    ends_at: float


class _Sessions:
    """The deadlines of all sessions with open pages, in memory."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._clock = SystemClock()
        self._idle_at: dict[str, float] = {}

    async def documented(self, request: web.Request) -> web.StreamResponse:
        """Answer pings with the calls of aiohttp's documentation."""
        page = await self._open(request, _socket())
        async for message in page.socket:
            if message.type is WSMsgType.TEXT:
                ping = message.json()
                if ping["type"] == "ping":
                    expires_in, ends_in = self._touch(page)
                    beat = {"type": "beat", "n": ping["n"], "expires_in": expires_in, "ends_in": ends_in}
                    await page.socket.send_json(beat, dumps=_dumps)
        return page.socket

    async def tuned(self, request: web.Request) -> web.StreamResponse:
        """Answer pings with the fastest calls that there are."""
        page = await self._open(request, _socket(decode_text=False))
        async for message in page.socket:
            if message.type is WSMsgType.TEXT and (ping := decode(message.data)) is not None:
                expires_in, ends_in = self._touch(page)
                await page.socket.send_frame(encode(Beat(ping.n, expires_in, ends_in)), WSMsgType.TEXT)
        return page.socket

    async def _open(self, request: web.Request, socket: web.WebSocketResponse) -> _Page:
        policy = self._policy
        session = await aiohttp_session.get_session(request)
        if session.new:
            raise web.HTTPUnauthorized
        await socket.prepare(request)
        page = _Page(socket, str(session.identity), session.created + (policy.absolute_timeout or 0.0))
        expires_in, ends_in = self._touch(page)
        hello = Hello(
            interval=policy.ping_interval,
            idle_timeout=policy.idle_timeout,
            expires_in=expires_in,
            ends_in=ends_in,
            warn_before=policy.warn_before,
            mode=policy.mode,
            spread=3.0,
        )
        await socket.send_str(encode(hello).decode())
        return page

    def _touch(self, page: _Page) -> tuple[float, float]:
        """Move the idle deadline; what remains until it and until the absolute one, in seconds."""
        self._idle_at[page.session_id] = self._clock.monotonic() + self._policy.idle_timeout
        return self._policy.idle_timeout, round(page.ends_at - self._clock.wall(), 3)


def make_app(store_url: str, policy: Policy, *, tuned: bool = False) -> web.Application:
    """An application whose `/keepalive/ws` answers pings with beats."""
    store = open_store(store_url)
    sessions = _Sessions(policy)

    async def run_store(app: web.Application) -> AsyncIterator[None]:
        await store.open()
        yield
        await store.close()

    app = web.Application()
    app.cleanup_ctx.append(run_store)
    aiohttp_session.setup(app, KeepaliveStorage(store, policy))
    app.router.add_get("/keepalive/ws", sessions.tuned if tuned else sessions.documented)
    return app
