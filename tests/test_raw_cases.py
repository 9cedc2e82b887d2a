"""RFC 6455 end to end, where the Autobahn suite does not look: bytes in, and what a page hears.

Each case of the table reaches a whole server, sessions and all, in three ways: in the handshake's own
segment, after it, and byte by byte. What the page hears must be the same. Time stands still, so a case
that only a timeout could end would fail.
"""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from struct import pack
from typing import NamedTuple

import pytest
from aiohttp import web

import keepalive
from keepalive import Keepalive, Limits
from keepalive.testing import VirtualClock

from .conftest import Browse, Connect, Serve
from .raw import BINARY, CLOSE, CONTINUATION, MASK, PING, PONG, TEXT, RawPage, frame, ping, until

pytestmark = pytest.mark.both_loops

RATE = 8
"""Frames a second, where they are limited: five seconds' worth, exact in binary, are `BURST`."""
BURST = 5 * RATE


class Site(NamedTuple):
    """A server, and a page that has nothing to do with the case."""

    heart: Keepalive
    open: Callable[..., Awaitable[RawPage]]
    """Opens another page of the same session; `early` comes with its handshake."""
    witness: RawPage

    async def read(self) -> None:
        """Wait until the server has read what was sent so far: it answers what came after that."""
        self.witness.send(frame(b"", PING))
        assert await self.witness.frame() == (PONG, b"")

    @property
    def sockets(self) -> int:
        """How many are open, without the witness."""
        return self.heart.connected[1] - 1


Open = Callable[[float], Awaitable[Site]]


@pytest.fixture
def open_site(serve: Serve, browse: Browse, connect: Connect, clock: VirtualClock) -> Open:
    """Starts a server with a limit of frames a second."""

    async def open_site(max_rate: float) -> Site:
        app = web.Application()
        limits = Limits(messages_per_second=max_rate)
        heart = keepalive.setup(app, "memory://", limits=limits, clock=clock)

        async def login(request: web.Request) -> web.Response:
            await heart.start(request, "ann")
            return web.Response()

        app.router.add_post("/login", login)
        browser = await browse((await serve(app)).port)
        await browser.post("/login")
        open_page = partial(connect, browser.port, headers={"Cookie": browser.cookie})
        site = Site(heart, open_page, witness=await open_page())
        await site.witness.message("hello")
        return site

    return open_site


@pytest.fixture
async def site(open_site: Open, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Site]:
    """A server that limits nothing here; whatever the case, it serves others and logs no traceback."""
    site = await open_site(1e9)
    yield site
    await site.read()
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR] == []


async def heard(page: RawPage) -> str:
    """All that the server says until it ends the TCP connection, in words."""
    words = []
    try:
        while True:
            opcode, payload = await page.frame()
            if opcode == TEXT:
                message = json.loads(payload)
                words.append(f"{message['type']} {message.get('n', '')}".rstrip())
            elif opcode == CLOSE:
                words.append(f"close {int.from_bytes(payload[:2])}")
            else:
                assert opcode == PONG
                words.append(f"pong {payload.decode()}")
    except asyncio.IncompleteReadError as error:
        assert not error.partial
        return ", ".join([*words, "end"])


# The table. The page always says goodbye after the case, with a close of 1000.


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(code.to_bytes(2) + reason, CLOSE)


def more(payload: bytes, opcode: int = CONTINUATION) -> bytes:
    """A fragment that is not the last one."""
    return frame(payload, opcode, final=False)


class Case(NamedTuple):
    name: str
    sent: bytes
    heard: str


SAID = b'{"type":"ping","n":1}'
NO_KEY = bytes(4)
EURO = '{"type":"ping","n":1,"data":{"price":"€"}}'.encode()
INSIDE = EURO.index("€".encode()) + 1

CASES = [
    # What is in order.
    Case("nothing", b"", "close 1000, end"),
    Case("one ping", ping(1), "beat 1, close 1000, end"),
    Case("several pings", ping(1) + ping(2) + ping(3), "beat 1, beat 2, beat 3, close 1000, end"),
    Case("a mask of zeros", frame(SAID, mask=NO_KEY), "beat 1, close 1000, end"),
    Case("a control ping", frame(b"a", PING) + frame(b"b", PONG), "pong a, close 1000, end"),
    Case("an empty control ping", frame(b"", PING), "pong , close 1000, end"),
    Case("125 bytes of control", frame(b"x" * 125, PING), f"pong {'x' * 125}, close 1000, end"),
    Case(
        "control frames between fragments",
        frame(b"0", PING) + more(SAID[:5], TEXT) + frame(b"1", PING) + more(b"") + frame(b"2", PING)
        + frame(b"3", PONG) + frame(SAID[5:], CONTINUATION) + frame(b"4", PING),
        "pong 0, pong 1, pong 2, beat 1, pong 4, close 1000, end",
    ),
    Case(
        "a fragment for every byte",
        more(b"", TEXT) + b"".join(more(bytes([byte])) for byte in SAID) + frame(b"", CONTINUATION),
        "beat 1, close 1000, end",
    ),
    Case(
        "a character cut between fragments",
        more(EURO[:INSIDE], TEXT) + frame(b"?", PING) + frame(EURO[INSIDE:], CONTINUATION),
        "pong ?, beat 1, close 1000, end",
    ),
    Case("a close between fragments", more(SAID, TEXT) + close(1001), "close 1001, end"),
    # Close bodies.
    Case("a close without a body", frame(b"", CLOSE), "close 1000, end"),
    Case("a close of one byte", frame(b"\x03", CLOSE), "close 1002, end"),
    Case("the longest reason", close(3000, b"x" * 123), "close 3000, end"),
    Case("a reason that is too long", close(3000, b"x" * 124), "close 1002, end"),
    Case("a reason in another language", close(4000, "à bientôt €".encode()), "close 4000, end"),
    Case("a reason of half a character", close(1000, "€".encode()[:2]), "close 1007, end"),
    Case("a bad code and a bad reason", close(1005, b"\xff"), "close 1002, end"),
    Case("a fragmented close", more(pack(">H", 1000), CLOSE), "close 1002, end"),
    # What follows a close is not heard, be it right or wrong.
    Case("a ping after the close", ping(1) + close(1000) + ping(2), "beat 1, close 1000, end"),
    Case("a control ping after the close", close(1000) + frame(b"?", PING), "close 1000, end"),
    Case("a second close", close(1001) + close(3000), "close 1001, end"),
    Case("noise after the close", close(1001) + b"\xff" * 99, "close 1001, end"),
    Case("a ping after an error", frame(b"", 0x3) + ping(1), "close 1002, end"),
    Case("a control ping after an error", frame(b"{}") + frame(b"?", PING), "close 1007, end"),
    Case("a second error", frame(b"\xff") + frame(b"", mask=None), "close 1007, end"),
    # What is not masked, whatever it is.
    Case("text without a mask", frame(SAID, mask=None), "close 1002, end"),
    Case("a control ping without a mask", frame(b"?", PING, mask=None), "close 1002, end"),
    Case("a close without a mask", frame(pack(">H", 1000), CLOSE, mask=None), "close 1002, end"),
    Case("a fragment without a mask", more(SAID, TEXT) + frame(b"", 0, mask=None), "close 1002, end"),
    Case("no mask after a good ping", ping(1) + frame(SAID, mask=None), "beat 1, close 1002, end"),
    # Reserved bits and opcodes, also between fragments.
    *(Case(f"reserved bits {n:03b}", frame(SAID, reserved=n), "close 1002, end") for n in range(1, 8)),
    *(Case(f"opcode {n}", frame(b"", n), "close 1002, end") for n in (*range(3, 8), *range(11, 16))),
    Case("reserved bits of a control frame", frame(b"", PING, reserved=4), "close 1002, end"),
    Case("reserved bits of a fragment", more(SAID, TEXT) + frame(b"", 0, reserved=4), "close 1002, end"),
    Case("a reserved opcode between fragments", more(SAID, TEXT) + frame(b"", 0xB), "close 1002, end"),
    # Fragments.
    Case("a fragmented control ping", more(b"?", PING) + frame(b"", CONTINUATION), "close 1002, end"),
    Case("a fragmented control pong", more(b"?", PONG), "close 1002, end"),
    Case("a continuation of nothing", frame(SAID, CONTINUATION), "close 1002, end"),
    Case("a continuation of a whole ping", ping(1) + frame(b"", CONTINUATION), "beat 1, close 1002, end"),
    Case("a message within a message", more(SAID, TEXT) + ping(1), "close 1002, end"),
    Case("binary within text", more(SAID, TEXT) + frame(b"", BINARY), "close 1002, end"),
    Case("fragments without an end", more(b"", TEXT) + more(b"") * 64, "close 1009, end"),
    # Lengths. None of them waits for what it announces.
    Case("2^63 bytes", frame(announced=1 << 63), "close 1002, end"),
    Case("2^64 - 1 bytes", frame(announced=(1 << 64) - 1), "close 1002, end"),
    Case("2^63 - 1 bytes", frame(announced=(1 << 63) - 1), "close 1009, end"),
    Case("2^63 - 1 bytes of control", frame(b"", PING, announced=(1 << 63) - 1), "close 1002, end"),
    Case("4096 bytes and one more", more(b"x" * 4096, TEXT) + more(b"x"), "close 1009, end"),
    Case("one byte over the limit", frame(announced=4097), "close 1009, end"),
    Case("a 16-bit length of 21", b"\x81\xfe" + pack(">H", 21) + frame(SAID)[2:], "close 1002, end"),
    Case("a 64-bit length of 21", b"\x81\xff" + pack(">Q", 21) + frame(SAID)[2:], "close 1002, end"),
    Case("a 64-bit length of 65535", b"\x82\xff" + pack(">Q", 65535) + MASK, "close 1002, end"),
    Case("a control ping of 126 bytes", frame(b"x" * 126, PING), "close 1002, end"),
    # Payloads.
    Case("a byte that is never UTF-8", frame(b"\xff" + SAID), "close 1007, end"),
    Case("text that ends in half a character", frame("€".encode()[:2]), "close 1007, end"),
    Case("binary", frame(SAID, BINARY), "close 1003, end"),
    Case("a good ping after a bad one", ping(1) + frame(b"{}") + ping(2), "beat 1, close 1007, end"),
]  # fmt: skip


@pytest.mark.parametrize("way", ["with the handshake", "at once", "byte by byte"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_case(site: Site, case: Case, way: str) -> None:
    sent = case.sent + close(1000)
    page = await site.open(early=sent if way == "with the handshake" else b"")
    if way == "at once":
        page.send(sent)
    elif way == "byte by byte":
        for byte in sent:
            page.send(bytes([byte]))
            await site.read()
    assert await heard(page) == f"hello, {case.heard}"
    page.cut()
    await until(lambda: site.sockets == 0)


async def test_a_conversation_cut_in_two_at_every_byte(site: Site) -> None:
    """One half may come with the handshake, or both after it."""
    sent = more(SAID[:9], TEXT) + frame(b"?", PING) + frame(SAID[9:], CONTINUATION) + ping(2) + close(4999)
    for cut in range(len(sent) + 1):
        for early in (b"", sent[:cut]):
            page = await site.open(early=early)
            if not early:
                page.send(sent[:cut])
                await site.read()
            page.send(sent[cut:])
            assert await heard(page) == "hello, pong ?, beat 1, beat 2, close 4999, end"
            page.cut()


async def test_close_codes(site: Site) -> None:
    """What may be sent is echoed (RFC 6455 §7.4, and IANA's 1012 to 1014); all else is an error."""
    edges = {0, 1, 255, 256, 1000, 1003, 1004, 1006, 1007, 1014, 1015, 1016, 2999, 3000, 4999, 5000, 65535}
    for code in sorted(edges | set(range(0, 5000, 61)) | set(range(995, 1020))):
        legal = code in (1000, 1001, 1002, 1003, *range(1007, 1015)) or 3000 <= code <= 4999
        page = await site.open(early=close(code))
        assert await heard(page) == f"hello, close {code if legal else 1002}, end"
        page.cut()


# The TCP connection.


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        pytest.param(b"", "", id="nothing"),
        pytest.param(ping(1), "beat 1, ", id="after a ping"),
        pytest.param(ping(1)[:-1], "", id="within a frame"),
        pytest.param(more(SAID, TEXT), "", id="within a message"),
        pytest.param(ping(1) + close(1001), "beat 1, close 1001, ", id="after a close"),
        pytest.param(frame(SAID, mask=None), "close 1002, ", id="after an error"),
    ],
)
async def test_the_page_ends_its_half(site: Site, sent: bytes, answer: str) -> None:
    """FIN without a goodbye: what came before it is answered, and the server hangs up, too."""
    page = await site.open()
    page.send(sent)
    page.writer.write_eof()
    assert await heard(page) == f"hello, {answer}end"
    await until(lambda: site.sockets == 0)


@pytest.mark.parametrize("sent", [b"", ping(1), ping(1)[:-1], close(1000), frame(b"", mask=None)])
async def test_the_page_resets_the_connection(site: Site, sent: bytes) -> None:
    page = await site.open()
    page.send(sent)
    await site.read()
    plain: socket.socket = page.writer.get_extra_info("socket")
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))  # RST instead of FIN
    page.cut()
    await until(lambda: site.sockets == 0)


async def test_a_goodbye_counts_once_and_at_once(site: Site) -> None:
    """Also one that comes with the handshake; and no server that parts with its pages takes it back."""
    heart = site.heart.heart
    for count, early in enumerate([b"", close(1001)], 1):
        page = await site.open(early=early)
        if not early:
            page.send(close(1001))
        assert await heard(page) == "hello, close 1001, end"
        assert (heart.pages, site.sockets) == (1, 1)
        assert site.heart.counts.closes == {1001: count}
        page.cut()
        await until(lambda: site.sockets == 0)
        assert site.heart.counts.closes == {1001: count}


async def test_a_flood_after_the_goodbye_is_cut_off(site: Site) -> None:
    """It need not be read to its end only because the page may still be in the middle of a frame."""
    page = await site.open()
    page.send(close(1000))
    assert await heard(page) == "hello, close 1000, end"
    page.send(bytes(100_000))
    await until(lambda: site.sockets == 0)


# The rate, which counts frames of every kind.


@pytest.mark.parametrize(
    ("flood", "answer"),
    [
        pytest.param(frame(b"", PING), "pong ", id="control pings"),
        pytest.param(ping(1), "beat 1", id="pings"),
        pytest.param(frame(b"", PONG), None, id="pongs, which have no answer"),
    ],
)
async def test_floods(open_site: Open, clock: VirtualClock, flood: bytes, answer: str | None) -> None:
    """Exactly the burst is answered, however it comes, and after a second a second's worth."""
    site = await open_site(RATE)
    page = await site.open(early=flood * 10)
    page.send(flood * (BURST - 10))
    await site.read()
    await clock.advance(1)
    page.send(flood * (RATE + 100) + close(1000))
    answers = [answer] * (BURST + RATE) if answer else []
    assert await heard(page) == ", ".join(["hello", *answers, "close 4002, end"])
    await site.read()


async def test_the_lowest_rate_still_lets_a_page_in(open_site: Open, clock: VirtualClock) -> None:
    """One frame may come at any rate: here, every 20 s."""
    site = await open_site(0.05)
    page = await site.open(early=ping(1))
    assert [(await page.message())["type"] for _ in range(2)] == ["hello", "beat"]
    await clock.advance(20)
    page.send(ping(2))
    assert (await page.message("beat"))["n"] == 2
    page.send(ping(3))
    assert await heard(page) == "close 4002, end"
