"""RFC 6455 frames: every rule, any bytes, any split."""

from collections.abc import Iterable
from sys import getsizeof

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keepalive import frames
from keepalive.errors import FrameError
from keepalive.frames import MAX_FRAGMENTS, Frame, Opcode, Reader, single

KEY = b"\x37\xfa\x21\x3d"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = Opcode


def masked(
    opcode: int, payload: bytes = b"", *, final: bool = True, key: bytes = KEY, reserved: int = 0
) -> bytes:
    """A frame as a browser sends it, made one byte at a time, as RFC 6455 §5.2 and §5.3 tell."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = b"\xfe" + size.to_bytes(2)
    else:
        length = b"\xff" + size.to_bytes(8)
    first = (0x80 if final else 0) | reserved | opcode
    return bytes([first]) + length + key + bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def read(pieces: Iterable[bytes], limit: int = 4096) -> tuple[list[Frame], int | None, bool]:
    """What a reader makes of the pieces: the frames, the close code if it refuses, if it is unfinished."""
    reader = Reader(limit)
    found: list[Frame] = []
    try:
        for piece in pieces:
            found.extend(reader.feed(piece))
    except FrameError as error:
        return found, error.code, False
    return found, None, reader.unfinished


def bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def refused(data: bytes, limit: int = 4096) -> int | None:
    """The code with which `data` is refused, whether it comes at once or byte by byte."""
    code = read([data], limit)[1]
    assert read(bytewise(data), limit)[1] == code
    return code


# The examples of RFC 6455 §5.7.


def test_the_masked_hello_of_the_rfc() -> None:
    data = bytes.fromhex("818537fa213d7f9f4d5158")
    assert data == masked(TEXT, b"Hello")
    assert single(data) == b"Hello"
    assert read([data]) == ([Frame(TEXT, b"Hello")], None, False)


@pytest.mark.parametrize("payload", [b"", b"Hello", b"x" * 126, b"\xe2\x82\xac" * 30000])
def test_a_client_reads_what_a_server_writes(payload: bytes) -> None:
    data = frames.text(payload)
    for pieces in [data], [data[:3], data[3:]], bytewise(data):
        reader = Reader(100_000, masked=False)
        found = [frame for piece in pieces for frame in reader.feed(piece)]
        assert found == [Frame(TEXT, payload)]
        assert not reader.unfinished


def test_a_client_refuses_a_masked_frame() -> None:
    with pytest.raises(FrameError, match="a masked frame"):
        list(Reader(masked=False).feed(masked(TEXT, b"Hello")))


def test_the_masked_pong_of_the_rfc() -> None:
    data = bytes.fromhex("8a8537fa213d7f9f4d5158")
    assert single(data) is None
    assert read([data]) == ([Frame(PONG, b"Hello")], None, False)


def test_the_unmasked_hello_of_the_rfc_is_what_the_server_writes() -> None:
    assert frames.text(b"Hello") == bytes.fromhex("810548656c6c6f")


# Whole messages.


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 125, 126, 127, 4095, 4096])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_of_any_size_up_to_the_limit(opcode: Opcode, size: int) -> None:
    payload = (b"0123456789" * 410)[:size]
    data = masked(opcode, payload)
    assert read([data]) == ([Frame(opcode, payload)], None, False)
    assert read(bytewise(data)) == ([Frame(opcode, payload)], None, False)


def test_a_message_that_needs_a_64_bit_length() -> None:
    payload = b"x" * 65536
    assert read([masked(BINARY, payload)], limit=65536) == ([Frame(BINARY, payload)], None, False)


def test_the_opcode_is_an_opcode() -> None:
    (frame,) = read([masked(PING)])[0]
    assert type(frame.opcode) is Opcode


def test_several_frames_in_one_piece_come_in_order() -> None:
    data = masked(TEXT, b"one") + masked(PING, b"two") + masked(BINARY, b"\xff") + masked(CLOSE)
    expected = [Frame(TEXT, b"one"), Frame(PING, b"two"), Frame(BINARY, b"\xff"), Frame(CLOSE, b"")]
    assert read([data]) == (expected, None, False)


def test_fragments_are_folded_and_control_frames_overtake_them() -> None:
    data = [
        masked(TEXT, b"Hel", final=False),
        masked(PING, b"there?"),
        masked(CONTINUATION, b"", final=False),
        masked(PONG),
        masked(CONTINUATION, b"lo"),
    ]
    expected = [Frame(PING, b"there?"), Frame(PONG, b""), Frame(TEXT, b"Hello")]
    assert read(data) == (expected, None, False)


def test_a_control_frame_carries_up_to_125_bytes() -> None:
    assert read([masked(PING, b"x" * 125)]) == ([Frame(PING, b"x" * 125)], None, False)
    assert read([masked(PING, b"x" * 125)], limit=10) == ([Frame(PING, b"x" * 125)], None, False)


# What is unfinished.


def test_a_reader_begins_with_nothing_unfinished() -> None:
    assert not Reader().unfinished


@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING])
def test_a_frame_is_unfinished_up_to_its_last_byte(opcode: Opcode) -> None:
    data = masked(opcode, b"x" * 100)
    reader = Reader()
    for byte in bytewise(data[:-1]):
        assert list(reader.feed(byte)) == []
        assert reader.unfinished
    assert list(reader.feed(data[-1:])) == [Frame(opcode, b"x" * 100)]
    assert not reader.unfinished


def test_a_message_is_unfinished_up_to_its_last_fragment() -> None:
    reader = Reader()
    assert list(reader.feed(masked(BINARY, b"a", final=False))) == []
    assert reader.unfinished
    assert list(reader.feed(masked(PING))) == [Frame(PING, b"")]
    assert reader.unfinished
    assert list(reader.feed(masked(CONTINUATION, b"b"))) == [Frame(BINARY, b"ab")]
    assert not reader.unfinished


def test_who_stops_iterating_loses_nothing() -> None:
    reader = Reader()
    first = next(reader.feed(masked(TEXT, b"one") + masked(TEXT, b"two") + masked(TEXT, b"three")[:5]))
    assert first == Frame(TEXT, b"one")
    assert reader.unfinished
    assert list(reader.feed(masked(TEXT, b"three")[5:])) == [Frame(TEXT, b"two"), Frame(TEXT, b"three")]


def held(reader: Reader) -> int:
    """How many bytes of memory hang on a reader."""
    return sum(getsizeof(getattr(reader, name)) for name in Reader.__slots__)


def test_many_empty_fragments_stay_unfinished_and_cost_no_memory() -> None:
    reader = Reader()
    assert list(reader.feed(masked(TEXT, final=False))) == []
    before = held(reader)
    for _ in range(3):
        assert list(reader.feed(masked(CONTINUATION, final=False) * 20)) == []
        assert reader.unfinished
        assert held(reader) == before


def test_a_message_has_a_bounded_number_of_fragments() -> None:
    reader = Reader()
    most = masked(TEXT, final=False) + masked(CONTINUATION, final=False) * (MAX_FRAGMENTS - 1)
    assert list(reader.feed(most)) == []
    with pytest.raises(FrameError) as caught:
        list(reader.feed(masked(CONTINUATION, final=False)))
    assert caught.value.code == 1009


def test_no_more_is_held_than_a_message_a_control_frame_and_a_header() -> None:
    reader = Reader(limit=4096)
    empty = held(reader)
    most = 0
    wire = masked(BINARY, b"x" * 4095, final=False) + masked(PING, b"y" * 125) + masked(CONTINUATION, b"x")
    for byte in bytewise(wire[:-1]):
        list(reader.feed(byte))
        most = max(most, held(reader))
    # A bytearray that grows keeps an eighth in reserve.
    assert most <= empty + (4096 + 125 + 14) * 9 / 8 + 64


# What is refused, and how early: the shortest beginning of a frame that proves it.

REFUSED_AT_ONCE = [
    pytest.param("c1", 1002, id="RSV1"),
    pytest.param("a1", 1002, id="RSV2"),
    pytest.param("91", 1002, id="RSV3"),
    pytest.param("83", 1002, id="reserved data opcode 3"),
    pytest.param("87", 1002, id="reserved data opcode 7"),
    pytest.param("8b", 1002, id="reserved control opcode 11"),
    pytest.param("8f", 1002, id="reserved control opcode 15"),
    pytest.param("08", 1002, id="fragmented close"),
    pytest.param("09", 1002, id="fragmented ping"),
    pytest.param("0a", 1002, id="fragmented pong"),
    pytest.param("80", 1002, id="continuation without a start"),
    pytest.param("00", 1002, id="continuation without a start or an end"),
    pytest.param("8105", 1002, id="unmasked text"),
    pytest.param("8900", 1002, id="unmasked ping"),
    pytest.param("8800", 1002, id="unmasked close"),
    pytest.param("817e", 1002, id="unmasked and longer"),
    pytest.param("89fe", 1002, id="ping over 125 bytes"),
    pytest.param("88fe", 1002, id="close over 125 bytes"),
    pytest.param("8aff", 1002, id="pong over 65535 bytes"),
    pytest.param("81fe0000", 1002, id="16-bit length of 0"),
    pytest.param("81fe007d", 1002, id="16-bit length of 125"),
    pytest.param("81ff0000000000000000", 1002, id="64-bit length of 0"),
    pytest.param("81ff000000000000ffff", 1002, id="64-bit length of 65535"),
    pytest.param("81ff8000000000000000", 1002, id="64-bit length of 2^63"),
    pytest.param("81ffffffffffffffffff", 1002, id="64-bit length of 2^64-1"),
    pytest.param("81fe1001", 1009, id="4097 bytes"),
    pytest.param("82feffff", 1009, id="65535 bytes"),
    pytest.param("81ff0000000000010000", 1009, id="65536 bytes"),
    pytest.param("82ff7fffffffffffffff", 1009, id="2^63-1 bytes"),
]


@pytest.mark.parametrize(("beginning", "code"), REFUSED_AT_ONCE)
def test_a_frame_is_refused_from_its_header(beginning: str, code: int) -> None:
    data = bytes.fromhex(beginning)
    assert refused(data) == code
    assert read([data[:-1]])[1] is None


def test_a_new_message_inside_of_a_fragmented_one() -> None:
    for opcode in (TEXT, BINARY):
        assert refused(masked(TEXT, b"a", final=False) + bytes([0x80 | opcode])) == 1002
        assert refused(masked(TEXT, b"a", final=False) + bytes([opcode])) == 1002


def test_a_continuation_after_the_end_of_a_message() -> None:
    whole = masked(TEXT, b"a", final=False) + masked(CONTINUATION, b"b")
    assert read([whole + b"\x80"]) == ([Frame(TEXT, b"ab")], 1002, False)


def test_fragments_are_over_the_limit_together() -> None:
    start = masked(TEXT, b"x" * 4000, final=False)
    assert refused(start + masked(CONTINUATION, b"x" * 96)) is None
    assert refused(start + masked(CONTINUATION, b"x" * 97)[:2]) == 1009


def test_each_message_has_the_whole_limit() -> None:
    data = masked(TEXT, b"x" * 50, final=False) + masked(CONTINUATION, b"x" * 50)
    assert read([data * 3], limit=100) == ([Frame(TEXT, b"x" * 100)] * 3, None, False)


def test_what_was_whole_before_a_violation_is_yielded() -> None:
    reader = Reader()
    feeding = reader.feed(masked(TEXT, b"one") + masked(PING, b"two") + b"\x81\x05Hello")
    assert next(feeding) == Frame(TEXT, b"one")
    assert next(feeding) == Frame(PING, b"two")
    with pytest.raises(FrameError, match="unmasked") as caught:
        next(feeding)
    assert caught.value.code == 1002


# Text.

NOT_UTF8 = [
    pytest.param(b"\xff", id="never a byte of UTF-8"),
    pytest.param(b"\x80", id="continuation byte alone"),
    pytest.param(b"\xc0\xaf", id="overlong slash"),
    pytest.param(b"\xe0\x80\xaf", id="overlong slash in three"),
    pytest.param(b"\xed\xa0\x80", id="surrogate"),
    pytest.param(b"\xf4\x90\x80\x80", id="above U+10FFFF"),
    pytest.param(b"\xceX", id="cut short inside"),
]


@pytest.mark.parametrize("bad", [*NOT_UTF8, pytest.param(b"\xc3", id="cut short at the end")])
def test_text_that_is_not_utf8(bad: bytes) -> None:
    data = masked(TEXT, b"ok " + bad)
    assert single(data) is None
    assert refused(data) == 1007
    assert read([masked(BINARY, bad)]) == ([Frame(BINARY, bad)], None, False)


@pytest.mark.parametrize("bad", NOT_UTF8)
def test_bad_text_is_refused_before_the_rest_of_it_comes(bad: bytes) -> None:
    data = masked(TEXT, b"ok " + bad + b" and much more")
    assert refused(data[: 6 + 3 + len(bad)]) == 1007
    assert refused(masked(TEXT, b"ok", final=False) + masked(CONTINUATION, bad, final=False)) == 1007


def test_a_character_may_be_cut_between_fragments_but_not_at_the_end() -> None:
    euro = "€".encode()
    parts = [masked(TEXT, euro[:1], final=False), masked(CONTINUATION, euro[1:2], final=False)]
    assert read([*parts, masked(CONTINUATION, euro[2:])]) == ([Frame(TEXT, euro)], None, False)
    assert refused(b"".join([*parts, masked(CONTINUATION)])) == 1007


def test_a_half_character_does_not_spill_into_the_next_message() -> None:
    data = masked(TEXT, "é".encode()) + masked(BINARY, b"\xc3") + masked(TEXT, "é".encode())
    expected = [Frame(TEXT, b"\xc3\xa9"), Frame(BINARY, b"\xc3"), Frame(TEXT, b"\xc3\xa9")]
    assert read([data]) == (expected, None, False)


# Close.


def test_exactly_the_codes_that_may_be_sent_are_accepted() -> None:
    accepted = set()
    for code in range(1 << 16):
        try:
            assert frames.close_code(code.to_bytes(2)) == code
        except FrameError as error:
            assert error.code == 1002
        else:
            accepted.add(code)
    assert accepted == {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


def test_a_close_may_be_empty_or_have_a_reason() -> None:
    assert frames.close_code(b"") is None
    assert frames.close_code(b"\x03\xe8going") == 1000
    assert read([masked(CLOSE, b"\x03\xe9" + "à bientôt".encode())])[1] is None


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\x03", 1002),
        (b"\x00", 1002),
        (b"\x03\xed", 1002),
        (b"\x03\xee", 1002),
        (b"\x13\x88", 1002),
        (b"\x03\xed\xff", 1002),
        (b"\x03\xe8\xff", 1007),
        (b"\x03\xe8\xc3", 1007),
    ],
)
def test_a_bad_close_is_refused(payload: bytes, code: int) -> None:
    with pytest.raises(FrameError) as caught:
        frames.close_code(payload)
    assert caught.value.code == code
    assert refused(masked(CLOSE, payload)) == code


# The fast path.


@pytest.mark.parametrize("size", range(126))
def test_every_short_text_takes_the_fast_path(size: int) -> None:
    payload = bytes(33 + i % 90 for i in range(size))
    assert single(masked(TEXT, payload)) == payload


@pytest.mark.parametrize("key", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x01", b"\x80\0\0\0"])
def test_every_key_takes_the_fast_path(key: bytes) -> None:
    for payload in (b"", b"a", b"ab", b"abc", b"abcd", b"abcde", "naïve €".encode()):
        assert single(masked(TEXT, payload, key=key)) == payload


def assert_fast_agrees(data: bytes) -> None:
    """The fast path says what a reader says of one short text frame, and nothing of all else."""
    found, code, unfinished = read([data])
    is_one_short_text = (
        code is None
        and not unfinished
        and len(found) == 1
        and found[0].opcode is TEXT
        and len(data) == 6 + len(found[0].payload)
        and len(found[0].payload) < 126
    )
    assert single(data) == (found[0].payload if is_one_short_text else None)


def test_the_fast_path_agrees_with_the_reader_on_every_header() -> None:
    for head in range(1 << 16):
        assert_fast_agrees(head.to_bytes(2) + masked(TEXT, b"Hello")[2:])


@given(data=st.binary(max_size=140))
@example(data=b"")
@example(data=masked(TEXT, b"x" * 125))
@example(data=masked(TEXT, b"x" * 126))
def test_the_fast_path_agrees_with_the_reader_on_any_bytes(data: bytes) -> None:
    assert_fast_agrees(data)


@given(
    payload=st.binary(max_size=130) | st.text(max_size=60).map(str.encode),
    key=st.binary(min_size=4, max_size=4),
    rest=st.just(b"") | st.binary(max_size=8),
    cut=st.just(0) | st.integers(0, 8),
)
def test_the_fast_path_agrees_with_the_reader_on_texts(
    payload: bytes, key: bytes, rest: bytes, cut: int
) -> None:
    data = masked(TEXT, payload, key=key) + rest
    assert_fast_agrees(data[: len(data) - cut])


# Any messages, any fragments, any keys, any split.

keys = st.binary(min_size=4, max_size=4)
controls = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125))
contents = st.tuples(st.just(TEXT), st.text(max_size=80).map(str.encode)) | st.tuples(
    st.just(BINARY), st.binary(max_size=300)
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[Frame]]:
    """Bytes that break no rule, and the frames that they hold."""
    wire, expected = bytearray(), []
    for opcode, payload in draw(st.lists(contents, max_size=4)):
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
        parts = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        for i, part in enumerate(parts):
            kind = CONTINUATION if i else opcode
            wire += masked(kind, part, final=i == len(parts) - 1, key=draw(keys))
            if i == len(parts) - 1:
                expected.append(Frame(opcode, payload))
            for control, data in draw(st.lists(controls, max_size=1)):
                wire += masked(control, data, key=draw(keys))
                expected.append(Frame(control, data))
    return bytes(wire), expected


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    bounds = sorted(min(cut, len(data)) for cut in cuts)
    return [data[a:b] for a, b in zip([0, *bounds], [*bounds, len(data)], strict=True)]


@given(conversation=conversations(), cuts=st.lists(st.integers(0, 1500), max_size=8))
def test_what_was_sent_is_what_is_read_however_it_is_cut(
    conversation: tuple[bytes, list[Frame]], cuts: list[int]
) -> None:
    wire, expected = conversation
    assert read([wire]) == (expected, None, False)
    assert read(pieces(wire, cuts)) == (expected, None, False)
    assert read(bytewise(wire)) == (expected, None, False)


@st.composite
def mishaps(draw: st.DrawFn) -> bytes:
    """Bytes that are nearly right: true frames and noise, one after the other."""
    part = st.binary(max_size=20) | st.builds(
        masked,
        st.integers(0, 15),
        st.binary(max_size=140),
        final=st.booleans(),
        key=keys,
        reserved=st.sampled_from([0, 0, 0, 0, 0x10, 0x20, 0x40]),
    )
    return b"".join(draw(st.lists(part | conversations().map(lambda made: made[0]), max_size=5)))


@given(data=mishaps(), cuts=st.lists(st.integers(0, 600), max_size=6))
def test_any_bytes_give_frames_or_a_documented_code_however_they_are_cut(
    data: bytes, cuts: list[int]
) -> None:
    found, code, unfinished = read([data], limit=200)
    assert code in (None, 1002, 1007, 1009)
    for frame in found:
        assert frame.opcode is not CONTINUATION
        assert len(frame.payload) <= (125 if frame.opcode >= CLOSE else 200)
        if frame.opcode is TEXT:
            frame.payload.decode()
    assert read(pieces(data, cuts), limit=200) == (found, code, unfinished)
    assert read(bytewise(data), limit=200) == (found, code, unfinished)


# What the server writes.


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, "8100"),
        (125, "817d"),
        (126, "817e007e"),
        (65535, "817effff"),
        (65536, "817f0000000000010000"),
    ],
)
def test_a_text_has_the_shortest_header(size: int, head: str) -> None:
    assert frames.text(b"x" * size) == bytes.fromhex(head) + b"x" * size


def test_control_frames() -> None:
    assert frames.pong(b"abc") == b"\x8a\x03abc"
    assert frames.close(1000) == b"\x88\x02\x03\xe8"
    assert frames.close(4501, "idle") == b"\x88\x06\x11\x95idle"


def test_a_control_frame_over_125_bytes_is_not_written() -> None:
    assert frames.pong(b"x" * 125) == b"\x8a\x7d" + b"x" * 125
    with pytest.raises(ValueError, match="125"):
        frames.pong(b"x" * 126)


@given(reason=st.text(max_size=140) | st.text(st.sampled_from("aé€😀"), max_size=140))
@example(reason="a" * 123)
@example(reason="a" * 124)
@example(reason="a" * 122 + "é")
def test_a_reason_is_cut_between_two_characters(reason: str) -> None:
    written = frames.close(1000, reason)
    assert written[0] == 0x88
    assert written[1] == len(written) - 2 <= 125
    assert frames.close_code(written[2:]) == 1000
    told = written[4:].decode()
    assert reason.startswith(told)
    assert told == reason or len(reason[: len(told) + 1].encode()) > 123
