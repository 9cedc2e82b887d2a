"""aiohttp's own `WebSocketResponse`, without compression, and aiohttp-session.

Three times: as aiohttp's documentation writes it, with `json()` and `send_json()`; as fast as its
public calls allow, with bytes in and out and keepalive's own JSON codec; and bare, without a session
of any kind, to see what an upgrade alone takes. The session is loaded from keepalive's store.
"""

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp_session
from aiohttp import WSMsgType, web

from keepalive.messages import MAX_MESSAGE, SUBPROTOCOL, decode, encode
from keepalive.session import KeepaliveStorage
from keepalive.stores import open_store

from . import app
from .job import Job, Session

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_dumps = json.JSONEncoder(separators=(",", ":")).encode


async def documented(listen: socket.socket, job: Job) -> None:
    """Answers pings with the calls of aiohttp's documentation."""

    async def handler(request: web.Request) -> web.StreamResponse:
        session = await _load(request, job)
        response = _socket()
        await _greet(request, response, session)
        async for message in response:
            if message.type is WSMsgType.TEXT:
                ping = message.json()
                if ping["type"] == "ping":
                    await response.send_json(session.beat_items(ping["n"]), dumps=_dumps)
        return response

    await _run(listen, job, handler)


async def tuned(listen: socket.socket, job: Job) -> None:
    """Answers pings with the fastest calls that there are."""

    async def handler(request: web.Request) -> web.StreamResponse:
        session = await _load(request, job)
        response = _socket(decode_text=False)
        await _greet(request, response, session)
        async for message in response:
            if message.type is WSMsgType.TEXT and (ping := decode(message.data)) is not None:
                await response.send_frame(encode(session.beat(ping.n)), WSMsgType.TEXT)
        return response

    await _run(listen, job, handler)


async def bare(listen: socket.socket, job: Job) -> None:
    """Says hello to whoever connects."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = _socket()
        await _greet(request, response, Session(job))
        async for _ in response:
            pass
        return response

    application = web.Application()
    application.router.add_get("/keepalive/ws", handler)
    await app.run(application, listen)


async def _run(listen: socket.socket, job: Job, handler: Handler) -> None:
    store = open_store(f"sqlite:///{job.folder / 'sessions.db'}")

    async def run_store(application: web.Application) -> AsyncIterator[None]:
        await store.open()
        yield
        await store.close()

    application = web.Application()
    application.cleanup_ctx.append(run_store)
    aiohttp_session.setup(application, KeepaliveStorage(store, job.policy))
    application.router.add_get("/keepalive/ws", handler)
    await app.run(application, listen)


async def _load(request: web.Request, job: Job) -> Session:
    if (await aiohttp_session.get_session(request)).new:
        raise web.HTTPUnauthorized
    return Session(job)


def _socket(*, decode_text: bool = True) -> web.WebSocketResponse:
    return web.WebSocketResponse(
        compress=False, max_msg_size=MAX_MESSAGE, protocols=[SUBPROTOCOL], decode_text=decode_text
    )


async def _greet(request: web.Request, response: web.WebSocketResponse, session: Session) -> None:
    await response.prepare(request)
    await response.send_str(encode(session.hello()).decode())
