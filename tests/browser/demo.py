"""The demo, to be looked at in any state: under a policy of the moment, and with an end from outside."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from aiohttp import web

import keepalive
from keepalive import Policy, Reason, demo

from ..raw import serving

CALM = Policy(ping_interval=20)
# These warn a second after the sign-in.
IDLE = Policy(idle_timeout=60, warn_before=59, ping_interval=5, mode="activity")
ABSOLUTE = Policy(idle_timeout=60, absolute_timeout=60, warn_before=59, ping_interval=5)


class Demo:
    """The demo's page, of one user at a time."""

    def __init__(self) -> None:
        self.policy = CALM
        """That of whoever signs in next."""
        self.port = 0
        app = web.Application()
        self._keepalive = keepalive.setup(app, "memory://", policy=lambda data: self.policy)
        demo.mount(app, self._keepalive)
        self._app = app

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Self]:
        """Serve it on a free port of 127.0.0.1, for an `async with`."""
        async with serving(self._app) as (_, self.port):
            yield self

    async def end(self, user: str) -> None:
        """Sign a user out, as an administrator does."""
        await self._keepalive.end_user(user, Reason.REVOKED)
