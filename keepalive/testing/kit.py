"""What the fixtures of one test share, and what each of them is."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractCookieJar

from ..clock import Clock, SystemClock
from ..errors import KeepaliveError
from ..policy import Policy, Reason
from ..stores.memory import MemoryStore
from ..web import KEEPALIVE, Keepalive, setup
from .clock import VirtualClock
from .link import Cookies, LocalLink, RemoteLink, Work, jar_of
from .page import Link, Page
from .server import Server
from .store import FaultyStore, PatientStorage
from .timeline import clock_face

SHOWN = 3
"""Timelines that a failure shows."""


class Kit:
    """One test's clock, servers, stores and pages. All of it is gone with the test."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.stack = stack
        self.clock: Clock = SystemClock()
        self.servers: list[Server] = []
        self.stores: list[FaultyStore] = []
        self.pages: list[Page] = []
        self.tabs: defaultdict[AbstractCookieJar, list[Page]] = defaultdict(list)
        """The same by their browsers, each of which has its jar."""
        self.blamed: list[Page] = []
        self.work = Work()
        self.stack.push_async_callback(self._stop)

    def make_virtual(self, patch: Callable[..., None]) -> VirtualClock:
        """Have time stand still, also for whoever makes a clock of the package or asks `time.time`.

        Args:
            patch: as `monkeypatch.setattr`.
        """
        clock = VirtualClock()
        clock.await_rest(self.work)
        times = {"wall": clock.wall, "monotonic": clock.monotonic}
        patch(SystemClock, "__init__", lambda self: self.__dict__.update(times))
        patch("time.time", clock.wall)
        self.clock = clock
        return clock

    def call_at(self, when: float, callback: Callable[[], object]) -> None:
        if isinstance(self.clock, VirtualClock):
            self.clock.call_at(when, callback)
        else:  # a millisecond later than too early
            pause = when - self.clock.monotonic() + 0.001
            asyncio.get_running_loop().call_later(max(pause, 0.0), callback)

    def mount(self, app: web.Application, policy: Policy | None, options: dict[str, Any]) -> Server:
        """The sessions of an app, which gets some unless it has."""
        if KEEPALIVE in app:
            if policy is not None or options:
                raise KeepaliveError(
                    "the app has called keepalive.setup itself", "give policy and options there, not here"
                )
            keepalive = app[KEEPALIVE]
            if isinstance(self.clock, VirtualClock):
                self._set_clocks(keepalive)
        else:
            store = FaultyStore(MemoryStore(self.clock))
            self.stores.append(store)
            own = {name: options.pop(name) for name in ("secure", "user_key") if name in options}
            storage = PatientStorage(store, policy, **own)
            keepalive = setup(app, storage, clock=self.clock, **options)
        server = Server(app, keepalive)
        self.servers.append(server)
        if isinstance(self.clock, VirtualClock):
            self.clock.drive(server)
            self.clock.await_quiet(server)
        return server

    def _set_clocks(self, keepalive: Keepalive) -> None:
        """See that an app and its store go by the virtual clock; one that goes by Redis's time is lent it."""
        store: Any = keepalive.door.toucher
        if getattr(store, "__dict__", {}).get("_clock", self.clock) is None:
            store._clock = self.clock
            self.stack.callback(setattr, store, "_clock", None)
        for what, clock in ("app", keepalive.clock), ("app's store", getattr(store, "_clock", self.clock)):
            if getattr(clock, "wall", None) != self.clock.wall:
                raise KeepaliveError(
                    f"the {what} goes by another clock than the fixture `clock`",
                    "make it inside of the test, or in a fixture that asks for `clock`",
                )

    async def settled(self, page: Page) -> None:
        """A page has been let in, or has learned why not."""
        if isinstance(self.clock, VirtualClock):
            await self.clock.advance()
        while page.state == "connecting":  # noqa: ASYNC110 - no longer than 10 s
            await asyncio.sleep(0.005)

    async def _stop(self) -> None:
        for page in self.pages:
            page.gone = True  # what still calls it back finds nobody
        await self.work.stop()

    def report(self) -> str:
        """Timelines, of those pages first that were not as they should be."""
        pages = list(dict.fromkeys([*self.blamed, *self.pages]))
        texts = [f"{page.name}, {page.state}\n{page.timeline}" for page in pages[:SHOWN]]
        if len(pages) > SHOWN:
            texts.append(f"… and {len(pages) - SHOWN} more")
        return "\n\n".join(texts)


class KeepaliveServer:
    """Starts a real server on a free port of 127.0.0.1, with its sessions in memory.

    `server = await keepalive_server(policy=Policy(…))`; any option of `keepalive.setup` may be given, too.
    """

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    async def __call__(self, *, policy: Policy | None = None, **options: Any) -> Server:
        app = web.Application()
        server = self._kit.mount(app, policy, options)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        self._kit.stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.port = runner.addresses[0][1]
        return server


class KeepaliveApp:
    """Makes an app's sessions known to the other fixtures; to be called before the app is served.

    An app that has called `keepalive.setup` itself stays as it is; another one gets sessions in memory,
    with the policy and the options that are given.
    """

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    def __call__(self, app: web.Application, *, policy: Policy | None = None, **options: Any) -> Server:
        return self._kit.mount(app, policy, options)


class OpenPage:
    """Opens fake browser tabs.

    `tab = await page("ann")` signs a user in and opens a page. `await page(cookies=…)` opens one with
    the cookies of a jar, such as that of an aiohttp client that has signed in by the app's own form; what
    is renewed goes into it. Pages with the same jar are tabs of one browser. With `url=` the page is one of
    any server anywhere, in the machine's time.
    """

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    async def __call__(
        self, user: str | None = None, *, cookies: Cookies | None = None, url: str | None = None
    ) -> Page:
        kit = self._kit
        jar = jar_of(cookies, url)
        link: Link
        if url is not None:
            if isinstance(kit.clock, VirtualClock) or user is not None:
                raise KeepaliveError(
                    "a server elsewhere has its own time and its own users",
                    "do without the fixture `clock`, sign in there, and give page() its cookies",
                )
            link = remote = RemoteLink(url, jar, kit.work)
            kit.stack.push_async_callback(remote.close)
            kit.stack.push_async_callback(kit.work.stop)
        elif kit.servers:
            server = kit.servers[-1]
            if user is not None:
                await server.sign_in(user, jar)
            link = LocalLink(server, jar, kit.work)
        else:
            raise KeepaliveError(
                "there is no server for this page",
                "start keepalive_server, name your app to keepalive_app, or give url=",
            )
        number = len(kit.pages) + 1
        name = f"page {number}" if user is None else f"page {number} of {user}"
        tabs = kit.tabs[jar]
        opened = Page(name, number, link, kit.clock, kit.call_at, tabs=tabs)
        kit.pages.append(opened)
        tabs.append(opened)
        await kit.settled(opened)
        return opened


class AssertEnds:
    """Asserts why sessions are over, or with `None` that they live.

    `await assert_ends("idle", tab)`; without pages it is about all that the test has opened. Those that
    are open must have been told; of those that are gone the server is asked.
    """

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    async def __call__(self, reason: str | None, *pages: Page) -> None:
        __tracebackhide__ = True
        chosen = pages or tuple(self._kit.pages)
        if not chosen:
            raise KeepaliveError("there is no page whose session could end", "open one with `page`")
        should = "should live" if reason is None else f"should have ended ({reason})"
        wrong = {}
        for page in chosen:
            found = await self._found(page)
            if found != reason:
                wrong[page] = f"{page.name} {_is(found, page.ended_after)}, and {should}"
        self._kit.blamed = list(wrong)
        more = [f"… and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        assert not wrong, "\n".join([*list(wrong.values())[:SHOWN], *more])

    async def _found(self, page: Page) -> str | None:
        """Why a page's session is over."""
        link = page._link
        if not page.gone or not isinstance(link, LocalLink):
            return page.reason
        found = await link.server.keepalive.state(link.server.request(link.jar))
        return found.value if isinstance(found, Reason) else None


def _is(reason: str | None, after: float | None) -> str:
    if reason is None:
        return "lives"
    return f"has ended ({reason})" if after is None else f"has ended ({reason}) after {clock_face(after)}"
