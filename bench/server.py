"""One process that serves one of the engines on one core, until it is killed.

    python -m bench.server keepalive|stock|tuned asyncio|uvloop STORE_URL TOUCH_EVERY CORE

It prints its port once it serves. An empty TOUCH_EVERY leaves the policy as it is by default.
"""

import asyncio
import os
import resource
import socket
import sys
from collections.abc import Callable
from functools import partial

from aiohttp import web

import keepalive
from keepalive.server import BACKLOG

from .rivals import stock

UNLIMITED = 1e12
"""Messages a second: a closed loop sends more than any page is allowed to."""


def _keepalive_app(store_url: str, policy: keepalive.Policy) -> web.Application:
    app = web.Application()
    keepalive.setup(app, store_url, policy=policy, max_rate=UNLIMITED)
    return app


ENGINES: dict[str, Callable[[str, keepalive.Policy], web.Application]] = {
    "keepalive": _keepalive_app,
    "stock": stock.make_app,
    "tuned": partial(stock.make_app, tuned=True),
}


async def _serve(app: web.Application) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listen = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    await web.SockSite(runner, listen, backlog=BACKLOG).start()
    print(listen.getsockname()[1], flush=True)
    await asyncio.Event().wait()


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.new_event_loop
    import uvloop  # noqa: PLC0415 - an extra

    return uvloop.new_event_loop


if __name__ == "__main__":
    engine, loop, store_url, touch_every, core = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    policy = keepalive.Policy(touch_every=float(touch_every) if touch_every else None)
    with asyncio.Runner(loop_factory=_loop_factory(loop)) as runner:
        runner.run(_serve(ENGINES[engine](store_url, policy)))
