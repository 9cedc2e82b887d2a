"""The servers that are measured: keepalive, and what a user would pick instead.

All do the same job. A page comes with a cookie; the server finds its session, or refuses it, and
says hello. The page pings in JSON; the server parses that, moves the idle deadline of the session,
and answers with a beat, in JSON, of how long it lives. Nothing is compressed or logged. The rivals
do less than keepalive does: no rate limit, no warnings, no end of a session that reaches the page.
"""

from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from shutil import which
from typing import Any, NamedTuple

HERE = Path(__file__).parent


class Rival(NamedTuple):
    """A server, as it is configured for the benchmarks."""

    name: str
    loop: str
    """asyncio, uvloop or node."""
    server: str
    """The function in this package that serves it, or the program for Node."""
    jar: str
    """Which cookies its pages have: see `bench.sessions`."""
    speech: str = "page"
    """What its pages speak: see `load.c`."""
    path: str = "/keepalive/ws"
    needs: tuple[str, ...] = ()
    """The Python distributions, Node packages or programs that must be installed."""
    touch_every: float | None = None
    """keepalive's setting; 0 has every ping confirmed by the store."""

    def __str__(self) -> str:
        return f"{self.name}, {self.loop}"

    @property
    def missing(self) -> str | None:
        """What has to be installed before it can be measured; `None` if nothing."""
        for need in self.needs:
            if need == "redis-server":
                if which(need) is None:
                    return "there is no redis-server: install Redis"
            elif self.loop == "node":
                if not (HERE / "node_modules" / need).is_dir():
                    return f"the Node package {need} is not installed: see above, or npm ci in bench/rivals"
            elif not any(distributions(name=need)):
                return f"the Python package {need} is not installed: pip install {need}"
        return None


LOOPS = {"asyncio": (), "uvloop": ("uvloop",)}
"""Python's event loops, and what each needs."""

TUNING = {
    "keepalive": "as it is by default, but for the limit of messages a second: a closed loop sends more"
    " than any page may",
    "stock aiohttp": "`WebSocketResponse(compress=False)`, `json()` and `send_json()` as its documentation"
    " has it; the session is loaded by aiohttp-session from the same SQLite store",
    "tuned aiohttp": "the same by the fastest public calls: bytes in and out, with keepalive's JSON codec",
    "bare aiohttp": "a stock upgrade that loads no session and looks at no cookie: for the handshakes alone",
    "websockets": "`compression=None`, no control pings of its own, keepalive's JSON codec",
    "picows": "`WSListener` with keepalive's JSON codec, on the aiofastnet transports that it comes with,"
    " `read_buffer_init_size=1024` instead of 16 KiB a page",
    "python-socketio": "on aiohttp, WebSocket only, `async_handlers=False`, the beat as acknowledgement",
    "ws": "`perMessageDeflate: false`, with its optional native part, bufferutil",
    "socket.io": "WebSocket only, the beat as acknowledgement, with bufferutil",
    "polling, Redis": "an aiohttp-session handler that sets an item of the session, with `RedisStorage`,"
    " redis-py's `BlockingConnectionPool` and hiredis; Redis writes nothing to disk, and has the load's core",
    "polling, cookie": "the same handler with `EncryptedCookieStorage`",
}
"""How each is configured, and why that is fair."""


def _on_loops(name: str, server: str, jar: str, *needs: str, **more: Any) -> tuple[Rival, ...]:
    return tuple(Rival(name, loop, server, jar, needs=(*needs, *its), **more) for loop, its in LOOPS.items())


KEEPALIVE = _on_loops("keepalive", "keepalive.serve", "sealed")
CONFIRMED = tuple(rival._replace(touch_every=0.0) for rival in KEEPALIVE)
STOCK = _on_loops("stock aiohttp", "stock.documented", "sealed")
TUNED = _on_loops("tuned aiohttp", "stock.tuned", "sealed")
BARE = _on_loops("bare aiohttp", "stock.bare", "sealed")
"""A stock upgrade that loads no session and looks at no cookie."""
WEBSOCKETS = _on_loops("websockets", "websockets.serve", "plain", "websockets")
PICOWS = _on_loops("picows", "picows.serve", "plain", "picows")
_SOCKET_IO: dict[str, Any] = {"speech": "socket.io", "path": "/socket.io/?EIO=4&transport=websocket"}
PYTHON_SOCKETIO = _on_loops("python-socketio", "socketio.serve", "plain", "python-socketio", **_SOCKET_IO)
WS = Rival("ws", "node", "ws.mjs", "plain", needs=("ws",))
SOCKET_IO = Rival("socket.io", "node", "socketio.mjs", "plain", needs=("socket.io",), **_SOCKET_IO)
_POLLING: dict[str, Any] = {"speech": "http", "path": "/heartbeat"}
POLLING_REDIS = _on_loops("polling, Redis", "polling.redis", "redis", "redis", "redis-server", **_POLLING)
POLLING_COOKIE = _on_loops("polling, cookie", "polling.cookie", "encrypted", **_POLLING)

SOCKETS: Sequence[Rival] = (
    *KEEPALIVE, *STOCK, *TUNED, *WEBSOCKETS, *PICOWS, *PYTHON_SOCKETIO, WS, SOCKET_IO,
)  # fmt: skip
"""All that hold a connection to each page."""
POLLING: Sequence[Rival] = (*POLLING_REDIS, *POLLING_COOKIE)
