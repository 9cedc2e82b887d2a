"""`Server`: an app's sessions as a test reaches them, in this process, without a network."""

import asyncio
from functools import cached_property
from typing import cast

from aiohttp import CookieJar, hdrs, web
from aiohttp.abc import AbstractCookieJar
from aiohttp.test_utils import make_mocked_request
from aiohttp_session import AbstractStorage
from yarl import URL

from ..errors import KeepaliveError
from ..web import Keepalive

_QUIET = 3  # looks in a row, half a millisecond apart


class Server:
    """A server under test. Made by the fixtures `keepalive_server` and `keepalive_app`."""

    def __init__(self, app: web.Application, keepalive: Keepalive) -> None:
        self.app = app
        self.keepalive = keepalive
        """What `keepalive.setup` has returned: its `end_user`, `push`, `state` and all else."""
        self.port: int | None = None
        """On 127.0.0.1; `None` where the test serves the app itself."""

    @property
    def url(self) -> str:
        """Where it answers, as `http://127.0.0.1:…`."""
        if self.port is None:
            raise KeepaliveError("keepalive_app serves nothing", "ask the client or server of your own app")
        return f"http://127.0.0.1:{self.port}"

    async def sign_in(self, user: str, jar: AbstractCookieJar | None = None) -> AbstractCookieJar:
        """Begin a session, as `Keepalive.start` does; its cookie is in the jar that this returns.

        Args:
            user: whose session.
            jar: a browser's, which may hold a former session; by default a new one.
        """
        jar = CookieJar(unsafe=True) if jar is None else jar
        storage = cast(AbstractStorage, self.keepalive.door)
        session = await storage.new_session()
        session[self.keepalive.door.user_key] = user
        response = web.Response()
        await storage.save_session(self.request(jar), response, session)
        self.bake(jar, response)
        return jar

    def request(self, jar: AbstractCookieJar) -> web.Request:
        """A request of the browser that has this cookie jar."""
        cookies = jar.filter_cookies(self._base)
        sent = "; ".join(f"{name}={morsel.coded_value}" for name, morsel in cookies.items())
        return self._plain.clone(headers={hdrs.HOST: "127.0.0.1", hdrs.COOKIE: sent})

    def bake(self, jar: AbstractCookieJar, response: web.Response) -> None:
        """Put the cookies of a response into a browser's jar."""
        if response.cookies:
            jar.update_cookies(response.cookies, self._base)

    @cached_property
    def _plain(self) -> web.Request:
        return make_mocked_request("GET", "/", {hdrs.HOST: "127.0.0.1"}, app=self.app)

    @cached_property
    def _base(self) -> URL:
        return URL("https://127.0.0.1/" if self.keepalive.is_secure(self._plain) else "http://127.0.0.1/")

    # What the clock asks.

    @property
    def due(self) -> float:
        return self.keepalive.due

    def tick(self) -> None:
        self.keepalive.tick()

    @property
    def busy(self) -> bool:
        return self.keepalive.heart.busy

    async def quiet(self) -> None:
        """Where there are real sockets: wait until nothing comes any more."""
        looks, before = 0, None
        while self.keepalive.connected[1] and looks < _QUIET:
            await asyncio.sleep(0.0005)
            counts = self.keepalive.counts
            now = (
                counts.opens, counts.pings, counts.beats, counts.waits, counts.asks, counts.warnings,
                counts.pushes, counts.batches, sum(counts.closes.values()),
            )  # fmt: skip
            looks, before = (looks + 1, now) if now == before else (0, now)
