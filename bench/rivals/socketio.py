"""python-socketio on aiohttp."""

import socket

import socketio
from aiohttp import web

from keepalive.messages import MAX_MESSAGE

from . import app
from .job import Job, Session


async def serve(listen: socket.socket, job: Job) -> None:
    server = socketio.AsyncServer(
        async_mode="aiohttp",
        async_handlers=False,  # answers in place, without a task for each event
        http_compression=False,
        max_http_buffer_size=MAX_MESSAGE,
        transports=["websocket"],
    )
    sessions: dict[str, Session] = {}

    async def connect(sid: str, environ: dict[str, str]) -> bool:
        session = job.admit(environ.get("HTTP_COOKIE", ""))
        if session is None:
            return False
        sessions[sid] = session
        # The connection is confirmed when this returns; only then may it hear of anything.
        server.start_background_task(greet, sid, session)
        return True

    async def greet(sid: str, session: Session) -> None:
        hello = session.hello()
        items = {name: getattr(hello, name) for name in hello.__struct_fields__}
        await server.emit("hello", {"type": "hello", **items}, to=sid)

    async def ping(sid: str, message: dict[str, int]) -> dict[str, object]:
        return sessions[sid].beat_items(message["n"])

    async def disconnect(sid: str) -> None:
        sessions.pop(sid, None)

    server.on("connect", connect)
    server.on("ping", ping)
    server.on("disconnect", disconnect)
    application = web.Application()
    server.attach(application)
    await app.run(application, listen)
