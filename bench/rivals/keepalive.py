"""keepalive itself, embedded into an application."""

import socket

from aiohttp import web

import keepalive

from . import app
from .job import Job

UNLIMITED = keepalive.Limits(
    messages_per_second=1e12,
    handshakes_per_second=1e12,
    pages_per_session=1_000_000,
    pages_per_user=1_000_000,
)
"""A closed loop sends more than any page is allowed to, and all at once."""


async def serve(listen: socket.socket, job: Job) -> None:
    application = web.Application()
    store = f"sqlite:///{job.folder / 'sessions.db'}"
    keepalive.setup(application, store, policy=job.policy, limits=UNLIMITED)
    await app.run(application, listen)
