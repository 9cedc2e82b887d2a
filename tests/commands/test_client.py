"""`keepalive ping`, `watch` and `conformance` against real servers; `hold` has a file of its own."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
from aiohttp import ClientSession, CookieJar, web

from keepalive import cli
from keepalive.commands.cookiefile import VARIABLE
from keepalive.conformance import Side, transcripts
from keepalive.messages import CloseCode

from ..conftest import Serve
from ..nodes import ROOT
from ..ports import free_port
from ..raw import certified, until
from ..test_client import World
from ..test_client_errors import answering, http
from ..test_conformance_kit import QUICK
from ..test_web import make_app

Run = Callable[..., Coroutine[None, None, tuple[int, str, str]]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command beside the server; returns its exit code, and what it wrote to its two outputs."""
    monkeypatch.delenv(VARIABLE, raising=False)

    async def run(*arguments: str) -> tuple[int, str, str]:
        async with asyncio.timeout(30):
            code = await asyncio.to_thread(cli.main, arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
async def world(serve: Serve, monkeypatch: pytest.MonkeyPatch, run: Run) -> World:
    """A server, and a session of it in the environment."""
    world = World(login="/sign-in")
    world.port = (await serve(world.app)).port
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as jar:
        await jar.post(f"{world.url}/login")
        monkeypatch.setenv(VARIABLE, "; ".join(f"{each.key}={each.value}" for each in jar.cookie_jar))
    return world


async def sign_out(world: World) -> None:
    async with ClientSession(headers={"Cookie": os.environ[VARIABLE]}) as browser:
        await browser.post(f"{world.url}/logout")


# ping


async def test_a_ping_prints_its_beat(world: World, run: Run) -> None:
    code, out, err = await run("ping", world.url)
    assert (code, err) == (0, "")
    assert re.fullmatch(r"♥ beat \d: expires in 29m 5\ds, ends in 11h 59m *\n", out)
    assert any(ping.idle == pytest.approx(0, abs=1) for ping in world.pings), "somebody is active"


async def test_a_ping_for_programs(world: World, run: Run) -> None:
    code, out, _ = await run("ping", world.url, "--json")
    beat = json.loads(out)
    assert (code, beat["type"]) == (0, "beat")
    assert beat["expires_in"] == pytest.approx(1800, abs=3)


@pytest.mark.parametrize("command", ["ping", "watch"])
async def test_a_session_that_is_over(world: World, run: Run, command: str) -> None:
    await sign_out(world)
    told = "keepalive: the session is over (logout): sign in at /sign-in for a new cookie\n"
    assert await run(command, world.url) == (3, "", told)
    code, out, err = await run(command, world.url, "--json")
    assert (code, err) == (3, told)
    assert json.loads(out) == {"type": "end", "reason": "logout", "login": "/sign-in"}


async def test_a_cookie_file_is_taken(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name, _, value = os.environ[VARIABLE].partition("=")
    monkeypatch.delenv(VARIABLE)
    jar = tmp_path / "jar.txt"
    jar.write_text(f"127.0.0.1\tFALSE\t/\tFALSE\t0\t{name}\t{value}\n")
    code, _, _ = await run("ping", world.url, "--cookies", str(jar))
    assert code == 0


# What can go wrong: one line each.


async def refused(run: Run, url: str, code: int, told: str, *options: str) -> None:
    for command in ("ping", "watch", "hold"):
        got, out, err = await run(command, url, *options, *(["--", "true"] if command == "hold" else []))
        assert (got, out) == (code, "")
        assert err.count("\n") == 1
        assert re.search(told, err), err


@pytest.fixture
def _a_cookie(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setenv(VARIABLE, "keepalive=x")


@pytest.mark.usefixtures("_a_cookie")
async def test_no_server(run: Run) -> None:
    port = free_port()
    await refused(run, f"http://127.0.0.1:{port}", 1, "nobody answers at .*: see that it runs")


@pytest.mark.usefixtures("_a_cookie")
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (http("404 Not Found"), "no keepalive server answers at .*: give the URL under which"),
        (http("403 Forbidden"), "refuses the origin: "),
        (http("503 Service Unavailable"), "cannot let anybody in now"),
        (
            http("400 Bad Request", "offer the subprotocol keepalive.v2\n"),
            "the server speaks keepalive.v2, and",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no keepalive server answers at"),
    ],
)
async def test_not_as_our_server_answers(run: Run, answer: bytes, told: str) -> None:
    async with answering(answer) as (port, _):
        await refused(run, f"http://127.0.0.1:{port}", 1, told)


@pytest.mark.usefixtures("_a_cookie")
async def test_a_certificate_that_nobody_trusts(run: Run, serve: Serve, tmp_path: Path) -> None:
    ours, _ = certified(tmp_path)
    port = (await serve(make_app(), tls=ours)).port
    await refused(run, f"https://localhost:{port}", 1, "no secure connection to .*SSL_CERT_FILE")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "the server's URL is not one: write it as in"),
        (["http://127.0.0.1:1"], "a session is known by its cookie, and there is none: sign in"),
        (["http://127.0.0.1:1", "--cookies", "none.txt"], "cannot read none.txt: No such file"),
    ],
)
async def test_a_mistake(run: Run, arguments: list[str], told: str) -> None:
    for command in ("ping", "watch", "hold"):
        code, out, err = await run(command, *arguments, *(["--", "true"] if command == "hold" else []))
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert told in err


# watch


async def test_a_watch_tells_all_until_the_end(world: World, run: Run) -> None:
    watching = asyncio.create_task(run("watch", world.url, "--json"))
    await until(lambda: world.pings)
    world.close(CloseCode.RESTART)
    await until(lambda: len(world.names) > 1 and len(world.pings) > 1)
    await sign_out(world)
    code, out, err = await watching
    told = [json.loads(line) for line in out.splitlines()]
    assert code == 3
    assert told[0] == {"type": "state", "state": "open", "previous": "connecting"}
    states = [each["state"] for each in told if each["type"] == "state"]
    assert states == ["open", "waiting", "connecting", "open", "ended"]
    assert [each["n"] for each in told if each["type"] == "beat"] == [1, 2]
    assert told[-1] == {"type": "end", "reason": "logout", "login": "/sign-in"}
    assert err == "keepalive: the session is over (logout): sign in at /sign-in for a new cookie\n"


async def test_a_watch_in_a_pipe_is_lines_and_ctrl_c_ends_it(world: World) -> None:
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "keepalive", "watch", world.url],
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert re.fullmatch(rb"\d\d:\d\d:\d\d  \xc2\xb7 open\n", await process.stdout.readline())
        assert b" beat 1: expires in " in await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert (process.returncode, out, err.strip()) == (130, b"", b"")


# conformance


async def test_a_server_that_keeps_to_the_protocol(run: Run, serve: Serve) -> None:
    port = (await serve(make_app(policy=QUICK))).port
    code, out, err = await run("conformance", f"http://127.0.0.1:{port}", "--login", "/login?user=ann")
    assert (code, err) == (0, "")
    total = len(transcripts(Side.SERVER))
    assert f"{total} of {total} transcripts kept" in out
    assert out.count("✓") == total


async def test_a_server_that_deviates(run: Run, serve: Serve) -> None:
    """Its logout ends nothing."""
    app = make_app(policy=QUICK)
    app.router.add_post("/mute", mute)
    url = f"http://127.0.0.1:{(await serve(app)).port}"
    options = ["--login", "/login?user=ann", "--logout", "/mute"]
    code, out, _ = await run("conformance", url, *options, "--json")
    verdicts = {each["transcript"]: each["deviation"] for each in json.loads(out)["verdicts"]}
    assert code == 1
    assert {name for name, deviation in verdicts.items() if deviation} == {"server-logout", "server-http"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--login", "/nowhere"], r"/nowhere answers 404: say by --login and --data"),
        (["--login", "/mute"], r"/mute has set no cookie: say by --login"),
        ([], "the server's sessions have other rules than the transcripts: start it with"),
    ],
)
async def test_a_server_that_cannot_be_judged(run: Run, serve: Serve, options: list[str], told: str) -> None:
    app = make_app()
    app.router.add_post("/mute", mute)
    url = f"http://127.0.0.1:{(await serve(app)).port}"
    code, out, err = await run("conformance", url, *(options or ["--login", "/login?user=ann"]))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert re.search(told, err)


async def mute(request: web.Request) -> web.Response:
    return web.Response()
