"""Does a server keep to the page protocol? Plays transcripts against it, over real sockets.

A transcript (tests/conformance) is a list of steps with their times: what a page does, and what the
server has to say to it, and nothing else. The other half of them is for clients: see docs/protocol.md.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import aiohttp
import msgspec
from msgspec import UNSET, UnsetType

from .client import faults, frames
from .client.address import Address, address_of
from .client.socket import Handshake, Refusal, request
from .errors import FrameError, KeepaliveError, NotKeepaliveError
from .frames import Frame, Opcode, Reader, close_code

RULES: dict[str, Any] = {"interval": 10.0, "idle_timeout": 40.0, "warn_before": 10.0, "mode": "presence"}
"""What a `hello` says of the sessions that the transcripts speak of, at the pace that they are written in.
A server under test may have a faster one, if all its times are in proportion."""
ABSOLUTE = 80.0
"""Their absolute timeout, which a hello does not tell."""
SLACK = 1.0
"""How late a server may be, in seconds of its own clock: for its timers, its store and the network."""
PATIENCE = 10.0
"""For a handshake, in seconds."""
_TIMES = {"interval", "hidden_interval", "idle_timeout", "expires_in", "ends_in", "warn_before", "retry_in"}


class Side(StrEnum):
    """Who is put to the test."""

    SERVER = "server"
    CLIENT = "client"


class Step(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One line of a transcript. Besides `at` and `page` it has one member; docs/protocol.md has them all."""

    at: float
    page: int = 1
    do: str | UnsetType = UNSET
    client: dict[str, Any] | UnsetType = UNSET
    client_text: str | UnsetType = UNSET
    client_bytes: str | UnsetType = UNSET
    server: dict[str, Any] | UnsetType = UNSET
    server_bytes: str | UnsetType = UNSET
    closed: int | UnsetType = UNSET
    posts: dict[str, Any] | UnsetType = UNSET
    answer: dict[str, Any] | UnsetType | None = UNSET
    connects: bool | UnsetType = UNSET
    drops: int | UnsetType = UNSET
    tells: dict[str, Any] | UnsetType = UNSET

    @property
    def what(self) -> tuple[str, Any]:
        """The name of its one member, and that."""
        ((name, value),) = (
            (name, getattr(self, name))
            for name in self.__struct_fields__
            if name not in ("at", "page") and getattr(self, name) is not UNSET
        )
        return name, value


class Transcript(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is done and said over some time, and what has to follow."""

    title: str
    side: Side
    steps: list[Step]
    until: float
    """Until when nothing else may come."""
    signed_in: bool = True
    name: str = ""


class Deviation(KeepaliveError):
    """A server, or a client, has not done what the transcript says."""


class Verdict(NamedTuple):
    """What came of one transcript."""

    transcript: Transcript
    deviation: str | None
    """What was not as it should be; `None` if all was."""


def transcripts(side: Side) -> list[Transcript]:
    """All transcripts for one side: in the wheel inside the package, in a checkout among the tests."""
    packed = Path(__file__).with_name("transcripts")
    folder = packed if packed.is_dir() else Path(__file__).parents[1] / "tests" / "conformance"
    found = []
    for path in sorted(folder.glob("*.json")):
        transcript = msgspec.json.decode(path.read_bytes(), type=Transcript)
        transcript.name = path.stem
        found.append(transcript)
    return [each for each in found if each.side is side]


SignIn = Callable[[aiohttp.ClientSession], Awaitable[object]]


async def check(url: str, *, sign_in: SignIn, sign_out: SignIn, only: Sequence[str] = ()) -> list[Verdict]:
    """Play the transcripts against a server, all at once; takes eight of its ping intervals.

    Args:
        url: where its routes are mounted.
        sign_in: begins a new session of a new user, whose cookie comes into the jar of what it is given.
        sign_out: ends that session.
        only: names of transcripts, if not all are to be played.

    Raises:
        ConnectError: the server could not be reached, or is none.
        KeepaliveError: its sessions have other rules than the transcripts speak of.
    """
    address = address_of(url)
    async with _Live(address, sign_in, sign_out) as probe:
        await probe.connect(1)
        _, hello = await probe.next(1, SLACK * 5)
        pace = _pace(hello)
    chosen = [each for each in transcripts(Side.SERVER) if not only or each.name in only]
    try:
        async with asyncio.TaskGroup() as group:
            checks = [group.create_task(_check(each, address, sign_in, sign_out, pace)) for each in chosen]
    except ExceptionGroup as problems:
        raise problems.exceptions[0] from None
    return [each.result() for each in checks]


async def _check(
    transcript: Transcript, address: Address, sign_in: SignIn, sign_out: SignIn, pace: float
) -> Verdict:
    live = _Live(address, sign_in if transcript.signed_in else _nobody, sign_out, pace)
    try:
        async with live:
            await play(transcript, live)
    except Deviation as deviation:
        return Verdict(transcript, str(deviation))
    return Verdict(transcript, None)


async def _nobody(http: aiohttp.ClientSession) -> None:
    """There is no session; the server hears of one that it does not know."""


def _pace(hello: Any) -> float:
    """How much slower than the transcripts the server is.

    Raises:
        KeepaliveError: its times are not in proportion to theirs.
    """
    if not isinstance(hello, dict) or hello.get("type") != "hello":
        raise NotKeepaliveError("the server does not begin with a hello", "see docs/protocol.md")
    interval = hello.get("interval")
    pace: float = interval / RULES["interval"] if isinstance(interval, int | float) else 0.0
    told = {name: hello.get(name) for name in RULES}
    wanted = {name: value * pace if isinstance(value, float) else value for name, value in RULES.items()}
    if told != wanted or pace <= 0:
        raise KeepaliveError(
            "the server's sessions have other rules than the transcripts",
            "start it with ping_interval=1, idle_timeout=4, warn_before=1, absolute_timeout=8, mode=presence",
        )
    return pace


# Playing.


class Stage(Protocol):
    """A server under test, and the pages of one session. Times are the transcript's."""

    slack: float
    pace: float

    async def until(self, at: float) -> None:
        """Let time pass."""

    async def connect(self, page: int) -> None:
        """Open a page's socket."""

    async def send(self, page: int, data: bytes) -> None:
        """Send bytes over it."""

    async def post(self, ping: dict[str, Any]) -> Any:
        """Ping over HTTP; returns the message of the answer."""

    async def sign_out(self) -> None:
        """End the session, as the user would."""

    async def next(self, page: int, by: float) -> tuple[float, Any]:
        """What a page receives next, and when: a message, bytes of a frame, a close code, or `None`."""


async def play(transcript: Transcript, stage: Stage) -> None:
    """Play one transcript against a server.

    Raises:
        Deviation: something else came, or nothing, or not in time.
    """
    answer: Any = None
    pages = set()
    for step in transcript.steps:
        name, value = step.what
        if name in ("server", "server_bytes", "closed"):
            at, got = await stage.next(step.page, step.at + stage.slack)
            _compare(step, bytes.fromhex(value) if name == "server_bytes" else value, got, stage)
            if at < step.at - stage.slack:
                raise Deviation(f"at {step.at:g} s: {_short(got)} came at {at:.2f} s already")
            continue
        if name == "answer":
            _compare(step, value, answer, stage)
            continue
        await stage.until(step.at)
        if name == "do" and value == "connect":
            pages.add(step.page)
            await stage.connect(step.page)
        elif name == "do" and value == "sign out":
            await stage.sign_out()
        elif name == "client":
            await stage.send(step.page, frames.text(msgspec.json.encode(value)))
        elif name == "client_text":
            await stage.send(step.page, frames.text(value.encode()))
        elif name == "client_bytes":
            await stage.send(step.page, bytes.fromhex(value))
        elif name == "posts":
            answer = await stage.post(value)
        else:
            raise KeepaliveError(f"a server's transcript has no step {name}: {value!r}")
    for page in pages:
        _, got = await stage.next(page, transcript.until)
        if got is not None:
            raise Deviation(f"before {transcript.until:g} s: {_short(got)} came, and nothing should have")


def _compare(step: Step, expected: Any, got: Any, stage: Stage) -> None:
    fits = (
        all(_fits(name, value, got.get(name), stage) for name, value in expected.items())
        if isinstance(expected, dict) and isinstance(got, dict)
        else expected == got
    )
    if not fits:
        raise Deviation(f"at {step.at:g} s: {_short(expected)} was due, and {_short(got)} came")


def _fits(name: str, expected: Any, got: Any, stage: Stage) -> bool:
    """Whether a member of a message is as expected; two numbers are a range."""
    if name not in _TIMES or not isinstance(got, int | float):
        return bool(expected == got)
    least, most = expected if isinstance(expected, list) else (expected, expected)
    return bool(least - stage.slack <= got / stage.pace <= most + stage.slack)


def _short(what: Any) -> str:
    if what is None:
        return "nothing"
    if isinstance(what, int):
        return f"a close with {what}"
    return what.hex(" ") if isinstance(what, bytes) else msgspec.json.encode(what).decode()


class _Live:
    """A server somewhere, in real time."""

    def __init__(self, address: Address, sign_in: SignIn, sign_out: SignIn, pace: float = 1.0) -> None:
        self.pace = pace
        self.slack = SLACK / pace
        self._address = address
        self._sign_in = sign_in
        self._sign_out = sign_out
        self._pages: dict[int, _Page] = {}

    async def __aenter__(self) -> "_Live":
        self._loop = asyncio.get_running_loop()
        self._http = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
        try:
            await self._sign_in(self._http)
        except BaseException:
            await self._http.close()
            raise
        # What a page has goes on knocking when the browser's jar has lost it.
        cookies = self._http.cookie_jar.filter_cookies(self._address.base)
        self._cookie = "; ".join(f"{name}={morsel.coded_value}" for name, morsel in cookies.items())
        self._began = self._loop.time()
        return self

    async def __aexit__(self, *error: object) -> None:
        for page in self._pages.values():
            page.transport.abort()
        await self._http.close()

    @property
    def now(self) -> float:
        return (self._loop.time() - self._began) / self.pace

    async def until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, (at - self.now) * self.pace))

    async def connect(self, page: int) -> None:
        url = self._address.socket
        host, authorization = url.host_port_subcomponent or "", self._address.authorization
        handshake = Handshake(request(url.raw_path, host, self._cookie, authorization))
        opening = self._loop.create_connection(
            lambda: _Page(handshake, lambda: self.now),
            url.raw_host or "",
            url.port or 0,
            ssl=True if url.scheme == "https" else None,
        )
        try:
            async with asyncio.timeout(PATIENCE):
                _, self._pages[page] = await opening
                refusal = await self._pages[page].shaken
        except (OSError, TimeoutError) as error:
            raise faults.failed(url, error) from None
        if refusal is not None:
            raise faults.refused(url, *refusal)

    async def send(self, page: int, data: bytes) -> None:
        self._pages[page].transport.write(data)

    async def next(self, page: int, by: float) -> tuple[float, Any]:
        try:
            async with asyncio.timeout(max(0.0, (by - self.now) * self.pace)):
                return await self._pages[page].received.get()
        except TimeoutError:
            return self.now, None

    async def sign_out(self) -> None:
        await self._sign_out(self._http)

    async def post(self, ping: dict[str, Any]) -> Any:
        url = self._address.heartbeat
        timeout = aiohttp.ClientTimeout(PATIENCE)
        try:
            async with (
                aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as http,
                http.post(url, json=ping, headers={"Cookie": self._cookie}) as response,
            ):
                return msgspec.json.decode(await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise faults.failed(url, error) from None
        except msgspec.DecodeError:  # an answer, but none of the protocol's
            return None


class _Page(asyncio.Protocol):
    """The socket of a page that keeps all that it receives, and answers nothing by itself."""

    def __init__(self, handshake: Handshake, now: Callable[[], float]) -> None:
        self._handshake = handshake
        self._now = now
        self._frames = Reader(1 << 20, masked=False)
        self.shaken: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        self.received: asyncio.Queue[tuple[float, Any]] = asyncio.Queue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._handshake.request)

    def data_received(self, data: bytes) -> None:
        if not self.shaken.done():
            self._handshake.answer += data
            head, end, data = bytes(self._handshake.answer).partition(b"\r\n\r\n")
            if not end:
                return
            self.shaken.set_result(self._handshake.judge(head, data)[0])
        try:
            for frame in self._frames.feed(data):
                self.received.put_nowait((self._now(), read(frame)))
        except FrameError as error:
            self.received.put_nowait((self._now(), f"a frame that breaks RFC 6455: {error}"))
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.shaken.done():
            self.shaken.set_result(Refusal(0, ""))


def read(frame: Frame) -> Any:
    """What a page makes of a frame: a message, a close code, or the bytes of a control frame without a mask.

    A text says what else came, as that is always a deviation.
    """
    if frame.opcode is Opcode.BINARY:
        return "a binary message"
    if frame.opcode is Opcode.TEXT:
        try:
            return msgspec.json.decode(frame.payload)
        except msgspec.DecodeError:
            return "a text that is no JSON"
    if frame.opcode is Opcode.CLOSE:
        return close_code(frame.payload)
    return bytes([0x80 | frame.opcode, len(frame.payload)]) + frame.payload
