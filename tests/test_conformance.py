"""RFC 6455, as the cases of the Autobahn test suite see it, run by kosoku against an echo.

The echo is a `Connection` that sends back what it hears: frames, limits and closing handshake are
the product's own.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from aiohttp import web
from aiohttp.test_utils import TestServer
from kosoku import FailureError, run_fuzzingclient

from keepalive import frames
from keepalive.clock import SystemClock
from keepalive.connection import Connection, Connections
from keepalive.frames import Opcode
from keepalive.upgrade import Upgrade

# 9 measures limits, 12 and 13 need compression, which is not offered.
GROUPS = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"]
CASES = 247
# The RFC leaves open what these see: there is no other verdict on them.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}


class Echo(Connection[None]):
    """Sends back every message as it came."""

    __slots__ = ()

    def _hear(self, opcode: Opcode, payload: bytes, now: float) -> None:
        self._write(bytes([0x80 | opcode]) + frames.text(payload)[1:])


async def run() -> list[Any]:
    connections: Connections[None] = Connections(
        None,  # type: ignore[arg-type] # nobody listens to a socket without a page
        SystemClock(),
        max_rate=1e9,
        max_message=1 << 20,
    )

    async def echo(request: web.Request) -> web.StreamResponse:
        response = Upgrade(request)
        await response.hand_over(request, Echo(connections))
        return response

    app = web.Application()
    app.router.add_get("/echo", echo)
    async with TestServer(app) as server:
        try:
            return await run_fuzzingclient(f"127.0.0.1:{server.port}/echo", GROUPS, None, concurrency=16)
        except FailureError as error:
            return error.results
        finally:
            await connections.drained(1)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_no_case_of_autobahn_deviates(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        results = runner.run(run())
    assert len(results) == CASES
    deviant = {
        result.case_id: (result.behavior.value, result.behavior_close.value)
        for result in results
        if (result.behavior.value, result.behavior_close.value) != ("OK", "OK")
    }
    assert deviant == dict.fromkeys(INFORMATIONAL, ("INFORMATIONAL", "INFORMATIONAL"))
