"""Real processes: a supervisor in one, its workers in others, and signals between them."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from keepalive.errors import KeepaliveError, SettingError
from keepalive.workers import Work, bind, supervise

from .crew import DEADLINE, answer, answer_deaf, give_up, importing, perish, think

TESTS = str(Path(__file__).parent)
IN_THE_BACKGROUND = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
"""Starts a command as a shell starts a job in the background: it ignores Ctrl-C."""


class Supervisor:
    """A supervisor in a process of its own, and what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def port(self) -> int:
        assert self.process.stdout
        return int(self.process.stdout.readline())

    def line(self) -> str:
        assert self.process.stderr
        return self.process.stderr.readline().strip()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    def interrupt(self) -> int:
        """What Ctrl-C in a terminal does: the signal goes to every process."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(DEADLINE)


@contextmanager
def supervisor(
    work: Work,
    *,
    count: int = 2,
    grace: float = DEADLINE,
    long_lived: float = DEADLINE,
    before: Sequence[str] = (),
    births: str = "",
) -> Iterator[Supervisor]:
    """Start one.

    Args:
        before: a command that starts the command that follows it.
        births: the function here that says how its workers are started.
    """
    # At the end of the path, where none of the tests is taken for a package of the same name.
    code = f"import sys; sys.path.append({TESTS!r}); from crew import parent; sys.exit(parent(*sys.argv[1:]))"
    with subprocess.Popen(
        [*before, sys.executable, "-c", code, work.__name__, str(count), str(grace), str(long_lived), births],
        cwd=Path(TESTS).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield Supervisor(process)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def ask(port: int) -> int:
    """The process id of the worker that a new connection reaches."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as peer:
        if answered := peer.recv(64):
            return int(answered)
    raise ConnectionError("the worker left")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.01)


def seen(port: int, count: int) -> set[int]:
    """The ids of `count` different workers that answer on a port."""
    found: set[int] = set()

    def enough() -> bool:
        found.add(ask(port))
        return len(found) == count

    until(enough)
    return found


def deaf(port: int) -> bool:
    """Whether nobody listens on a port."""
    try:
        ask(port)
    except OSError:
        return True
    return False


@pytest.mark.parametrize("stop", [Supervisor.stop, Supervisor.interrupt])
def test_all_workers_serve_one_port_until_a_signal(stop: Callable[[Supervisor], int]) -> None:
    with supervisor(answer, count=3) as one:
        port = one.port()
        assert one.process.pid not in seen(port, 3)
        assert stop(one) == 0
        assert deaf(port)
        assert one.process.stdout and one.process.stdout.read() == ""
        assert one.line() == ""


def test_a_worker_that_dies_is_replaced_and_the_others_go_on() -> None:
    with supervisor(answer) as one:
        port = one.port()
        killed, other = seen(port, 2)
        os.kill(killed, signal.SIGKILL)
        assert one.line() == f"worker {killed} died with exit code -9; another starts in 1 s"
        assert ask(port) == other
        (fresh,) = seen(port, 2) - {other}
        assert fresh != killed
        # One that dies again and again is replaced ever more slowly.
        os.kill(fresh, signal.SIGKILL)
        assert one.line() == f"worker {fresh} died with exit code -9; another starts in 2 s"
        assert one.stop() == 0


def test_a_worker_that_had_lived_long_is_replaced_at_once() -> None:
    with supervisor(answer, long_lived=0.0) as one:
        port = one.port()
        for _ in range(2):
            killed = ask(port)
            os.kill(killed, signal.SIGKILL)
            assert one.line() == f"worker {killed} died with exit code -9; another starts in 0 s"
            seen(port, 2)
        assert one.stop() == 0


def test_what_keeps_workers_from_starting_is_told_once() -> None:
    with supervisor(give_up, count=4) as one:
        assert one.process.wait(DEADLINE) == 3
        assert one.process.stdout and one.process.stdout.read() == ""
        assert one.process.stderr and one.process.stderr.read() == "no store\n"


def test_a_worker_that_is_killed_before_it_serves_is_told_of() -> None:
    """It could not tell itself."""
    with supervisor(perish) as one:
        assert one.process.wait(DEADLINE) == 1
        assert re.fullmatch(
            r"worker \d+ died with exit code -9 before it served: look into .+ log .+", one.line()
        )
        assert one.line() == ""


def test_ctrl_c_during_the_start_of_a_worker_makes_no_traceback() -> None:
    with supervisor(importing) as one:
        assert one.line() == "importing"
        assert one.interrupt() == 0
        assert one.line() == ""


def test_ctrl_c_during_the_birth_of_a_worker_is_heard_after_it() -> None:
    with supervisor(answer, births="interrupted") as one:
        assert one.process.wait(DEADLINE) == 0
        assert one.process.stdout and one.process.stdout.read() == ""


def test_workers_that_cannot_be_started_are_told_of() -> None:
    with supervisor(answer, count=3, births="refused") as one:
        assert one.process.wait(DEADLINE) == 1
        assert re.fullmatch(r"a worker could not be started \(.+\) before it served: .+", one.line())


def test_a_worker_that_cannot_be_replaced_is_tried_again() -> None:
    with supervisor(answer, births="refused") as one:
        port = one.port()
        killed, other = seen(port, 2)
        os.kill(killed, signal.SIGKILL)
        assert one.line() == f"worker {killed} died with exit code -9; another starts in 1 s"
        assert re.fullmatch(r"a worker could not be started \(.+\); another starts in 2 s", one.line())
        assert ask(port) == other
        assert one.stop(signal.SIGINT) == 0


def test_ctrl_c_is_not_for_a_background_job() -> None:
    with supervisor(answer, before=IN_THE_BACKGROUND) as one:
        port = one.port()
        os.killpg(one.process.pid, signal.SIGINT)
        seen(port, 2)
        assert one.stop() == 0
        assert one.line() == ""


def test_a_signal_also_stops_workers_that_are_not_ready() -> None:
    with supervisor(think) as one:
        assert one.line() == "thinking"
        assert one.stop() == 0


def test_a_worker_that_does_not_stop_is_killed() -> None:
    with supervisor(answer_deaf, grace=0.2) as one:
        port = one.port()
        assert one.stop() == 1
        assert one.line() == "2 workers did not stop within 0.2 s and were killed"
        assert deaf(port)


def test_workers_leave_when_their_parent_was_killed() -> None:
    with supervisor(answer) as one:
        port = one.port()
        seen(port, 2)
        one.stop(signal.SIGKILL)
        until(lambda: deaf(port))


@pytest.mark.parametrize("strangers_share", [False, True])
def test_a_port_that_is_taken_is_noticed(strangers_share: bool) -> None:
    with bind("127.0.0.1", 0, shared=strangers_share) as stranger:
        stranger.listen()
        port = stranger.getsockname()[1]
        sentence = f"cannot listen on port {port} of 127.0.0.1: Address already in use"
        with pytest.raises(KeepaliveError, match=sentence):
            supervise(answer, 2, "127.0.0.1", port, drain=0.0, ready=unexpected, say=unexpected)
        with pytest.raises(KeepaliveError, match=sentence):
            bind("127.0.0.1", port)


def unexpected(_: object) -> None:
    pytest.fail("this was not to be called")


@pytest.mark.parametrize("host", ["a..b", "192.0.2.1"])
def test_a_host_that_is_not_ours_is_a_mistake_in_the_settings(host: str) -> None:
    with pytest.raises(SettingError, match=f"host '{host}'"):
        bind(host, 0)


def test_a_name_that_has_two_addresses_is_taken_by_its_older_one(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        (socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with bind("localhost", 0) as taken:
        assert taken.family is socket.AF_INET


def test_a_system_that_cannot_share_ports_has_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    with pytest.raises(SettingError, match="set workers to 1"):
        supervise(answer, 2, "127.0.0.1", 0, drain=0.0, ready=unexpected, say=unexpected)
