"""`keepalive.HeartPool` against real servers: many hearts, one timer, and what each of them costs."""

import asyncio
import json
import re
import subprocess
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha1
from random import Random
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from cryptography.fernet import Fernet

from keepalive import (
    HeartPool,
    KeepaliveError,
    Limits,
    Mode,
    NotKeepaliveError,
    OriginError,
    Policy,
    Reason,
    ServerUnavailable,
    SessionEnded,
    SettingError,
    TlsError,
    VersionError,
    frames,
)
from keepalive.client import Event, PoolHeart, State
from keepalive.client import frames as client_frames
from keepalive.client.address import address_of
from keepalive.client.machine import Fact
from keepalive.client.pool import AT_ONCE
from keepalive.clock import SystemClock
from keepalive.frames import Frame, Opcode, Reader
from keepalive.messages import Beat, CloseCode, End, Hello, Push, encode
from keepalive.testing import KeepaliveApp, KeepaliveServer, VirtualClock

from .conftest import Serve
from .raw import DEADLINE, certified, serving, until
from .test_client import World
from .test_client_errors import answering, http, listening, methods

MOST = 3 * 1024
"""Bytes of memory for each heart."""


async def jars(world: World, count: int) -> list[dict[str, str]]:
    """The cookies of so many users who are signed in."""
    found = []
    async with ClientSession() as session:
        for _ in range(count):
            async with session.post(f"{world.url}/login") as response:
                found.append({name: morsel.value for name, morsel in response.cookies.items()})
        session.cookie_jar.clear()
    return found


@pytest.fixture
async def world(serve: Serve) -> World:
    world = World()
    world.port = (await serve(world.app)).port
    return world


async def test_all_hearts_of_a_pool_live(world: World) -> None:
    heard: Counter[type] = Counter()
    count = 2 * AT_ONCE + 10
    async with HeartPool(world.url, on_event=lambda heart, event: heard.update([type(event)])) as pool:
        for cookies in await jars(world, count):
            pool.add(cookies)
        await pool.opened(DEADLINE)
        assert pool.states == {State.OPEN: count}
        assert world.keepalive.connected == (count, count)
        await until(lambda: heard[Beat] == count)
        assert len(pool) == len([*pool]) == count
    await until(lambda: world.keepalive.connected == (0, 0))


# Virtual time.


async def test_half_an_hour_passes_in_virtual_time(
    keepalive_app: KeepaliveApp, clock: VirtualClock, serve: Serve
) -> None:
    """Each heart pings every 25 s ±10 %, and each session ends at its absolute deadline."""
    world = World(policy=Policy(absolute_timeout=1800))
    keepalive_app(world.app)
    world.port = (await serve(world.app)).port
    ends: list[Event] = []

    def on_event(heart: PoolHeart, event: Event) -> None:
        if isinstance(event, End):
            ends.append(event)

    async with HeartPool(world.url, on_event=on_event) as pool:
        for cookies in await jars(world, 5):
            pool.add(cookies)
        await pool.opened(DEADLINE)
        assert not pool.busy
        clock.drive(pool)
        await clock.advance(minutes=29, seconds=59)
        counts = world.keepalive.counts
        assert (pool.states, ends, counts.asks) == ({State.OPEN: 5}, [], 0)
        assert 1800 / 27.5 < counts.beats / 5 < 1800 / 22.5
        await clock.advance(seconds=1.5)
        assert [heart.expires_in for heart in pool] == [0.0] * 5
    assert ends == [End(Reason.ABSOLUTE)] * 5


async def test_hundreds_of_users_and_their_working_day(
    keepalive_server: KeepaliveServer, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who goes early, and leaves the page open: an idle timeout later; all others at the absolute one."""
    draw = Random(8)  # what comes due at the same time is one step, however much it is
    monkeypatch.setattr("keepalive.client.pool.random", lambda: draw.choice((0.1, 0.8)))
    monkeypatch.setattr("keepalive.heart.LOOK_AGAIN", 900)  # else it takes a step a minute for each session
    count, half_hour, day = 300, 1800.0, 8 * 3600.0
    policy = Policy(
        mode="activity", ping_interval=900, touch_every=900, idle_timeout=5500, absolute_timeout=day
    )
    server = await keepalive_server(policy=policy, limits=Limits(pages_per_address=count))
    began = clock.monotonic()
    ended: dict[PoolHeart, tuple[float, Reason]] = {}

    def on_event(heart: PoolHeart, event: Event) -> None:
        if isinstance(event, End):
            ended[heart] = clock.monotonic() - began, event.reason

    async with HeartPool(server.url, on_event=on_event) as pool:
        hearts = []
        for number in range(count):
            jar = await server.sign_in(f"user {number}")
            hearts.append(pool.add({cookie.key: cookie.value for cookie in jar}))
        await pool.opened(DEADLINE)
        clock.drive(pool)
        for step in range(16):
            for heart in hearts[step * count // 16 :]:
                heart.ping()
            await clock.advance(seconds=half_hour)
        await clock.advance(seconds=1)
    for number, heart in enumerate(hearts):
        last_step = next(step for step in range(15, -1, -1) if step * count // 16 <= number)
        idle_at = last_step * half_hour + policy.idle_timeout
        at, reason = ended[heart]
        assert at == pytest.approx(min(idle_at, day), abs=0.5)
        assert reason is (Reason.IDLE if idle_at < day else Reason.ABSOLUTE)
    assert {reason for _, reason in ended.values()} == {Reason.IDLE, Reason.ABSOLUTE}


async def test_while_a_heart_of_a_pool_waits_for_its_server_time_stands_still(
    keepalive_app: KeepaliveApp, clock: VirtualClock, world: World
) -> None:
    keepalive_app(world.app)
    answered = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await answered.wait()
        raise web.HTTPUpgradeRequired

    async with HeartPool(world.url) as pool:
        pool.add(*await jars(world, 1))
        await pool.opened(DEADLINE)
        clock.drive(pool)
        world.sockets, world.blocked = False, slow
        world.close()
        await until(lambda: pool.states == {State.WAITING: 1})
        hour = asyncio.create_task(clock.advance(hours=1))
        await until(lambda: pool.busy)
        since = clock.monotonic()
        await asyncio.sleep(0.05)
        assert (clock.monotonic(), hour.done()) == (since, False)
        answered.set()
        await hour
        assert pool.states == {State.POLLING: 1}
        assert 3600 / 27.5 - 5 < len(world.posts) < 3600 / 22.5 + 5


# What a program asks.


async def test_a_heart_pings_on_demand_and_tells_of_the_user(world: World) -> None:
    events: list[tuple[PoolHeart, Event]] = []
    async with HeartPool(world.url, on_event=lambda *told: events.append(told)) as pool:
        (cookies,) = await jars(world, 1)
        heart = pool.add(cookies)
        await pool.opened(DEADLINE)
        heart.ping(idle=5)
        await until(lambda: len(world.pings) == 2)
        assert world.pings[1].idle == pytest.approx(5, abs=1)
        assert heart.expires_in == pytest.approx(1800, abs=2)
        world.keepalive.push_user("ann", {"x": "é" * 70_00})
        await until(lambda: any(isinstance(event, Push) for _, event in events))
        assert {each for each, _ in events} == {heart}


async def test_a_session_that_ends_ends_its_heart_alone(world: World) -> None:
    async with HeartPool(world.url) as pool:
        first, second = [pool.add(cookies) for cookies in await jars(world, 2)]
        await pool.opened(DEADLINE)
        await world.keepalive.end(world.pages[0].live.key)
        await until(lambda: pool.states == {State.OPEN: 1, State.ENDED: 1})
        (over,) = [heart for heart in (first, second) if heart.state is State.ENDED]
        assert over.end == End(Reason.LOGOUT)


async def test_one_heart_can_leave(world: World) -> None:
    async with HeartPool(world.url) as pool:
        first, second = [pool.add(cookies) for cookies in await jars(world, 2)]
        first.leave()
        await pool.opened(DEADLINE)
        assert (first.state, second.state) == (State.IDLE, State.OPEN)
        second.leave()
        await until(lambda: world.keepalive.connected == (0, 0))
        assert len(pool) == 0


async def test_the_pool_comes_back_after_a_restart(tmp_path: Any) -> None:
    store = f"sqlite:///{tmp_path / 'sessions.db'}"
    world = World(store)
    async with HeartPool("http://127.0.0.1:1") as pool:
        async with serving(world.app) as served:
            world.port = served.port
            pool._address = address_of(world.url)
            for cookies in await jars(world, 5):
                pool.add(cookies)
            await pool.opened(DEADLINE)
        await until(lambda: pool.states == {State.WAITING: 5})
        again = World(store)
        runner = web.AppRunner(again.app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", world.port).start()
            for heart in pool:
                heart.ping()
            await until(lambda: pool.states == {State.OPEN: 5}, within=3 * DEADLINE)
        finally:
            for heart in list(pool):
                heart.leave()
            await runner.cleanup()


async def test_a_heart_is_the_same_page_until_it_says_goodbye(world: World) -> None:
    closes = world.keepalive.counts.closes
    async with HeartPool(world.url) as pool:
        for cookies in await jars(world, 2):
            heart = pool.add(cookies)
        await pool.opened(DEADLINE)
        heart._machine._deadlines["silence"] = SystemClock().monotonic()
        pool._dispatch(heart, Fact.TICK)
        await until(lambda: closes[CloseCode.RETURNING] == 1)
        await until(lambda: len(world.names) == 3)
        await until(lambda: pool.states == {State.OPEN: 2})
    await until(lambda: closes[CloseCode.NORMAL] == 2)
    assert len(set(world.names)) == 2


async def test_where_sockets_are_blocked_hearts_that_have_lived_poll(world: World) -> None:
    async with HeartPool(world.url) as pool:
        for cookies in await jars(world, 2):
            pool.add(cookies)
        await pool.opened(DEADLINE)
        world.sockets = False
        world.close()
        await until(lambda: pool.states == {State.POLLING: 2}, within=3 * DEADLINE)


async def test_a_new_cookie_takes_the_place_of_the_old_one(world: World) -> None:
    async with HeartPool(world.url) as pool:
        heart = pool.add({"keepalive": "old", "other": "1"})
        heart.on_upgraded(["keepalive=new; Path=/; HttpOnly", "third=3", "other=; Max-Age=0", "\x00"])
        assert heart._cookie == "keepalive=new; third=3"


@pytest.mark.parametrize(
    ("attributes", "kept"),
    [
        ("Secure; Partitioned; Priority=High; SameParty", "keepalive=new"),
        ("Expires=Tue, 19 Jan 2038 03:14:07 GMT", "keepalive=new"),
        ("Expires=Thu, 01 Jan 1970 00:00:00 GMT", ""),
        ("Max-Age=-1", ""),
        ("Max-Age=soon; Expires=never", "keepalive=new"),
    ],
)
async def test_attributes_of_a_new_cookie(world: World, attributes: str, kept: str) -> None:
    """RFC 6265 §5.2: what is unknown, or malformed, is passed over."""
    async with HeartPool(world.url) as pool:
        heart = pool.add({"keepalive": "old"})
        heart.on_upgraded([f"keepalive=new; Path=/; {attributes}"])
        assert heart._cookie == kept


async def test_the_cookie_is_renewed(serve: Serve, clock: VirtualClock) -> None:
    """Where sessions live in the cookie, a beat says `renew`, and a POST brings a fresh one."""
    storage = EncryptedCookieStorage(Fernet(Fernet.generate_key()), max_age=60)
    world = World(storage, policy=Policy(idle_timeout=60, ping_interval=10))
    world.port = (await serve(world.app)).port
    async with HeartPool(world.url) as pool:
        heart = pool.add(*await jars(world, 1))
        await pool.opened(DEADLINE)
        before = heart._cookie
        await clock.advance(40)
        heart.ping()
        await until(lambda: world.posts)
        await until(lambda: heart._cookie != before)
        assert world.posts == [before]


# What a server may send.

HELLO = encode(
    Hello(interval=25, idle_timeout=60, expires_in=60, warn_before=20, mode=Mode.PRESENCE, spread=3)
)


@asynccontextmanager
async def speaking(
    *sent: bytes, accept: str | None = None, subprotocol: str = "keepalive.v1"
) -> AsyncIterator[tuple[int, list[Frame]]]:
    """A server that greets, and then sends these bytes; with what it hears."""
    heard: list[Frame] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = re.search("Sec-WebSocket-Key: (.+)\r", head)
        assert key
        proof = sha1(key[1].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            f"sec-websocket-accept: {accept or b64encode(proof).decode()}",
            f"Sec-WebSocket-Protocol: {subprotocol}",
        ]
        writer.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode() + frames.text(HELLO))
        for each in sent:
            writer.write(each)
            await writer.drain()
            await asyncio.sleep(0.01)
        frames_of = Reader()
        while data := await reader.read(1000):
            heard.extend(frames_of.feed(data))

    async with listening(speak) as port:
        yield port, heard


@pytest.mark.parametrize("accept", ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "", None])
async def test_a_handshake_must_be_the_answer_to_ours(accept: str | None) -> None:
    wrong = {"subprotocol": "chat"} if accept is None else {"accept": accept or "-"}
    async with speaking(**wrong) as (port, _), HeartPool(f"http://127.0.0.1:{port}") as pool:
        pool.add({})
        with pytest.raises(NotKeepaliveError):
            await pool.opened(DEADLINE)


async def test_control_pings_are_answered_also_between_fragments() -> None:
    events: list[Event] = []
    push = encode(Push("x" * 70_000))
    long = b"\x01\x7e\xff\xff" + push[:65535] + b"\x89\x02hi\x80\x7e" + (len(push) - 65535).to_bytes(2)
    pieces = [long, push[65535:-1], push[-1:], b"\x89\x00"]
    async with (
        speaking(*pieces) as (port, heard),
        HeartPool(f"http://127.0.0.1:{port}", on_event=lambda heart, event: events.append(event)) as pool,
    ):
        pool.add({})
        await pool.opened(DEADLINE)
        await until(lambda: Push("x" * 70_000) in events)
        await until(lambda: len(heard) == 3)
    assert [frame.opcode for frame in heard[:3]] == [Opcode.TEXT, Opcode.PONG, Opcode.PONG]
    assert heard[1].payload == b"hi"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"\x88\x00", b"\x03\xe8"),
        (b"\x88\x02\x03\xf4", b"\x03\xf4"),
        (b"\x81\x85\0\0\0\0Hello", None),  # masked
        (b"\x81\x01\xff", None),
        (b"\x81\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", None),
    ],
)
async def test_a_close_is_answered_and_a_broken_frame_is_a_loss(sent: bytes, answer: bytes | None) -> None:
    async with speaking(sent) as (port, heard), HeartPool(f"http://127.0.0.1:{port}") as pool:
        heart = pool.add({})
        await pool.opened(DEADLINE)
        await until(lambda: heart.state is State.WAITING)
        if answer is not None:
            await until(lambda: Frame(Opcode.CLOSE, answer) in heard)


# Bad input.


async def test_a_pool_hears_of_a_session_that_is_over(world: World) -> None:
    async with HeartPool(world.url) as pool:
        heart = pool.add({"keepalive": "stale"})
        with pytest.raises(SessionEnded):
            await pool.opened(DEADLINE)
        assert heart.state is State.ENDED
        await pool.opened(DEADLINE)  # it has been told


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (http("404 Not Found"), NotKeepaliveError),
        (http("200 OK", "hello"), NotKeepaliveError),
        (http("403 Forbidden"), OriginError),
        (http("400 Bad Request", "offer the subprotocol keepalive.v2"), VersionError),
        (
            http("101 Switching Protocols", "", "Upgrade: websocket", "Sec-WebSocket-Accept: x"),
            NotKeepaliveError,
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", NotKeepaliveError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, NotKeepaliveError),
    ],
)
async def test_a_heart_that_is_refused_for_good_asks_twice(answer: bytes, kind: type[Exception]) -> None:
    async with answering(answer) as (port, asked), HeartPool(f"http://127.0.0.1:{port}") as pool:
        heart = pool.add({})
        with pytest.raises(kind) as caught:
            await pool.opened(DEADLINE)
        assert heart.error is caught.value
        assert heart.state is State.IDLE
        assert methods(asked) == ["GET", "POST"]


async def test_a_server_that_is_away_is_tried_again_by_the_rules() -> None:
    async with answering(http("503 Service Unavailable")) as (port, asked):
        async with HeartPool(f"http://127.0.0.1:{port}") as pool:
            heart = pool.add({})
            with pytest.raises(ServerUnavailable, match="1 of 1 hearts"):
                await pool.opened(0.3)
            assert heart.state is State.WAITING
        assert len(asked) == 1


async def test_a_certificate_that_nobody_trusts(serve: Serve, tmp_path: Any) -> None:
    ours, theirs = certified(tmp_path)
    world = World()
    port = (await serve(world.app, tls=ours)).port
    async with HeartPool(f"https://localhost:{port}") as pool:
        pool.add({})
        with pytest.raises(TlsError):
            await pool.opened(DEADLINE)
    async with HeartPool(f"https://localhost:{port}", ssl=theirs) as pool:
        pool.add({})
        with pytest.raises(SessionEnded):
            await pool.opened(DEADLINE)


@pytest.mark.parametrize("value", ["a\r\nX: y", "€"])
async def test_a_cookie_that_cannot_be_sent_is_refused(world: World, value: str) -> None:
    async with HeartPool(world.url) as pool:
        with pytest.raises(SettingError, match="cookie"):
            pool.add({"keepalive": value})
        assert len(pool) == 0


async def test_a_pool_runs_in_its_block_alone(world: World) -> None:
    pool = HeartPool(world.url)
    with pytest.raises(KeepaliveError, match="async with"):
        pool.add({})
    async with pool:
        pass
    with pytest.raises(KeepaliveError, match="async with"):
        pool.add({})
    with pytest.raises(KeepaliveError, match="once"):
        await pool.__aenter__()


async def test_cancelled_while_thousands_are_on_their_way_it_leaves_nothing(world: World) -> None:
    before = asyncio.all_tasks()
    (cookies,) = await jars(world, 1)

    async def hold() -> None:
        async with HeartPool(world.url) as pool:
            for _ in range(1000):
                pool.add(cookies)
            await pool.opened()
            raise AssertionError("so soon?")

    task = asyncio.create_task(hold())
    await until(lambda: world.keepalive.connected[1])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not [each for each in asyncio.all_tasks() - before if ".client." in str(each.get_coro())]
    await until(lambda: world.keepalive.connected == (0, 0))


# What a heart costs.

CHILD = """
import asyncio, gc, json, os, sys
from pathlib import Path
from keepalive import HeartPool

def memory():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

async def main(url, some, jars):
    async with HeartPool(url) as pool:
        for cookies in jars[:some]:
            pool.add(cookies)
        await pool.opened()
        gc.collect()
        before = memory()
        for cookies in jars[some:]:
            pool.add(cookies)
        await pool.opened()
        for heart in pool:
            heart.ping()
        await asyncio.sleep(1)
        gc.collect()
        print((memory() - before) / (len(jars) - some))

asyncio.run(main(sys.argv[1], int(sys.argv[2]), json.load(sys.stdin)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_heart_costs_less_than_3_kB(world: World) -> None:
    """Beside 200 others; its cookie is counted, too."""
    (cookies,) = await jars(world, 1)
    told = json.dumps([cookies | {"number": str(number)} for number in range(1200)])
    command = [sys.executable, "-c", CHILD, world.url, "200"]
    done = await asyncio.to_thread(
        subprocess.run, command, input=told, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < MOST


# Frames.


@pytest.mark.parametrize("payload", [b"", b"Hello", b"x" * 125, b"x" * 126, b"\xe2\x82\xac" * 1000])
def test_a_server_reads_what_a_client_writes(payload: bytes) -> None:
    assert [*Reader().feed(client_frames.text(payload))] == [Frame(Opcode.TEXT, payload)]
    assert client_frames.text(b"x" * 8) != client_frames.text(b"x" * 8), "each frame has a mask of its own"


def test_a_server_reads_a_clients_control_frames() -> None:
    data = client_frames.pong(b"hm") + client_frames.close(1000)
    assert [*Reader().feed(data)] == [Frame(Opcode.PONG, b"hm"), Frame(Opcode.CLOSE, b"\x03\xe8")]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x81\x00", b""),
        (b"\x81\x05Hello", b"Hello"),
        (b"\x81\x03\xe2\x82\xac", "€".encode()),
        (b"\x81\x7d" + b"x" * 125, b"x" * 125),
        (b"", None),
        (b"\x81", None),
        (b"\x81\x05Hell", None),
        (b"\x81\x05Hello!", None),
        (b"\x01\x05Hello", None),
        (b"\x82\x05Hello", None),
        (b"\x81\x85\0\0\0\0Hello", None),
        (b"\x81\x01\xff", None),
        (b"\x81\x7e\x00\x7e" + b"x" * 126, None),
    ],
)
def test_the_fast_path_of_a_client(data: bytes, text: bytes | None) -> None:
    assert client_frames.single(data) == text


# What comes in pieces.


async def test_a_handshake_may_come_byte_by_byte() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = re.search("Sec-WebSocket-Key: (.+)\r", head)
        assert key
        proof = b64encode(sha1(key[1].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        answer = b"HTTP/1.1 101 \r\nSec-WebSocket-Accept: %b\r\nSec-WebSocket-Protocol: keepalive.v1\r\n\r\n"
        for byte in answer % proof + frames.text(HELLO):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read()

    async with listening(speak) as port, HeartPool(f"http://127.0.0.1:{port}") as pool:
        heart = pool.add({})
        await pool.opened(DEADLINE)
        assert heart.state is State.OPEN
