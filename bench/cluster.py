"""Several nodes on one Redis, measured: what docs/cluster.md quotes.

    python -m bench.cluster

Starts its own Redis (AOF, every second), nodes and nginx on free ports of the loopback interface; takes
about two minutes.
"""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from time import monotonic

from aiohttp import ClientSession, TCPConnector
from cryptography.fernet import Fernet
from redis.asyncio import Redis

from keepalive.policy import Policy
from keepalive.stores import open_store
from keepalive.touchers import Touch, key_of
from tests.nodes import Node, Visitor, nodes, proxy, sign_in
from tests.ports import free_port

SECRET = Fernet.generate_key().decode()
LOGOUTS, PAGES, SESSIONS, BATCH = 300, 300, 15_000, 200


class Server:
    """A Redis that keeps its port and its data through restarts."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._command = [
            "redis-server",
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(folder),
        ]
        self._command += [
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--loglevel",
            "warning",
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        async with asyncio.timeout(20), Redis(port=self.port) as redis:
            while True:
                try:
                    await redis.ping()
                    return
                except Exception:
                    await asyncio.sleep(0.01)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@asynccontextmanager
async def visitors(count: int, url: str, interval: float) -> AsyncIterator[list[Visitor]]:
    """Pages, each with a session of its own."""
    async with ClientSession(connector=TCPConnector(limit=0)) as http:
        pages = [Visitor(http, url, await sign_in(url, f"user {number}")) for number in range(count)]
        tasks = [asyncio.create_task(page.stay(interval)) for page in pages]
        await _until(lambda: all(page.beats for page in pages))
        try:
            yield pages
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def logouts(here: Node, there: Node) -> None:
    """From the answer to a logout at one node to the end that a page hears at the other."""
    took = []
    async with ClientSession() as http:
        for number in range(LOGOUTS):
            cookie = await sign_in(here.url, f"user {number}")
            page = Visitor(http, there.url, cookie)
            staying = asyncio.create_task(page.stay(60.0))
            await _until(lambda page=page: page.beats > 0)
            async with http.post(f"{here.url}/logout", headers={"Cookie": cookie}) as answer:
                assert answer.status == 200
            answered = asyncio.get_running_loop().time()
            await asyncio.wait_for(staying, 5)
            assert page.end is not None
            took.append((page.end[1] - answered) * 1000)
    told = (
        f"median {median(took):.1f} ms, p99 {quantiles(took, n=100)[98]:.1f} ms, longest {max(took):.1f} ms"
    )
    print(f"from the answer to {LOGOUTS} logouts at one node to the end at the other: {told}")


async def restart_of_redis(server: Server, node: Node) -> None:
    """How long until all pages have their beats again, from when Redis is back."""
    async with visitors(60, node.url, 0.5) as pages:
        server.kill()
        await asyncio.sleep(5)
        assert [page.end for page in pages] == [None] * len(pages)
        await server.start()
        back = monotonic()
        before = [page.beats for page in pages]
        await _until(lambda: all(page.beats > old for page, old in zip(pages, before, strict=True)))
        ended = sum(page.end is not None for page in pages)
        took = monotonic() - back
        print(
            f"Redis killed, back after 5 s: {len(pages)} pages have beats {took:.2f} s later, {ended} ended"
        )


async def rolling_restart(url: str, behind: Sequence[Node]) -> None:
    """Every node is stopped and started, one after the other, under pages behind nginx."""
    async with visitors(PAGES, url, 1.0) as pages:
        began = monotonic()
        for node in behind:
            await node.stop()
            await node.start()
            before = [page.beats for page in pages]
            await _until(
                lambda before=before: all(p.beats > old for p, old in zip(pages, before, strict=True))
            )
        moved = sum(len(page.closed) for page in pages)
        ended = sum(page.end is not None for page in pages)
        took = monotonic() - began
        told = f"{moved} sockets moved, {ended} pages ended"
        print(f"{len(behind)} nodes restarted in {took:.1f} s under {PAGES} pages: {told}")


async def touches(server: Server) -> None:
    """What a core of Redis takes, by the processor time that it says it has used."""
    store = open_store(f"{server.url}?prefix=touches:")
    await store.open()
    try:
        keys = [key_of(str(number)) for number in range(SESSIONS)]
        for start in range(0, SESSIONS, 500):
            await asyncio.gather(
                *(
                    store.create(key, data=b"{}", user=None, policy=Policy())
                    for key in keys[start : start + 500]
                )
            )
        async with Redis(port=server.port) as redis:
            before, began = await _processor(redis), monotonic()
            for _ in range(3):
                for start in range(0, SESSIONS, BATCH):
                    await store.touch([Touch(key, 1800.0, 3.0) for key in keys[start : start + BATCH]])
            took, used = monotonic() - began, await _processor(redis) - before
        count = 3 * SESSIONS
        each = f"{used / count * 1e6:.1f} µs of Redis each, so {count / used:,.0f} a second and core"
        print(
            f"touches in batches of {BATCH}: {each}; {count / took:,.0f} by one process that waits for each"
        )
    finally:
        await store.close()


async def _processor(redis: Redis) -> float:
    info = await redis.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


async def operations(server: Server, node: Node) -> None:
    """What the pages of a node ask Redis for, at the default settings."""
    async with visitors(200, node.url, 25.0), Redis(port=server.port) as redis:
        await asyncio.sleep(5)
        before = await _calls(redis)
        await asyncio.sleep(60)
        asked = await _calls(redis) - before
    print(f"200 pages at the default settings: {asked} scripts in a minute")


async def _calls(redis: Redis) -> int:
    stats = await redis.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("evalsha", "eval"))


async def _until(condition: object, within: float = 60.0) -> None:
    async with asyncio.timeout(within):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


async def main() -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="keepalive-cluster-")))
        server = Server(folder)
        stack.callback(server.kill)
        await server.start()
        quick = await stack.enter_async_context(
            nodes(2, server.url, SECRET, "--ping-interval", "1", "--idle-timeout", "60")
        )
        await logouts(*quick)
        url = await stack.enter_async_context(proxy("nginx", folder, quick))
        await rolling_restart(url, quick)
        await restart_of_redis(server, quick[0])
        (usual,) = await stack.enter_async_context(nodes(1, server.url, SECRET))
        await operations(server, usual)
        await touches(server)


if __name__ == "__main__":
    asyncio.run(main())
