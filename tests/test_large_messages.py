"""Group 9 of the Autobahn suite: messages of up to 16 MiB, and in up to 65,536 fragments.

No page sends such messages, and the product refuses them; with its limits raised, the frame layer has
to carry them all the same. The short form has the first case of each kind.
"""

import asyncio
from typing import cast

import pytest
from aiohttp import web
from kosoku import FailureError, run_fuzzingclient

from keepalive import frames
from keepalive.clock import SystemClock
from keepalive.connection import Connections
from keepalive.upgrade import Upgrade

from .conftest import Serve
from .test_conformance import Echo

pytestmark = pytest.mark.both_loops

LARGEST = 16 << 20
MOST_FRAGMENTS = 65536


class PatientEcho(Echo):
    """Lets all that it sends back wait for the reader."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).set_write_buffer_limits(2 * LARGEST)
        super().connection_made(transport)


@pytest.mark.parametrize(
    ("cases", "count"),
    [("9.*.1", 8), pytest.param("9.*", 54, marks=pytest.mark.slow)],
    ids=["short", "whole"],
)
async def test_large_messages(serve: Serve, monkeypatch: pytest.MonkeyPatch, cases: str, count: int) -> None:
    monkeypatch.setattr(frames, "MAX_FRAGMENTS", MOST_FRAGMENTS)
    connections: Connections[None] = Connections(
        None,  # type: ignore[arg-type] # nobody listens to a socket without a page
        SystemClock(),
        max_rate=1e9,
        max_message=LARGEST,
    )

    async def echo(request: web.Request) -> web.StreamResponse:
        response = Upgrade(request)
        await response.hand_over(request, PatientEcho(connections))
        return response

    app = web.Application()
    app.router.add_get("/echo", echo)
    port = (await serve(app)).port
    try:
        results = await run_fuzzingclient(f"127.0.0.1:{port}/echo", [cases], concurrency=2)
    except FailureError as error:
        results = error.results
    verdicts = [(result.case_id, result.behavior.value, result.behavior_close.value) for result in results]
    assert len(verdicts) == count
    assert [verdict for verdict in verdicts if verdict[1:] != ("OK", "OK")] == []
