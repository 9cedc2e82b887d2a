"""What every test checks besides: nothing that it logs holds an id, a cookie or a control character.

Hooks of pytest, which `conftest` has. They see what happens in the process of the tests; what a server
in a process of its own logs, its tests look at.
"""

import logging
import re
from collections.abc import Generator
from copy import copy

import pytest

from keepalive.logs import _Discretion
from keepalive.seal import Seal

_COOKIE = re.compile(r"gAAAA[\w-]{20}")
"""How everything begins that Fernet has sealed."""
_MAY_BE_AN_ID = re.compile(r"[\w-]{43}")
_issued: set[str] = set()
_plain = logging.Formatter()
_discretion = _Discretion()


_seal = Seal.seal


def _note(self: Seal, text: str) -> str:
    _issued.add(text)
    return _seal(self, text)


Seal.seal = _note  # type: ignore[method-assign]


def indiscretions(record: logging.LogRecord) -> list[str]:
    """What is wrong with a record, as the server would write it."""
    record = copy(record)
    _discretion.filter(record)
    text = _plain.format(record)
    found = []
    if _COOKIE.search(text):
        found.append("a cookie")
    if any(token in _issued for token in _MAY_BE_AN_ID.findall(text)):
        found.append("an id")
    # A traceback has lines; so has what asyncio tells of a task.
    allowed = "" if record.name.startswith("keepalive") else "\n"
    if not all(char.isprintable() or char in allowed for char in record.getMessage()):
        found.append("a control character")
    if not all(char.isprintable() or char == "\n" for char in text):
        found.append("a control character in a traceback")
    return found


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
    assert _listener.found == []
