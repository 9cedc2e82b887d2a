"""keepalive itself, embedded into an application."""

import socket

from aiohttp import web

import keepalive

from . import app
from .job import Job

UNLIMITED = 1e12
"""Messages a second: a closed loop sends more than any page is allowed to."""


async def serve(listen: socket.socket, job: Job) -> None:
    application = web.Application()
    store = f"sqlite:///{job.folder / 'sessions.db'}"
    keepalive.setup(application, store, policy=job.policy, max_rate=UNLIMITED)
    await app.run(application, listen)
