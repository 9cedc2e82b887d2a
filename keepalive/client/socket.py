"""One socket of a pool: an `asyncio` protocol from the handshake to the close, a tenth of aiohttp's.

It owns no task and no timer: its heart puts an end to what takes too long.
"""

import asyncio
import re
from base64 import b64encode
from hashlib import sha1
from http import HTTPStatus
from secrets import token_bytes
from typing import NamedTuple, Protocol, cast

from multidict import CIMultiDict

from ..errors import FrameError
from ..frames import Opcode, Reader
from ..messages import SUBPROTOCOL
from . import frames

MAX_MESSAGE = 256 * 1024
"""The longest message of a server, in bytes; it may push 32 KiB."""
MAX_HEAD = 16 * 1024
"""The longest answer to a handshake, in bytes."""
INBOX = 64 * 1024
"""Most bytes that are read of one server at a time; one buffer serves all sockets."""
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
_HTTP = b"HTTP/1.1 "
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})(?: |\r\n)")

_inbox = memoryview(bytearray(INBOX))


class Refusal(NamedTuple):
    """A handshake that was answered, but not with our 101."""

    status: int
    """0 where it was no HTTP."""
    body: str
    """As far as it came along."""


class Listener(Protocol):
    """Who hears what comes of a socket. After `on_closed` nothing comes any more."""

    def on_upgraded(self, cookies: list[str]) -> None:
        """The connection stands; with the values of `Set-Cookie` that came with it."""

    def on_message(self, text: bytes) -> None:
        """A whole text message."""

    def on_closed(self, code: int, refusal: Refusal | None) -> None:
        """It is over; 1006 where nobody said why."""


class Socket(asyncio.BufferedProtocol):
    """A client's socket.

    Args:
        listener: who hears it.
        request: the head of the handshake, up to the line of its key.
    """

    __slots__ = ("_handshake", "_listener", "_reader", "_transport")

    def __init__(self, listener: Listener, request: bytes) -> None:
        self._listener: Listener | None = listener
        self._transport: asyncio.Transport | None = None
        self._handshake: Handshake | None = Handshake(request)
        self._reader: Reader | None = None  # exists only while a frame or message is unfinished

    def send(self, text: bytes) -> None:
        """Send a whole text message; nothing before the handshake is done."""
        if self._transport is not None and self._handshake is None:
            self._transport.write(frames.text(text))

    def leave(self, code: int) -> None:
        """Close with a code and let go; nobody hears of it any more."""
        self._listener = None
        if self._transport is not None:
            if self._handshake is None:
                self._transport.write(frames.close(code))
            self._transport.close()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._listener is None:
            transport.close()
        elif self._handshake is not None:
            self._transport.write(self._handshake.request)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _inbox

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(_inbox[:nbytes].tobytes())

    def data_received(self, data: bytes) -> None:
        if self._handshake is not None:
            self._shake(self._handshake, data)
            return
        reader = self._reader
        if reader is None:
            text = frames.single(data)
            if text is not None:
                if self._listener is not None:
                    self._listener.on_message(text)
                return
            reader = Reader(MAX_MESSAGE, masked=False)
        try:
            for frame in reader.feed(data):
                self._receive(frame.opcode, frame.payload)
                if self._listener is None:
                    return
        except FrameError as error:
            self._over(error.code)
            return
        self._reader = reader if reader.unfinished else None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._over(1006)

    def _shake(self, handshake: "Handshake", data: bytes) -> None:
        handshake.answer += data
        head, end, rest = handshake.answer.partition(b"\r\n\r\n")
        if not end and len(head) <= MAX_HEAD and head[: len(_HTTP)] == _HTTP[: len(head)]:
            return  # so far so good
        refusal, cookies = handshake.judge(bytes(head), bytes(rest))
        if refusal is not None:
            self._over(1006, refusal)
            return
        self._handshake = None
        if self._listener is not None:
            self._listener.on_upgraded(cookies)
        if rest:
            self.data_received(bytes(rest))

    def _receive(self, opcode: Opcode, payload: bytes) -> None:
        if opcode is Opcode.TEXT and self._listener is not None:
            self._listener.on_message(payload)
        elif opcode is Opcode.PING and self._transport is not None:
            self._transport.write(frames.pong(payload))
        elif opcode is Opcode.CLOSE:
            code = int.from_bytes(payload[:2]) or 1005
            if self._transport is not None:
                self._transport.write(frames.close(1000 if code == 1005 else code))
            self._over(code)

    def _over(self, code: int, refusal: Refusal | None = None) -> None:
        listener, self._listener = self._listener, None
        self._handshake = self._reader = None
        if self._transport is not None:
            self._transport.close()
        if listener is not None:
            listener.on_closed(code, refusal)


class Handshake:
    """What is asked, and what has been answered so far."""

    __slots__ = ("_key", "answer", "request")

    def __init__(self, request: bytes) -> None:
        self._key = b64encode(token_bytes(16))
        self.request = b"%bSec-WebSocket-Key: %b\r\n\r\n" % (request, self._key)
        self.answer = bytearray()

    def judge(self, head: bytes, rest: bytes) -> tuple[Refusal | None, list[str]]:
        """Whether the answer is the one of RFC 6455 §4.1, and the cookies that came with it."""
        found = _STATUS.match(head + b"\r\n")
        status = int(found[1]) if found else 0
        headers: CIMultiDict[str] = CIMultiDict()
        for line in head.decode("latin-1").split("\r\n")[1:]:
            name, _, value = line.partition(":")
            headers.add(name, value.strip())
        accept = b64encode(sha1(self._key + _GUID, usedforsecurity=False).digest()).decode()
        ours = (
            status == HTTPStatus.SWITCHING_PROTOCOLS
            and headers.get("Sec-WebSocket-Accept") == accept
            and headers.get("Sec-WebSocket-Protocol") == SUBPROTOCOL
        )
        cookies = headers.getall("Set-Cookie", [])
        return None if ours else Refusal(status, rest.decode(errors="replace")), cookies


def request(path: str, host: str, cookie: str, authorization: str | None = None) -> bytes:
    """The head of a handshake, but for its key.

    Raises:
        ValueError: a cookie holds a line break, or what is not Latin-1.
    """
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
    ]
    if authorization is not None:
        lines.append(f"Authorization: {authorization}")
    if cookie:
        lines.append(f"Cookie: {cookie}")
    head = "".join(f"{line}\r\n" for line in lines)
    if head.count("\n") != len(lines):
        raise ValueError("a line break in a cookie")
    return head.encode("latin-1")
