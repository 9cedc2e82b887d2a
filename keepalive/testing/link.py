"""How a fake tab reaches its server: inside of the process, or over a real socket."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import aiohttp
from aiohttp import CookieJar, web
from aiohttp.abc import AbstractCookieJar

from .. import live
from ..client import link as client
from ..client.address import address_of
from ..client.machine import Closed
from ..errors import ConnectError, StoreError
from ..messages import CLOSE_CODE, Answer, End, Ping, Wait, decode_answer, decode_message, encode
from ..policy import Reason
from ..touchers import Ticket
from .page import Page
from .server import Server

Cookies = AbstractCookieJar | Mapping[str, str]


class Work:
    """What the pages of a test have under way."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._soon = 0

    @property
    def busy(self) -> bool:
        return bool(self._soon or self._tasks)

    def soon(self, call: Callable[..., object], *args: object) -> None:
        """Call after what runs now."""
        self._soon += 1
        asyncio.get_running_loop().call_soon(self._call, call, args)

    def _call(self, call: Callable[..., object], args: tuple[object, ...]) -> None:
        self._soon -= 1
        call(*args)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class LocalLink:
    """To a server of this process, past the network and aiohttp: a thousand pages cost no socket.

    Args:
        server: which one.
        jar: the browser's cookies.
        work: of the test.
    """

    def __init__(self, server: Server, jar: AbstractCookieJar, work: Work) -> None:
        self.server = server
        self.jar = jar
        self._work = work
        self._wire: _Wire | None = None

    def connect(self, page: Page) -> None:
        self._wire = _Wire(page, self.server, self._work)
        self._work.start(self._open(page, self._wire))

    async def _open(self, page: Page, wire: "_Wire") -> None:
        try:
            read_at = self.server.keepalive.clock.monotonic()
            found = await self._admit()
        except (StoreError, TimeoutError, web.HTTPException):
            wire.tell(Closed(1006))  # what a page hears of a refused handshake
            return
        if isinstance(found, Reason):
            reason = _outward(found)
            wire.tell(End(reason))
            wire.tell(Closed(CLOSE_CODE[reason]))
        elif wire.open:
            wire.join(found, read_at)

    async def _admit(self) -> Ticket | Reason:
        response = web.Response()
        found = await self.server.keepalive.door.admit(self.server.request(self.jar), response)
        self.server.bake(self.jar, response)
        return found

    def send(self, ping: Ping) -> None:
        if self._wire is not None:
            self._wire.say(ping)

    def part(self, code: int) -> None:
        if self._wire is not None:
            self._wire.part(code)

    def cut(self) -> None:
        if self._wire is not None:
            self._wire.whole = False

    def post(self, page: Page, ping: Ping) -> None:
        self._work.start(self._post(page, ping))

    async def _post(self, page: Page, ping: Ping) -> None:
        page.answered(ping.n, await self._ask(page, ping) if page.online else None)

    async def _ask(self, page: Page, ping: Ping) -> Answer | None:
        keepalive = self.server.keepalive
        try:
            read_at = keepalive.clock.monotonic()
            found = await self._admit()
        except (StoreError, TimeoutError):
            return Wait(ping.n, retry_in=2.0, why="store")
        except web.HTTPException:
            return None
        if isinstance(found, Reason):
            return End(_outward(found))
        return decode_answer(await keepalive.heart.ping_once(found, ping, read_at, _id(page)))


def _id(page: Page) -> str:
    """What a page calls itself."""
    return page.name.replace(" ", "-")


class _Wire:
    """One socket, from both of its sides; to the heart it is a `live.Socket`."""

    def __init__(self, page: Page, server: Server, work: Work) -> None:
        self.open = True
        self.whole = True
        """Whether what one side sends reaches the other."""
        self._heard = True  # the page has not let go of it
        self._page = page
        self._heart = server.keepalive.heart
        self._clock = server.keepalive.clock
        self._work = work
        self._joined: live.Page | None = None

    def join(self, ticket: Ticket, read_at: float) -> None:
        self._joined = self._heart.join(ticket, self, read_at, id=_id(self._page))
        self._heart.on_open(self._joined)

    # What the heart calls.

    def send(self, message: bytes) -> None:
        told = decode_message(message) if self.open else None
        if told is not None:
            self.tell(told)

    def close(self, code: int, reason: str = "") -> None:
        if self.open:
            self.tell(Closed(code))
            self.open = False
            self._work.soon(self._heart.on_close, self._joined, code)

    def tell(self, what: Any) -> None:
        """Tell the page after what runs now: its answer must not come in the middle of that."""
        if self.whole and self.open:
            self._work.soon(self._deliver, what)

    def _deliver(self, what: Any) -> None:
        if self._heard:
            self._page.told(what)

    # What the page calls.

    def say(self, ping: Ping) -> None:
        if self.open and self.whole and self._joined is not None:
            self._heart.on_ping(self._joined, ping, self._clock.monotonic())

    def part(self, code: int) -> None:
        if self.open and self.whole and self._joined is not None:
            self._heart.on_close(self._joined, code)
        if self.whole:
            self.open = False  # else it stands on the server's side, until that finds out
        self._heard = False


class RemoteLink:
    """To any server, over a real socket and in the machine's time.

    Args:
        url: where its routes are mounted.
        jar: the browser's cookies.
        work: of the test.
    """

    def __init__(self, url: str, jar: AbstractCookieJar, work: Work) -> None:
        self.jar = jar
        self._work = work
        self._http = aiohttp.ClientSession(cookie_jar=jar)
        self._link = client.Link(self._http, address_of(url))
        self._socket: client.Socket | None = None
        self._talking: asyncio.Task[None] | None = None
        self._parting = 1000
        self._whole = True

    def connect(self, page: Page) -> None:
        self._whole = True
        self._talking = self._work.start(self._talk(page))

    async def _talk(self, page: Page) -> None:
        code = 1006
        try:
            async with self._link.connect() as socket:
                self._socket = socket
                try:
                    async for message in socket:
                        if message.type is aiohttp.WSMsgType.TEXT and self._whole:
                            told = decode_message(message.data)
                            if told is not None:
                                page.told(told)
                except asyncio.CancelledError:
                    if self._parting != 1006:
                        await socket.close(code=self._parting)
                    raise
                code = socket.close_code or 1006
        except (aiohttp.ClientError, OSError, ConnectError):
            pass  # 1006 is all that a page would hear of it
        if self._whole:
            page.told(Closed(code))

    def send(self, ping: Ping) -> None:
        if self._socket is not None and self._whole:
            self._work.start(client.say(self._socket, encode(ping)))

    def part(self, code: int) -> None:
        self._parting = code
        talking, self._talking, self._socket = self._talking, None, None
        if talking is not None:
            talking.cancel()

    def cut(self) -> None:
        self._whole = False

    def post(self, page: Page, ping: Ping) -> None:
        self._work.start(self._post(page, ping))

    async def _post(self, page: Page, ping: Ping) -> None:
        page.answered(ping.n, await self._link.ask(encode(ping)) if page.online else None)

    async def close(self) -> None:
        await self._http.close()


def _outward(reason: Reason) -> Reason:
    return Reason.REVOKED if reason is Reason.ROTATED else reason


def jar_of(cookies: Cookies | None, url: str | None) -> AbstractCookieJar:
    """A browser's cookie jar, from what a test gives."""
    if isinstance(cookies, AbstractCookieJar):
        return cookies
    jar = CookieJar(unsafe=True)
    jar.update_cookies(cookies or {}, address_of(url or "http://127.0.0.1").base.origin())
    return jar
