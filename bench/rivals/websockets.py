"""websockets, the package of that name, by its asyncio server."""

import asyncio
import logging
import socket
from http import HTTPStatus

import websockets.asyncio.server
from websockets import Request, Response, Subprotocol
from websockets.asyncio.server import ServerConnection

from keepalive.messages import MAX_MESSAGE, SUBPROTOCOL, decode, encode
from keepalive.server import BACKLOG

from .job import Job, Session


async def serve(listen: socket.socket, job: Job) -> None:
    sessions: dict[ServerConnection, Session] = {}  # of those in their handshake

    def admit(connection: ServerConnection, request: Request) -> Response | None:
        session = job.admit(request.headers.get("Cookie", ""))
        if session is None:
            return connection.respond(HTTPStatus.UNAUTHORIZED, "no session\n")
        sessions[connection] = session
        return None

    async def handler(connection: ServerConnection) -> None:
        session = sessions.pop(connection)
        await connection.send(encode(session.hello()), text=True)
        while True:
            ping = decode(await connection.recv(decode=False))
            if ping is not None:
                await connection.send(encode(session.beat(ping.n)), text=True)

    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)  # who leaves is no event
    listen.listen(BACKLOG)
    await websockets.asyncio.server.serve(
        handler,
        sock=listen,
        backlog=BACKLOG,
        compression=None,
        max_size=MAX_MESSAGE,
        ping_interval=None,
        process_request=admit,
        subprotocols=[Subprotocol(SUBPROTOCOL)],
    )
    await asyncio.Event().wait()
