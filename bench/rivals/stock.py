"""The same job on aiohttp's own `WebSocketResponse`, done as well as it can be.

The session is loaded by aiohttp-session from the same store, the messages are the same and go
through the same JSON codec, and of the ways that `WebSocketResponse` offers the fastest are used: no
compression, and bytes in and out. It does less than the product does: there is no rate limit, no
warning, and nobody hears of a logout.
"""

from collections.abc import AsyncIterator

import aiohttp_session
from aiohttp import WSMsgType, web

from keepalive.clock import SystemClock
from keepalive.messages import MAX_MESSAGE, SUBPROTOCOL, Beat, Hello, decode, encode
from keepalive.policy import Policy
from keepalive.session import KeepaliveStorage
from keepalive.stores import open_store


def make_app(store_url: str, policy: Policy) -> web.Application:
    """An application whose `/keepalive/ws` answers pings with beats."""
    store = open_store(store_url)
    clock = SystemClock()
    idle_deadlines: dict[str, float] = {}

    async def run_store(app: web.Application) -> AsyncIterator[None]:
        await store.open()
        yield
        await store.close()

    async def page(request: web.Request) -> web.StreamResponse:
        session = await aiohttp_session.get_session(request)
        if session.new:
            raise web.HTTPUnauthorized
        session_id = str(session.identity)
        ends_at = session.created + (policy.absolute_timeout or 0.0)
        socket = web.WebSocketResponse(
            compress=False, decode_text=False, max_msg_size=MAX_MESSAGE, protocols=[SUBPROTOCOL]
        )
        await socket.prepare(request)
        idle_deadlines[session_id] = clock.monotonic() + policy.idle_timeout
        hello = Hello(
            interval=policy.ping_interval,
            idle_timeout=policy.idle_timeout,
            expires_in=policy.idle_timeout,
            ends_in=round(ends_at - clock.wall(), 3),
            warn_before=policy.warn_before,
            mode=policy.mode,
            spread=3.0,
        )
        await socket.send_frame(encode(hello), WSMsgType.TEXT)
        async for message in socket:
            if message.type is WSMsgType.TEXT and (ping := decode(message.data)) is not None:
                now = clock.monotonic()
                expires_at = idle_deadlines[session_id] = now + policy.idle_timeout
                beat = Beat(
                    n=ping.n,
                    expires_in=round(expires_at - now, 3),
                    ends_in=round(ends_at - clock.wall(), 3),
                )
                await socket.send_frame(encode(beat), WSMsgType.TEXT)
        return socket

    app = web.Application()
    app.cleanup_ctx.append(run_store)
    aiohttp_session.setup(app, KeepaliveStorage(store, policy))
    app.router.add_get("/keepalive/ws", page)
    return app
