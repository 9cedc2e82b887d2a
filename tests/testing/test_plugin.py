"""The plugin in suites of its users: under each runner of async tests, when tests pass and when they fail."""

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[2]
INI = """
[pytest]
filterwarnings =
    error
    ignore::aiohttp.web.NotAppKeyWarning
"""
HEAD = """
import asyncio

import pytest
from aiohttp import ClientSession, CookieJar, web

import keepalive
from keepalive import Policy


@pytest.fixture
def anyio_backend():
    return "asyncio"
"""
RULES = """
    {mark}
    async def test_whoever_is_idle_is_warned_and_signed_out(keepalive_server, page, clock, assert_ends):
        await keepalive_server(policy=Policy(mode="activity", idle_timeout=1800))
        tab = await page("ann")
        tab.input()
        await clock.advance(minutes=29, seconds=10)
        assert tab.warning.extendable
        await assert_ends(None)
        await clock.advance(minutes=1)
        await assert_ends("idle")
"""
STRICT = ["-o", "asyncio_default_fixture_loop_scope=function"]
AUTO = [*STRICT, "-o", "asyncio_mode=auto"]
RUNNERS = {
    "auto": ("", AUTO),
    "strict": ("@pytest.mark.asyncio", STRICT),
    "anyio": ("@pytest.mark.anyio", STRICT),
    "anyio alone": ("@pytest.mark.anyio", ["-p", "no:asyncio", "-p", "no:aiohttp"]),
}


class Suite:
    """A user's tests, run in a process of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, text: str, *options: str) -> str:
        """What pytest prints."""
        (self._folder / "test_suite.py").write_text(HEAD + dedent(text))
        (self._folder / "pytest.ini").write_text(INI)
        loaded = ["-p", "pytest_keepalive", "-p", "no:cacheprovider", "-p", "no:schemathesis"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *loaded, *options, str(self._folder)],
            cwd=self._folder, capture_output=True, text=True, check=False,
            env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "COLUMNS": "120"},
        )  # fmt: skip
        return done.stdout + done.stderr


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


@pytest.mark.parametrize("runner", RUNNERS)
def test_rules_are_tested_under(runner: str, suite: Suite) -> None:
    mark, options = RUNNERS[runner]
    assert "1 passed" in suite.run(RULES.format(mark=mark), *options)


def test_it_runs_in_parallel(suite: Suite) -> None:
    more = RULES.format(mark="") + RULES.format(mark="").replace("test_whoever", "test_and_whoever")
    assert "2 passed" in suite.run(more, "-n", "2", *AUTO)


def test_a_failure_shows_what_was_said(suite: Suite) -> None:
    told = suite.run(
        """
        async def test_idle(keepalive_server, page, clock, assert_ends):
            await keepalive_server(policy=Policy(mode="activity"))
            await page("ann")
            await clock.advance(minutes=31)
            await assert_ends(None)

        async def test_logout(keepalive_server, page, clock, assert_ends):
            server = await keepalive_server()
            await page("ann")
            await page("bob")
            await server.keepalive.end_user("ann")
            await clock.advance(seconds=1)
            await assert_ends("revoked")

        async def test_something_else(keepalive_server, page, store_fault, clock):
            await keepalive_server()
            tab = await page("ann")
            with store_fault("down"):
                await clock.advance(minutes=2)
            assert tab.beats == []
        """,
        *AUTO,
    )
    lines = [line.rstrip() for line in told.splitlines()]
    assert "E       AssertionError: page 1 of ann has ended (idle) after 30:00.0, and should live" in lines
    assert "E       AssertionError: page 2 of bob lives, and should have ended (revoked)" in lines
    assert sum("keepalive timeline" in line for line in lines) == 3
    at = lines.index("page 1 of ann, ended")
    assert lines[at + 1 : at + 6] == [
        "   time  who     what      lives until",
        " 0:00.0  page    connects",
        " 0:00.0  server  hello         30:00.0  activity, idle timeout 30:00.0, absolute in 12:00:00.0",
        " 0:00.0  page    ping 1",
        " 0:00.0  server  beat 1        30:00.0",
    ]
    assert any(line.endswith("more pings, each with its beat") for line in lines)
    assert any(
        re.fullmatch(r"29:00\.[012]  server  warning       30:00\.0  idle, in \S+", line) for line in lines
    )
    assert "30:00.0  server  end                    idle" in lines
    assert any("store; again in" in line for line in lines)
    assert "3 failed" in lines[-1]


WRONG = {
    "await page('ann')": "start keepalive_server",
    "await assert_ends('idle')": "open one with `page`",
    "store_fault('down').__enter__()": "no store that could fail",
    "await keepalive_server(); store_fault('mad').__enter__()": "use down, slow or read-only",
    "await keepalive_server(); tab = await page('ann'); tab.close(); tab.input()": "page 1 of ann is gone",
    "await keepalive_server(); tab = await page('ann'); tab.hide(); tab.input()": "show() it first",
    "await keepalive_server(); tab = await page('ann'); tab.sleep(9); tab.input()": "let it wake up",
    "await page(cookies={}, url='http://127.0.0.1:1')": "has its own time",
    "await clock.advance(-1)": "time does not go back",
    "keepalive_app(app(SystemClock()))": "the app goes by another clock than the fixture",
    "keepalive_app(app(store=STORE))": "the app's store goes by another clock than the fixture",
    "keepalive_app(app(), policy=Policy())": "give policy and options there",
    "server = keepalive_app(app()); server.url": "ask the client or server of your own app",
}


def test_wrong_use_is_told_what_to_do(suite: Suite) -> None:
    text = """
        class SystemClock:
            def wall(self):
                return 0.0

            monotonic = wall

        STORE = keepalive.open_store("memory://")

        def app(clock=None, store="memory://"):
            made = web.Application()
            keepalive.setup(made, store, clock=clock)
            return made
    """
    for number, body in enumerate(WRONG):
        text += f"""
        async def test_{number}(keepalive_server, keepalive_app, page, clock, assert_ends, store_fault):
            {body}
        """
    out = suite.run(text, *AUTO)
    assert f"{len(WRONG)} failed" in out
    for told in WRONG.values():
        assert told in out


def test_another_plugins_page_and_clock_stay(suite: Suite, tmp_path: Path) -> None:
    """As pytest-playwright's do; here one that is installed beside."""
    (tmp_path / "other_plugin.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef page():\n    return 'the other page'\n"
    )
    info = tmp_path / "other-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[pytest11]\nother = other_plugin\n")
    out = suite.run(
        """
        async def test_both(page, keepalive_page, keepalive_server, clock):
            await keepalive_server()
            assert page == "the other page"
            assert (await keepalive_page("ann")).state == "open"
        """,
        *AUTO,
    )
    assert "1 passed" in out


def test_nothing_heavy_is_imported_before_a_test_asks_for_it(suite: Suite) -> None:
    """In a process that loads the plugin as pytest does where the package is installed."""
    code = (
        "import sys, pytest_keepalive; print(sorted({name.split('.')[0] for name in sys.modules} & {heavy}))"
    )
    heavy = {"aiohttp", "keepalive", "msgspec", "cryptography", "multidict", "yarl"}
    done = subprocess.run(
        [sys.executable, "-c", code.replace("{heavy}", repr(heavy))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
