"""The transcripts of the protocol: our server, our client, and a server far away keep to them.

The page's machine plays the same ones in tests/web/conformance.test.js.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import pytest
from aiohttp import ClientSession, web

from keepalive import KeepaliveError, NotKeepaliveError, Policy, ServerUnavailable
from keepalive.client.machine import Closed, Connect, Drop, Emit, Event, Fact, Machine, Post, Posted, Send
from keepalive.conformance import RULES, Deviation, Side, Step, Transcript, check, play, read, transcripts
from keepalive.connection import Connection, Connections
from keepalive.frames import Reader
from keepalive.live import Page
from keepalive.messages import Ping, decode_answer, decode_message, encode
from keepalive.policy import Reason

from .conftest import Serve
from .fakes import STEP, World, advance, settle
from .raw import serving
from .test_web import make_app

NAMES = {each.name for side in Side for each in transcripts(side)}
RANDOM = 0.5  # as the transcripts have it
QUICK = Policy(ping_interval=1, idle_timeout=4, warn_before=1, absolute_timeout=8)


def of(side: Side) -> list[Any]:
    return [pytest.param(each, id=each.name) for each in transcripts(side)]


# Our client.


class Client:
    """The client's machine in a world of its own, and what it has done, as steps of a transcript."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.done: list[dict[str, Any]] = []
        self.connected = False
        self.posting = 0

    def tell(self, event: Event, at: float) -> None:
        for effect in self.machine.take(event, at, RANDOM):
            match effect:
                case Connect():
                    self.connected = True
                    self._note(at, connects=True)
                case Drop(returns):
                    if self.connected:
                        self._note(at, drops=4000 if returns else 1000)
                    self.connected = False
                case Send(n):
                    self._note(at, client={"type": "ping", "n": n})
                case Post(n):
                    self.posting = n
                    self._note(at, posts={"type": "ping", "n": n})
                case Emit(message):
                    self._note(at, tells=msgspec.json.decode(encode(message)))

    def _note(self, at: float, **what: object) -> None:
        self.done.append({"at": round(at, 3)} | what)

    def run_until(self, at: float) -> None:
        while self.machine.due <= at:
            self.tell(Fact.TICK, self.machine.due)

    def take(self, step: Step) -> None:
        """Take what a transcript gives."""
        name, value = step.what
        if value != "wake":
            self.run_until(step.at)
        event: Event | None
        match name:
            case "closed":
                self.connected = False
                event = Closed(value)
            case "answer":
                event = Posted(self.posting, None if value is None else decode_answer(encode(value)))
            case "do":
                event = Fact.TICK if value == "wake" else Fact(value)
            case _:
                event = decode_message(encode(value))
        if event is not None:
            self.tell(event, step.at)


@pytest.mark.parametrize("transcript", of(Side.CLIENT))
def test_our_client_keeps_to_the_transcript(transcript: Transcript) -> None:
    client = Client()
    expected = []
    for step in transcript.steps:
        name, value = step.what
        if name in ("do", "server", "closed", "answer"):
            client.take(step)
        else:
            expected.append({"at": step.at, name: value})
    client.run_until(transcript.until)
    assert client.done == expected


# Our server: heart and connection, in virtual time.


class Wire(asyncio.Transport):
    """The server's end of a page's socket; keeps what goes to the page."""

    def __init__(self, page: "Connection[Page]", now: Callable[[], float]) -> None:
        super().__init__()
        self.received: deque[tuple[float, Any]] = deque()
        self._page = page
        self._now = now
        self._reader = Reader(1 << 20, masked=False)

    def write(self, data: Any) -> None:
        for frame in self._reader.feed(bytes(data)):
            self.received.append((self._now(), read(frame)))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """The page hangs up in turn."""

    def abort(self) -> None:
        self._page.connection_lost(None)


class Core:
    """Our server as a stage."""

    pace = 1.0
    slack = 0.4
    """Its wheel may be a tick late, and it is turned in steps."""

    def __init__(self, world: World, connections: "Connections[Page]") -> None:
        self._world = world
        self._connections = connections
        self._began = world.clock.monotonic()
        self._wires: dict[int, Wire] = {}
        self._pages: dict[int, Connection[Page]] = {}

    def _now(self) -> float:
        return self._world.clock.monotonic() - self._began

    async def until(self, at: float) -> None:
        while self._now() < at - STEP / 2:
            await self._step()

    async def _step(self) -> None:
        await advance(self._world.clock, self._world.heart, STEP)
        self._connections.tick()

    async def connect(self, page: int) -> None:
        connection: Connection[Page] = Connection(self._connections)
        connection.page = self._world.heart.join(*self._join(await self._world.ticket("ann"), connection))
        self._pages[page], self._wires[page] = connection, Wire(connection, self._now)
        connection.connection_made(self._wires[page])

    @staticmethod
    def _join(found: Any, connection: Any) -> Any:
        ticket, read_at = found
        return ticket, connection, read_at

    async def send(self, page: int, data: bytes) -> None:
        self._pages[page].data_received(data)
        await settle()

    async def post(self, ping: dict[str, Any]) -> Any:
        left = await self._world.left("ann")
        if isinstance(left, Reason):  # as the handler does; the heart never hears of such a page
            return {"type": "end", "reason": left}
        ticket, read_at = await self._world.ticket("ann")
        answer = await self._world.heart.ping_once(ticket, msgspec.convert(ping, Ping), read_at)
        return msgspec.json.decode(answer)

    async def sign_out(self) -> None:
        await self._world.end("ann")

    async def next(self, page: int, by: float) -> tuple[float, Any]:
        received = self._wires[page].received
        while not received and self._now() < by:
            await self._step()
        return received.popleft() if received else (self._now(), None)


@pytest.mark.parametrize("transcript", [each for each in of(Side.SERVER) if "unknown-" not in f"{each.id}-"])
async def test_our_server_keeps_to_the_transcript(transcript: Transcript) -> None:
    """But for the handshake: who has no session never comes as far as to the heart."""
    world = await World(
        Policy(ping_interval=10, idle_timeout=40, warn_before=10, absolute_timeout=80)
    ).start()
    try:
        await world.login("ann")
        connections: Connections[Page] = Connections(world.heart, world.clock)
        await play(transcript, cast(Any, Core(world, connections)))
    finally:
        await world.stop()


# Any server.


async def sign_in(base: str, http: ClientSession) -> None:
    async with http.post(f"{base}/login?user=ann{id(http)}") as response:
        assert response.status == 200


async def verdicts(port: int, *only: str) -> dict[str, str | None]:
    base = f"http://127.0.0.1:{port}"
    found = await check(
        base,
        sign_in=lambda http: sign_in(base, http),
        sign_out=lambda http: http.post(f"{base}/logout"),
        only=only,
    )
    return {verdict.transcript.name: verdict.deviation for verdict in found}


async def test_a_real_server_keeps_to_all_of_them(serve: Serve) -> None:
    """In real time, ten times as fast as they are written."""
    port = (await serve(make_app(policy=QUICK))).port
    async with asyncio.timeout(30):
        found = await verdicts(port)
    assert found == {each.name: None for each in transcripts(Side.SERVER)}


@pytest.mark.parametrize(
    ("name", "wrong", "told"),
    [
        ("server-beat", {"type": "beat", "n": 99}, "at 1 s: .* was due"),
        ("server-beat", {"type": "beat", "expires_in": 0.5}, "was due"),
        ("server-control", {"type": "ask", "extra": 1}, None),
        ("server-bad-text", {"type": "push", "data": 1}, "a close with 1007 was due"),
    ],
)
async def test_a_deviation_is_told(
    monkeypatch: pytest.MonkeyPatch, name: str, wrong: dict[str, Any], told: str | None
) -> None:
    """Every message of the server is bent a little; where that is allowed, nothing is told."""
    (transcript,) = [each for each in transcripts(Side.SERVER) if each.name == name]
    send = Wire.write

    def bend(wire: Wire, data: Any) -> None:
        (frame,) = Reader(1 << 20, masked=False).feed(bytes(data))
        message = read(frame)
        if isinstance(message, dict) and message["type"] == wrong["type"]:
            wire.received.append((wire._now(), message | wrong))
        elif message == 1007:
            wire.received.append((wire._now(), wrong))
        else:
            send(wire, data)

    monkeypatch.setattr(Wire, "write", bend)
    if told is None:
        await test_our_server_keeps_to_the_transcript(transcript)
    else:
        with pytest.raises(Deviation, match=told):
            await test_our_server_keeps_to_the_transcript(transcript)


async def test_what_comes_too_late_too_soon_or_unasked_is_a_deviation() -> None:
    (silence,) = [each for each in transcripts(Side.SERVER) if each.name == "server-silence"]

    def with_first_ask_at(at: float) -> Transcript:
        steps = [msgspec.structs.replace(step) for step in silence.steps]
        steps[2].at = at
        return msgspec.structs.replace(silence, steps=steps)

    with pytest.raises(Deviation, match="nothing came"):
        await test_our_server_keeps_to_the_transcript(with_first_ask_at(11))
    with pytest.raises(Deviation, match="already"):
        await test_our_server_keeps_to_the_transcript(with_first_ask_at(14))
    short = msgspec.structs.replace(silence, steps=silence.steps[:2], until=15)
    with pytest.raises(Deviation, match="nothing should have"):
        await test_our_server_keeps_to_the_transcript(short)


async def test_a_server_with_other_rules_is_not_judged(serve: Serve) -> None:
    port = (await serve(make_app())).port
    with pytest.raises(KeepaliveError, match="ping_interval=1"):
        await verdicts(port)


async def test_no_server_and_not_our_server_are_errors(serve: Serve) -> None:
    with pytest.raises(ServerUnavailable):
        await check("http://127.0.0.1:1", sign_in=nothing, sign_out=nothing)
    port = (await serve(web.Application())).port
    with pytest.raises(NotKeepaliveError):
        await check(f"http://127.0.0.1:{port}", sign_in=nothing, sign_out=nothing)


async def nothing(http: ClientSession) -> None:
    """Sign nobody in."""


# The kit itself.


def test_the_transcripts_are_of_both_sides_and_named_so() -> None:
    assert len(NAMES) > 40
    for side in Side:
        assert all(each.name.startswith(f"{side}-") for each in transcripts(side))


@pytest.mark.parametrize("transcript", [*of(Side.CLIENT), *of(Side.SERVER)])
def test_a_transcript_is_whole(transcript: Transcript) -> None:
    times = [step.at for step in transcript.steps]
    assert times == sorted(times)
    assert times[-1] < transcript.until
    assert transcript.title
    for step in transcript.steps:
        assert step.what


def test_the_rules_are_those_that_a_policy_can_have() -> None:
    policy = Policy(ping_interval=10, idle_timeout=40, warn_before=10, absolute_timeout=80)
    told = (policy.ping_interval, policy.idle_timeout, policy.warn_before, policy.mode)
    assert tuple(RULES.values()) == told


# A server that is far off.

GREETING = {"type": "hello", "interval": 0.1, "idle_timeout": 0.4, "expires_in": 0.4, "ends_in": 0.8}
GREETING |= {"warn_before": 0.1, "mode": "presence", "spread": 3}


@asynccontextmanager
async def greeting(hello: dict[str, Any], *then: str | bytes) -> AsyncIterator[str]:
    """A server that begins with this, and goes on with that whatever it hears."""

    async def speak(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=["keepalive.v1"])
        await socket.prepare(request)
        await socket.send_json(hello)
        async for _ in socket:
            for each in then:
                await (socket.send_str(each) if isinstance(each, str) else socket.send_bytes(each))
        return socket

    app = web.Application()
    app.router.add_get("/keepalive/ws", speak)
    async with serving(app) as served:
        yield f"http://127.0.0.1:{served.port}"


@pytest.mark.parametrize(
    ("said", "told"), [("{", "a text that is no JSON"), (b"x" * 300, "a binary message")]
)
async def test_what_is_no_message_is_a_deviation(
    said: str | bytes, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with greeting(GREETING, said) as url:
        (verdict,) = await check(url, sign_in=nothing, sign_out=nothing, only=["server-beat"])
    assert verdict.deviation is not None
    assert told in verdict.deviation
    assert not caplog.records


@pytest.mark.parametrize("interval", ["1", None, -1, []])
async def test_an_interval_that_is_none(interval: Any) -> None:
    async with greeting(GREETING | {"interval": interval}) as url:
        with pytest.raises(KeepaliveError, match="other rules"):
            await check(url, sign_in=nothing, sign_out=nothing)


async def test_a_check_that_fails_leaves_nothing_behind() -> None:
    signed_in = 0

    async def sign_in(http: ClientSession) -> None:
        nonlocal signed_in
        signed_in += 1
        if signed_in == 5:
            raise KeepaliveError("no more users")

    before = asyncio.all_tasks()
    async with greeting(GREETING) as url:
        with pytest.raises(KeepaliveError, match="no more users"):
            await check(url, sign_in=sign_in, sign_out=nothing)
        assert not [each for each in asyncio.all_tasks() - before if "_check" in repr(each.get_coro())]
