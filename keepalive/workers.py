"""Several processes behind one port.

The parent serves nothing. It reserves the port, starts the workers, starts another where one
dies, passes on the signal to stop, and leaves when the last of them has left. Every worker
listens on a socket of its own (SO_REUSEPORT), so the kernel spreads the connections, and those
meant for a worker that died go to the others at once.
"""

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import current_process, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import NamedTuple

from .errors import KeepaliveError, SettingError

Work = Callable[[socket.socket, Callable[[], None]], int]
"""What a worker does: serves on the socket, calls back once it does, and returns its exit code.
Has to be picklable."""


class Seat(NamedTuple):
    """Which of several workers a process is."""

    name: str
    """Tells it from the others; whoever comes in its place has the same."""
    folder: Path
    """Where they can find each other; of their user alone, and gone with their parent."""


_seat: Seat | None = None

# Seconds that the workers have to stop, all of them together, beside those for their pages.
_GRACE = 5.0
# A worker that lived this long, in seconds, is replaced at once. One that did not is replaced
# after a pause that doubles from the shortest to the longest.
_LONG_LIVED = 10.0
_PAUSES = (1.0, 30.0)


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Take a TCP port; the socket does not listen yet.

    Args:
        host: an address of this machine, or a name that has one.
        port: 0 takes a free one.
        shared: whether more sockets, bound likewise, may share the port.

    Raises:
        SettingError: there is no such address here.
        KeepaliveError: the port is not to be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise SettingError(f"host {host!r} is not known", "set host to an address of this machine") from None
    # localhost may have two addresses, of which the one of IPv6 is not always there.
    family, kind, protocol, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    taken = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let two servers take one port
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise SettingError(
                f"host {host!r} is not of this machine",
                "set host to one of its addresses, or 0.0.0.0 for all",
            ) from None
        raise KeepaliveError(
            f"cannot listen on port {port} of {host}: {error.strerror}",
            "choose another port, or stop what uses this one",
        ) from None
    return taken


def seat() -> Seat | None:
    """Which worker this process is; `None` if it is not one of several."""
    return _seat


def stop_signals() -> list[signal.Signals]:
    """What a server stops on: SIGTERM, and SIGINT unless that is ignored.

    It is where Ctrl-C is meant for others: in a background job of a shell, and in a worker, whose
    parent passes it on.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGINT]


def supervise(
    work: Work,
    count: int,
    host: str,
    port: int,
    *,
    drain: float,
    ready: Callable[[int], None],
    say: Callable[[str], None],
) -> int:
    """Have `count` processes work behind one port until SIGTERM or SIGINT.

    Args:
        work: what each of them does.
        drain: seconds that each may take to part with its pages.
        ready: called with the port once all of them serve.
        say: called with a line for the operator when a worker has died.

    Returns:
        The exit code: 0 after a clean stop; that of a worker which could not start, which has
        then told why; 1 if one died before all of them served, or had to be killed.

    Raises:
        SettingError, KeepaliveError: as `bind`.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise SettingError("workers need SO_REUSEPORT, which this system lacks", "set workers to 1")
    with bind(host, port) as alone:  # shared at once, the port of a stranger's workers would be joined
        port = alone.getsockname()[1]
    with bind(host, port, shared=True), TemporaryDirectory(prefix="keepalive-") as folder:
        target = partial(_work, work, host, port, Path(folder))
        return asyncio.run(_Supervisor(target, count, drain, say).run(partial(ready, port)))


class _Supervisor:
    """Keeps `count` workers at work; lives for one `run`."""

    def __init__(
        self, target: Callable[[Connection], None], count: int, drain: float, say: Callable[[str], None]
    ) -> None:
        self._target = target
        self._patience = drain + _GRACE
        self._say = say
        self._up = [asyncio.Event() for _ in range(count)]
        self._stop = asyncio.Event()
        self._workers: set[_Worker] = set()
        self._serving = False
        self._code = 0

    async def run(self, ready: Callable[[], None]) -> int:
        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, self._leave, 0)
        keepers = []
        for up in self._up:
            keepers.append(loop.create_task(self._keep(up)))
            if len(keepers) == 1:
                await up.wait()  # what keeps the first from starting is told once, not `count` times
        for up in self._up:
            await up.wait()
        if not self._stop.is_set():
            self._serving = True
            ready()
        await self._stop.wait()
        for worker in self._workers:
            worker.process.terminate()
        _, late = await asyncio.wait(keepers, timeout=self._patience)
        if late:
            self._say(f"{len(late)} workers did not stop within {self._patience:g} s and were killed")
            self._code = 1
            for worker in self._workers:
                worker.process.kill()
            await asyncio.wait(late)
        return self._code

    def _leave(self, code: int) -> None:
        self._code = code
        self._stop.set()
        for up in self._up:  # nobody shall wait for what will not come
            up.set()

    async def _keep(self, up: asyncio.Event) -> None:
        """One worker, and whoever comes in its place."""
        clock = asyncio.get_running_loop().time
        pause, longest = _PAUSES
        while not self._stop.is_set():
            born = clock()
            what, code = await self._work(up)
            if self._stop.is_set():
                break
            if not self._serving:
                if code <= 0:  # a worker that finds that it cannot start says why, and with which code
                    self._say(f"{what} before it served: look into the system's log and limits for why")
                self._leave(code if code > 0 else 1)
                break
            if clock() - born >= _LONG_LIVED:
                wait, pause = 0.0, _PAUSES[0]
            else:
                wait, pause = pause, min(2 * pause, longest)
            self._say(f"{what}; another starts in {wait:g} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), wait)

    async def _work(self, up: asyncio.Event) -> tuple[str, int]:
        """The life of one worker: how it ended, and with which exit code."""
        try:
            worker = _Worker(self._target, up, name=str(self._up.index(up)))
        except OSError as error:
            return f"a worker could not be started ({error.strerror})", 0
        self._workers.add(worker)
        code = await worker.exit
        self._workers.remove(worker)
        return f"worker {worker.process.pid} died with exit code {code}", code


class _Worker:
    """One process, as the parent sees it; sets `up` when it serves, and `exit` to its code."""

    def __init__(self, target: Callable[[Connection], None], up: asyncio.Event, name: str) -> None:
        context = get_context("spawn")  # a fork would take the parent's loop and handlers along
        self._ear, mouth = context.Pipe(duplex=False)
        # Ctrl-C reaches every process of a terminal; the parent passes it on as SIGTERM. Ignored from
        # before its birth, for a process that is still importing would answer with a traceback. And
        # blocked meanwhile, so that one for the parent comes later rather than never.
        resource_tracker.ensure_running()  # it would unblock it
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        heed = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with mouth:
                self.process = context.Process(target=target, args=(mouth,), name=name)
                self.process.start()
        except OSError:
            self._ear.close()
            raise
        finally:
            signal.signal(signal.SIGINT, heed)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        self._up = up
        self._loop = asyncio.get_running_loop()
        self.exit: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(self._ear, self._heard)
        self._loop.add_reader(self.process.sentinel, self._gone)

    def _heard(self) -> None:
        self._loop.remove_reader(self._ear)
        with suppress(EOFError):  # it died before it served
            self._ear.recv_bytes()
            self._up.set()
        self._ear.close()

    def _gone(self) -> None:
        self._loop.remove_reader(self.process.sentinel)
        self.process.join()
        assert self.process.exitcode is not None
        self.exit.set_result(self.process.exitcode)


def _work(work: Work, host: str, port: int, folder: Path, mouth: Connection) -> None:
    """The life of a worker, in its own process."""
    global _seat  # noqa: PLW0603 - a process has one
    _seat = Seat(current_process().name, folder)
    Thread(target=_leave_with_parent, daemon=True).start()
    with bind(host, port, shared=True) as listener:
        sys.exit(work(listener, partial(mouth.send_bytes, b"serving")))


def _leave_with_parent() -> None:
    """Stop as on a signal when the parent was killed: nobody is left to do it."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
