"""One page's socket under everything that a page can send, on real sockets and virtual time."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from errno import ENOTCONN

import pytest
from aiohttp import web

from keepalive.clock import ManualClock
from keepalive.connection import CLOSING_AFTER, FAREWELL, UNFINISHED_AFTER, Connection, Connections
from keepalive.frames import MAX_FRAGMENTS
from keepalive.messages import MAX_MESSAGE, SUBPROTOCOL, Ping
from keepalive.upgrade import Upgrade

from .conftest import Connect, Serve
from .raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, RawPage, frame, ping, until

pytestmark = pytest.mark.both_loops

MARKER = "marker-of-a-payload"
MARKED = MARKER.encode()


class Room:
    """A server whose pages are named by the path, and which answers each ping with its number."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.connections: Connections[str] = Connections(self, clock)
        self.by_name: dict[str, Connection[str]] = {}
        self.opened: list[str] = []
        self.pings: list[tuple[str, Ping]] = []
        self.closed: list[tuple[str, int]] = []
        self.fault: Exception | None = None
        self.port = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        response = Upgrade(request, SUBPROTOCOL)
        connection = Connection(self.connections)
        connection.page = request.path
        self.by_name[request.path] = connection
        await response.hand_over(request, connection)
        return response

    def on_open(self, page: str) -> None:
        self.opened.append(page)

    def on_ping(self, page: str, ping: Ping, now: float) -> None:
        if self.fault is not None:
            raise self.fault
        self.pings.append((page, ping))
        self.by_name[page].send(json.dumps({"type": "beat", "n": ping.n}).encode())

    def on_close(self, page: str, code: int) -> None:
        self.closed.append((page, code))

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.connections.tick()


@pytest.fixture
async def room(serve: Serve) -> AsyncIterator[Room]:
    room = Room(ManualClock())
    app = web.Application()
    app.router.add_get("/{name}", room.handle)
    room.port = (await serve(app)).port
    yield room
    for connection in room.by_name.values():
        connection.abort()
    await until(lambda: not room.connections.open)


@pytest.fixture
async def page(room: Room, connect: Connect) -> RawPage:
    return await connect(room.port, "/bad")


@pytest.fixture
async def neighbour(room: Room, connect: Connect, page: RawPage) -> AsyncIterator[RawPage]:
    """Another page, which must not notice."""
    other = await connect(room.port, "/good")
    yield other
    other.send(ping(1))
    assert await other.message() == {"type": "beat", "n": 1}


@pytest.fixture(autouse=True)
def _no_traceback_no_payload(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert MARKER not in caplog.text
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def refusals(caplog: pytest.LogCaptureFixture) -> list[int]:
    """The close codes that were logged, one a line."""
    assert all(record.exc_info is None for record in caplog.records)
    return [int(record.args[0]) for record in caplog.records if isinstance(record.args, tuple)]  # type: ignore[call-overload]


# What is refused.

_SOUND = {"type": "ping", "n": 1, "idle": 0, "visible": True}


def _json(**fields: object) -> bytes:
    return frame(json.dumps(_SOUND | fields).encode())


def _fragments(each: bytes) -> bytes:
    """The beginning of a message in one fragment more than there may be."""
    return frame(each, final=False) + frame(each, CONTINUATION, final=False) * MAX_FRAGMENTS


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(frame(MARKED, mask=None), 1002, id="unmasked"),
        pytest.param(frame(MARKED, reserved=4), 1002, id="RSV1"),
        pytest.param(frame(MARKED, reserved=2), 1002, id="RSV2"),
        pytest.param(frame(MARKED, reserved=1), 1002, id="RSV3"),
        pytest.param(frame(MARKED, 0x3), 1002, id="reserved opcode"),
        pytest.param(frame(MARKED, 0xB), 1002, id="reserved control opcode"),
        pytest.param(frame(MARKED, CONTINUATION), 1002, id="continues nothing"),
        pytest.param(frame(MARKED, final=False) + frame(MARKED), 1002, id="message in a message"),
        pytest.param(frame(MARKED, PING, final=False), 1002, id="fragmented ping"),
        pytest.param(frame(b"x" * 126, PING), 1002, id="long ping"),
        pytest.param(b"\x81\xfe\x00\x05" + bytes(4), 1002, id="length not minimal"),
        pytest.param(frame(announced=1 << 63), 1002, id="length of 2^63"),
        pytest.param(frame(announced=(1 << 63) - 1), 1009, id="length of 2^63 - 1"),
        pytest.param(frame(announced=MAX_MESSAGE + 1), 1009, id="too long, announced"),
        pytest.param(frame(b"x" * (MAX_MESSAGE + 1)), 1009, id="too long"),
        pytest.param(
            frame(b"x" * 4000, final=False) + frame(b"x" * 97, CONTINUATION), 1009, id="too long in parts"
        ),
        pytest.param(_fragments(b"x"), 1009, id="too many fragments"),
        pytest.param(_fragments(b""), 1009, id="too many fragments, empty"),
        pytest.param(frame(b"\xff" + MARKED), 1007, id="not UTF-8"),
        pytest.param(frame(b"\xed\xa0\x80"), 1007, id="a surrogate"),
        pytest.param(frame(b"\xc3", final=False) + frame(b"\x28", CONTINUATION), 1007, id="UTF-8 across"),
        pytest.param(frame(b""), 1007, id="empty"),
        pytest.param(frame(MARKED), 1007, id="not JSON"),
        pytest.param(frame(b"[" * MAX_MESSAGE), 1007, id="deep JSON"),
        pytest.param(frame(b'{"type":"ping","n":' + b"9" * 4000 + b"}"), 1007, id="huge integer"),
        pytest.param(frame(b'{"type":"ping","n":1,"idle":1e999}'), 1007, id="huge float"),
        pytest.param(frame(b'{"type":"ping","n":1,"idle":NaN}'), 1007, id="NaN"),
        pytest.param(frame(b'"' + MARKED + b'"'), 1007, id="no object"),
        pytest.param(frame(b'{"n":1}'), 1007, id="no type"),
        pytest.param(frame(b'{"type":1}'), 1007, id="type of a wrong type"),
        pytest.param(frame(b'{"type":"ping"}'), 1007, id="no number"),
        pytest.param(_json(n=MARKER), 1007, id="n of a wrong type"),
        pytest.param(_json(n=-1), 1007, id="n below zero"),
        pytest.param(_json(n=1.5), 1007, id="n not whole"),
        pytest.param(_json(idle=MARKER), 1007, id="idle of a wrong type"),
        pytest.param(_json(visible=MARKER), 1007, id="visible of a wrong type"),
        pytest.param(_json(data=[MARKER]), 1007, id="data of a wrong type"),
        pytest.param(frame(MARKED, BINARY), 1003, id="binary"),
        pytest.param(frame(b"\x03", CLOSE), 1002, id="half a close code"),
        *(
            pytest.param(frame(wrong.to_bytes(2), CLOSE), 1002, id=f"close code {wrong}")
            for wrong in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
        ),
        pytest.param(frame(b"\x03\xe8\xff", CLOSE), 1007, id="close reason not UTF-8"),
    ],
)
@pytest.mark.usefixtures("neighbour")
async def test_bad_input(
    room: Room, page: RawPage, caplog: pytest.LogCaptureFixture, sent: bytes, code: int
) -> None:
    """A close frame with the code, one line in the log, and nothing that follows is heard."""
    page.send(sent + ping(7))
    assert await page.close_code() == code
    if code in (1002, 1009):
        assert await page.end_of_stream() == b""
    page.cut()
    await until(lambda: ("/bad", code) in room.closed)
    assert room.pings == []
    assert refusals(caplog) == [code]


async def test_a_thing_refused_is_not_heard_of_again(
    room: Room, page: RawPage, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither what follows, nor in the log: a line a connection is all that a page can write there."""
    page.send(frame(MARKED))
    assert await page.close_code() == 1007
    for _ in range(3):
        page.send(frame(MARKED, mask=None) + frame(MARKED, reserved=4))
    page.send(frame((1000).to_bytes(2), CLOSE))
    await page.end_of_stream()
    page.cut()
    await until(lambda: room.closed)
    assert refusals(caplog) == [1007]


async def test_a_type_of_a_later_version_is_ignored(
    room: Room, page: RawPage, caplog: pytest.LogCaptureFixture
) -> None:
    page.send(frame(b'{"type":"dance","n":"x"}') + _json(later=MARKER))
    assert await page.message() == {"type": "beat", "n": 1}
    assert await page.leave() == 1000
    assert refusals(caplog) == []


# What is heard.


@pytest.mark.parametrize("size", [1, 3, 10_000])
async def test_pings_in_segments_of_any_size(room: Room, page: RawPage, size: int) -> None:
    text = json.dumps(_SOUND | {"data": {"x": "ü" * 200}}, ensure_ascii=False).encode()
    sent = frame(text[:51], final=False) + frame(b"?", PING) + frame(text[51:], CONTINUATION) + ping(2)
    for start in range(0, len(sent), size):
        page.send(sent[start : start + size])
        await asyncio.sleep(0)
    assert await page.frame() == (PONG, b"?")
    assert [(await page.message())["n"], (await page.message())["n"]] == [1, 2]
    assert room.pings[0][1].data == {"x": "ü" * 200}


async def test_a_control_ping_is_answered_and_is_no_ping(room: Room, page: RawPage) -> None:
    page.send(frame(b"who is there", PING) + frame(b"unasked", PONG))
    assert await page.frame() == (PONG, b"who is there")
    assert await page.leave() == 1000
    assert room.pings == []


async def test_a_ping_that_comes_with_a_close_is_heard(room: Room, page: RawPage) -> None:
    page.send(ping(1) + frame((1001).to_bytes(2), CLOSE) + ping(2))
    assert (await page.message())["n"] == 1
    assert await page.close_code() == 1001
    assert await page.end_of_stream() == b""
    page.cut()
    await until(lambda: room.closed == [("/bad", 1001)])
    assert [heard.n for _, heard in room.pings] == [1]


# Saying goodbye.


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
async def test_the_page_leaves(room: Room, page: RawPage, code: int) -> None:
    assert await page.leave(code) == code
    page.cut()
    await until(lambda: not room.connections.open)
    assert room.closed == [("/bad", code)]
    assert room.by_name["/bad"].page is None  # it frees its page without the garbage collector


async def test_a_goodbye_is_told_before_the_connection_is_gone(room: Room, page: RawPage) -> None:
    """And once: where a page vanishes after its goodbye, TCP may stand for seconds."""
    page.send(ping(1) + frame((1001).to_bytes(2), CLOSE))
    assert await page.message() == {"type": "beat", "n": 1}
    assert await page.close_code() == 1001
    assert room.closed == [("/bad", 1001)]
    assert room.connections.open
    connection = room.by_name["/bad"]
    connection.send(b"too late")
    connection.close(1012)
    assert await page.end_of_stream() == b""
    room.pass_time(CLOSING_AFTER + 0.2)
    await until(lambda: not room.connections.open)
    assert room.closed == [("/bad", 1001)]


async def test_a_listener_that_fails_at_a_goodbye(
    room: Room, page: RawPage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The page has said it, and hears its answer."""

    def fail(page: str, code: int) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(room, "on_close", fail)
    assert await page.leave(1001) == 1001
    page.cut()
    await until(lambda: not room.connections.open)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_the_page_leaves_without_a_code(room: Room, page: RawPage) -> None:
    page.send(frame(b"", CLOSE))
    assert await page.close_code() == 1000


@pytest.mark.parametrize("how", ["cut", "end"])
async def test_the_page_goes_without_a_word(room: Room, page: RawPage, how: str) -> None:
    if how == "cut":
        page.cut()
    else:
        page.writer.write_eof()
    await until(lambda: room.closed == [("/bad", 1006)])
    assert not room.connections.open


async def test_the_server_closes(room: Room, page: RawPage) -> None:
    connection = room.by_name["/bad"]
    connection.send(b"last words")
    connection.close(4501, "idle")
    connection.close(1011)
    connection.send(b"too late")
    page.send(ping(1))
    assert await page.frame() == (TEXT, b"last words")
    assert await page.frame() == (CLOSE, (4501).to_bytes(2) + b"idle")
    page.send(frame((4501).to_bytes(2), CLOSE))
    assert await page.end_of_stream() == b""
    assert room.closed == [("/bad", 4501)]
    page.cut()
    await until(lambda: not room.connections.open)
    assert room.closed == [("/bad", 4501)]
    assert room.pings == []


async def test_who_does_not_answer_a_close_is_cut(room: Room, page: RawPage) -> None:
    room.by_name["/bad"].close(4501)
    assert await page.close_code() == 4501
    room.pass_time(CLOSING_AFTER - 0.2)
    page.send(ping(1) + frame(b"half of a", final=False))  # buys no time
    page.send(frame(b"?", PING))
    await asyncio.sleep(0)
    assert room.connections.open
    room.pass_time(0.4)
    assert await page.end_of_stream() == b""
    await until(lambda: room.closed == [("/bad", 4501)])


async def test_who_does_not_hang_up_after_the_close_is_cut(room: Room, page: RawPage) -> None:
    page.send(frame((1000).to_bytes(2), CLOSE))
    assert await page.close_code() == 1000
    await page.end_of_stream()
    assert room.connections.open
    room.pass_time(CLOSING_AFTER + 0.2)
    await until(lambda: not room.connections.open)


# Limits.


@pytest.mark.usefixtures("neighbour")
async def test_a_message_without_an_end_is_cut(
    room: Room, page: RawPage, caplog: pytest.LogCaptureFixture
) -> None:
    """Its fragments and the control frames between them, however many, buy no time."""
    page.send(frame(b"{", final=False))
    for number in range(int(UNFINISHED_AFTER)):
        page.send(frame(b"", CONTINUATION, final=False) + frame(b"%d" % number, PING))
        assert await page.frame() == (PONG, b"%d" % number)
        room.pass_time(0.98)
    page.send(frame(b"alive", PING))
    assert await page.frame() == (PONG, b"alive")
    room.pass_time(0.4)
    assert await page.close_code() == 1002
    assert refusals(caplog) == [1002]


@pytest.mark.usefixtures("neighbour")
async def test_a_dripping_frame_is_cut(room: Room, page: RawPage) -> None:
    for byte in ping(1)[:-1]:
        page.send(bytes([byte]))
        await asyncio.sleep(0)
    await until(lambda: _unread(room) == len(ping(1)) - 1)
    room.pass_time(UNFINISHED_AFTER - 0.2)
    assert room.by_name["/bad"]._closed_with is None
    room.pass_time(0.4)
    assert await page.close_code() == 1002


async def test_a_message_that_begins_later_gets_its_own_time(room: Room, page: RawPage) -> None:
    whole = ping(1)
    page.send(whole[:9])
    await until(lambda: _unread(room))
    room.pass_time(UNFINISHED_AFTER - 1)
    page.send(whole[9:] + whole[:9])
    assert (await page.message())["n"] == 1
    room.pass_time(UNFINISHED_AFTER - 1)
    page.send(whole[9:])
    assert (await page.message())["n"] == 1


async def test_the_wheel_holds_a_page_once(room: Room, page: RawPage) -> None:
    """However often it begins a message and ends it: else a page could fill it for ever."""
    whole = ping(1)
    for _ in range(100):
        page.send(whole[:9])
        await until(lambda: _unread(room))
        page.send(whole[9:])
        assert (await page.message())["n"] == 1
        room.pass_time(0.2)
    assert _on_the_wheel(room) <= 2


@pytest.mark.usefixtures("neighbour")
async def test_too_fast(room: Room, page: RawPage, caplog: pytest.LogCaptureFixture) -> None:
    """Five seconds' worth at once, and no more, of whatever kind."""
    page.send(ping(1) * 25 + frame(b"", PING) * 20)
    for _ in range(45):
        assert (await page.frame()).opcode != CLOSE
    page.send(ping(1) * 1000)
    assert await page.close_code() == 4002
    assert 25 <= len(room.pings) <= 30
    assert refusals(caplog) == [4002]


@pytest.mark.usefixtures("neighbour")
async def test_a_flood_after_the_close_is_cut(
    room: Room, page: RawPage, caplog: pytest.LogCaptureFixture
) -> None:
    """Every frame still costs: who has used up the rate is heard no more, and who then goes on is gone.

    No time passes: the five seconds that a page has to answer the close are none to flood in.
    """
    room.by_name["/bad"].close(4504)
    assert await page.close_code() == 4504
    page.send(ping(1) * 51)
    assert await page.end_of_stream() == b""
    assert room.connections.open == 2
    page.send(bytes(FAREWELL + 1))
    await until(lambda: room.closed == [("/bad", 4504)])
    assert room.pings == []
    assert refusals(caplog) == []


async def test_the_rate_may_be_used_for_ever(room: Room, page: RawPage) -> None:
    for number in range(200):
        page.send(ping(number))
        assert (await page.message())["n"] == number
        room.pass_time(0.1)
    assert room.closed == []


@pytest.mark.usefixtures("neighbour")
async def test_a_slow_reader_is_cut(room: Room, connect: Connect) -> None:
    """It gets no more than fits on the way; nobody waits for it, and its memory is bounded."""
    slow = await connect(room.port, "/slow", receive_buffer=4096)
    connection = room.by_name["/slow"]
    transport = connection._transport
    assert transport is not None
    message = b"x" * 10_000
    for _ in range(10_000):
        connection.send(message)
    assert transport.get_write_buffer_size() < 200_000
    room.pass_time(CLOSING_AFTER + 0.2)
    await until(lambda: room.closed == [("/slow", 4003)])
    assert await slow.close_code() == 1006


async def test_a_slow_reader_that_wakes_up_hears_why(room: Room, connect: Connect) -> None:
    slow = await connect(room.port, "/slow", receive_buffer=4096)
    connection = room.by_name["/slow"]
    for _ in range(10_000):
        connection.send(b"x" * 10_000)
    assert await slow.close_code() == 4003


# Faults of ours.


@pytest.mark.usefixtures("neighbour")
async def test_a_listener_that_fails(room: Room, page: RawPage, caplog: pytest.LogCaptureFixture) -> None:
    """Never 1006: the page is told that it is our fault, and the log where."""
    room.fault = RuntimeError("boom")
    page.send(ping(1))
    assert await page.close_code() == 1011
    room.fault = None
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None


async def test_a_listener_that_fails_to_greet(
    room: Room, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(page: str) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(room, "on_open", fail)
    page = await connect(room.port, "/bad")
    assert await page.close_code() == 1011
    page.cut()
    await until(lambda: not room.connections.open)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


# All of them.


async def test_draining_waits_for_goodbyes_but_not_for_ever(room: Room, connect: Connect) -> None:
    polite, rude = await connect(room.port, "/polite"), await connect(room.port, "/rude")
    for connection in room.by_name.values():
        connection.close(1012)
    assert await polite.leave(1012) == 1012
    polite.cut()
    await until(lambda: room.connections.open == 1)
    began = asyncio.get_running_loop().time()
    await room.connections.drained(0.2)
    assert 0.15 < asyncio.get_running_loop().time() - began < 1
    assert await rude.close_code() == 1012
    await until(lambda: not room.connections.open)


async def test_draining_ends_with_the_last_goodbye(room: Room, page: RawPage) -> None:
    room.by_name["/bad"].close(1012)
    draining = asyncio.create_task(room.connections.drained(60))
    await page.leave(1012)
    page.cut()
    await asyncio.wait_for(draining, 1)


def test_a_connection_is_small() -> None:
    """No dictionary of its own: there are very many of them."""
    assert not hasattr(Connection(Connections(_Nobody(), ManualClock())), "__dict__")


class _Nobody:
    def on_open(self, page: str) -> None: ...
    def on_ping(self, page: str, ping: Ping, now: float) -> None: ...
    def on_close(self, page: str, code: int) -> None: ...


def _unread(room: Room) -> int:
    """How much of a message has come, header and all, as long as the rest has not."""
    reader = room.by_name["/bad"]._reader
    return 0 if reader is None else 6 + len(reader._message)


def _on_the_wheel(room: Room) -> int:
    return sum(map(len, room.connections.wheel._slots.values()))


async def test_a_connection_that_is_reset_during_the_goodbye_is_let_go() -> None:
    """The kernel knows before the event loop has told, and then refuses to end the stream."""

    class Reset(asyncio.Transport):
        aborted = False

        def write(self, data: bytes | bytearray | memoryview) -> None: ...

        def can_write_eof(self) -> bool:
            return True

        def write_eof(self) -> None:
            raise OSError(ENOTCONN, "Transport endpoint is not connected")

        def abort(self) -> None:
            self.aborted = True

    transport = Reset()
    connection: Connection[str] = Connection(Room(ManualClock()).connections)
    connection.connection_made(transport)
    connection.data_received(frame((1000).to_bytes(2), CLOSE))
    assert transport.aborted
