"""A login kept alive while a command runs, as `timeout` or `nohup` run one.

The command has our input and output. Without a terminal, as in CI, it gets a process group of its
own, so that what is meant for it reaches all that it has started. At a terminal it stays in ours:
there the keys that interrupt and stop it are the terminal's, and reach both.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from ..client import Event, Heart, State, StateChange
from ..errors import KeepaliveError, SessionEnded
from ..messages import Warning

GRACE = 10.0
"""Between SIGTERM and SIGKILL, in seconds."""
NOT_EXECUTABLE, NOT_FOUND = 126, 127
"""Exit codes of a command that could not be run, as shells have them."""
_SENT_BY_KEYS = (signal.SIGINT, signal.SIGQUIT)
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, *_SENT_BY_KEYS)


class CommandError(KeepaliveError):
    """The command could not be run.

    Args:
        code: the exit code that says so.
    """

    def __init__(self, code: int, problem: str, solution: str) -> None:
        super().__init__(problem, solution)
        self.code = code


async def hold(heart: Heart, command: Sequence[str]) -> int:
    """Run a command for as long as the session lives.

    Args:
        heart: of the session; it has been entered.
        command: the program and its arguments.

    Returns:
        The exit code of the command; 128 and its number where a signal ended it.

    Raises:
        SessionEnded: the session was over before the command was, which has been stopped.
        CommandError: it could not be run.
    """
    async with _running(command) as run:
        ended, exited = asyncio.create_task(heart.wait_ended()), asyncio.create_task(run.process.wait())
        try:
            await asyncio.wait({ended, exited}, return_when=asyncio.FIRST_COMPLETED)
            if not exited.done():
                end = ended.result()
                raise SessionEnded(end.reason, end.login)
            code = exited.result()
            return code if code >= 0 else 128 - code
        finally:
            ended.cancel()
            exited.cancel()


def notes(say: Callable[[str], object]) -> Callable[[Event], None]:
    """Listens to a heart, and says what somebody who looks into a log should know."""

    lost = False

    def note(event: Event) -> None:
        nonlocal lost
        match event:
            case StateChange(state=State.WAITING, previous=State.OPEN | State.POLLING):
                lost = True
                say("note: the connection is lost, trying again")
            case StateChange(state=State.OPEN | State.POLLING) if lost:
                lost = False
                say("note: connected again")
            case Warning(expires_in, why):
                say(f"note: the session ends in {expires_in:.0f} s by its {why} timeout")

    return note


class _Run:
    """A command that runs, or is about to.

    Args:
        alone: whether it gets a process group of its own.
    """

    process: asyncio.subprocess.Process

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone
        self._early: list[int] | None = []  # signals that came before there was somebody to get them

    async def start(self, command: Sequence[str]) -> None:
        group = 0 if self._alone else None
        try:
            self.process = await asyncio.create_subprocess_exec(*command, process_group=group)
        except OSError as error:
            raise CommandError(
                NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE,
                f"cannot run {command[0]}: {error.strerror}",
                "write the command after --, as in keepalive hold URL -- pytest tests",
            ) from None
        early, self._early = self._early, None
        for number in early or ():
            self.send(number)

    def on_signal(self, number: int) -> None:
        """Pass a signal on; but the keys of a terminal have told the command, too."""
        if number in _SENT_BY_KEYS and not self._alone:
            return
        if self._early is None:
            self.send(number)
        else:
            self._early.append(number)

    def send(self, number: int) -> None:
        """Send a signal; of a command that runs as somebody else, as `sudo` does, there is no way to it."""
        with suppress(ProcessLookupError, PermissionError):
            if self._alone:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)

    async def stop(self) -> None:
        """End it, first asking."""
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(GRACE):
                await self._gone()
        except TimeoutError:
            self.send(signal.SIGKILL)
            with suppress(TimeoutError):  # of somebody else's, which no signal reaches
                async with asyncio.timeout(GRACE):
                    await self.process.wait()

    async def _gone(self) -> None:
        """The command, and if it has a group of its own, all of that."""
        await self.process.wait()
        with suppress(ProcessLookupError, PermissionError):
            while self._alone:
                os.killpg(self.process.pid, 0)
                await asyncio.sleep(0.05)


@asynccontextmanager
async def _running(command: Sequence[str]) -> AsyncIterator[_Run]:
    """Start a command, and pass signals on to it. It does not outlive the block."""
    loop = asyncio.get_running_loop()
    run = _Run(alone=not _has_terminal())
    passed = [number for number in _FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]
    for number in passed:
        loop.add_signal_handler(number, run.on_signal, number)
    try:
        await run.start(command)
        try:
            yield run
        finally:
            if run.process.returncode is None:
                await run.stop()
    finally:
        for number in passed:
            loop.remove_signal_handler(number)


def _has_terminal() -> bool:
    """Whether we are what the keys of a terminal are for."""
    try:
        with Path("/dev/tty").open("rb", buffering=0) as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False
