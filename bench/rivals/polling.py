"""The classic heartbeat: a page asks a handler every now and then, and that writes the session.

Writing is what keeps an aiohttp-session session alive; loading it does not. Without a store that
all requests share, the session comes and goes with the cookie.
"""

import json
import os
import socket
from functools import partial

import aiohttp_session
from aiohttp import web
from aiohttp_session.cookie_storage import EncryptedCookieStorage

from keepalive.seal import ENVIRONMENT

from . import app
from .job import Job

_dumps = partial(json.dumps, separators=(",", ":"))


async def redis(listen: socket.socket, job: Job) -> None:
    from aiohttp_session.redis_storage import RedisStorage  # noqa: PLC0415 - needs redis
    from redis.asyncio import BlockingConnectionPool, Redis  # noqa: PLC0415 - an extra

    pool = BlockingConnectionPool(port=int((job.folder / "redis.port").read_text()))
    storage = RedisStorage(Redis(connection_pool=pool), max_age=int(job.policy.idle_timeout), encoder=_dumps)
    await _run(listen, job, storage)


async def cookie(listen: socket.socket, job: Job) -> None:
    storage = EncryptedCookieStorage(
        os.environ[ENVIRONMENT], max_age=int(job.policy.idle_timeout), encoder=_dumps
    )
    await _run(listen, job, storage)


async def _run(listen: socket.socket, job: Job, storage: aiohttp_session.AbstractStorage) -> None:
    async def heartbeat(request: web.Request) -> web.Response:
        session = await aiohttp_session.get_session(request)
        if session.new:
            raise web.HTTPUnauthorized
        ping = await request.json()
        now = job.clock.wall()
        session["seen"] = int(now)
        ends_in = session["since"] + (job.policy.absolute_timeout or 0.0) - now
        beat = {
            "type": "beat",
            "n": ping["n"],
            "expires_in": job.policy.idle_timeout,
            "ends_in": round(ends_in, 3),
        }
        return web.json_response(beat, dumps=_dumps)

    application = web.Application()
    aiohttp_session.setup(application, storage)
    application.router.add_post("/heartbeat", heartbeat)
    await app.run(application, listen)
