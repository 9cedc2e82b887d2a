"""What a user gets, in real Firefox."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from .conftest import Server

pytestmark = pytest.mark.browser


async def test_an_open_page_keeps_its_session_until_another_tab_signs_out(
    serve: Callable[..., Awaitable[Server]],
) -> None:
    assert shutil.which("firefox-esr"), "this test needs Debian's firefox-esr: apt-get install firefox-esr"
    server = await serve("--idle-timeout", "6", "--ping-interval", "1")
    script = Path(__file__).with_name("firefox.mjs")
    node = await asyncio.create_subprocess_exec(
        "node", script, server.url, "10", stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(50):
            output, _ = await node.communicate()
    finally:
        if node.returncode is None:
            node.kill()
            await node.wait()
    assert node.returncode == 0
    seen = json.loads(output)
    assert seen["beats"] >= 5  # of ten; a busy machine may be late with some
    assert seen["running"] == seen["beats"]
    assert (seen["user"], seen["reason"], seen["title"]) == ("Ada", "logout", "You signed out")
