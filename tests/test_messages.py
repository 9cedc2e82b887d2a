"""The page protocol: what a page may say, what it may not, and our words byte by byte."""

import json
from math import inf, nan
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keepalive import frames
from keepalive.errors import MessageError
from keepalive.messages import (
    CLOSE_CODE,
    MAX_MESSAGE,
    Ask,
    Beat,
    CloseCode,
    End,
    Hello,
    HttpBeat,
    Message,
    Ping,
    Push,
    Wait,
    Warning,
    decode,
    decode_answer,
    decode_message,
    encode,
)
from keepalive.policy import Mode, Policy, Reason

# What Python's `json` writes, NaN and Infinity and lone surrogates included.
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
json_pings = st.fixed_dictionaries(
    {"type": st.sampled_from(["ping", "ping", "ping", "pong", ""]) | json_values},
    optional={name: json_values for name in ("n", "idle", "visible", "data", "later")},
)


def ping(**fields: Any) -> bytes:
    return json.dumps({"type": "ping", "n": 1} | fields).encode()


# What a page says.


def test_the_shortest_ping() -> None:
    assert decode(b'{"type":"ping","n":0}') == Ping(n=0, idle=None, visible=True, data=None)


def test_a_full_ping() -> None:
    text = b'{"type":"ping","n":7,"idle":3.25,"visible":false,"data":{"route":"/caf\xc3\xa9"}}'
    assert decode(text) == Ping(n=7, idle=3.25, visible=False, data={"route": "/café"})


def test_the_type_may_come_last_and_space_does_not_matter() -> None:
    assert decode(b' { "n" : 1 ,\n "type" : "ping" } ') == Ping(n=1)


def test_what_a_client_encodes_is_what_the_server_decodes() -> None:
    sent = Ping(n=7, idle=3.25, visible=False, data={"route": "/"})
    assert decode(encode(sent)) == sent


@pytest.mark.parametrize("n", [0, 2**53 - 1])
def test_the_counter_is_an_integer_that_javascript_can_count(n: int) -> None:
    assert decode(ping(n=n)) == Ping(n=n)


def test_unknown_fields_are_ignored() -> None:
    assert decode(ping(later={"a": [1, None]})) == Ping(n=1)
    assert decode(b'{"type":"ping","n":1,"later":' + b"9" * 5000 + b"}") == Ping(n=1)


@pytest.mark.parametrize("text", [b'{"type":"pong"}', b'{"type":"PING","n":1}', b'{"n":1,"type":"x","a":[]}'])
def test_unknown_types_are_ignored(text: bytes) -> None:
    assert decode(text) is None


def test_a_message_whose_type_is_empty_is_of_an_unknown_type() -> None:
    assert decode(b'{"type":"","n":1}') is None


def test_of_duplicate_fields_the_last_counts() -> None:
    assert decode(b'{"type":"ping","n":1,"n":2}') == Ping(n=2)


@pytest.mark.parametrize("idle", [-5, -0.001, -1e300])
def test_a_negative_idle_is_heard_but_is_no_evidence(idle: float) -> None:
    heard = decode(ping(idle=idle))
    assert heard == Ping(n=1, idle=idle)
    assert Policy(mode=Mode.ACTIVITY).keep(heard.idle) is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"ping",
        b"[]",
        b'"ping"',
        b"1",
        b"null",
        b"{}",
        b'{"n":1}',
        b'{"type":null,"n":1}',
        b'{"type":1,"n":1}',
        b'{"type":["ping"],"n":1}',
        b'{"type":"ping"}',
        b'{"type":"ping","n":1',
        b'{"type":"ping","n":1}}',
        b'{"type":"ping","n":1}{"type":"ping","n":2}',
        b'{"type":"ping","n":1}\0',
        b'{"type":"other","n":1',
        b'{"type":"other"}x',
        b"{'type':'ping','n':1}",
        b'{"type":"ping","n":1,}',
    ],
)
def test_what_is_no_message_is_refused(text: bytes) -> None:
    with pytest.raises(MessageError) as caught:
        decode(text)
    assert caught.value.code == CloseCode.INVALID_PAYLOAD


@pytest.mark.parametrize(
    "fields",
    [
        {"n": -1},
        {"n": 2**53},
        {"n": 2**64},
        {"n": 1.5},
        {"n": 1.0},
        {"n": True},
        {"n": "1"},
        {"n": None},
        {"n": [1]},
        {"idle": "3"},
        {"idle": True},
        {"idle": [3]},
        {"idle": nan},
        {"idle": inf},
        {"idle": -inf},
        {"visible": 1},
        {"visible": "true"},
        {"visible": None},
        {"data": []},
        {"data": "x"},
        {"data": 1},
        {"data": {"a": nan}},
    ],
)
def test_a_field_of_the_wrong_type_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        decode(ping(**fields))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"[" * 100_000, id="brackets"),
        pytest.param(b'{"a":' * 100_000, id="objects"),
        pytest.param(b'{"type":"ping","n":1,"data":{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}}", id="data"),
        pytest.param(
            b'{"type":"ping","n":1,"later":' + b"[" * 10**5 + b"]" * 10**5 + b"}", id="unknown field"
        ),
        pytest.param(b'{"type":"other","later":' + b"[" * 10**5 + b"]" * 10**5 + b"}", id="unknown type"),
    ],
)
def test_deep_json_is_refused(text: bytes) -> None:
    with pytest.raises(MessageError):
        decode(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b'{"type":"ping","n":1,"idle":1e400}', id="1e400"),
        pytest.param(b'{"type":"ping","n":1,"data":{"a":1e400}}', id="1e400 in data"),
        pytest.param(b'{"type":"ping","n":' + b"9" * 5000 + b"}", id="5000 digits"),
        pytest.param(b'{"type":"ping","n":1,"idle":' + b"9" * 5000 + b"}", id="5000 digits of idle"),
        pytest.param(b'{"type":"ping","n":1,"data":{"a":' + b"9" * 5000 + b"}}", id="5000 digits in data"),
    ],
)
def test_numbers_beyond_bounds_are_refused(text: bytes) -> None:
    with pytest.raises(MessageError):
        decode(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b'{"type":"ping","n":1,"data":{"a":"\xff"}}', id="not UTF-8"),
        pytest.param(b'{"type":"ping","n":1,"data":{"\xff":1}}', id="a key that is not UTF-8"),
        pytest.param(b'{"type":"\xff"}', id="a type that is not UTF-8"),
        pytest.param(b'{"type":"other","type":"\xff"}', id="a second type that is not UTF-8"),
        pytest.param(b'{"type":"ping","n":1,"data":{"a":"\\ud800"}}', id="lone surrogate"),
        pytest.param(b'{"type":"ping","n":1,"data":{"a":"\xed\xa0\x80"}}', id="encoded surrogate"),
        pytest.param(b'\xef\xbb\xbf{"type":"ping","n":1}', id="byte order mark"),
        pytest.param('{"type":"ping","n":1}'.encode("utf-16"), id="UTF-16"),
    ],
)
def test_what_is_not_plain_utf8_is_refused(text: bytes) -> None:
    with pytest.raises(MessageError):
        decode(text)


def assert_documented(text: bytes) -> None:
    """`decode` returns a ping with fields of the right types, or nothing, or raises its own error."""
    try:
        message = decode(text)
    except MessageError as error:
        assert error.code == CloseCode.INVALID_PAYLOAD
        assert error.__cause__ is None
    else:
        if message is not None:
            assert type(message) is Ping
            assert type(message.n) is int
            assert 0 <= message.n < 2**53
            assert message.idle is None or type(message.idle) is float
            assert type(message.visible) is bool
            assert message.data is None or type(message.data) is dict


@given(text=st.binary(max_size=MAX_MESSAGE))
def test_any_bytes(text: bytes) -> None:
    assert_documented(text)


@given(value=json_values | json_pings)
@example(value={"type": "ping", "n": 1, "type ": "ping"})
def test_any_json(value: Any) -> None:
    assert_documented(json.dumps(value).encode())
    assert_documented(json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass"))


@given(cut=st.integers(0, 80), noise=st.binary(max_size=4))
def test_any_damaged_ping(cut: int, noise: bytes) -> None:
    whole = b'{"type":"ping","n":7,"idle":3.25,"visible":false,"data":{"route":"/\xc3\xa9"}}'
    assert_documented(whole[:cut] + noise + whole[cut + len(noise) :])
    assert_documented(whole[:cut] + noise)


# What the server says, byte by byte.


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            Hello(
                interval=25.0,
                idle_timeout=1800.0,
                expires_in=1799.5,
                ends_in=43000.0,
                warn_before=60.0,
                mode=Mode.PRESENCE,
                spread=30.0,
            ),
            b'{"type":"hello","interval":25.0,"idle_timeout":1800.0,"expires_in":1799.5,"warn_before":60.0,'
            b'"mode":"presence","spread":30.0,"ends_in":43000.0}',
        ),
        (
            Hello(
                interval=25.0,
                idle_timeout=1800.0,
                expires_in=1799.5,
                warn_before=60.0,
                mode=Mode.ACTIVITY,
                spread=0.0,
            ),
            b'{"type":"hello","interval":25.0,"idle_timeout":1800.0,"expires_in":1799.5,"warn_before":60.0,'
            b'"mode":"activity","spread":0.0}',
        ),
        (
            Hello(
                interval=25.0,
                idle_timeout=1800.0,
                expires_in=1799.5,
                warn_before=60.0,
                mode=Mode.PRESENCE,
                spread=3.0,
                who="3ce0a701b6d1a881",
                hidden_interval=60.0,
            ),
            b'{"type":"hello","interval":25.0,"idle_timeout":1800.0,"expires_in":1799.5,"warn_before":60.0,'
            b'"mode":"presence","spread":3.0,"who":"3ce0a701b6d1a881","hidden_interval":60.0}',
        ),
        (Beat(n=7, expires_in=1800.0), b'{"type":"beat","n":7,"expires_in":1800.0}'),
        (
            Beat(n=7, expires_in=1800.0, ends_in=43000.0, times=3, renew=True, data={"unread": 2}),
            b'{"type":"beat","n":7,"expires_in":1800.0,"ends_in":43000.0,"times":3,"renew":true,'
            b'"data":{"unread":2}}',
        ),
        (Ask(), b'{"type":"ask"}'),
        (Wait(n=7, retry_in=2.0, why="store"), b'{"type":"wait","n":7,"retry_in":2.0,"why":"store"}'),
        (
            Warning(expires_in=60.0, why=Reason.IDLE, extendable=True),
            b'{"type":"warning","expires_in":60.0,"why":"idle","extendable":true}',
        ),
        (
            Warning(expires_in=60.0, why=Reason.ABSOLUTE, extendable=False),
            b'{"type":"warning","expires_in":60.0,"why":"absolute","extendable":false}',
        ),
        (End(reason=Reason.LOGOUT), b'{"type":"end","reason":"logout"}'),
        (
            End(reason=Reason.IDLE, login="/login"),
            b'{"type":"end","reason":"idle","login":"/login"}',
        ),
        (Push(data={"text": "café"}), b'{"type":"push","data":{"text":"caf\xc3\xa9"}}'),
        (Push(data=None), b'{"type":"push","data":null}'),
    ],
)
def test_what_the_server_says(message: Message, text: bytes) -> None:
    assert encode(message) == text
    assert decode_message(text) == message
    assert decode_message(text.decode()) == message


# What a client makes of it.


def test_a_beat_over_http_has_the_rules() -> None:
    text = (
        b'{"type":"beat","n":7,"expires_in":1800.0,"data":{"unread":2},"interval":25.0,"hidden_interval":60.0,'
        b'"warn_before":60.0,"mode":"presence","who":"3ce0a701b6d1a881"}'
    )
    assert decode_answer(text) == HttpBeat(
        n=7,
        expires_in=1800.0,
        data={"unread": 2},
        interval=25.0,
        hidden_interval=60.0,
        warn_before=60.0,
        mode=Mode.PRESENCE,
        who="3ce0a701b6d1a881",
    )
    assert decode_answer(b'{"type":"wait","n":7,"retry_in":2,"why":"store"}') == Wait(7, 2.0, "store")
    assert decode_answer(b'{"type":"push","data":1}') is None, "nobody pushes over HTTP"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"type":"dance"}',
        b'{"type":"beat"}',
        b'{"type":"beat","n":"1","expires_in":1}',
        b'{"n":1,"expires_in":1}',
        b'{"type":1}',
        b"[" * 100_000,
        "\ud800",
    ],
)
def test_what_a_client_cannot_make_sense_of_is_nothing(text: bytes | str) -> None:
    assert decode_message(text) is None
    assert decode_answer(text) is None


def test_an_end_is_an_end_whatever_the_reason() -> None:
    assert decode_message(b'{"type":"end","reason":"bored"}') == End(Reason.UNKNOWN)
    assert decode_answer(b'{"type":"end"}') == End(Reason.UNKNOWN)


@given(text=st.binary(max_size=MAX_MESSAGE) | json_values.map(lambda value: json.dumps(value).encode()))
def test_a_client_survives_anything(text: bytes) -> None:
    assert isinstance(decode_message(text), Message | None)
    assert isinstance(decode_answer(text), HttpBeat | Wait | End | None)


def test_a_ping_as_a_client_sends_it() -> None:
    assert encode(Ping(n=7, idle=3.25)) == b'{"type":"ping","n":7,"idle":3.25,"visible":true,"data":null}'


# Close codes.


def test_every_reason_has_a_close_code_of_its_own() -> None:
    assert set(CLOSE_CODE) == set(Reason)
    assert len(set(CLOSE_CODE.values())) == len(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_only_a_replaced_session_asks_the_page_to_come_back(reason: Reason) -> None:
    assert (CLOSE_CODE[reason] < 4500) is (reason is Reason.ROTATED)
    assert 4000 <= CLOSE_CODE[reason] <= 4999


@pytest.mark.parametrize("code", CloseCode)
def test_every_close_code_may_be_sent(code: CloseCode) -> None:
    assert frames.close_code(code.to_bytes(2)) == code
