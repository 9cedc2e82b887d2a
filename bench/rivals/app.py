"""Serves an aiohttp application, for the rivals that are one."""

import asyncio
import socket

from aiohttp import web

from keepalive.server import listen_on


async def run(app: web.Application, listen: socket.socket) -> None:
    """Serve until the task is cancelled."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await listen_on(runner, listen)
    await asyncio.Event().wait()
