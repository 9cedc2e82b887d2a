"""RFC 6455, server side: bytes to messages, messages to bytes. (A client reads with `Reader`, too.)

Pure: no I/O and no time. Nearly all that a page sends is one short text frame that arrives whole.
`single` reads exactly that, in nanoseconds; for anything else the caller makes a `Reader`, which
knows all rules, and keeps it only while something is unfinished:

    payload = single(data)
    if payload is None:
        reader = Reader()
        for frame in reader.feed(data):
            ...
        if not reader.unfinished:
            ...  # the next data may go to `single` again
"""

from codecs import getincrementaldecoder
from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from .errors import FrameError

# RFC 6455 §7.4.1
_PROTOCOL_ERROR = 1002
_INVALID_PAYLOAD = 1007
_TOO_BIG = 1009

_FINAL = 0x80
_MASKED = 0x80
_MAX_CONTROL = 125
MAX_FRAGMENTS = 64
"""Most fragments of one message. Empty ones hold no memory, but each takes time to read."""


class Opcode(IntEnum):
    """What a frame is (RFC 6455 §11.8). From `CLOSE` on it is a control frame."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


_OPCODES = {int(opcode): opcode for opcode in Opcode}
_Utf8Decoder = getincrementaldecoder("utf-8")


class Frame(NamedTuple):
    """A whole message, or a control frame as it came."""

    opcode: Opcode
    """Never `CONTINUATION`: fragments are folded into the message that they belong to."""
    payload: bytes
    """Unmasked; valid UTF-8 for `TEXT`."""


# By the length of a short frame: how to take it apart, and what makes its mask as long as its
# payload: a multiplier that repeats the key in whole words, and how many bits that is too many.
_SHORT = {
    6 + length: (
        Struct(f">HI{length}s").unpack,
        (_FINAL | Opcode.TEXT) << 8 | _MASKED | length,
        int.from_bytes(b"\0\0\0\1" * (-(-length // 4))),
        -length % 4 * 8,
    )
    for length in range(126)
}
_integer = int.from_bytes


def single(data: bytes) -> bytes | None:
    """The fast path, for data that arrives while nothing is unfinished.

    Returns:
        The payload if `data` is exactly one final, masked text frame of less than 126 bytes,
        which may well be empty. `None` for all else, right or wrong: a `Reader` shall decide.
    """
    shape = _SHORT.get(len(data))
    if shape is None:
        return None
    unpack, expected, repeat, surplus = shape
    head, key, masked = unpack(data)
    if head != expected:
        return None
    # As `unmasked` does, with the mask made by a multiplication: that is faster for short ones.
    payload: bytes = (_integer(masked) ^ key * repeat >> surplus).to_bytes(len(masked))
    if not payload.isascii():
        try:
            payload.decode()
        except UnicodeDecodeError:
            return None
    return payload


class Reader:
    """Reads frames in pieces of any size and folds fragments into messages.

    It holds no more than one message of `limit` bytes, one control frame and one header, however
    much is announced or however many empty fragments come. It has no sense of time: whoever owns
    it puts an end to what stays `unfinished` for too long.

    Args:
        limit: the longest message accepted, in bytes.
        masked: whether the other side has to mask, as a client has to, or must not, as a server.
    """

    __slots__ = (
        "_control",
        "_final",
        "_fragments",
        "_in_payload",
        "_input",
        "_key",
        "_limit",
        "_masked",
        "_message",
        "_missing",
        "_opcode",
        "_started",
        "_utf8",
    )

    def __init__(self, limit: int = 4096, *, masked: bool = True) -> None:
        self._limit = limit
        self._masked = masked
        self._input = bytearray()  # not read yet; between two feeds at most a part of a header
        # The frame whose payload is being read, if any.
        self._in_payload = False
        self._opcode = Opcode.CONTINUATION
        self._final = False
        self._key = b""  # turned so that it begins at the next byte of the payload
        self._missing = 0
        self._control = bytearray()
        # The message under way: control frames may come between its fragments.
        self._started: Opcode | None = None
        self._message = bytearray()
        self._fragments = 0
        self._utf8 = _Utf8Decoder()

    @property
    def unfinished(self) -> bool:
        """Whether a part of a frame or of a fragmented message has come, and the rest has not."""
        return self._in_payload or bool(self._input) or self._started is not None

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take what arrived and yield, in order, what it made whole.

        Nothing is read before the result is iterated. What comes after a close frame is to be
        ignored (RFC 6455 §1.4), which is up to the caller: stop there.

        Raises:
            FrameError: a rule is broken; all that was whole before has been yielded, and the
                reader must not be fed again. The code is 1002 for a broken frame, 1009 for a
                message over the limit, both from the header alone, and 1007 for text that is not
                UTF-8, before the rest of the frame has come.
        """
        self._input += data
        while self._in_payload or self._read_header():
            self._read_payload()
            if self._missing:
                return
            frame = self._finish()
            if frame is not None:
                yield frame

    def _read_header(self) -> bool:
        """Read the header of a frame (RFC 6455 §5.2); false while a part of it is missing."""
        head = self._input
        if not head:
            return False
        final = head[0] >= _FINAL
        opcode = _OPCODES.get(head[0] & 0x7F)
        if opcode is None:
            raise FrameError(_PROTOCOL_ERROR, "reserved bits or a reserved opcode (RFC 6455 §5.2)")
        control = opcode >= Opcode.CLOSE
        if control and not final:
            raise FrameError(_PROTOCOL_ERROR, "a fragmented control frame (RFC 6455 §5.5)")
        if not control and (opcode is Opcode.CONTINUATION) is (self._started is None):
            raise FrameError(_PROTOCOL_ERROR, "fragments out of order (RFC 6455 §5.4)")
        if len(head) < 2:
            return False
        if (head[1] >= _MASKED) is not self._masked:
            kind = "an unmasked" if self._masked else "a masked"
            raise FrameError(_PROTOCOL_ERROR, f"{kind} frame (RFC 6455 §5.1)")
        length = head[1] & 0x7F
        size = 2
        if length > _MAX_CONTROL:
            if control:
                raise FrameError(_PROTOCOL_ERROR, "a control frame over 125 bytes (RFC 6455 §5.5)")
            size, least = (4, 126) if length == 126 else (10, 1 << 16)
            if len(head) < size:
                return False
            length = _integer(head[2:size])
            # §5.2 says MUST to both, so it is 1002, although 2^63 is over any limit as well.
            if length < least or length >= 1 << 63:
                raise FrameError(
                    _PROTOCOL_ERROR, "a length that is not minimal or over 63 bits (RFC 6455 §5.2)"
                )
        if not control and len(self._message) + length > self._limit:
            raise FrameError(_TOO_BIG, f"a message over {self._limit} bytes (RFC 6455 §10.4)")
        if not control and self._fragments >= MAX_FRAGMENTS:
            raise FrameError(_TOO_BIG, f"a message in over {MAX_FRAGMENTS} fragments (RFC 6455 §10.4)")
        start = size + 4 if self._masked else size
        if len(head) < start:
            return False
        self._key = bytes(head[size:start]) or b"\0\0\0\0"
        del head[:start]
        self._in_payload = True
        self._opcode = opcode
        self._final = final
        self._missing = length
        if opcode in (Opcode.TEXT, Opcode.BINARY):
            self._started = opcode
        return True

    def _read_payload(self) -> None:
        """Unmask what is there of the payload. Text is checked at once (RFC 6455 §8.1)."""
        part = unmasked(bytes(self._input[: self._missing]), self._key)
        del self._input[: len(part)]
        self._missing -= len(part)
        turn = len(part) % 4
        self._key = self._key[turn:] + self._key[:turn]
        if self._opcode >= Opcode.CLOSE:
            self._control += part
            return
        self._message += part
        if self._started is Opcode.TEXT:
            try:
                self._utf8.decode(part, self._final and not self._missing)
            except UnicodeDecodeError:
                raise FrameError(_INVALID_PAYLOAD, "text that is not UTF-8 (RFC 6455 §8.1)") from None

    def _finish(self) -> Frame | None:
        """End the frame whose payload is read; `None` if more fragments are to follow."""
        self._in_payload = False
        if self._opcode >= Opcode.CLOSE:
            frame = Frame(self._opcode, bytes(self._control))
            self._control.clear()
            if frame.opcode is Opcode.CLOSE:
                close_code(frame.payload)
            return frame
        if not self._final:
            self._fragments += 1
            return None
        assert self._started is not None
        frame = Frame(self._started, bytes(self._message))
        self._started = None
        self._message.clear()
        self._fragments = 0
        return frame


def close_code(payload: bytes) -> int | None:
    """The code in the payload of a close frame that was received (RFC 6455 §5.5.1, §7.4).

    Returns:
        The code; `None` if the payload is empty.

    Raises:
        FrameError: 1002 for half a code or one that must not be sent, 1007 for a reason that is
            not UTF-8. A `Reader` has checked already what it yields.
    """
    if not payload:
        return None
    code = _integer(payload[:2])
    # 1004 to 1006 and 1015 are never sent; IANA has 1012 to 1014 besides those of the RFC. Half a
    # code is under 256.
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise FrameError(_PROTOCOL_ERROR, "an invalid close code (RFC 6455 §7.4)")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(_INVALID_PAYLOAD, "a close reason that is not UTF-8 (RFC 6455 §5.5.1)") from None
    return code


def text(payload: bytes) -> bytes:
    """A whole text message in one frame, unmasked as a server's are; `payload` is UTF-8."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 1 << 16:
        return b"\x81\x7e%b%b" % (size.to_bytes(2), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8), payload)


def pong(payload: bytes) -> bytes:
    """The answer to a control ping; takes the payload of that (RFC 6455 §5.5.3).

    Raises:
        ValueError: the payload is over 125 bytes (RFC 6455 §5.5).
    """
    return _control(Opcode.PONG, payload)


def close(code: int, reason: str = "") -> bytes:
    """A close frame (RFC 6455 §5.5.1); the reason is cut to 123 bytes between two characters."""
    told = reason.encode()[: _MAX_CONTROL - 2].decode(errors="ignore")
    return _control(Opcode.CLOSE, code.to_bytes(2) + told.encode())


def _control(opcode: Opcode, payload: bytes) -> bytes:
    if len(payload) > _MAX_CONTROL:
        raise ValueError(f"a control frame carries at most {_MAX_CONTROL} bytes (RFC 6455 §5.5)")
    return b"%c%c%b" % (_FINAL | opcode, len(payload), payload)


def unmasked(data: bytes, key: bytes) -> bytes:
    """RFC 6455 §5.3, on one big integer: the only XOR over many bytes that Python has built in."""
    mask = (key * (len(data) // 4 + 1))[: len(data)]
    return (_integer(data) ^ _integer(mask)).to_bytes(len(data))
