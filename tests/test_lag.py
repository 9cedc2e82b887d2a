"""The event loop's lag: how it is measured, told, and what a stall does to the pages."""

import asyncio
import time

import pytest
from aiohttp import web

from keepalive import KEEPALIVE, Policy
from keepalive.lag import ALARM, STALL, Lag
from keepalive.server import make_app as make_server
from keepalive.settings import Settings

from .conftest import Browse, Serve
from .raw import ping, until
from .test_web import make_app, signed_in


def test_a_lag_is_counted_and_the_worst_is_kept_for_a_while() -> None:
    lag = Lag()
    lag.observe(0.25, 100.0)
    for now in range(101, 129):
        lag.observe(0.001, float(now))
    assert lag.worst == 0.25
    lag.observe(0.001, 130.0)
    assert lag.worst == 0.25
    lag.observe(0.001, 161.0)
    assert lag.worst == 0.001
    assert sum(lag.seconds.counts) == 31


def test_a_timer_that_came_early_was_not_late() -> None:
    lag = Lag()
    lag.observe(-0.001, 100.0)
    assert (lag.worst, lag.seconds.total) == (0.0, 0.0)


def test_a_stall_is_told_and_remembered_for_one_probe(caplog: pytest.LogCaptureFixture) -> None:
    lag = Lag()
    lag.observe(STALL, 100.0)
    assert not caplog.records
    assert not lag.stalled(100.0)
    lag.observe(STALL + 0.1, 200.0)
    assert "stood still for 1.1 s" in caplog.text
    assert lag.stalled(200.0 + ALARM - 0.1)
    assert not lag.stalled(200.0 + ALARM)


@pytest.mark.both_loops
async def test_a_stall_ends_nobody(serve: Serve, browse: Browse, caplog: pytest.LogCaptureFixture) -> None:
    """A while without a beat, longer than a session may idle: what was sent meanwhile counts."""
    idle = STALL + 0.1
    app = make_app(policy=Policy(idle_timeout=idle, ping_interval=idle / 4))

    async def block(request: web.Request) -> web.Response:
        time.sleep(idle + 0.1)
        return web.Response()

    app.router.add_get("/block", block)
    port = (await serve(app)).port
    ann = await signed_in(browse, port, "ann")
    page = await ann.page()
    page.send(ping(0))
    assert (await page.message("beat"))["n"] == 0
    caplog.clear()
    blocked = asyncio.create_task(ann.get("/block"))
    await asyncio.sleep(0)
    page.send(ping(1))
    await blocked
    await until(lambda: "stood still" in caplog.text)
    assert app[KEEPALIVE].lag.worst > 1
    assert app[KEEPALIVE].lag.seconds.total > 1


async def test_health_after_a_stall(serve: Serve, browse: Browse) -> None:
    app = make_server(Settings(store="memory://"))
    browser = await browse((await serve(app)).port)
    assert (await browser.get("/healthz")).status == 200
    loop = asyncio.get_running_loop()
    app[KEEPALIVE].lag.observe(2.0, loop.time())
    answer = await browser.get("/healthz")
    assert (answer.status, answer.body) == (503, b"the event loop stood still\n")
    app[KEEPALIVE].lag.observe(2.0, loop.time() - ALARM)
    assert (await browser.get("/healthz")).status == 200
