"""Connections that ask for nothing just now: of one address so many, and no more.

A connection takes a file before it has said a word, and again from its answer to its next request. Whoever
opens thousands would leave none for others. So where an address has too many of them, that which has waited
longest has to go. Honest ones hardly notice: they send their request at once, and a browser opens a
connection anew that it had kept for later.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from aiohttp import web
from aiohttp.typedefs import Handler

from .trust import Trust

log = logging.getLogger(__name__)

MOST = 200
"""How many connections of an address may wait: as many as it may have pages, which come back together."""
SHARE_OF_FILES = 0.25
"""Of the file limit, how much that may take at most."""
TELL_EVERY = 60.0
"""How often the log tells that an address has too many, in seconds."""


class Lobby:
    """Stands between the connections of a server and what serves them.

    Args:
        trust: knows proxies, whose connections are not counted: they are everybody's.
        files: how many the process may open.
        patience: how long the body of a request may take to come after its head, in seconds.
    """

    def __init__(self, trust: Trust, files: float, patience: float) -> None:
        self._trust = trust
        self._patience = patience
        self._most = max(1, int(min(MOST, files * SHARE_OF_FILES)))
        self._waiting: dict[str, dict[_Visitor, None]] = {}  # of each address, the one that came first first
        self._tell_at = 0.0

    def receive(self, serve: Callable[[], web.RequestHandler]) -> asyncio.Protocol:
        """The protocol of a new connection, which `serve` makes another for."""
        return _Visitor(self, serve())

    @web.middleware
    async def attend(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Wait for the whole request, and for the next one (a middleware, the outermost)."""
        transport = request.transport
        visitor = None if transport is None else transport.get_protocol()
        if transport is None or not isinstance(visitor, _Visitor):  # it is gone
            return await handler(request)
        loop = asyncio.get_running_loop()
        late = loop.call_later(self._patience, request.content.set_exception, _Late())
        answered = False

        def is_whole() -> None:
            late.cancel()
            if not answered:  # else aiohttp is reading what nobody has asked for
                self.leave(visitor)

        request.content.on_eof(is_whole)
        try:
            return await handler(request)
        except _Late:
            raise web.HTTPRequestTimeout(text="the request was not whole in time\n") from None
        except (ConnectionError, web.RequestPayloadError):
            if request.content.exception() is None:
                raise
            # Anybody can leave halfway, as often as they like: no reason for a traceback in the log.
            raise web.HTTPBadRequest(text="the request did not come whole\n") from None
        finally:
            answered = True
            late.cancel()
            self.leave(visitor)  # one that is a page's by now would never be heard of again
            if transport.get_protocol() is visitor and not transport.is_closing():
                self.wait(visitor)

    def wait(self, visitor: "_Visitor") -> None:
        """A connection asks for nothing; one may have to go for it."""
        peer = visitor.transport.get_extra_info("peername")
        address = self._trust.stranger(peer[0]) if peer else None
        if address is None:
            return
        waiting = self._waiting.setdefault(address, {})
        waiting[visitor] = None
        visitor.address = address
        if len(waiting) > self._most:
            self._tell()
            longest = next(iter(waiting))
            self.leave(longest)
            longest.transport.abort()

    def leave(self, visitor: "_Visitor") -> None:
        """A connection waits no longer."""
        address, visitor.address = visitor.address, None
        if address is not None:
            waiting = self._waiting[address]
            del waiting[visitor]
            if not waiting:
                del self._waiting[address]

    def _tell(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._tell_at:
            self._tell_at = now + TELL_EVERY
            log.warning(
                "connections that ask for nothing are closed: an address has more than %d of them;"
                " if that is the address of a proxy, name it in `trusted_proxies`",
                self._most,
            )


class _Visitor(asyncio.Protocol):
    """One connection: whatever comes is passed on to the protocol that serves it."""

    def __init__(self, lobby: Lobby, served_by: web.RequestHandler) -> None:
        self.transport: asyncio.Transport
        self.address: str | None = None
        """Whose it is, while it waits."""
        self._lobby = lobby
        self._served_by = served_by

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._served_by.connection_made(transport)
        self._lobby.wait(self)

    def data_received(self, data: bytes) -> None:
        self._served_by.data_received(data)

    def eof_received(self) -> None:
        self._served_by.eof_received()

    def pause_writing(self) -> None:
        self._served_by.pause_writing()

    def resume_writing(self) -> None:
        self._served_by.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._lobby.leave(self)
        self._served_by.connection_lost(error)


class _Late(TimeoutError):
    """The body of a request has not come in time."""
