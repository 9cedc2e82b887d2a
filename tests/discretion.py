"""What every test checks besides: nothing that is logged holds an id, a cookie or a control character.

Hooks of pytest, which `conftest` has. They see each record of the tests' own process, and what servers
in other processes have written to a `server_log`.
"""

import logging
import re
from collections.abc import Generator
from copy import copy
from tempfile import TemporaryFile
from typing import IO

import pytest

from keepalive.audit import JsonLine
from keepalive.logs import _Discretion
from keepalive.seal import Seal

_COOKIE = re.compile(r"gAAAA[\w-]{20}")
"""How everything begins that Fernet has sealed."""
_MAY_BE_AN_ID = re.compile(r"(?=([\w-]{43}))")
_LOOKS_RANDOM = re.compile(r"(?=[\w-]*\d)(?=[\w-]*[A-Z])(?=[\w-]*[a-z])[\w-]{43}", re.ASCII)
"""What 43 letters and digits are that nobody has written by hand."""
_issued: set[str] = set()
_server_logs: list[IO[bytes]] = []
_plain = logging.Formatter()
_json = JsonLine()
_discretion = _Discretion()


_seal = Seal.seal


def _note(self: Seal, text: str) -> str:
    _issued.add(text)
    return _seal(self, text)


Seal.seal = _note  # type: ignore[method-assign]


def indiscretions(record: logging.LogRecord) -> list[str]:
    """What is wrong with a record, as the server would write it: its log, or the audit log."""
    record = copy(record)
    _discretion.filter(record)
    text, line = _plain.format(record), _json.format(record)
    found = []
    if _COOKIE.search(text) or _COOKIE.search(line):
        found.append("a cookie")
    if any(token in _issued for told in (text, line) for token in _MAY_BE_AN_ID.findall(told)):
        found.append("an id")
    # A traceback has lines; so has what asyncio tells of a task.
    allowed = "" if record.name.startswith("keepalive") else "\n"
    if not all(char.isprintable() or char in allowed for char in record.getMessage()):
        found.append("a control character")
    if not all(char.isprintable() or char == "\n" for char in text):
        found.append("a control character in a traceback")
    if not (line.isprintable() and line.isascii()):
        found.append("a control character in a line of JSON")
    return found


def indiscretions_elsewhere(log: str) -> list[str]:
    """What is wrong with the log of another process; which ids it has issued is not known."""
    found = []
    if _COOKIE.search(log):
        found.append("a cookie")
    if _LOOKS_RANDOM.search(log):
        found.append("an id")
    if not all(char.isprintable() or char == "\n" for char in log):
        found.append("a control character")
    return found


def server_log() -> IO[bytes]:
    """Where a server in another process shall have its standard error; looked at after the test."""
    log = TemporaryFile()  # noqa: SIM115 - closed after the test
    _server_logs.append(log)
    return log


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found += [f"{what} in a line of {record.name}" for what in indiscretions(record)]


_listener = _Listener()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Begin to listen, also to what is logged for nobody else."""
    _listener.found.clear()
    logging.getLogger().addHandler(_listener)
    logging.getLogger("keepalive").setLevel(logging.INFO)  # as the server does
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """A test fails, after all else, that has had something logged which must not be there."""
    yield
    logging.getLogger().removeHandler(_listener)
    while _server_logs:
        with _server_logs.pop() as log:
            log.seek(0)
            found = indiscretions_elsewhere(log.read().decode())
            _listener.found += [f"{what} in the log of another process" for what in found]
    assert not _listener.found, _listener.found
