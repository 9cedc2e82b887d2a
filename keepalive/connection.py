"""One page's socket: an `asyncio.Protocol` between frames on the wire and typed messages.

It owns no task and no timer. Deadlines (an unfinished message, a close that is never answered)
hang on one wheel for all; a reader that falls behind is cut off, not awaited.
"""

import asyncio
import logging
from contextlib import suppress
from sys import intern
from typing import Generic, Protocol, TypeVar, cast

from . import frames
from .clock import Clock
from .errors import FrameError, MessageError, ProtocolError
from .frames import Opcode, Reader
from .limits import Tally
from .messages import MAX_MESSAGE, CloseCode, Ping, decode
from .wheel import Wheel

log = logging.getLogger(__name__)

UNFINISHED_AFTER = 10.0
"""A message must be whole within this many seconds of its first byte."""
CLOSING_AFTER = 5.0
"""A peer has this many seconds to answer a close and to read what was sent before."""
INBOX = 16384
"""Most bytes that asyncio reads of one page before the next has its turn; one buffer serves all."""
FAREWELL = 1024
"""Most bytes that may still come in one piece from a page that is no longer heard."""

# Looking a member up in its enumeration takes longer than comparing it.
_TEXT, _BINARY, _CLOSE, _PING = Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE, Opcode.PING

_DEAF = Reader()
"""Stands in the place of a connection's reader once its stream is no longer read."""

P = TypeVar("P")
P_contra = TypeVar("P_contra", contravariant=True)


class Listener(Protocol[P_contra]):
    """Who hears what the pages say. Whatever it raises closes that page's socket with 1011."""

    def on_open(self, page: P_contra) -> None:
        """The connection stands."""

    def on_ping(self, page: P_contra, ping: Ping, now: float) -> None:
        """The page has sent a ping, which came at `now`, in monotonic seconds."""

    def on_close(self, page: P_contra, code: int) -> None:
        """The page has said goodbye, or its connection is over; 1006 when nobody said why. Comes once."""


class Connections(Generic[P]):
    """All open connections of one server: what they share, and their limits.

    Args:
        listener: who hears the pages.
        clock: for the limits.
        max_rate: frames a second that one page may send over a long time; five seconds' worth
            may come at once, and one in any case.
        max_message: the longest message accepted, in bytes.
    """

    def __init__(
        self,
        listener: Listener[P],
        clock: Clock,
        *,
        max_rate: float = 10.0,
        max_message: int = MAX_MESSAGE,
    ) -> None:
        self.listener = listener
        self.clock = clock
        self.wheel: Wheel[Connection[P]] = Wheel(clock.monotonic(), Connection.on_time)
        self.frame_cost = 1 / max_rate
        self.burst = max(5.0, self.frame_cost)
        self.max_message = max_message
        self.open = 0
        """How many there are. They are not listed: a set would take 100 bytes for each."""
        self.addresses = Tally()
        """The same by address."""
        self.closing = False
        """Whether the server stops: who is still in a handshake is sent away."""
        self.inbox = memoryview(bytearray(INBOX))
        self._empty = asyncio.Event()

    def made(self, address: str) -> None:
        self.open += 1
        self.addresses.add(address)
        self._empty.clear()

    def lost(self, address: str) -> None:
        self.open -= 1
        self.addresses.remove(address)
        if not self.open:
            self._empty.set()

    def tick(self) -> None:
        """Cut what has taken too long; to be called several times a second, or at `due`."""
        self.wheel.turn(self.clock.monotonic())

    @property
    def due(self) -> float:
        """When `tick` will have something to do, in monotonic seconds."""
        return self.wheel.due

    async def drained(self, within: float) -> None:
        """Wait until all connections are gone; cut off those that are not `within` seconds.

        All of them have been told to leave, so the wheel has them.
        """
        if self.open:
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await self._empty.wait()
        for connection in self.wheel:
            connection.abort()


class Connection(asyncio.BufferedProtocol, asyncio.Protocol, Generic[P]):
    """One page's socket.

    It is both kinds of protocol, and each event loop takes the one that serves it better. To a
    `Protocol`, asyncio reads with `recv(256 KiB)`: memory that glibc maps and unmaps again for every
    ping, which takes longer than all else. uvloop has a buffer of its own for that.

    Args:
        connections: what all of them share.
        address: of whom it is, as far as can be told.
    """

    __slots__ = (
        "_address", "_busy_until", "_closed_with", "_reader", "_shared", "_since", "_timed", "_transport",
        "page",
    )  # fmt: skip

    def __init__(self, connections: Connections[P], address: str = "") -> None:
        self.page: P | None = None
        """Whose socket it is, until its goodbye; the listener hears of it. Nobody hears of a socket without
        a page."""
        self._shared = connections
        self._address = intern(address)
        self._transport: asyncio.Transport | None = None
        self._reader: Reader | None = None  # exists only while a frame or message is unfinished
        self._since = 0.0  # when it became so, or when the close was sent
        self._timed = False  # the wheel will ask after it, as it does again after the close
        self._busy_until = 0.0  # how far the frames so far have used up the rate
        self._closed_with: int | None = None

    # What the heart calls.

    def send(self, message: bytes) -> None:
        """Send one encoded message as a text frame; nothing once the socket is closing."""
        if self._closed_with is None and self._transport is not None:
            self._transport.write(frames.text(message))

    def close(self, code: int, reason: str = "") -> None:
        """Say goodbye with a close code; what the page sends from now on is not heard."""
        if self._closed_with is None and self._transport is not None:
            # Noted first: the write may call pause_writing, which would say goodbye again.
            self._closed_with = code
            self._since = self._shared.clock.monotonic()
            self._shared.wheel.add(self, self._since + CLOSING_AFTER)
            self._transport.write(frames.close(code, reason))

    def abort(self) -> None:
        """Cut the connection without another word."""
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._shared.made(self._address)
        if self._shared.closing:
            self.close(CloseCode.RESTART, "the server restarts")
            transport.close()  # nobody will be there to cut it later
        elif self.page is not None:
            try:
                self._shared.listener.on_open(self.page)
            except Exception:
                self._fail()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._shared.inbox

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(self._shared.inbox[:nbytes].tobytes())

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if reader is None:
            text = frames.single(data)
            if text is not None:  # nearly always: one whole short text in one segment
                self._receive(_TEXT, text)
                return
            reader = Reader(self._shared.max_message)
        if reader is not _DEAF:
            self._read(reader, data)
        elif len(data) > FAREWELL:  # no goodbye, but a flood
            self.abort()

    def pause_writing(self) -> None:
        """The page does not read. It may fetch what is on its way, but gets nothing more."""
        self.close(CloseCode.SLOW_READER, "too slow a reader")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._shared.lost(self._address)
        self._tell_close()

    # What the wheel calls.

    def on_time(self, now: float) -> float | None:
        if self._transport is None:
            return None
        if self._closed_with is not None:
            if now < self._since + CLOSING_AFTER:
                return self._since + CLOSING_AFTER
            self._transport.abort()
        elif self._reader is not None:
            if now < self._since + UNFINISHED_AFTER:
                return self._since + UNFINISHED_AFTER
            self._refuse(FrameError(CloseCode.PROTOCOL_ERROR, "a message was not finished in time"))
        self._timed = False
        return None

    def _read(self, reader: Reader, data: bytes) -> None:
        """The slow way in: anything but one whole text."""
        began = self._reader is None
        try:
            for frame in reader.feed(data):
                if frame.opcode < _CLOSE:
                    began = True
                self._receive(frame.opcode, frame.payload)
                if self._reader is _DEAF:
                    return
        except FrameError as error:
            self._refuse(error)
            return
        if not reader.unfinished:
            self._reader = None
        elif began:
            now = self._shared.clock.monotonic()
            if not self._timed:
                self._timed = True
                self._shared.wheel.add(self, now + UNFINISHED_AFTER)
            self._reader = reader
            if self._closed_with is None:
                self._since = now

    def _receive(self, opcode: Opcode, payload: bytes) -> None:
        try:
            now = self._spend()  # first: what comes after the close costs as much as what came before
            if self._closed_with is not None and opcode is not _CLOSE:
                return
            if opcode is _TEXT or opcode is _BINARY:
                self._hear(opcode, payload, now)
            elif opcode is _PING:
                self._write(frames.pong(payload))
            elif opcode is _CLOSE:
                self._part(frames.close_code(payload))
        except ProtocolError as error:
            self._refuse(error)
        except Exception:
            self._fail()

    def _hear(self, opcode: Opcode, payload: bytes, now: float) -> None:
        """Take a whole message."""
        if opcode is not _TEXT:
            raise MessageError(CloseCode.UNSUPPORTED_DATA, "binary messages are not part of the protocol")
        ping = decode(payload)
        if ping is not None and self.page is not None:
            self._shared.listener.on_ping(self.page, ping, now)

    def _spend(self) -> float:
        """Count one frame against the page's rate (the generic cell rate algorithm, ITU-T I.371); when."""
        shared = self._shared
        now = shared.clock.monotonic()
        begin = self._busy_until if self._busy_until > now else now
        busy_until = begin + shared.frame_cost
        if busy_until > now + shared.burst:
            raise ProtocolError(CloseCode.TOO_FAST, "more frames than the limit allows")
        self._busy_until = busy_until
        return now

    def _part(self, code: int | None) -> None:
        """The page's goodbye, or its answer to ours (RFC 6455 §5.5.1, §7.1.1)."""
        self.close(CloseCode.NORMAL if code is None else code)
        self._hang_up()
        self._tell_close()  # TCP may stand for seconds yet, and the server part with the page meanwhile

    def _tell_close(self) -> None:
        page, self.page = self.page, None  # they know each other: neither may wait for the garbage collector
        if page is not None:
            self._shared.listener.on_close(page, self._closed_with or 1006)

    def _hang_up(self) -> None:
        """Nothing more is said or heard; the server ends the TCP connection first (§7.1.1).

        Only its own half: closing both while the page still sends would reset the connection and
        could take the close frame with it. The wheel cuts what is left.
        """
        self._reader = _DEAF
        if self._transport is None:
            return
        try:
            if self._transport.can_write_eof():
                self._transport.write_eof()
            else:
                self._transport.close()
        except OSError:  # the page has reset the connection meanwhile, and nobody has told yet
            self._transport.abort()

    def _fail(self) -> None:
        log.exception("a page could not be answered")
        self.close(CloseCode.INTERNAL_ERROR)

    def _refuse(self, error: ProtocolError) -> None:
        if self._closed_with is None:  # a line a connection is all that a page can write into the log
            log.warning("closing a page's socket with %d: %s", error.code, error.problem)
            self.close(error.code, error.problem)
        if not isinstance(error, MessageError):  # whose frames were sound: it can still say goodbye
            self._hang_up()

    def _write(self, frame: bytes) -> None:
        if self._transport is not None:
            self._transport.write(frame)
