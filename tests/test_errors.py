"""The tree of errors, and what each carries."""

import re

import pytest

from keepalive import errors
from keepalive.errors import (
    FrameError,
    KeepaliveError,
    MessageError,
    ProtocolError,
    SessionEnded,
    SettingError,
)


def drawn_tree() -> dict[str, str | None]:
    """Each class of the drawing in the module's docstring, with its parent there."""
    parents: dict[str, str | None] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        drawn = re.match(r"[\s│├└─]*(?=[A-Z]\w+(Error|Unavailable|Corrupt|Ended)\b)(\w+)", line)
        if drawn is None or not line.startswith("    "):
            continue
        column, name = drawn.start(2), drawn[2]
        while above and above[-1][0] >= column:
            above.pop()
        parents[name] = above[-1][1] if above else None
        above.append((column, name))
    return parents


def real_tree(root: type[KeepaliveError]) -> dict[str, str | None]:
    """Each class of the module below `root`, with its parent in the package."""
    parents: dict[str, str | None] = {}
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            parents |= {child.__name__: root.__name__} | real_tree(child)
    return parents


def test_the_drawing_is_the_tree() -> None:
    assert drawn_tree() == {"KeepaliveError": None} | real_tree(KeepaliveError)


def test_every_error_of_the_module_is_in_the_tree() -> None:
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert defined == set(drawn_tree())


def test_an_error_says_what_happened_and_what_to_do() -> None:
    error = KeepaliveError("the file is not a database", "give another path")
    assert str(error) == "the file is not a database: give another path"
    assert (error.problem, error.solution) == ("the file is not a database", "give another path")


def test_an_error_that_the_reader_cannot_mend_has_no_solution() -> None:
    error = KeepaliveError("the disk is gone")
    assert str(error) == "the disk is gone"
    assert error.solution == ""


@pytest.mark.parametrize("kind", [ProtocolError, FrameError, MessageError])
def test_a_protocol_error_carries_the_close_code(kind: type[ProtocolError]) -> None:
    error = kind(1002, "an unmasked frame")
    assert error.code == 1002
    assert str(error) == error.problem == "an unmasked frame"


def test_a_setting_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="lower it"):
        raise SettingError("too high", "lower it")


@pytest.mark.parametrize(
    ("login", "told"), [(None, "sign in again for a new cookie"), ("/in", "sign in at /in for a new cookie")]
)
def test_the_end_of_a_session_says_why_and_where_to_sign_in(login: str | None, told: str) -> None:
    error = SessionEnded("idle", login)
    assert str(error) == f"the session is over (idle): {told}"
    assert (error.reason, error.login) == ("idle", login)
