"""The 101 handshake as an aiohttp response that hands the transport over.

aiohttp parses the request, routes it, runs the middlewares and writes the 101 with its cookies;
then the transport gets a protocol of our own, and aiohttp's request, task and parser are let go.
An idle connection so costs about a tenth of a `WebSocketResponse`. Only public names of aiohttp
are used (`BaseRequest.protocol`, `.transport`, `.task`, `BaseProtocol.transport`,
`RequestHandler.set_parser`); a contract test pins their behaviour on the oldest and the newest
supported release.
"""

import asyncio
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from contextlib import suppress
from hashlib import sha1

from aiohttp import HttpVersion11, hdrs, web

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
_VERSION = "13"


class Upgrade(web.StreamResponse):
    """The answer to a WebSocket handshake.

    Args:
        request: the handshake.
        subprotocol: the one that both sides must agree on, if any.

    Raises:
        web.HTTPMethodNotAllowed, web.HTTPBadRequest, web.HTTPUpgradeRequired: the request is no
            handshake of RFC 6455 §4.2.1, or does not offer the subprotocol.
    """

    def __init__(self, request: web.Request, subprotocol: str | None = None) -> None:
        headers = {
            hdrs.UPGRADE: "websocket",
            hdrs.CONNECTION: "Upgrade",
            hdrs.SEC_WEBSOCKET_ACCEPT: _accept(request),
        }
        if subprotocol is not None:
            if subprotocol not in _tokens(request, hdrs.SEC_WEBSOCKET_PROTOCOL):
                raise web.HTTPBadRequest(text=f"offer the subprotocol {subprotocol}\n")
            headers[hdrs.SEC_WEBSOCKET_PROTOCOL] = subprotocol
        super().__init__(status=101, headers=headers)
        self.force_close()  # aiohttp is not to read another request from this connection

    async def hand_over(self, request: web.Request, protocol: asyncio.Protocol) -> bool:
        """Write the 101, then let `protocol` have the connection.

        `protocol` gets `connection_made`, and then what arrived together with the handshake.
        Afterwards return this response from the handler; middlewares and the access log run as
        for any other response.

        Returns:
            Whether the client is still there; if not, `protocol` hears of nothing. That is no
            error: aiohttp would log a traceback, and a client can leave as often as it likes.
        """
        with suppress(ConnectionError):
            await self.prepare(request)
        handler, transport = request.protocol, request.transport
        if transport is None or transport.is_closing():
            return False
        early = _Collector()
        # aiohttp types the parser as its own WebSocketReader, of which it calls `feed_data` alone.
        handler.set_parser(early)  # type: ignore[arg-type]
        transport.set_protocol(protocol)
        handler.transport = None  # what aiohttp no longer has, it neither closes nor writes to
        request.task.add_done_callback(lambda _: handler.connection_lost(None))
        _forget_addresses(transport)
        protocol.connection_made(transport)
        if early.data:
            protocol.data_received(bytes(early.data))
        return True

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing follows a 101; the connection is no longer aiohttp's."""


def _forget_addresses(transport: asyncio.Transport) -> None:
    """Free what asyncio keeps for `get_extra_info`: 500 bytes of addresses, which nobody asks for now.

    There is no public way to do so. Without the attribute (uvloop makes up its answers when it is
    asked) nothing is lost but the memory.
    """
    extra = getattr(transport, "_extra", None)
    if isinstance(extra, dict):
        extra.clear()


class _Collector:
    """Stands in for a parser and keeps what came in the handshake's segment."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        pass


def _accept(request: web.Request) -> str:
    """The proof that the handshake was understood (RFC 6455 §4.2.2)."""
    if request.method != hdrs.METH_GET:
        raise web.HTTPMethodNotAllowed(request.method, [hdrs.METH_GET])
    if "websocket" not in _tokens(request, hdrs.UPGRADE) or "upgrade" not in _tokens(
        request, hdrs.CONNECTION
    ):
        raise web.HTTPUpgradeRequired(headers={hdrs.UPGRADE: "websocket"}, text="open this as a WebSocket\n")
    if request.version < HttpVersion11:
        raise web.HTTPBadRequest(text="open this by HTTP/1.1\n")
    if request.body_exists:  # a GET may be refused for it (RFC 9110 §9.3.1), and frames come next
        raise web.HTTPBadRequest(text="a handshake has no body\n")
    if request.headers.get(hdrs.SEC_WEBSOCKET_VERSION) != _VERSION:
        raise web.HTTPUpgradeRequired(
            headers={hdrs.SEC_WEBSOCKET_VERSION: _VERSION}, text="speak WebSocket version 13\n"
        )
    key = request.headers.get(hdrs.SEC_WEBSOCKET_KEY, "")
    try:
        genuine = len(b64decode(key, validate=True)) == 16
    except (Base64Error, ValueError):
        genuine = False
    if not genuine:
        raise web.HTTPBadRequest(text="the Sec-WebSocket-Key is not 16 bytes in base64\n")
    return b64encode(sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()


def _tokens(request: web.Request, header: str) -> set[str]:
    """The comma-separated tokens of a header that may come several times, in lower case."""
    return {token.strip().lower() for line in request.headers.getall(header, ()) for token in line.split(",")}
