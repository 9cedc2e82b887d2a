"""Nodes on one Redis, behind nginx and HAProxy as `deploy` configures them: one truth over all of them."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, TCPConnector
from cryptography.fernet import Fernet
from yarl import URL

from .nodes import Node, Visitor, many_files, nodes, proxy, sign_in, until, who
from .raw import DEADLINE

SECRET = Fernet.generate_key().decode()
INTERVAL = 0.5
PATIENCE = 50.0
"""What many pages are allowed on a machine that is busy, in seconds."""
RULES = ("--ping-interval", "1", "--idle-timeout", "20")

pytestmark = pytest.mark.timeout(120)

Cluster = Callable[[int], Awaitable[list[Node]]]


@pytest.fixture
async def cluster(redis_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    """Starts nodes that share their sessions."""
    async with AsyncExitStack() as stack:

        async def start(count: int) -> list[Node]:
            store = f"{redis_url}?prefix={tmp_path.name}:"
            return await stack.enter_async_context(nodes(count, store, SECRET, *RULES))

        yield start


@asynccontextmanager
async def visitors(count: int, url: str, interval: float = INTERVAL) -> AsyncIterator[list[Visitor]]:
    """Pages, each with a session of its own, that stay until the end of the test."""
    async with ClientSession(connector=TCPConnector(limit=0)) as http:
        cookies = [await sign_in(url, f"user {number}") for number in range(count)]
        pages = [Visitor(http, url, cookie) for cookie in cookies]
        tasks = [asyncio.create_task(page.stay(interval)) for page in pages]
        try:
            await until(lambda: all(page.beats for page in pages), PATIENCE)
            yield pages
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [error for error in results if isinstance(error, Exception)] == []


async def go_on(pages: list[Visitor]) -> None:
    """All of them have two beats more."""
    before = [page.beats for page in pages]
    await until(lambda: all(page.beats >= old + 2 for page, old in zip(pages, before, strict=True)), PATIENCE)


async def test_a_logout_on_one_node_closes_the_sockets_of_another(cluster: Cluster) -> None:
    here, there = await cluster(2)
    cookie = await sign_in(here.url, "ann")
    assert await who(there.url, cookie) == "ann"
    async with ClientSession() as http:
        page = Visitor(http, there.url, cookie)
        staying = asyncio.create_task(page.stay(INTERVAL))
        await until(lambda: page.beats > 0)
        async with http.post(f"{here.url}/logout", headers={"Cookie": cookie}) as answer:
            assert answer.status == 200
        signed_out = asyncio.get_running_loop().time()
        await asyncio.wait_for(staying, DEADLINE)
    assert page.end is not None
    reason, heard = page.end
    assert reason == "logout"
    assert heard - signed_out < 1
    assert page.closed == [4503]
    assert await who(there.url, cookie) is None


@pytest.mark.parametrize(("kind", "count"), [("nginx", 3), ("haproxy", 2), ("haproxy", 3)])
async def test_a_rolling_restart_loses_no_session_and_ends_no_page(
    cluster: Cluster, kind: str, count: int, tmp_path: Path
) -> None:
    behind = await cluster(count)
    async with proxy(kind, tmp_path, behind) as url, visitors(60, url, INTERVAL / 2) as pages:
        assert all([await node.sockets() for node in behind])  # without stickiness they are everywhere
        for node in behind:
            assert await node.stop() == 0
            await asyncio.gather(go_on(pages), node.start())
        await go_on(pages)
        assert [page.end for page in pages] == [None] * 60
        left = [code for page in pages for code in page.closed]
        assert len(left) >= 60  # each was moved
        assert set(left) == {1012}
        assert sum([await node.sockets() for node in behind]) == 60


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
@pytest.mark.parametrize(("count", "interval"), [(200, 1.0), pytest.param(1000, 4.0, marks=pytest.mark.slow)])
async def test_a_node_that_is_killed_leaves_its_pages_to_the_others(
    redis_url: str, kind: str, count: int, interval: float, tmp_path: Path
) -> None:
    many_files()
    store = f"{redis_url}?prefix={tmp_path.name}:"
    rules = ("--ping-interval", f"{interval}", "--idle-timeout", "60", "--pages-per-address", f"{count}")
    other = Node(store, SECRET, *rules)
    async with (
        nodes(1, store, SECRET, *rules) as (lost,),
        proxy(kind, tmp_path, [lost, other]) as url,
        visitors(count, url, interval) as pages,
    ):
        assert await lost.sockets() == count
        await other.start()
        try:
            assert await lost.stop(signal.SIGKILL) == -signal.SIGKILL
            await until(lambda: all(page.closed for page in pages), PATIENCE)
            await go_on(pages)
            assert [page.end for page in pages] == [None] * count
            assert await other.sockets() == count
        finally:
            await other.stop(signal.SIGKILL)


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
async def test_the_operators_pages_are_not_behind_the_proxy(
    redis_url: str, kind: str, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(SECRET)
    token.chmod(0o600)
    paths = ["/metrics", "/healthz", "/readyz", "/keepalive/admin/", "/keepalive/admin/api/openapi.json"]
    spelt = [path.replace(letter, f"%{ord(letter):x}") for path in paths for letter in "ae" if letter in path]
    store = f"{redis_url}?prefix={tmp_path.name}:"
    async with (
        nodes(1, store, SECRET, "--admin-token-file", str(token)) as (node,),
        proxy(kind, tmp_path, [node]) as url,
        ClientSession(headers={"Authorization": f"Bearer {SECRET}"}) as http,
    ):

        async def status(base: str, path: str) -> int:
            async with http.get(URL(base + path, encoded=True)) as answer:
                return answer.status

        assert {path: await status(node.url, path) for path in paths} == dict.fromkeys(paths, 200)
        for path in [*paths, *spelt, *(f"/{path}" for path in paths)]:
            assert await status(url, path) == 404, path
        assert await status(url, "/") == 200


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
async def test_a_page_beats_for_five_minutes_through_a_proxy(
    redis_url: str, kind: str, tmp_path: Path
) -> None:
    """At the default interval: no proxy takes that for silence."""
    async with (
        nodes(2, f"{redis_url}?prefix={tmp_path.name}:", SECRET) as behind,
        ClientSession() as http,
        proxy(kind, tmp_path, behind) as url,
    ):
        page = Visitor(http, url, await sign_in(url, "ann"))
        staying = asyncio.create_task(page.stay(25))
        await asyncio.sleep(300)
        assert page.beats >= 12
        assert page.closed == []
        staying.cancel()
