"""What runs in the processes of test_workers: workers of several kinds, and the supervisor that starts them.

A test waits for several such processes, one after the other: so nothing is imported here that they can do
without, and they import this file by itself, not as one of the tests.
"""

import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from itertools import count
from multiprocessing import popen_spawn_posix as spawning

from keepalive import workers
from keepalive.workers import supervise

DEADLINE = 30.0
LAUNCH = "_launch"  # what makes the process of a worker, and has no public name


def answer(listener: socket.socket, ready: Callable[[], None]) -> int:
    """A worker that tells every connection its process id."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    return _answer(listener, ready)


def answer_deaf(listener: socket.socket, ready: Callable[[], None]) -> int:
    """The same, but deaf to SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return _answer(listener, ready)


def _answer(listener: socket.socket, ready: Callable[[], None]) -> int:
    listener.listen()
    ready()
    while True:
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"%d" % os.getpid())


def give_up(listener: socket.socket, ready: Callable[[], None]) -> int:
    """A worker that cannot start, and says why."""
    tell(2, "no store")
    return 3


def perish(listener: socket.socket, ready: Callable[[], None]) -> int:
    """A worker that is killed before it serves."""
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def think(listener: socket.socket, ready: Callable[[], None]) -> int:
    """A worker that never gets ready."""
    tell(2, "thinking")
    signal.pause()
    return 0


def import_slowly() -> None:
    tell(2, "importing")
    time.sleep(DEADLINE)


class _Importing:
    """A worker that takes long to import what it works with."""

    __name__ = "importing"

    def __call__(self, listener: socket.socket, ready: Callable[[], None]) -> int:
        raise AssertionError("it never came so far")

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return import_slowly, ()


importing = _Importing()


def interrupted(launch: Callable[..., None]) -> Callable[..., None]:
    """Ctrl-C while the second worker is being started."""
    births = count()

    def launched(*arguments: object) -> None:
        if next(births) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        launch(*arguments)

    return launched


def refused(launch: Callable[..., None]) -> Callable[..., None]:
    """No process can be started but the first two."""
    births = count()

    def launched(*arguments: object) -> None:
        if next(births) >= 2:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        launch(*arguments)

    return launched


def parent(work: str, count: str, grace: str, long_lived: str, births: str) -> int:
    """What runs in the process of the supervisor."""
    if births:
        setattr(spawning.Popen, LAUNCH, globals()[births](getattr(spawning.Popen, LAUNCH)))
    workers._GRACE = float(grace)
    workers._LONG_LIVED = float(long_lived)
    return supervise(
        globals()[work],
        int(count),
        "127.0.0.1",
        0,
        drain=0.0,
        ready=lambda port: tell(1, port),
        say=lambda line: tell(2, line),
    )


def tell(stream: int, what: object) -> None:
    os.write(stream, f"{what}\n".encode())
