"""The examples that need no browser, run as their READMEs say."""

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

from cryptography.fernet import Fernet

from .nodes import ROOT, Node

EXAMPLES = ROOT / "examples"


async def run(*command: str, cwd: Path, **environ: str) -> tuple[int | None, str]:
    """The exit code of a command, and all that it has written."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    return process.returncode, out.decode()


async def test_tests_of_session_rules(tmp_path: Path) -> None:
    for file in (EXAMPLES / "tested").glob("*.*"):
        shutil.copy(file, tmp_path)
    options = ["-p", "pytest_keepalive", "-p", "no:schemathesis", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", *options]
    code, out = await run(*command, cwd=tmp_path)
    assert code == 0, out
    assert "2 passed" in out
    app = tmp_path / "app.py"
    app.write_text(app.read_text().replace("absolute_timeout=8 *", "absolute_timeout=9 *"))
    code, out = await run(*command, cwd=tmp_path)
    assert code == 1, out
    assert "1 failed, 1 passed" in out
    assert "should have ended (absolute)" in out


async def test_a_suite_outlives_its_login(tmp_path: Path) -> None:
    """Its one test takes longer than the idle timeout; without `hold` it fails."""
    held = shutil.copytree(EXAMPLES / "suite", tmp_path / "held") / "run.sh"
    bare = shutil.copytree(EXAMPLES / "suite", tmp_path / "bare") / "run.sh"
    text = held.read_text()
    bare.write_text(text.replace('keepalive hold "$APP" --cookies "$JAR" -- ', ""))
    assert bare.read_text() != text
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(sys.executable)
    keepalive = programs / "keepalive"
    keepalive.write_text(f'#!/bin/sh\nexec {sys.executable} -m keepalive "$@"\n')
    keepalive.chmod(0o755)
    quick = ("--idle-timeout", "3", "--ping-interval", "1", "--warn-before", "1", "--touch-every", "0")
    node = Node(f"sqlite:///{tmp_path}/sessions.db", Fernet.generate_key().decode(), *quick)
    await node.start()
    try:
        environ = {"PATH": f"{programs}:{os.environ['PATH']}", "LONG": "4"}
        runs = [run(str(script), node.url, cwd=tmp_path, **environ) for script in (held, bare)]
        (code, out), (bare_code, bare_out) = await asyncio.gather(*runs)
    finally:
        await node.stop(signal.SIGKILL)
    assert code == 0, out
    assert "OK" in out
    assert bare_code == 1, bare_out
    assert "OK" not in bare_out
    assert "AssertionError: None != 'suite'" in bare_out
