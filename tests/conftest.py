"""Servers on free ports, pages that are cut off after the test, and a Redis of our own."""

import subprocess
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from socket import create_connection, create_server
from ssl import SSLContext
from time import monotonic, sleep
from typing import Any, Protocol

import pytest
from aiohttp import web

from keepalive.clock import ManualClock

from .raw import DEADLINE, Headers, RawPage, Served, handshake, serving

REDIS = "/usr/bin/redis-server"


class Serve(Protocol):
    def __call__(
        self, app: web.Application, *, tls: SSLContext | None = None, **options: Any
    ) -> Awaitable[Served]: ...


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
def clock() -> ManualClock:
    return ManualClock()


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


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of this test run alone."""
    assert Path(REDIS).exists(), f"install redis-server: {REDIS} is missing"
    with create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    command = [REDIS, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            _await_port(port, process)
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.kill()


def _await_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = monotonic() + DEADLINE
    while True:
        try:
            create_connection(("127.0.0.1", port), 1.0).close()
            return
        except OSError:
            assert process.poll() is None, "redis-server did not start"
            assert monotonic() < deadline, "redis-server does not answer"
            sleep(0.01)
