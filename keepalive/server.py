"""The standalone server: one process, one app, from settings to a clean stop."""

import asyncio
import gc
import os
import resource
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

from aiohttp import hdrs, web

from . import demo as demo_app
from . import logs
from .seal import Seal
from .session import KeepaliveStorage
from .settings import Settings
from .stores import open_store
from .web import KEEPALIVE, setup
from .workers import stop_signals

BACKLOG = 4096
"""Connections that may wait to be accepted: after a restart all pages come back at once."""
ACCEPT_AT_ONCE = 32
"""How many of them asyncio takes in one turn of its loop; beats are answered between two turns."""
SILENCE = 10.0
"""How long a connection may stay without a whole request, in seconds; aiohttp's default is an hour."""
SHUTDOWN_TIMEOUT = 1.0
"""How long a shutdown waits for requests that are under way, in seconds; for those that then do not let
themselves be cancelled, as long again."""

FULL_COLLECTION_AFTER = 100
"""Every how many collections of the middle generation Python looks at all objects; its default is 10."""

_STOPPING = web.AppKey("keepalive_stopping", asyncio.Event)


def make_app(settings: Settings, *, demo: bool = False) -> web.Application:
    """The server's application.

    Args:
        settings: all of them but host, port and workers count here.
        demo: whether to mount the demo app.

    Raises:
        SettingError: a setting cannot work.
    """
    store = open_store(settings.store)
    seal = None
    if settings.secret_file is not None:
        seal = Seal.find(os.environ, settings.secret_file, make=False)
    app = web.Application()
    app[_STOPPING] = asyncio.Event()
    keepalive = setup(
        app,
        KeepaliveStorage(store, settings.policy(), seal=seal, secure=settings.secure),
        origins=settings.origin,
        login="/" if demo else None,
        drain=settings.drain,
    )
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/readyz", _readyz)
    app.router.add_get("/metrics", _metrics)
    if demo:
        demo_app.mount(app, keepalive)
    return app


def run(settings: Settings, *, demo: bool = False, listen: socket.socket, ready: Callable[[], None]) -> int:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: the server's.
        demo: whether to mount the demo app.
        listen: where to listen; bound already.
        ready: called once requests are served.

    Returns:
        The exit code.

    Raises:
        KeepaliveError: the server could not start; the message says what to do.
    """
    logs.configure(sys.stderr)
    _raise_file_limit()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, demo, listen, ready))
    return 0


async def listen_on(runner: web.AppRunner, listen: socket.socket) -> None:
    """Have an app serve a socket, so that pages which come in crowds do not hold up the others."""
    # asyncio takes `backlog` for both: how many may wait, and how many it accepts before all else.
    await web.SockSite(runner, listen, backlog=ACCEPT_AT_ONCE).start()
    listen.listen(BACKLOG)


def calm_garbage_collector() -> None:
    """Have Python look at all its objects seldom, and never at those that the start has made.

    A look takes 10 µs for each open page, during which nobody has a beat. Pages need none: their
    objects are free as soon as they close, but for 400 bytes of asyncio's own.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_COLLECTION_AFTER)


async def _serve(settings: Settings, demo: bool, listen: socket.socket, ready: Callable[[], None]) -> None:
    app = make_app(settings, demo=demo)
    stopping = app[_STOPPING]
    loop = asyncio.get_running_loop()
    for number in stop_signals():
        loop.add_signal_handler(number, stopping.set)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=SILENCE, shutdown_timeout=SHUTDOWN_TIMEOUT)
    try:
        await runner.setup()
        await listen_on(runner, listen)
        calm_garbage_collector()
        ready()
        await stopping.wait()
    finally:
        await runner.cleanup()


async def _healthz(request: web.Request) -> web.Response:
    """Whether the process answers at all."""
    return web.Response(text="ok\n", headers={hdrs.CACHE_CONTROL: "no-store"})


async def _readyz(request: web.Request) -> web.Response:
    """Whether it should be sent pages: it is not stopping, and its store answers."""
    if request.app[_STOPPING].is_set():
        status, text = 503, "stopping\n"
    elif not await request.app[KEEPALIVE].reachable():
        status, text = 503, "the session store does not answer\n"
    else:
        status, text = 200, "ready\n"
    return web.Response(status=status, text=text, headers={hdrs.CACHE_CONTROL: "no-store"})


async def _metrics(request: web.Request) -> web.Response:
    try:
        from . import metrics  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise web.HTTPNotFound(text='For metrics: pip install "session-keepalive[metrics]"\n') from None
    return web.Response(
        body=metrics.render(request.app[KEEPALIVE]), headers={hdrs.CONTENT_TYPE: metrics.CONTENT_TYPE}
    )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed, for it answers half as many pings again."""
    try:
        import uvloop  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


def _raise_file_limit() -> None:
    """Every page is an open file; the soft limit is meant for programs that are no servers."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
