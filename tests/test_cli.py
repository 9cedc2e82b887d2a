"""The command line, mostly as its users meet it: a process, its lines and its exit code."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from keepalive import __main__, __version__, cli
from keepalive.seal import Seal
from keepalive.settings import SETTINGS

from .test_workers import IN_THE_BACKGROUND

ROOT = Path(__file__).parent.parent
DEADLINE = 30.0
STARTS = {
    "python -m keepalive serve": [sys.executable, "-m", "keepalive", "serve"],
    "python run.py": [sys.executable, str(ROOT / "run.py")],
}
ANNOUNCED = re.compile(
    rf"keepalive {re.escape(__version__)} listening on (http://127\.0\.0\.1:\d+) "
    r"\(store sqlite:///sessions\.db, mode presence, idle 30m, absolute 12h\)\n"
)


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting comes from outside of the test, and files are left in its own folder."""
    for variable in [name for name in os.environ if name.startswith("KEEPALIVE_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    # What should have been refused would be served for ever: uvloop swallows the end of a test's time.
    monkeypatch.setattr("keepalive.server.run", lambda *_, **__: pytest.fail("it serves"))


@contextmanager
def started(start: str, *arguments: str, before: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """A server that begins to serve on a free port, with its sessions in the test's folder."""
    command = [*before, *STARTS[start], "--port", "0", "--store", "sqlite:///sessions.db", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def answer(url: str) -> int:
    """The status that a GET is answered with."""
    try:
        with urlopen(url, timeout=DEADLINE) as response:
            return int(response.status)
    except HTTPError as error:
        with error:
            return error.code


def refusal(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """The one line that `serve` says instead of serving."""
    assert cli.main(["serve", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("keepalive: ")
    assert err.count("\n") == 1
    return err.removeprefix("keepalive: ").rstrip()


@pytest.mark.parametrize(
    ("start", "workers", "number"),
    [
        ("python -m keepalive serve", "1", signal.SIGTERM),
        ("python -m keepalive serve", "2", signal.SIGINT),
        ("python run.py", "1", signal.SIGINT),
        ("python run.py", "2", signal.SIGTERM),
    ],
)
def test_serves_until_a_signal(start: str, workers: str, number: signal.Signals) -> None:
    with started(start, "--workers", workers) as server:
        assert server.stdout
        announced = ANNOUNCED.fullmatch(server.stdout.readline())
        assert announced
        assert answer(f"{announced[1]}/healthz") == 200
        server.send_signal(number)
        out, err = server.communicate(timeout=DEADLINE)
        assert (server.returncode, out) == (0, "")
        assert "Traceback" not in err


def test_ctrl_c_is_not_for_a_background_job() -> None:
    with started("python run.py", before=IN_THE_BACKGROUND) as server:
        assert server.stdout
        announced = ANNOUNCED.fullmatch(server.stdout.readline())
        assert announced
        server.send_signal(signal.SIGINT)
        for _ in range(2):
            assert answer(f"{announced[1]}/readyz") == 200
        server.terminate()
        assert server.wait(DEADLINE) == 0


def test_only_run_py_has_the_demo() -> None:
    status = {}
    for start in STARTS:
        with started(start) as server:
            assert server.stdout
            announced = ANNOUNCED.fullmatch(server.stdout.readline())
            assert announced
            status[start] = answer(f"{announced[1]}/")
    assert status == {"python -m keepalive serve": 404, "python run.py": 200}


def test_unwise_settings_are_noted() -> None:
    with started("python run.py", "--absolute-timeout", "none") as server:
        assert server.stdout and server.stderr
        assert server.stdout.readline().endswith("absolute off)\n")
        assert server.stderr.readline().startswith("keepalive: note: absolute_timeout is off: ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--port", "x"], "--port is 'x': give it a whole number from 0 to 65535"),
        (["--idle-timeout", "1w"], "--idle-timeout is '1w': give it a duration such as 90 (seconds)"),
        (["--idle-timeout", "10"], "idle_timeout (10 s) is shorter than three times ping_interval"),
        (["--hidden-interval", "20"], "hidden_interval (20 s) is under ping_interval (25 s): raise"),
        (["--mode", "eternal"], "--mode is 'eternal': give it one of presence, activity, observe"),
        (["--prot", "1"], "No such option"),
        (["--port"], "Option '--port' requires"),
        (["8080"], "Got unexpected extra argument (8080)"),
        (["--config", "missing.toml"], "cannot read missing.toml: No such file or directory"),
        (["--host", "192.0.2.1"], "host '192.0.2.1' is not of this machine: set host to"),
        (["--store", "memory://", "--workers", "2"], "store memory:// is of one process"),
    ],
)
def test_a_mistake_is_told_in_a_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert refusal(capsys, 2, "--port", "0", *arguments).startswith(line)


def test_a_mistake_in_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEPALIVE_MODE", "eternal")
    assert refusal(capsys, 2).startswith("KEEPALIVE_MODE is 'eternal': give it one of")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str], workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = str(stranger.getsockname()[1])
        line = refusal(capsys, 1, "--port", port, "--workers", workers)
    assert line.startswith(
        f"cannot listen on port {port} of 127.0.0.1: Address already in use: choose another"
    )


@pytest.mark.parametrize(
    ("store", "workers", "code", "line"),
    [
        ("sqlite:///no-database", "1", 1, r"\S*no-database .+"),
        ("sqlite:///no-database", "2", 1, r"\S*no-database .+"),
        ("sqlite:///no-database/sessions.db", "1", 1, r"\S*no-database/\S+ cannot .+: name a store .+"),
        ("mysql://", "2", 2, "no store goes by .+"),
    ],
)
def test_a_store_that_cannot_be_opened(
    tmp_path: Path, workers: str, store: str, code: int, line: str
) -> None:
    (tmp_path / "no-database").write_text("This is no database. " * 100)
    with started("python run.py", "--workers", workers, "--store", store) as server:
        out, err = server.communicate(timeout=DEADLINE)
    assert (server.returncode, out) == (code, "")
    assert re.fullmatch(f"keepalive: {line}\n", err)


@pytest.mark.parametrize("module", ["click", "rich", "structlog"])
def test_without_its_extra_it_says_what_to_install(module: str) -> None:
    code = f"import sys; sys.modules['{module}'] = None; import run; sys.exit(run.main(['serve']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f'keepalive: {module} is missing: pip install "session-keepalive[server]"\n'


def test_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["--version"]) == 0
    assert capsys.readouterr().out == f"keepalive {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_its_help(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "Usage: keepalive [OPTIONS]" in out
    assert "serve" in out


def test_the_help_of_serve_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for setting in SETTINGS.values():
        assert f"{setting.option} " in out
        assert f"[{setting.variable}; default: {setting.shown}]" in out


def test_a_new_key_seals(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keygen"]) == 0
    first = capsys.readouterr().out.strip()
    assert Seal.parse(first).open(Seal.parse(first).seal("id")) == "id"
    assert cli.main(["keygen", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["key"] not in ("", first)


def test_output_that_cannot_be_written_is_told_of() -> None:
    command = [sys.executable, "-m", "keepalive", "keygen"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    told = "keepalive: the output could not be written (No space left on device)\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_the_settings_and_where_they_come_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "keepalive.toml"
    file.write_text('idle_timeout = 600\norigin = ["https://a.example", "https://b.example"]')
    monkeypatch.setenv("KEEPALIVE_STORE", "redis://keepalive:pass@redis.example/0?password=pass")
    monkeypatch.setenv("KEEPALIVE_SECRET", "the-key-of-all-cookies")
    arguments = ["check-config", "--config", str(file), "--absolute-timeout", "none", "--secure", "on"]
    assert cli.main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    told = {name: (each["value"], each["told_by"]) for name, each in json.loads(out).items()}
    assert told.keys() == {*SETTINGS, "KEEPALIVE_SECRET", "KEEPALIVE_ADMIN_TOKEN"}
    assert told["idle_timeout"] == ("10m", f"idle_timeout in {file}")
    assert told["origin"] == ("https://a.example https://b.example", f"origin in {file}")
    assert told["absolute_timeout"] == ("off", "--absolute-timeout")
    assert told["secure"] == ("on", "--secure")
    assert told["store"] == ("redis://redis.example/0", "KEEPALIVE_STORE")
    assert told["port"] == ("8080", "default")
    assert told["warn_before"] == ("automatic", "default")
    assert told["KEEPALIVE_SECRET"] == ("set", "environment")
    assert told["KEEPALIVE_ADMIN_TOKEN"] == ("unset", "environment")
    assert "note: absolute_timeout is off" in err
    assert cli.main(arguments) == 0
    table, _ = capsys.readouterr()
    assert re.search(r"idle_timeout +10m +idle_timeout in ", table)
    for shown in (out, table):
        assert "pass@" not in shown
        assert "password" not in shown
        assert "the-key-of-all-cookies" not in shown


def test_settings_that_the_server_would_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check-config", "--idle-timeout", "10"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("keepalive: idle_timeout (10 s) is shorter than three times ping_interval")
