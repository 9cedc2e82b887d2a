"""The log of the standalone server: readable on a terminal, JSON elsewhere, and never an id in it."""

import asyncio
import json
import logging
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

import pytest
from aiohttp import web

from keepalive.logs import configure

from .conftest import Serve


class Stream(TextIOWrapper):
    """Stands in for stderr, and can be read."""

    def __init__(self, path: Path, *, terminal: bool) -> None:
        super().__init__(path.open("wb", buffering=0), write_through=True)
        self._path = path
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def getvalue(self) -> str:
        """All that was logged until now."""
        for handler in logging.getLogger().handlers:
            handler.close()
        return self._path.read_text()


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(params=[False, True], ids=["elsewhere", "terminal"])
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stream]:
    with Stream(tmp_path / "log", terminal=request.param) as stream:
        yield stream


elsewhere = pytest.mark.parametrize("stream", [False], ids=["elsewhere"], indirect=True)
on_a_terminal = pytest.mark.parametrize("stream", [True], ids=["terminal"], indirect=True)


SECRET = "-".join(["the", "id", "of", "a", "session"])


def fail(secret: str = SECRET) -> None:
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        logging.getLogger("keepalive.heart").exception("could not answer %d pages", 3)


@elsewhere
def test_elsewhere_each_event_is_a_line_of_json(stream: Stream) -> None:
    configure(stream)
    logging.getLogger("keepalive.web").warning("a line\nbroken in %s", "two")
    logging.getLogger("keepalive.web").debug("not shown")
    fail()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2, lines
    first, second = map(json.loads, lines)
    assert first.pop("timestamp").endswith("Z")
    assert first == {"level": "warning", "logger": "keepalive.web", "event": "a line\nbroken in two"}
    assert (second["event"], second["level"]) == ("could not answer 3 pages", "error")
    assert "RuntimeError: boom" in second["exception"]


@on_a_terminal
def test_on_a_terminal_it_is_for_people(stream: Stream) -> None:
    configure(stream)
    fail()
    text = stream.getvalue()
    assert "could not answer 3 pages" in text
    assert "keepalive.heart" in text
    assert "boom" in text
    assert not text.startswith("{")


@on_a_terminal
def test_a_terminal_gets_no_control_characters(stream: Stream) -> None:
    configure(stream)
    logging.getLogger("keepalive.web").warning("ann\x1b[2J\nforged")
    text = stream.getvalue()
    assert r"ann\x1b[2J\nforged" in text
    assert text.count("\n") == 1


@on_a_terminal
def test_nor_does_it_by_a_traceback(stream: Stream) -> None:
    """An error may quote what somebody has sent."""
    configure(stream)
    try:
        raise RuntimeError("ann\x1b[2J\r\u202e")
    except RuntimeError:
        logging.getLogger("aiohttp.server").exception("Error handling request")
    text = stream.getvalue()
    assert r"RuntimeError: ann\x1b[2J\r\u202e" in text
    assert "\n  File " in text
    assert "\x1b[2J" not in text
    assert "\u202e" not in text


def test_a_traceback_shows_no_variables(stream: Stream) -> None:
    configure(stream)
    fail()
    assert SECRET not in stream.getvalue()


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
async def test_a_malformed_request_is_not_quoted(serve: Serve, stream: Stream, request_: bytes) -> None:
    """aiohttp's own line would, with a traceback."""
    configure(stream)
    reader, writer = await asyncio.open_connection("127.0.0.1", (await serve(web.Application())).port)
    writer.write(request_)
    assert b" 400 " in await reader.readline()
    writer.close()
    text = stream.getvalue()
    assert "refused a malformed request" in text
    assert "SECRET" not in text
    assert "Traceback" not in text
