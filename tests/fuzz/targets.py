"""What `frames` and `messages` may do with any bytes at all, as targets for a fuzzer."""

import json
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

from keepalive.errors import MessageError
from keepalive.frames import Opcode
from keepalive.messages import Ping, decode, encode
from tests.test_frames import assert_fast_agrees, bytewise, read

CORPUS = Path(__file__).parent / "corpus"
LIMIT = 200
"""The longest message here, in bytes: short, so that a fuzzer comes upon what is longer."""


def frames(data: bytes) -> None:
    """Any bytes in any split are frames or an error, and the split makes no difference.

    The first four bytes are the sizes of the pieces, in turns; 0 is an empty piece.
    """
    sizes, wire = data[:4], data[4:]
    found, code, unfinished = read([wire], LIMIT)
    assert code in (None, 1002, 1007, 1009)
    for opcode, payload in found:
        assert opcode is not Opcode.CONTINUATION
        assert len(payload) <= (125 if opcode >= Opcode.CLOSE else LIMIT)
        if opcode is Opcode.TEXT:
            payload.decode()
    assert read(bytewise(wire), LIMIT) == (found, code, unfinished)
    assert read(_pieces(wire, sizes), LIMIT) == (found, code, unfinished)
    assert_fast_agrees(wire)


def _pieces(wire: bytes, sizes: bytes) -> list[bytes]:
    if not any(sizes):
        return [wire]
    found = []
    for size in cycle(sizes):
        found.append(wire[:size])
        wire = wire[size:]
        if not wire:
            return found
    raise AssertionError


# Half of the inputs are spelled in these: libFuzzer sees nothing of what goes on in msgspec, which is
# not Python, and so would hardly ever find a whole message.
_TOKENS = (
    *'{}[]:,"',
    *("true", "false", "null", "0", "1", "-1", "0.5", "1e3", "9007199254740991", "9007199254740992"),
    *('"type":', '"n":', '"idle":', '"visible":', '"data":', '"ping"', '"dance"', '""', '"€"', '"\\u20ac"'),
    *('{"type":"ping","n":', '{"type":"ping","n":1,'),
)


def messages(data: bytes) -> None:
    """Any bytes are a ping, nothing or an error; a ping is what Python's own `json` reads."""
    if data[:1] > b"\x7f":
        data = "".join(_TOKENS[byte % len(_TOKENS)] for byte in data[1:]).encode()
    try:
        ping = decode(data)
    except MessageError as error:
        assert error.code == 1007
        return
    if ping is not None:
        # msgspec does not look into the texts of fields that it skips.
        told = json.loads(data.decode(errors="replace"))
        assert told["type"] == "ping"
        assert type(told["n"]) is int
        assert 0 <= told["n"] < 2**53
        idle = None if told.get("idle") is None else float(told["idle"])
        assert ping == Ping(told["n"], idle, told.get("visible", True), told.get("data"))
        assert decode(encode(ping)) == ping


TARGETS: dict[str, Callable[[bytes], None]] = {"frames": frames, "messages": messages}
