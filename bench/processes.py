"""The processes of a measurement: servers, loads, and Redis. All on the loopback interface."""

import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import IO, NamedTuple

from tests.ports import free_port

from . import machine, sessions
from .machine import Missing, on_core
from .rivals import HERE as RIVALS
from .rivals import Rival

HERE = Path(__file__).parent
PATIENCE = 20.0
"""How long a server may take to start, in seconds."""


class Failed(Exception):
    """A server or a load did something unexpected; it has said what on standard error."""


class Server(NamedTuple):
    """A server that is running."""

    process: int
    port: int

    @property
    def memory(self) -> int:
        """Resident memory, in bytes."""
        return machine.memory(self.process)

    @property
    def cpu(self) -> float:
        """Processor time so far, in seconds."""
        return machine.cpu(self.process)


class Tally(NamedTuple):
    """What came of one command to a load."""

    seconds: float
    beats: int
    refusals: int
    """Handshakes that were answered with 503."""
    sent: int
    received: int
    """Bytes of the TCP streams."""
    p50: float
    p90: float
    p99: float
    p999: float
    max: float
    """Milliseconds from when a ping was due to its beat."""


class Load:
    """Pages in one process: see load.c for what its commands do."""

    def __init__(self, commands: IO[str], answers: IO[str]) -> None:
        self._commands = commands
        self._answers = answers

    def open(self, count: int, at_once: int = 64) -> Tally:
        return self._tell(f"open {count} {at_once}")

    def burst(self) -> Tally:
        return self._tell("burst")

    def loop(self, seconds: float) -> Tally:
        return self._tell(f"loop {seconds}")

    def pace(self, rate: float, seconds: float) -> Tally:
        return self._tell(f"pace {rate} {seconds}")

    def storm(self, kept: int, rate: float, at_once: int) -> Tally:
        return self._tell(f"storm {kept} {rate} {at_once}")

    def _tell(self, command: str) -> Tally:
        try:
            print(command, file=self._commands, flush=True)
            answer = self._answers.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise Failed("the load broke off")
        return Tally(**json.loads(answer))


def compile_load(folder: Path) -> None:
    """Build the load generator.

    Raises:
        Missing: there is no C compiler that works.
    """
    compiler = which("cc")
    if compiler is None:
        raise Missing("there is no C compiler: install gcc or clang, so that there is a `cc`")
    done = subprocess.run([compiler, "-O2", "-o", folder / "load", HERE / "load.c"], check=False)
    if done.returncode:
        raise Missing("the C compiler failed; it says why above")


def install_node_packages() -> None:
    """Install the rivals on Node, unless they are.

    Raises:
        Missing: there is no Node, or the packages could not be had.
    """
    if which("node") is None or which("npm") is None:
        raise Missing("there is no Node.js with npm: install Node.js 20 or newer")
    if not (RIVALS / "node_modules").is_dir():
        # Their native parts come built; no script of a package is run.
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=RIVALS, check=False)
        if done.returncode:
            raise Missing("npm ci failed in bench/rivals; it says why above")


@contextmanager
def load(folder: Path, rival: Rival, port: int) -> Iterator[Load]:
    """Pages for a server.

    Raises:
        Missing: the load generator could not be built.
    """
    if not (folder / "load").exists():
        raise Missing("there is no load generator, for want of a C compiler: install gcc or clang")
    command = [folder / "load", port, rival.path, rival.speech, sessions.jar(folder, rival.jar)]
    with _running([str(part) for part in command]) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Load(process.stdin, process.stdout)


@contextmanager
def server(folder: Path, rival: Rival, core: int, port: int = 0) -> Iterator[Server]:
    """A server, alone on its core.

    Args:
        port: to share with another server; 0 takes a free one.
    """
    if rival.loop == "node":
        command = ["node", str(RIVALS / rival.server), str(folder)]
    else:
        command = [sys.executable, "-m", "bench.serve", rival.server, rival.loop, str(folder), str(port)]
        if rival.touch_every is not None:
            command.append(str(rival.touch_every))
    with _running(command, core) as process:
        assert process.stdout is not None
        started, _, _ = select.select([process.stdout], [], [], PATIENCE)
        line = process.stdout.readline() if started else ""
        if not line:
            raise Failed(f"{rival} did not start")
        yield Server(process.pid, int(line))


@contextmanager
def redis(folder: Path) -> Iterator[None]:
    """A Redis with the sessions, on a free port; it writes nothing to disk.

    Raises:
        Missing: it did not start.
    """
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    with _running([*command, "--save", "", "--appendonly", "no", "--loglevel", "warning"]) as process:
        until = time.monotonic() + PATIENCE
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > until:
                raise Missing("Redis did not start; it says why above")
            time.sleep(0.05)
        sessions.make_in_redis(folder, port)
        yield


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _running(command: Sequence[str], core: int | None = None) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with on_core(core):
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=HERE.parent)
    with process:
        try:
            yield process
        finally:
            process.kill()
