"""RFC 6455, client side: what a server's `frames` is, with the masks on the other side."""

from secrets import token_bytes

from .. import frames
from ..frames import Opcode

_MASKED = 0x80


def single(data: bytes) -> bytes | None:
    """The fast path, for data that arrives while nothing is unfinished.

    Returns:
        The payload if `data` is exactly one final, unmasked text frame of less than 126 bytes.
        `None` for all else, right or wrong: a `frames.Reader` shall decide.
    """
    size = len(data) - 2
    if not 0 <= size < 126 or data[0] != 0x81 or data[1] != size:
        return None
    payload = data[2:]
    return payload if payload.isascii() or _is_utf8(payload) else None


def text(payload: bytes) -> bytes:
    """A whole text message of at most 64 KiB in one frame, masked; `payload` is UTF-8."""
    return _masked(Opcode.TEXT, payload)


def pong(payload: bytes) -> bytes:
    """The answer to a control ping; takes the payload of that (RFC 6455 §5.5.3)."""
    return _masked(Opcode.PONG, payload)


def close(code: int) -> bytes:
    """A close frame (RFC 6455 §5.5.1)."""
    return _masked(Opcode.CLOSE, code.to_bytes(2))


def _masked(opcode: Opcode, payload: bytes) -> bytes:
    """A final frame with a mask that nobody can foresee (RFC 6455 §5.3)."""
    size = len(payload)
    length = bytes([_MASKED | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
    key = token_bytes(4)
    return bytes([0x80 | opcode]) + length + key + frames.unmasked(payload, key)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
