"""People who come, look around and go: something to see on a dashboard.

`python -m tests.visitors 300 http://127.0.0.1:8080 …` has 300 of them visit the demo server, which should
trust its neighbour as a proxy (`--trusted-proxies 127.0.0.1`), so that each comes from somewhere else.
"""

import asyncio
import random
import sys
from collections.abc import Sequence
from contextlib import suppress

from aiohttp import (
    ClientError,
    ClientSession,
    ClientWebSocketResponse,
    DummyCookieJar,
    TCPConnector,
    WSMsgType,
)

NAMES = "Ada Alan Barbara Claude Dennis Donald Edsger Frances Grace Hedy John Karen Ken Lynn"
FAMILIES = "Allen Dijkstra Hopper Johnson Kay Knuth Lamarr Liskov Lovelace Noether Ritchie Turing"


class Visitor:
    """One signed-in person with some pages."""

    def __init__(self, number: int, url: str, http: ClientSession, chance: random.Random) -> None:
        self._url = url
        self._http = http
        self._chance = chance
        self._name = f"{chance.choice(NAMES.split())} {chance.choice(FAMILIES.split())}"
        self._headers = {"X-Forwarded-For": f"203.0.113.{number % 250 + 1}"}
        self._active_at = 0.0

    async def visit(self) -> None:
        """Sign in, look around for a while, and mostly sign out again."""
        form = {"name": self._name}
        headers = self._headers
        async with self._http.post(
            f"{self._url}/login", data=form, headers=headers, allow_redirects=False
        ) as answer:
            cookies = "; ".join(f"{name}={each.value}" for name, each in answer.cookies.items())
        self._headers = headers | {"Cookie": cookies}
        self._active_at = asyncio.get_running_loop().time()
        pages = [asyncio.create_task(self._page()) for _ in range(self._chance.choice([1, 1, 1, 2, 2, 3]))]
        try:
            await asyncio.wait(pages, timeout=self._chance.expovariate(1 / 240) + 5)
            async with self._http.post(f"{self._url}/logout", headers=self._headers, allow_redirects=False):
                pass
            await asyncio.gather(*pages)
        finally:
            for page in pages:
                page.cancel()

    async def _page(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, 3))
        url = f"{self._url}/keepalive/ws"
        async with self._http.ws_connect(url, protocols=["keepalive.v1"], headers=self._headers) as page:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._chance.expovariate(1 / 240) + 5):
                    await self._look_around(page)
            if self._chance.random() < 0.2:  # a train goes into a tunnel
                page._response.close()

    async def _look_around(self, page: ClientWebSocketResponse) -> None:
        loop, n, visible = asyncio.get_running_loop(), 0, True
        interval = (await page.receive_json(timeout=10)).get("interval")
        if interval is None:  # not a hello: the session is over
            return
        while True:
            if self._chance.random() < 0.5:
                self._active_at = loop.time() - self._chance.uniform(0, interval)
            if self._chance.random() < 0.1:
                visible = not visible
            idle = round(loop.time() - self._active_at, 3)
            await page.send_json({"type": "ping", "n": n, "idle": max(0.0, idle), "visible": visible})
            n += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(interval * self._chance.uniform(0.9, 1.1)):
                    while (await page.receive()).type is WSMsgType.TEXT:
                        pass
                    return  # the session is over, or the node restarts


async def visits(count: int, urls: Sequence[str], within: float = 20.0) -> None:
    """Have so many people visit again and again, until cancelled.

    Args:
        count: how many at a time.
        urls: of the servers that share them.
        within: seconds over which they come first.
    """
    chance = random.Random(7)
    async with ClientSession(cookie_jar=DummyCookieJar(), connector=TCPConnector(limit=0)) as http:

        async def come_again(number: int) -> None:
            await asyncio.sleep(chance.uniform(0, within))
            while True:
                with suppress(ClientError, OSError, TypeError, TimeoutError):
                    await Visitor(number, urls[number % len(urls)], http, chance).visit()
                await asyncio.sleep(chance.uniform(1, 10))

        await asyncio.gather(*map(come_again, range(count)))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(visits(int(sys.argv[1]), sys.argv[2:]))
