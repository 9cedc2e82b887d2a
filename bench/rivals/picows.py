"""picows: a WebSocket protocol written in Cython, by its listener."""

import asyncio
import socket
from http import HTTPStatus

from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)

from keepalive.messages import MAX_MESSAGE, SUBPROTOCOL, decode, encode
from keepalive.server import BACKLOG

from .job import Job, Session

_TEXT, _CLOSE = WSMsgType.TEXT, WSMsgType.CLOSE
_PROTOCOL = {"Sec-WebSocket-Protocol": SUBPROTOCOL}


class _Page(WSListener):
    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def on_ws_connected(self, transport: WSTransport) -> None:
        transport.send(_TEXT, encode(self._session.hello()))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is _TEXT:
            ping = decode(frame.get_payload_as_bytes())
            if ping is not None:
                transport.send(_TEXT, encode(self._session.beat(ping.n)))
        elif frame.msg_type is _CLOSE:
            transport.disconnect()


async def serve(listen: socket.socket, job: Job) -> None:
    def admit(request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        session = job.admit(request.headers.get("Cookie", ""))
        if session is None:
            refusal = WSUpgradeResponse.create_error_response(HTTPStatus.UNAUTHORIZED)
            return WSUpgradeResponseWithListener(refusal, None)
        welcome = WSUpgradeResponse.create_101_response(extra_headers=_PROTOCOL)
        return WSUpgradeResponseWithListener(welcome, _Page(session))

    server = await ws_create_server(
        admit, sock=listen, backlog=BACKLOG, max_frame_size=MAX_MESSAGE, read_buffer_init_size=1024
    )
    await server.start_serving()
    await asyncio.Event().wait()
