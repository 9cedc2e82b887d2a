"""What the matrix of browser states is tested with: a site, a register of its sockets, and words for
what a page is doing."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import Any, Self, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler
from playwright.async_api import BrowserContext, CDPSession, Error, Page

import keepalive
from keepalive import live
from keepalive.messages import Ping

from .. import raw
from ..raw import serving
from .conftest import DEADLINE

T = TypeVar("T")

INTERVAL = 1.0
IDLE = 6.0
MOMENT = 0.5
HIDDEN = 180.0
"""How long a page is kept out of sight, in seconds: there its timers run once a minute."""
QUICK: dict[str, Any] = {"ping_interval": INTERVAL, "idle_timeout": IDLE}
"""A session that needs its pings, and shows soon when it lacks them."""
PATIENT: dict[str, Any] = {"ping_interval": INTERVAL, "idle_timeout": 600.0}
"""A session that outlives any gap of a test, for rows about the connection alone."""
WARNED: dict[str, Any] = {
    "mode": "activity",
    "ping_interval": 60.0,
    "idle_timeout": 200.0,
    "warn_before": 195.0,
}
"""A session that warns at once, with pages that hear of nothing by pings of their own during a test."""

# Notes what the page hears and does, from before its first script to its end.
RECORD = """(() => {
  const seen = { sockets: 0, beats: 0, moving: 0 };
  for (const list of ["known", "states", "ends", "errors", "reports"]) seen[list] = [];
  window.seen = seen;
  window.WebSocket = class extends WebSocket {
    constructor(...given) {
      seen.sockets += 1;
      super(...given);
    }
  };
  const on = (type, note) => addEventListener(type, note, { capture: true });
  addEventListener("session-beat", ({ target }) => {
    seen.beats += 1;
    if (target.shadowRoot.getAnimations().some((each) => each.playState === "running")) seen.moving += 1;
  });
  on("session-statechange", ({ state, known, previous }) => {
    seen.known.push([state, known]);
    if (state !== previous) seen.states.push([state, Date.now()]);
  });
  on("session-end", ({ reason }) => seen.ends.push(reason));
  on("error", ({ message }) => seen.errors.push(message));
  on("unhandledrejection", ({ reason }) => seen.errors.push(String(reason)));
  on("securitypolicyviolation", ({ effectiveDirective }) => seen.reports.push(effectiveDirective));
})()"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>matrix</title>
<link rel="icon" href="data:,">
<script type="module" src="/keepalive/client/define.js"></script>
</head>
<body>
<session-heart {heart}></session-heart>
<p>A page that stays open. <button>Here I am</button></p>
</body>
</html>
"""


def now() -> float:
    """The time that the register uses, in seconds."""
    return asyncio.get_running_loop().time()


class Visit:
    """One socket of a page, as the server met it."""

    def __init__(self, page: live.Page) -> None:
        self.page = page
        self.opened_at = now()
        self.closed_at = inf
        self.pings: list[tuple[float, Ping]] = []
        self.code: int | None = None
        """What it was closed with, by whoever closed it first; `None` while it is open."""

    def overlaps(self, new: "Visit") -> bool:
        """Whether it was still there when a new one had been open for a moment."""
        return new is not self and self.opened_at <= new.opened_at < self.closed_at - MOMENT


class Site:
    """An app with one page, that listens to what the sockets of this page say to the heart.

    Args:
        heart: attributes of the page's `<session-heart>`.
        csp: the page's Content-Security-Policy; `{host}` stands for the site's host and port.
        policy: how long sessions live, as for `keepalive.Policy`.
    """

    def __init__(self, heart: str = "", *, csp: str | None = None, **policy: Any) -> None:
        self.heart = heart
        self.url = ""
        self.port = 0
        self.visits: list[Visit] = []
        """All sockets that there were, in the order of their opening."""
        self.posts = 0
        """How many pings came over HTTP."""
        self._csp = csp
        self.app = web.Application(middlewares=[self._count])
        self.keepalive = keepalive.setup(self.app, "memory://", policy=keepalive.Policy(**policy))
        connections = self.keepalive._connections
        self._heart, connections.listener = connections.listener, self
        self.app.router.add_get("/", self._show)
        self.app.router.add_get("/elsewhere", self._show_nothing)
        self.app.router.add_post("/in", self._sign_in)

    @asynccontextmanager
    async def served(self, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Self]:
        """Serve it on a free port of 127.0.0.1, for an `async with`."""
        async with serving(self.app, tls=tls) as (_, self.port):
            self.url = f"https://localhost:{self.port}" if tls else f"http://127.0.0.1:{self.port}"
            yield self

    @property
    def open(self) -> list[Visit]:
        """The sockets that are open."""
        return [visit for visit in self.visits if visit.code is None]

    @property
    def most(self) -> int:
        """How many were open at the same time, the moment left out in which one tab takes over from another.

        A browser closes a tab's socket in one process and frees its lock in another; neither waits.
        """
        return max(1 + sum(each.overlaps(new) for each in self.visits) for new in self.visits)

    async def end(self, visit: Visit) -> None:
        """Sign the user of a socket out, as an administrator does."""
        assert await self.keepalive.end(visit.page.live.key, keepalive.Reason.REVOKED)

    # What the sockets say, on its way to the heart.

    def on_open(self, page: live.Page) -> None:
        self.visits.append(Visit(page))
        self._heart.on_open(page)

    def on_ping(self, page: live.Page, ping: Ping, now: float) -> None:
        self._of(page).pings.append((asyncio.get_running_loop().time(), ping))
        self._heart.on_ping(page, ping, now)

    def on_close(self, page: live.Page, code: int) -> None:
        visit = self._of(page)
        visit.code, visit.closed_at = code, now()
        self._heart.on_close(page, code)

    def _of(self, page: live.Page) -> Visit:
        return next(visit for visit in self.visits if visit.page is page)

    # The app.

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.endswith("/heartbeat"):
            self.posts += 1
        return await handler(request)

    async def _show(self, request: web.Request) -> web.Response:
        response = web.Response(text=PAGE.format(heart=self.heart), content_type="text/html")
        if self._csp is not None:
            response.headers["Content-Security-Policy"] = self._csp.format(host=request.host)
        return response

    async def _show_nothing(self, request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>elsewhere</title>", content_type="text/html")

    async def _sign_in(self, request: web.Request) -> web.Response:
        await self.keepalive.start(request, "Ada")
        return web.Response()


# What a test does with a browser.


async def sign_in(context: BrowserContext, url: str) -> None:
    """Give a browser a session."""
    response = await context.request.post(f"{url}/in")
    assert response.ok


async def is_alive(context: BrowserContext, url: str) -> bool:
    """Whether a browser's session lives; asked without touching it."""
    response = await context.request.get(f"{url}/keepalive/state")
    assert response.status in (200, 401)
    return response.ok


async def left(context: BrowserContext, url: str) -> float:
    """How many seconds a browser's session has left; asked without touching it."""
    response = await context.request.get(f"{url}/keepalive/state")
    told: dict[str, float] = await response.json()
    return told["expires_in"]


async def is_kept(left: Callable[[], Awaitable[float]], by: float = 5.0) -> None:
    """Wait until a session's deadline has moved by so many seconds; `left` tells how far off it is."""

    async def deadline() -> float:
        return now() + await left()

    first = await deadline()
    await eventually(deadline, lambda moved: moved >= first + by)


async def arrive(context: BrowserContext, url: str, state: str = "open") -> Page:
    """Open the page in a tab of its own, in front of the others, and wait for a state."""
    page = await context.new_page()
    await page.goto(url)
    await becomes(page, state)
    return page


async def heart(page: Page, expression: str) -> Any:
    """What the connection behind the page's heart says of itself."""
    return await page.evaluate(f"document.querySelector('session-heart').keepalive?.{expression} ?? null")


async def state_of(page: Page) -> str:
    state: str = await heart(page, "state")
    return state


async def seen(page: Page, what: str) -> Any:
    """What the page has noted; see `RECORD`."""
    return await page.evaluate(f"seen.{what}")


async def eventually(
    look: Callable[[], Awaitable[T]], accept: Callable[[T], object] = bool, within: float = DEADLINE
) -> T:
    """Look again and again until what is seen is accepted; fails after `within` seconds."""
    deadline = now() + within
    while True:
        found = await look()
        if accept(found):
            return found
        assert now() < deadline, f"after {within:g} s it is still {found!r}"
        await asyncio.sleep(0.02)


async def until(condition: Callable[[], object], within: float = DEADLINE) -> None:
    """Wait for a condition to come true, as long as browsers may take on a busy machine."""
    await raw.until(condition, within)


async def becomes(page: Page, state: str, within: float = DEADLINE) -> None:
    """Wait for the connection behind the page's heart to be in a state."""
    await eventually(lambda: state_of(page), lambda found: found == state, within)


async def always(condition: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Hold a condition to be true for so long."""
    until = now() + seconds
    while now() < until:
        assert await condition()
        await asyncio.sleep(0.1)


async def no_complaints(page: Page) -> None:
    """No exception went uncaught on a page."""
    assert await seen(page, "errors") == []


async def devtools(page: Page) -> CDPSession:
    """A line to the page's renderer."""
    return await page.context.new_cdp_session(page)


async def go_back(page: Page) -> None:
    """Press the back button, and wait until the page that had `window.mark` is there again."""
    with suppress(Error):  # the answer goes with the page that was there
        await page.evaluate("history.back()")

    async def is_marked() -> bool:
        with suppress(Error):
            return bool(await page.evaluate("window.mark === true"))
        return False

    await eventually(is_marked)


async def set_frozen(page: Page, frozen: bool) -> None:
    """Freeze a page as a browser does that saves energy, or have it go on."""
    line = await devtools(page)
    await line.send("Page.setWebLifecycleState", {"state": "frozen" if frozen else "active"})
    await line.detach()
