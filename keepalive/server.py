"""The standalone server: one process, one app, from settings to a clean stop."""

import asyncio
import errno
import gc
import logging
import os
import resource
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any

from aiohttp import hdrs, web

from . import admin, audit, logs
from . import demo as demo_app
from .headers import harden
from .lobby import Lobby
from .seal import Seal
from .session import KeepaliveStorage
from .settings import Settings
from .siblings import Siblings
from .stores import open_store
from .web import KEEPALIVE, Keepalive, setup
from .workers import seat, stop_signals

log = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections that may wait to be accepted: after a restart all pages come back at once."""
ACCEPT_AT_ONCE = 32
"""How many of them asyncio takes in one turn of its loop; beats are answered between two turns."""
SILENCE = 10.0
"""How long the head of a request may take, and its body after it, in seconds; aiohttp's default is an hour,
and for ever."""
SHUTDOWN_TIMEOUT = 1.0
"""How long a shutdown waits for requests that are under way, in seconds; for those that then do not let
themselves be cancelled, as long again."""

TELL_EVERY = 10.0
"""How often the log tells that no connection can be accepted, in seconds; asyncio would fill the disk."""
_OUT_OF = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

FULL_COLLECTION_AFTER = 100
"""Every how many collections of the middle generation Python looks at all objects; its default is 10."""

Handler = Callable[[web.Request], Awaitable[web.Response]]

_STOPPING = web.AppKey("keepalive_stopping", asyncio.Event)
_SIBLINGS = web.AppKey("keepalive_siblings", Siblings)
_NO_STORE = {hdrs.CACHE_CONTROL: "no-store"}


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
        limits=settings.limits(),
        trusted_proxies=settings.trusted_proxies,
        hosts=settings.hosts,
        drain=settings.drain,
    )
    harden(app, keepalive.is_secure)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/readyz", _readyz)
    app[_SIBLINGS] = siblings = Siblings(seat())
    app.cleanup_ctx.append(siblings.run)
    app.router.add_get("/metrics", _metrics_of(keepalive, siblings))
    if (token := admin.find_token(os.environ, settings.admin_token_file)) is not None:
        admin.mount(app, keepalive, token=token, siblings=siblings)
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
    audit.configure(settings.audit)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, demo, listen, ready))
    return 0


async def listen_on(runner: web.AppRunner, listen: socket.socket, lobby: Lobby | None = None) -> None:
    """Have an app serve a socket, so that pages which come in crowds do not hold up the others."""
    await _Site(runner, listen, lobby).start()
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
    files = _raise_file_limit()
    app = make_app(settings, demo=demo)
    lobby = Lobby(app[KEEPALIVE].door.trust, files, SILENCE)
    app.middlewares.insert(0, lobby.attend)
    stopping = app[_STOPPING]
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_Scarcity())
    for number in stop_signals():
        loop.add_signal_handler(number, stopping.set)
    runner = web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=SILENCE,
        lingering_time=SILENCE,  # for a body that nobody reads
        shutdown_timeout=SHUTDOWN_TIMEOUT,
    )
    try:
        await runner.setup()
        await listen_on(runner, listen, lobby)
        app[_SIBLINGS].leave_port = partial(_leave_port, runner)
        calm_garbage_collector()
        ready()
        await stopping.wait()
    finally:
        await runner.cleanup()


async def _leave_port(runner: web.AppRunner) -> None:
    """Take no more connections, and let go of those that proxies and browsers keep; sockets stay."""
    for site in runner.sites:
        await site.stop()
    assert runner.server is not None
    runner.server.pre_shutdown()
    await runner.server.shutdown(SHUTDOWN_TIMEOUT)


async def _healthz(request: web.Request) -> web.Response:
    """Whether the process answers at all, and has not stood still a moment ago."""
    if request.app[KEEPALIVE].lag.stalled(asyncio.get_running_loop().time()):
        return web.Response(status=503, text="the event loop stood still\n", headers=_NO_STORE)
    return web.Response(text="ok\n", headers=_NO_STORE)


async def _readyz(request: web.Request) -> web.Response:
    """Whether it should be sent pages: it neither stops nor drains, and its store answers."""
    if request.app[_STOPPING].is_set():
        status, text = 503, "stopping\n"
    elif request.app[KEEPALIVE].draining:
        status, text = 503, "draining\n"
    elif not await request.app[KEEPALIVE].reachable():
        status, text = 503, "the session store does not answer\n"
    else:
        status, text = 200, "ready\n"
    return web.Response(status=status, text=text, headers=_NO_STORE)


def _metrics_of(keepalive: Keepalive, siblings: Siblings) -> Handler:
    """What answers `/metrics`."""
    try:
        from .metrics import CONTENT_TYPE, Metrics  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:

        async def missing(request: web.Request) -> web.Response:
            raise web.HTTPNotFound(text='For metrics: pip install "session-keepalive[metrics]"\n')

        return missing
    metrics = Metrics(keepalive, siblings)

    async def show(request: web.Request) -> web.Response:
        headers = {hdrs.CONTENT_TYPE: CONTENT_TYPE, **_NO_STORE}
        return web.Response(body=await metrics.render(), headers=headers)

    return show


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed, for it answers half as many pings again."""
    try:
        import uvloop  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


class _Site(web.SockSite):
    """Where an app listens; its connections go through a lobby, if there is one."""

    def __init__(self, runner: web.AppRunner, listen: socket.socket, lobby: Lobby | None) -> None:
        super().__init__(runner, listen)
        self._listen = listen
        assert runner.server is not None
        self._receive = runner.server if lobby is None else partial(lobby.receive, runner.server)

    async def start(self) -> None:
        await web.BaseSite.start(self)
        loop = asyncio.get_running_loop()
        # asyncio takes `backlog` for both: how many may wait, and how many it accepts before all else.
        self._server = await loop.create_server(self._receive, sock=self._listen, backlog=ACCEPT_AT_ONCE)


class _Scarcity:
    """An event loop's exception handler that is brief about what it runs out of."""

    def __init__(self) -> None:
        self._tell_at = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _OUT_OF:
            loop.default_exception_handler(context)
        elif loop.time() >= self._tell_at:
            self._tell_at = loop.time() + TELL_EVERY
            log.error("no connection can be accepted: %s; raise the limit of open files", error.strerror)


def _raise_file_limit() -> float:
    """Every page is an open file; the soft limit is meant for programs that are no servers.

    Returns:
        How many files this process may open now.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return inf if soft == resource.RLIM_INFINITY else soft
