"""Log lines, written by a thread of its own.

A full pipe or a slow disk blocks whoever writes to it; the event loop, and with it every page's beat,
must not be the one. What does not fit into a bounded queue is dropped, counted, and told of in the
log itself as soon as there is room again.
"""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Full, Queue
from threading import Thread

MOST = 10_000
"""Lines that may wait: about 2 MB, and enough for what a restart under full load has to say."""
PATIENCE = 1.0
"""For how many seconds `close` waits for the lines that are still to be written."""


class LineHandler(logging.Handler):
    """Formats at once, so that nothing can change meanwhile, and writes later.

    Args:
        write: writes one line, with its end; may block, and may raise `OSError`, which drops the line.
        most: how many lines may wait.
    """

    def __init__(self, write: Callable[[bytes], object], most: int = MOST) -> None:
        super().__init__()
        self._write = write
        self._refused = 0  # before they were queued; each count is one thread's own
        self._unwritten = 0  # after that
        self._told = 0
        self._lines: Queue[bytes | None] = Queue(most)
        self._thread = Thread(target=self._run, name="keepalive-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.put_nowait(self._line(record))
        except Exception:  # the queue is full, or an argument does not fit; either must stop nobody
            self._refused += 1

    @property
    def dropped(self) -> int:
        """How many lines nobody will read."""
        return self._refused + self._unwritten

    def close(self) -> None:
        """Write what waits, as long as that takes no longer than `PATIENCE`."""
        with suppress(Full):
            self._lines.put(None, timeout=PATIENCE)
            self._thread.join(PATIENCE)
        super().close()

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._write(line)
                dropped = self.dropped
                if dropped > self._told:
                    self._write(self._line(_gap(dropped - self._told)))
                    self._told = dropped
            except OSError:
                self._unwritten += 1


def to_descriptor(descriptor: int) -> Callable[[bytes], None]:
    """Write to an open file, past Python's buffers, whose locks a blocked thread would keep at exit."""

    def write(line: bytes) -> None:
        while line:
            line = line[os.write(descriptor, line) :]

    return write


def to_file(path: Path) -> Callable[[bytes], None]:
    """Append to a file, and begin it anew where it was moved away or removed: logrotate needs no signal.

    Several processes may append to one file: each line is one write.

    Raises:
        OSError: it cannot be written to.
    """
    file = [_append(path)]

    def write(line: bytes) -> None:
        try:
            moved = not os.path.samestat(path.stat(), os.fstat(file[0]))
        except FileNotFoundError:
            moved = True
        if moved:
            fresh = _append(path)
            os.close(file[0])
            file[0] = fresh
        os.write(file[0], line)

    return write


def dropped() -> dict[str, int]:
    """How many lines were dropped, by the logger whose handler did so; the root's name is empty."""
    found = {}
    for name in ("", "keepalive.audit"):
        handlers = logging.getLogger(name or None).handlers
        found[name] = sum(each.dropped for each in handlers if isinstance(each, LineHandler))
    return found


def _append(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _gap(count: int) -> logging.LogRecord:
    """A line about lines that are missing."""
    return logging.makeLogRecord(
        {
            "name": __name__,
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": "log lines were dropped here, as nobody took them: %d",
            "args": (count,),
            "dropped": count,
        }
    )
