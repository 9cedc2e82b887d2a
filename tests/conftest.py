"""Servers on free ports, pages that are cut off after the test, and a Redis of our own."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from http.cookies import SimpleCookie
from ssl import SSLContext
from typing import Any, NamedTuple, Protocol

import pytest
import uvloop
from aiohttp import ClientSession, CookieJar, web
from hypothesis import settings
from multidict import CIMultiDictProxy
from yarl import URL

from .discretion import pytest_runtest_setup, pytest_runtest_teardown  # noqa: F401  (hooks)
from .raw import Headers, RawPage, Served, handshake, serving
from .redis import redis_server

pytest_plugins = ["pytest_keepalive"]  # which an installed package brings by itself

# What is started in the background (`make test &`, nohup) inherits that the terminal's signals are ignored,
# and so would the servers and commands that tests send them to.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)

# A busy machine is no failure; the timeout of pytest catches what hangs.
settings.register_profile("keepalive", deadline=None)
settings.load_profile("keepalive")

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Most tests wait, for processes, sockets and clocks; those with a browser have it work for them.

    But for a few of these, which wait for minutes: hence one worker more than there are processors.
    """
    browsers = "not browser" not in config.option.markexpr
    processors = os.cpu_count() or 1
    return processors + 1 if browsers else 2 * processors


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test runs on asyncio's own event loop; one that is marked `both_loops`, also on uvloop's."""
    return LOOPS if item.get_closest_marker("both_loops") else {"asyncio": asyncio.new_event_loop}


class Serve(Protocol):
    def __call__(
        self, app: web.Application, *, tls: SSLContext | None = None, **options: Any
    ) -> Awaitable[Served]: ...


class Answer(NamedTuple):
    """What an HTTP request got."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Connect(Protocol):
    def __call__(
        self,
        port: int,
        path: str = "/keepalive/ws",
        headers: Headers | None = None,
        *,
        early: bytes = b"",
        receive_buffer: int | None = None,
    ) -> Awaitable[RawPage]: ...


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves apps until the test is over."""
    async with AsyncExitStack() as stack:

        async def serve(app: web.Application, *, tls: SSLContext | None = None, **options: Any) -> Served:
            return await stack.enter_async_context(serving(app, tls=tls, **options))

        yield serve


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens pages that do not outlive the test."""
    async with AsyncExitStack() as stack:

        async def connect(
            port: int,
            path: str = "/keepalive/ws",
            headers: Headers | None = None,
            *,
            early: bytes = b"",
            receive_buffer: int | None = None,
        ) -> RawPage:
            request = handshake(path, {"Host": f"127.0.0.1:{port}"} | dict(headers or {}))
            opening = RawPage.open(port, request + early, receive_buffer=receive_buffer)
            return await stack.enter_async_context(opening)

        yield connect


class Browser:
    """One user's browser at one server: keeps cookies, and opens pages with them.

    Args:
        port: the server's.
        connect: opens the pages.
        http: its other requests.
    """

    def __init__(self, port: int, connect: Connect, http: ClientSession) -> None:
        self.port = port
        self._connect = connect
        self._http = http

    @property
    def cookie(self) -> str:
        """What it would send as `Cookie`; empty without one."""
        return "; ".join(f"{each.key}={each.value}" for each in self._http.cookie_jar)

    async def page(self, path: str = "/keepalive/ws", **headers: str | list[str] | None) -> RawPage:
        """Open a page's socket; `Sec_Fetch_Site` stands for `Sec-Fetch-Site`."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        page = await self._connect(self.port, path, {"Cookie": self.cookie or None} | told)
        jar = SimpleCookie()
        for each in page.headers.getall("Set-Cookie", []):
            jar.load(each)
        self._http.cookie_jar.update_cookies(jar, URL(f"http://127.0.0.1:{self.port}"))
        return page

    async def get(self, path: str, *, method: str = "GET", **options: Any) -> Answer:
        """Make a request; does not follow redirects."""
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self._http.request(method, url, allow_redirects=False, **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def post(self, path: str, **options: Any) -> Answer:
        return await self.get(path, method="POST", **options)


Browse = Callable[[int], Awaitable[Browser]]


@pytest.fixture
async def browse(connect: Connect) -> AsyncIterator[Browse]:
    """Makes browsers, each with cookies of its own."""
    async with AsyncExitStack() as stack:

        async def browse(port: int) -> Browser:
            http = ClientSession(cookie_jar=CookieJar(unsafe=True))
            return Browser(port, connect, await stack.enter_async_context(http))

        yield browse


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of this test run alone."""
    with redis_server(tmp_path_factory.mktemp("redis")) as redis:
        yield redis.url
