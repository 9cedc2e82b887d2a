"""Log lines that nobody takes must stop nobody."""

import asyncio
import fcntl
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from time import monotonic

import pytest

from keepalive.lines import PATIENCE, LineHandler, dropped, to_descriptor, to_file

from . import test_server
from .conftest import Browse, Serve
from .raw import ping
from .test_security import altered
from .test_web import make_app, signed_in

SHORT = """
from functools import partial
from keepalive import logs
logs.LineHandler = partial(logs.LineHandler, most=20)
"""


def record(text: str, *args: object) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text, "args": args})


class Gated:
    """A place for lines that takes them only while it is open."""

    def __init__(self) -> None:
        self.open = Event()
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.open.wait()
        self.lines.append(line)


def test_lines_come_whole_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    handler = LineHandler(to_file(path))
    for number in range(100):
        handler.handle(record("line %d\u2028\ud800", number))
    handler.close()
    assert path.read_bytes().splitlines()[99] == b"line 99\xe2\x80\xa8\\ud800"
    assert handler.dropped == 0


def test_what_does_not_fit_is_counted_and_told() -> None:
    place = Gated()
    handler = LineHandler(place.write, most=10)
    for number in range(20):
        handler.handle(record("line %d", number))
    dropped = handler.dropped
    assert dropped in (9, 10)  # one may be in the thread's hand
    place.open.set()
    handler.close()
    kept = [line for line in place.lines if line.startswith(b"line")]
    assert len(kept) == 20 - dropped
    assert place.lines[1] == b"log lines were dropped here, as nobody took them: %d\n" % dropped
    assert len(place.lines) == len(kept) + 1


def test_a_line_that_cannot_be_formatted_or_written_is_counted() -> None:
    def fail(line: bytes) -> None:
        raise OSError("no space left")

    handler = LineHandler(fail)
    handler.handle(record("%d", "no number"))
    handler.handle(record("a line"))
    handler.close()
    assert handler.dropped == 2


def test_who_closes_does_not_wait_for_ever() -> None:
    place = Gated()
    handler = LineHandler(place.write, most=1)
    for _ in range(3):
        handler.handle(record("line"))
    began = monotonic()
    handler.close()
    assert monotonic() - began < PATIENCE + 2
    place.open.set()


@pytest.mark.parametrize("how", ["moved", "replaced", "removed", "cut"])
def test_a_file_that_is_rotated_goes_on(tmp_path: Path, how: str) -> None:
    path, old = tmp_path / "log", tmp_path / "log.1"
    write = to_file(path)
    write(b"one\n")
    if how in ("moved", "replaced"):
        path.rename(old)
        if how == "replaced":
            path.touch(0o600)  # logrotate's create
    elif how == "removed":
        path.unlink()
    else:  # logrotate's copytruncate
        os.truncate(path, 0)
    write(b"two\n")
    assert path.read_bytes() == b"two\n"
    assert path.stat().st_mode & 0o777 == 0o600
    if old.exists():
        assert old.read_bytes() == b"one\n"


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """The writing end of a pipe that nobody reads and that is full."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * 4096)
    yield writer
    os.set_blocking(reader, False)
    os.close(reader)  # a thread that still writes gets EPIPE
    os.close(writer)


async def test_a_full_pipe_costs_no_beat(serve: Serve, browse: Browse, full_pipe: int) -> None:
    logger = logging.getLogger("keepalive.test_lines")
    handler = LineHandler(to_descriptor(full_pipe), most=100)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        page = await (await signed_in(browse, (await serve(make_app())).port, "ann")).page()
        for n in range(20):
            for _ in range(100):
                logger.warning("a line that nobody reads")
            page.send(ping(n))
            assert (await page.message("beat"))["n"] == n
        assert handler.dropped >= 1800
        root = logging.getLogger()
        root.addHandler(handler)
        assert dropped()[""] >= 1800  # which is what the metrics tell
        root.removeHandler(handler)
    finally:
        logger.removeHandler(handler)


async def test_a_server_beats_on_whose_log_nobody_takes(
    tmp_path: Path, browse: Browse, full_pipe: int
) -> None:
    """As it is set up by itself, but with a shorter queue; each malformed request is a line of its log."""
    async with altered(tmp_path, SHORT, stderr=full_pipe) as (server, _):
        browser = await test_server.signed_in(browse, server.port)
        page = await browser.page()
        for n in range(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nCookie : x\r\n\r\n")
            assert b" 400 " in await reader.readline()
            writer.transport.abort()
            page.send(ping(n))
            assert (await page.message("beat"))["n"] == n
        metrics = (await browser.get("/metrics")).body.decode()
    dropped = re.search(r'^keepalive_log_lines_dropped_total\{log="server"\} (\d+)', metrics, re.MULTILINE)
    assert dropped
    assert 9 <= int(dropped[1]) <= 30  # one is in the thread's hand
