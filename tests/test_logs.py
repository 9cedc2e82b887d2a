"""The log of the standalone server: readable on a terminal, JSON elsewhere, and never an id in it."""

import asyncio
import json
import logging
from collections.abc import Iterator
from io import StringIO

import pytest
from aiohttp import web

from keepalive.logs import configure

from .conftest import Serve


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


SECRET = "-".join(["the", "id", "of", "a", "session"])


def fail(secret: str = SECRET) -> None:
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        logging.getLogger("keepalive.heart").exception("could not answer %d pages", 3)


def test_elsewhere_each_event_is_a_line_of_json() -> None:
    stream = StringIO()
    configure(stream)
    logging.getLogger("keepalive.web").warning("a line\nbroken in %s", "two")
    logging.getLogger("keepalive.web").debug("not shown")
    fail()
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("timestamp").endswith("Z")
    assert first == {"level": "warning", "logger": "keepalive.web", "event": "a line\nbroken in two"}
    assert (second["event"], second["level"]) == ("could not answer 3 pages", "error")
    assert "RuntimeError: boom" in second["exception"]


def test_on_a_terminal_it_is_for_people() -> None:
    stream = Terminal()
    configure(stream)
    fail()
    text = stream.getvalue()
    assert "could not answer 3 pages" in text
    assert "keepalive.heart" in text
    assert "boom" in text
    assert not text.startswith("{")


@pytest.mark.parametrize("stream", [StringIO(), Terminal()], ids=["elsewhere", "terminal"])
def test_a_traceback_shows_no_variables(stream: StringIO) -> None:
    configure(stream)
    fail()
    assert SECRET not in stream.getvalue()


@pytest.mark.parametrize("stream", [StringIO(), Terminal()], ids=["elsewhere", "terminal"])
@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nCookie: keepalive=SECRET%b\r\n\r\n" % bytes(9000).replace(b"\0", b"a"),
        b"GET / HTTP/1.1\r\nHost: x\r\nCookie: keepalive=SECRET\0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nCookie : keepalive=SECRET\r\n\r\n",
        b"GET /?SECRET\1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nSECRETZZ\r\n",
    ],
    ids=["too long", "a NUL", "no token", "a target", "a body"],
)
async def test_a_malformed_request_is_not_quoted(serve: Serve, stream: StringIO, request_: bytes) -> None:
    """aiohttp's own line would, with a traceback."""
    configure(stream)
    reader, writer = await asyncio.open_connection("127.0.0.1", (await serve(web.Application())).port)
    writer.write(request_)
    assert b" 400 " in await reader.readline()
    writer.close()
    assert "refused a malformed request" in stream.getvalue()
    assert "SECRET" not in stream.getvalue()
    assert "Traceback" not in stream.getvalue()
