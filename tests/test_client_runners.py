"""A heart as a fixture, under the runners of async tests that people have."""

import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import asyncio

import pytest
from aiohttp import ClientSession, CookieJar, web
{imports}
import keepalive


{fixture}
async def heart():
    app = web.Application()
    sessions = keepalive.setup(app, "memory://")

    async def login(request):
        await sessions.start(request, "ann")
        return web.Response()

    app.router.add_post("/login", login)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{{runner.addresses[0][1]}}"
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session:
        await session.post(f"{{url}}/login")
        async with keepalive.connect(url, session=session) as heart:
            yield heart
    await runner.cleanup()
    assert not [task for task in asyncio.all_tasks() if ".client." in str(task.get_coro())]


{mark}
async def test_a_beat(heart):
    assert (await heart.ping()).n > 0


{mark}
async def test_a_failure_leaves_nothing(heart):
    await heart.ping()
    raise ZeroDivisionError
"""

INI = """
[pytest]
asyncio_default_fixture_loop_scope = function
filterwarnings =
    error
    ignore::aiohttp.web.NotAppKeyWarning
"""

RUNNERS = {
    "anyio": {
        "imports": "",
        "fixture": '@pytest.fixture\ndef anyio_backend():\n    return "asyncio"\n\n\n@pytest.fixture',
        "mark": "@pytest.mark.anyio",
    },
    "pytest_asyncio": {
        "imports": "import pytest_asyncio\n",
        "fixture": "@pytest_asyncio.fixture",
        "mark": "@pytest.mark.asyncio",
    },
}


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_heart_is_a_fixture_under(runner: str, tmp_path: Path) -> None:
    pytest.importorskip(runner)
    (tmp_path / "test_suite.py").write_text(SUITE.format(**RUNNERS[runner]))
    (tmp_path / "pytest.ini").write_text(INI)
    plugins = ["-p", "no:cacheprovider", "-p", "no:schemathesis"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), *plugins, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parent.parent), "PATH": ""},
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "ZeroDivisionError" in done.stdout
    assert "error" not in done.stdout.splitlines()[-1]
