"""The audit log: who signed in, what kept a session, why it ended, what an operator did.

Each event is a record of the logger `keepalive.audit`, with its facts as attributes (`extra`); the
standalone server writes them as lines of JSON, and an app may attach any handler that it likes.
A session goes by the beginning of its id's hash, which leads back to no id. The user's name stands as the
app gave it, for an audit has to say who (OWASP Logging Cheat Sheet, ASVS 5.0 16.2.1); in a line of
JSON nothing in it can pass for another line (16.4.1).
"""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from random import randrange
from socket import gethostname

from .errors import KeepaliveError
from .lines import LineHandler, to_descriptor, to_file

log = logging.getLogger("keepalive.audit")

SAMPLE = 100
"""Of so many extensions one is noted, for there is one for each session and minute."""

_HOST = gethostname()
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def on() -> bool:
    """Whether anybody wants to know."""
    return log.isEnabledFor(logging.INFO)


def began(
    session: bytes, user: str | None, *, former: bytes | None, address: str, idle: float, ends_in: float
) -> None:
    """A session has begun: by a `login`, or by a `start` that knows no user.

    Args:
        session: its key.
        user: whose it is.
        former: the key of the session whose place it takes.
        address: of whom the request is, as far as can be told.
        idle: its idle timeout, in seconds.
        ends_in: seconds until its absolute deadline; `inf` without one.
    """
    if on():
        _tell(
            "start" if user is None else "login",
            session,
            user,
            former=None if former is None else _short(former),
            address=address or None,
            idle_timeout=idle,
            ends_in=ends_in,
        )


def warned(session: bytes, user: str | None, *, why: str, expires_in: float) -> None:
    """The pages of a session are being warned; each node warns its own."""
    if on():
        _tell("warning", session, user, why=why, expires_in=expires_in)


def extended(session: bytes, user: str | None, *, expires_in: float, after_warning: bool) -> None:
    """A session lives on. Noted when that took a warning back, and otherwise one time in `SAMPLE`."""
    if on() and (after_warning or randrange(SAMPLE) == 0):  # noqa: S311 - a sample
        sample = 1 if after_warning else SAMPLE
        _tell("extension", session, user, expires_in=expires_in, one_in=sample)


def ended(session: bytes, user: str | None, *, reason: str, address: str = "") -> None:
    """A session is over.

    An end that somebody has made is told by the node that made it, a deadline that has passed by each
    node with pages.

    Args:
        session: its key.
        user: whose it was.
        reason: why.
        address: of whom the request was that has ended it, where it was one that can be told.
    """
    if on():
        _tell("end", session, user, reason=reason, address=address or None)


def ended_all(user: str, *, reason: str, count: int, kept: bytes | None = None) -> None:
    """All sessions of a user are over, or all but the one with the key `kept`."""
    if on():
        _tell(
            "end_user",
            None,
            user,
            reason=reason,
            sessions=count,
            kept=None if kept is None else _short(kept),
        )


def configure(path: str | None) -> None:
    """Have the events written as `handler` does, and nowhere else; without a path, nowhere at all.

    Raises:
        KeepaliveError: the file cannot be written to.
    """
    log.propagate = False
    log.disabled = path is None
    if path is not None:
        try:
            log.addHandler(handler(path))
        except OSError as error:
            raise KeepaliveError(
                f"the audit log {path} cannot be written ({error.strerror})",
                "name a file in a folder that can be written to, or - for standard output",
            ) from None


def handler(path: str) -> logging.Handler:
    """What writes the events as lines of JSON, without ever blocking whoever caused them.

    Args:
        path: of a file, to which it appends, and which logrotate may move away; `-` is standard output.

    Raises:
        OSError: the file cannot be written to.
    """
    made = LineHandler(to_descriptor(1) if path == "-" else to_file(Path(path)))
    made.setFormatter(JsonLine())
    return made


class JsonLine(logging.Formatter):
    """One JSON object: `timestamp` (ISO 8601, UTC), `event`, `node` (who says so), and what is known of it.

    All but printable ASCII is escaped: no value can forge a line, or speak to a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        node = f"{_HOST}:{record.process}"  # as operators know it
        line = {"timestamp": moment.replace("+00:00", "Z"), "event": record.getMessage(), "node": node}
        facts = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return json.dumps(line | facts, default=str)


def _tell(event: str, session: bytes | None, user: str | None, **facts: float | str | None) -> None:
    known = {"session": None if session is None else _short(session), "user": user, **facts}
    # JSON has no infinity, and what is not known needs no name.
    told = {name: value for name, value in known.items() if value is not None and value != float("inf")}
    log.info(event, extra={n: round(v, 3) if isinstance(v, float) else v for n, v in told.items()})


def _short(key: bytes) -> str:
    return key[:8].hex()
