"""`keepalive hold`: a login that lives while a command runs, and a command that ends with its login."""

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, CookieJar
from cryptography.fernet import Fernet

import keepalive
from keepalive import SessionEnded
from keepalive.client import Heart, State, StateChange
from keepalive.commands import hold as module
from keepalive.commands.hold import CommandError, hold, notes
from keepalive.messages import Warning
from keepalive.policy import Reason
from keepalive.server import make_app
from keepalive.settings import Settings

from ..conftest import Serve
from ..nodes import ROOT, nodes, who
from ..nodes import sign_in as sign_in_at
from ..raw import DEADLINE, until
from ..test_client import World, sign_in

LONG = 15.0
FOR_EVER = "while :; do sleep 0.05; done"


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the tests are started at one."""
    monkeypatch.setattr(module, "_has_terminal", lambda: False)


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as http:
        yield http


@pytest.fixture
async def heart(serve: Serve, http: ClientSession) -> AsyncIterator[Heart]:
    world = World()
    world.port = (await serve(world.app)).port
    await sign_in(http, world)
    async with keepalive.connect(world.url, session=http) as heart:
        yield heart


async def end(heart: Heart, http: ClientSession) -> None:
    async with http.post(heart._address.base.origin() / "logout"):
        pass


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]


def pid_in(path: Path) -> int:
    return int(path.read_text()) if path.exists() and path.read_text().endswith("\n") else 0


# The command ends.


@pytest.mark.parametrize(("script", "code"), [(":", 0), ("exit 7", 7), ("kill -9 $$", 137)])
async def test_its_exit_code_is_the_commands(heart: Heart, script: str, code: int) -> None:
    async with asyncio.timeout(DEADLINE):
        assert await hold(heart, shell(script)) == code


@pytest.mark.parametrize(("name", "code"), [("no-such-command", 127), ("/etc/passwd", 126)])
async def test_a_command_that_cannot_be_run(heart: Heart, name: str, code: int) -> None:
    with pytest.raises(CommandError, match=f"cannot run {name}: ") as caught:
        await hold(heart, [name])
    assert caught.value.code == code
    assert caught.value.solution


# The session ends.


async def test_the_end_of_the_session_ends_the_command(
    heart: Heart, http: ClientSession, tmp_path: Path
) -> None:
    """It may tidy up, and so may what it has started."""
    tidy = tmp_path / "tidy.sh"
    tidy.write_text(f"cd {tmp_path}\ntrap 'echo $1 >> told; exit' TERM\necho $$ > $1\n{FOR_EVER}")
    holding = asyncio.create_task(hold(heart, shell(f"sh {tidy} child & exec sh {tidy} own")))
    await until(lambda: pid_in(tmp_path / "own") and pid_in(tmp_path / "child"))
    await end(heart, http)
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(SessionEnded) as caught:
            await holding
    assert caught.value.reason == Reason.LOGOUT
    assert sorted((tmp_path / "told").read_text().split()) == ["child", "own"]


async def test_a_command_that_will_not_end_is_killed(
    heart: Heart, http: ClientSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE", 0.2)
    script = f"trap '' TERM; echo $$ > {tmp_path}/own; (echo $$; {FOR_EVER}) & {FOR_EVER}"
    holding = asyncio.create_task(hold(heart, shell(script)))
    await until(lambda: pid_in(tmp_path / "own"))
    group = pid_in(tmp_path / "own")
    await end(heart, http)
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(SessionEnded):
            await holding
    assert not runs(group)
    await until(lambda: not lives(group))


async def test_a_command_of_somebody_else_is_left_to_itself(
    heart: Heart, http: ClientSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `sudo` starts one: no signal reaches it."""
    started: list[Process] = []
    start = asyncio.create_subprocess_exec

    async def started_by(*command: str, **options: Any) -> Process:
        started.append(await start(*command, **options))
        return started[-1]

    def refused(group: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(module, "GRACE", 0.2)
    monkeypatch.setattr(asyncio, "create_subprocess_exec", started_by)
    holding = asyncio.create_task(hold(heart, shell(f"echo $$ > {tmp_path}/own; {FOR_EVER}")))
    await until(lambda: pid_in(tmp_path / "own"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", refused)
        await end(heart, http)
        async with asyncio.timeout(DEADLINE):
            with pytest.raises(SessionEnded):
                await holding
    (left,) = started
    assert left.returncode is None
    os.killpg(left.pid, signal.SIGKILL)
    await left.wait()


def lives(group: int) -> bool:
    """Whether anybody of a process group still runs."""
    told = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True, check=True)
    rows = [row.split() for row in told.stdout.splitlines()]
    return any(pgid == str(group) and not state.startswith("Z") for pgid, state in rows)


async def test_a_hold_that_is_left_leaves_no_command(heart: Heart, tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/own; exec sleep 1000"
    holding = asyncio.create_task(hold(heart, shell(script)))
    await until(lambda: pid_in(tmp_path / "own"))
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    assert not runs(pid_in(tmp_path / "own"))


def test_what_is_noted() -> None:
    said: list[str] = []
    note = notes(said.append)
    for state, previous in [
        (State.CONNECTING, State.IDLE),
        (State.OPEN, State.CONNECTING),
        (State.WAITING, State.OPEN),
        (State.CONNECTING, State.WAITING),
        (State.WAITING, State.CONNECTING),
        (State.POLLING, State.WAITING),
        (State.OPEN, State.CONNECTING),
    ]:
        note(StateChange(state, previous))
    note(Warning(60.0, Reason.ABSOLUTE, extendable=False))
    assert said == [
        "note: the connection is lost, trying again",
        "note: connected again",
        "note: the session ends in 60 s by its absolute timeout",
    ]


# As a process.


@pytest.fixture
async def site(serve: Serve) -> str:
    """The URL of a server in this process."""
    return f"http://127.0.0.1:{(await serve(make_app(Settings(store='memory://'), demo=True))).port}"


async def jar(url: str, tmp_path: Path) -> Path:
    """A cookie file of a new session."""
    name, _, value = (await sign_in_at(url, "ann")).partition("=")
    path = tmp_path / "jar.txt"
    path.write_text(f"127.0.0.1\tFALSE\t/\tFALSE\t0\t{name}\t{value}\n")
    return path


async def start(
    url: str, *command: str, options: Sequence[str] = (), before: Sequence[str] = (), **environ: str
) -> Process:
    """`keepalive hold` in a session of its own, which has no terminal."""
    return await asyncio.create_subprocess_exec(
        *[*before, sys.executable, "-m", "keepalive", "hold", url, *options, "--", *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
    )


@asynccontextmanager
async def held(url: str, tmp_path: Path, script: str, before: Sequence[str] = ()) -> AsyncIterator[Process]:
    """It holds a new session for a script, and does not outlive the block."""
    options = ["--cookies", str(await jar(url, tmp_path))]
    process = await start(url, *shell(script), options=options, before=before)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()  # to the command as well, which would hold the pipes
            await asyncio.wait_for(process.wait(), LONG)


async def line_of(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None
    async with asyncio.timeout(LONG):
        return (await stream.readline()).decode().strip()


async def test_input_and_output_are_the_commands(site: str, tmp_path: Path) -> None:
    async with held(site, tmp_path, "cat; echo no >&2; exit 5") as process:
        said = await asyncio.wait_for(process.communicate(b"as it is\n"), LONG)
        assert said == (b"as it is\n", b"no\n")
        assert process.returncode == 5


async def test_signals_reach_the_command(site: str, tmp_path: Path) -> None:
    names = ["HUP", "USR1", "USR2", "INT", "QUIT", "TERM"]
    traps = " ".join(f"trap 'echo {name}' {name};" for name in names[:-1])
    script = f"{traps} trap 'exit 9' TERM; echo ready; {FOR_EVER}"
    async with held(site, tmp_path, script) as process:
        assert await line_of(process.stdout) == "ready"
        for name in names[:-1]:
            process.send_signal(signal.Signals[f"SIG{name}"])
            assert await line_of(process.stdout) == name
        process.terminate()
        assert await asyncio.wait_for(process.wait(), LONG) == 9


async def test_what_was_to_be_ignored_is_ignored(site: str, tmp_path: Path) -> None:
    """As under `nohup`."""
    before = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
    script = "echo ready; read line; exit 4"
    async with held(site, tmp_path, script, before) as process:
        assert await line_of(process.stdout) == "ready"
        process.send_signal(signal.SIGHUP)
        await asyncio.wait_for(process.communicate(b"on\n"), LONG)
        assert process.returncode == 4


AT_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
COUNTS = """
import signal, sys
signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
print("ready", flush=True)
print("read", input(), flush=True)
sys.exit(4)
"""


async def test_at_a_terminal_ctrl_c_comes_once_and_input_is_read(site: str, tmp_path: Path) -> None:
    before = [sys.executable, "-c", AT_A_TERMINAL]
    script = f"exec {sys.executable} -c '{COUNTS}'"
    async with held(site, tmp_path, script, before) as process:
        assert process.stdin is not None
        heard: list[str] = []
        for told, expected in [(b"", "ready"), (b"\x03", "interrupted"), (b"hello\n", "read hello")]:
            process.stdin.write(told)
            while not heard or not heard[-1].endswith(expected):
                heard.append(await line_of(process.stdout))
                assert process.returncode is None
        assert await asyncio.wait_for(process.wait(), LONG) == 4
        assert sum("interrupted" in line for line in heard) == 1


async def test_a_login_outlives_its_server(tmp_path: Path) -> None:
    """For longer than its idle timeout, and across a `kill -9`; without the hold it would be over."""
    quick = ("--idle-timeout", "6", "--ping-interval", "1", "--warn-before", "1", "--touch-every", "0")
    script = "echo ready; read line; exit 6"
    async with (
        nodes(1, f"sqlite:///{tmp_path}/sessions.db", Fernet.generate_key().decode(), *quick) as (server,),
        held(server.url, tmp_path, script) as process,
    ):
        left = await sign_in_at(server.url, "bob")
        assert await line_of(process.stdout) == "ready"
        cookie = "=".join((tmp_path / "jar.txt").read_text().split()[-2:])
        loop = asyncio.get_running_loop()
        began = loop.time()
        await server.stop(signal.SIGKILL)
        assert await line_of(process.stderr) == "keepalive: note: the connection is lost, trying again"
        await server.start()
        assert await line_of(process.stderr) == "keepalive: note: connected again"
        while await who(server.url, left) is not None:
            assert loop.time() < began + LONG
            await asyncio.sleep(0.1)
        assert await who(server.url, cookie) == "ann"
        _, err = await asyncio.wait_for(process.communicate(b"done\n"), LONG)
        assert err == b""
        assert process.returncode == 6


async def test_it_fails_when_the_session_ends(site: str, tmp_path: Path) -> None:
    told = b"keepalive: the session is over (logout): sign in at / for a new cookie\n"
    async with held(site, tmp_path, "echo ready; read line") as process:
        assert await line_of(process.stdout) == "ready"
        cookie = "=".join((tmp_path / "jar.txt").read_text().split()[-2:])
        async with ClientSession(headers={"Cookie": cookie}) as http, http.post(f"{site}/logout"):
            pass
        # `communicate` would end the command's input, and with it perhaps the command, before the session.
        assert process.stderr is not None
        assert await asyncio.wait_for(process.stderr.read(), LONG) == told
        assert await asyncio.wait_for(process.wait(), LONG) == 3
    process = await start(site, "touch", str(tmp_path / "ran"), KEEPALIVE_COOKIE=cookie)
    _, err = await asyncio.wait_for(process.communicate(), LONG)
    assert err == told
    assert process.returncode == 3
    assert not (tmp_path / "ran").exists()


async def test_a_command_that_is_none(site: str) -> None:
    cookie = await sign_in_at(site, "ann")
    process = await start(site, "no-such-command", KEEPALIVE_COOKIE=cookie)
    _, err = await asyncio.wait_for(process.communicate(), LONG)
    assert process.returncode == 127
    assert err.startswith(b"keepalive: cannot run no-such-command: ")
