"""The page protocol, version 1: typed messages, close codes, and their JSON.

Pure. `decode` raises nothing but `MessageError`, whatever it is given. Times are seconds
*remaining*, never dates, so no two clocks are compared. docs/protocol.md tells the whole.
"""

from enum import IntEnum
from typing import Annotated, Any, TypeVar

import msgspec

from .errors import MessageError
from .policy import Mode, Reason

SUBPROTOCOL = "keepalive.v1"
"""The name that both sides agree on in the handshake (RFC 6455 §1.9)."""

MAX_MESSAGE = 4096
"""The longest message accepted from a page, in bytes."""


class CloseCode(IntEnum):
    """Why a socket closes. 4000 to 4499 ask the page to come back, 4500 to 4999 forbid it.

    `RETURNING` is the page's own: it means to come back. All that says no more is a goodbye.
    """

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_PAYLOAD = 1007
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    RESTART = 1012
    OVERLOADED = 1013
    RETURNING = 4000
    NO_ANSWER = 4001
    TOO_FAST = 4002
    SLOW_READER = 4003
    ROTATED = 4004
    IDLE = 4501
    ABSOLUTE = 4502
    LOGOUT = 4503
    UNKNOWN = 4504
    EVICTED = 4505
    REVOKED = 4506


CLOSE_CODE: dict[Reason, CloseCode] = {reason: CloseCode[reason.name] for reason in Reason}
"""The close code that follows an `end`, or for `rotated` stands in its place."""

_Counter = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class Ping(msgspec.Struct, tag_field="type", tag="ping", gc=False):
    """Page to server: "this page runs, the user was last active `idle` seconds ago"."""

    n: _Counter
    idle: float | None = None
    visible: bool = True
    data: dict[str, Any] | None = None


class _Outgoing(msgspec.Struct, tag_field="type", omit_defaults=True, gc=False):
    """Server to page; a field that has its default is left out."""


class Hello(_Outgoing, tag="hello"):
    """First: the rules of this session. The page counts as connected now."""

    interval: float
    idle_timeout: float
    expires_in: float
    warn_before: float
    mode: Mode
    spread: float
    ends_in: float | None = None
    who: str | None = None
    hidden_interval: float | None = None


class Beat(_Outgoing, tag="beat"):
    """The answer to a ping, only after the store's word: the session lives."""

    n: int
    expires_in: float
    ends_in: float | None = None
    times: int = 2
    renew: bool = False
    data: dict[str, Any] | msgspec.Raw | None = None


class Ask(_Outgoing, tag="ask"):
    """A ping is due, answer now."""


class Wait(_Outgoing, tag="wait"):
    """The store was not asked: no beat, nothing extended, nothing ended."""

    n: int
    retry_in: float
    why: str
    """Such as `store`, which could not be asked, or `rate`: this session asks too often."""


class Warning(_Outgoing, tag="warning"):  # noqa: A001 - the protocol's word
    """A deadline is `expires_in` seconds away; `extendable` tells whether anyone can move it."""

    expires_in: float
    why: Reason
    extendable: bool


class End(_Outgoing, tag="end"):
    """The session is over; a final close code follows."""

    reason: Reason
    login: str | None = None


class Push(_Outgoing, tag="push"):
    """The app has something for this session."""

    data: Any


Message = Hello | Beat | Ask | Wait | Warning | End | Push


class HttpBeat(Beat, tag="beat"):
    """A beat over HTTP also tells the rules: there is no hello before it."""

    interval: float | None = None
    hidden_interval: float | None = None
    warn_before: float | None = None
    mode: Mode | None = None
    who: str | None = None


Answer = HttpBeat | Wait | End
"""What a ping over HTTP gets."""


class _Nameless(msgspec.Struct, tag_field="type", tag="", gc=False):
    """Makes a union with `Ping`: only in a union does msgspec insist that a message has a type."""


class _Envelope(msgspec.Struct):
    """Just enough to tell an unknown message from a broken one."""

    type: str


_ping: msgspec.json.Decoder[Ping | _Nameless] = msgspec.json.Decoder(Ping | _Nameless)
_envelope = msgspec.json.Decoder(_Envelope)
_message: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
_answer: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
encode = msgspec.json.Encoder().encode
"""Turn a message into the JSON that goes into one text frame."""


def decode(text: bytes) -> Ping | None:
    """Read one text message of a page.

    Args:
        text: the message, UTF-8.

    Returns:
        The ping, or `None` for a message of a type that this version does not know.

    Raises:
        MessageError: not JSON, nested too deeply, without a type, or a ping with a field that is
            missing or of the wrong type.
    """
    try:
        message = _ping.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        if isinstance(error, msgspec.ValidationError) and _type_of(text) not in (None, "ping"):
            return None
        raise MessageError(CloseCode.INVALID_PAYLOAD, "not a message of the page protocol") from None
    return message if isinstance(message, Ping) else None


def decode_message(text: bytes | str) -> Message | None:
    """Read one message of a server; `None` for what this version cannot make sense of.

    An end is an end, also for a reason that only a later version knows: such a one reads `unknown`.
    """
    return _told(_message, text)


def decode_answer(text: bytes | str) -> Answer | None:
    """Read what a ping over HTTP got. As `decode_message`."""
    return _told(_answer, text)


_T = TypeVar("_T")


def _told(decoder: msgspec.json.Decoder[_T], text: bytes | str) -> _T | End | None:
    try:
        return decoder.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return End(Reason.UNKNOWN) if _type_of(text) == "end" else None


def _type_of(text: bytes | str) -> str | None:
    try:
        return _envelope.decode(text).type
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None
