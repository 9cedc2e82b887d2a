"""A server as one page reaches it through an aiohttp `ClientSession`: its socket, and pings by HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_hex

import aiohttp

from ..messages import SUBPROTOCOL, Answer, decode_answer
from . import faults
from .address import Address

POST_TIMEOUT = 10.0
"""For a ping over HTTP, in seconds; and for a message to be written."""
MAX_ANSWER = 256 * 1024
"""The longest answer to it, in bytes; it may have 32 KiB of the app's data."""
GOODBYE = 1.0
"""How long a server may take to answer the close, in seconds."""
_HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "a2VlcGFsaXZlIGFza3Mhfg==",
    "Sec-WebSocket-Protocol": SUBPROTOCOL,
}

Socket = aiohttp.ClientWebSocketResponse[bool]


class Link:
    """The way to a server, always as the same page.

    Args:
        http: has the cookies; what the server renews goes into its jar.
        address: the server's.
    """

    def __init__(self, http: aiohttp.ClientSession, address: Address) -> None:
        self._http = http
        self._address = address
        self._page = token_hex(8)

    @property
    def has_cookies(self) -> bool:
        """Whether the jar has a cookie for this server."""
        return bool(self._http.cookie_jar.filter_cookies(self._address.base))

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Socket]:
        """Open a socket.

        Raises:
            aiohttp.ClientError, OSError, NotKeepaliveError: it could not be.
        """
        url = self._address.socket
        async with self._http.ws_connect(
            url.with_query(page=self._page),
            protocols=(SUBPROTOCOL,),
            timeout=aiohttp.ClientWSTimeout(ws_close=GOODBYE),
        ) as socket:
            if socket.protocol != SUBPROTOCOL:
                raise faults.not_ours(url, "another WebSocket")
            yield socket

    async def ask(self, ping: bytes) -> Answer | None:
        """Ping over HTTP; `None` if that gets no answer of the protocol."""
        try:
            async with self._http.post(
                self._address.heartbeat.with_query(page=self._page),
                data=ping,
                headers={"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=POST_TIMEOUT),
                allow_redirects=False,  # nobody else answers for this server
                raise_for_status=False,
            ) as response:
                return await read_answer(response)
        except (aiohttp.ClientError, OSError):
            return None

    async def read_refusal(self) -> str:
        """What a refused handshake was told; aiohttp keeps the text to itself, so ask once more."""
        try:
            async with self._http.get(
                self._address.socket, headers=_HANDSHAKE, allow_redirects=False, raise_for_status=False
            ) as response:
                return (await response.content.read(1024)).decode(errors="replace")
        except (aiohttp.ClientError, OSError):
            return ""


async def read_answer(response: aiohttp.ClientResponse) -> Answer | None:
    """What a ping over HTTP got; `None` if it is none, whoever sends it and however much of it."""
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > MAX_ANSWER:
            return None
    return decode_answer(bytes(body))


async def say(socket: Socket, text: bytes) -> None:
    """Send a message; if that fails, whoever reads the socket hears of it."""
    try:
        async with asyncio.timeout(POST_TIMEOUT):
            await socket.send_str(text.decode())
    except (aiohttp.ClientError, OSError):
        pass
