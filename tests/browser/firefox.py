"""Debian's Firefox, driven by a node process that tests tell what to do; see `firefox.mjs`."""

import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientTimeout, UnixConnector

from .conftest import DEADLINE
from .matrix import RECORD, eventually

_SCRIPT = Path(__file__).with_name("firefox.mjs")


@contextmanager
def driving(path: Path) -> Iterator[None]:
    """Have the node process listen on a Unix socket at `path`."""
    assert shutil.which("firefox-esr"), "these tests need Debian's firefox-esr: apt-get install firefox-esr"
    command = ["node", str(_SCRIPT), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as node:
        assert node.stdin is not None and node.stdout is not None
        try:
            assert node.stdout.readline() == b"ready\n"
            yield
        finally:
            node.stdin.close()  # upon which it closes the browsers, and leaves
            try:
                node.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                node.terminate()


class _Driver:
    """The line to the node process."""

    def __init__(self, http: ClientSession) -> None:
        self._http = http

    async def tell(self, command: str, **arguments: object) -> Any:
        """Have it do something; what comes of that."""
        async with self._http.post(f"http://driver/{command}", json=arguments) as response:
            answer = await response.json(content_type=None)
            assert response.ok, f"{command}: {answer}"
            return answer


class Tab:
    """One tab of a `Firefox`, which takes notes as `RECORD` says."""

    def __init__(self, driver: _Driver, number: int) -> None:
        self._driver = driver
        self._number = number

    async def goto(self, url: str) -> None:
        """Load a page, as its address typed in does."""
        await self._driver.tell("goto", tab=self._number, url=url)

    async def front(self) -> None:
        """Show this tab, which hides that which was shown before."""
        await self._driver.tell("front", tab=self._number)

    async def click(self, selector: str) -> None:
        """Click on an element with the mouse, so that the page takes it for a person's doing."""
        await self._driver.tell("click", tab=self._number, selector=selector)

    async def opens(self, selector: str) -> "Tab":
        """Click on what opens a window; the tab in that, which takes no notes."""
        return Tab(self._driver, await self._driver.tell("popup", tab=self._number, selector=selector))

    async def type(self, selector: str, text: str) -> None:
        """Type with the keyboard."""
        await self._driver.tell("type", tab=self._number, selector=selector, text=text)

    async def screenshot(self, path: Path, width: int, height: int) -> None:
        """Make a PNG of what a window of this size shows."""
        await self._driver.tell("screenshot", tab=self._number, path=str(path), width=width, height=height)

    async def close(self) -> None:
        await self._driver.tell("close", thing=self._number)

    async def is_closed(self) -> bool:
        """Whether it has been closed, by whomever."""
        closed: bool = await self._driver.tell("closed", tab=self._number)
        return closed

    async def evaluate(self, expression: str) -> Any:
        """What a JavaScript expression comes to, once it is settled."""
        return await self._driver.tell("evaluate", tab=self._number, expression=expression)

    async def seen(self, what: str) -> Any:
        """What the page has noted."""
        return await self.evaluate(f"seen.{what}")

    async def heart(self, expression: str) -> Any:
        """What the connection behind the page's heart says of itself."""
        return await self.evaluate(
            f"document.querySelector('session-heart')?.keepalive?.{expression} ?? null"
        )

    async def becomes(self, state: str, within: float = DEADLINE) -> None:
        """Wait for the connection behind the page's heart to be in a state."""
        await self.finds("state", lambda found: found == state, within)

    async def finds(
        self, expression: str, accept: Callable[[Any], object] = bool, within: float = DEADLINE
    ) -> None:
        """Wait for the connection to say something of itself that is accepted."""
        await eventually(lambda: self.heart(expression), accept, within)

    async def beats(self, times: int) -> None:
        """Wait for so many beats from now on."""
        heard = await self.seen("beats")
        await eventually(lambda: self.seen("beats"), lambda beats: beats >= heard + times)

    async def fetches(self, path: str, method: str = "GET") -> bool:
        """Whether the page's own server grants a request."""
        granted: bool = await self.evaluate(f"fetch('{path}', {{method: '{method}'}}).then(({{ok}}) => ok)")
        return granted


class Firefox:
    """One user's browser: its tabs share cookies, locks and channels, and those with nobody else's."""

    def __init__(self, driver: _Driver, number: int) -> None:
        self._driver = driver
        self._number = number

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, path: Path, preferences: Mapping[str, object] | None = None
    ) -> AsyncIterator["Firefox"]:
        """Open one, by the driver at `path`; `preferences` are those of about:config."""
        timeout = ClientTimeout(total=3 * DEADLINE)  # the first starts the browser
        connector = UnixConnector(str(path), force_close=True)  # node drops connections that rest
        async with ClientSession(connector=connector, timeout=timeout) as http:
            driver = _Driver(http)
            number = await driver.tell("context", preferences=preferences or {})
            try:
                yield cls(driver, number)
            finally:
                await driver.tell("close", thing=number)

    async def tab(self, url: str) -> Tab:
        """Open a page in a new tab, in front of the others."""
        tab = Tab(self._driver, await self._driver.tell("tab", context=self._number, script=RECORD))
        await tab.front()
        await tab.goto(url)
        return tab

    async def sign_in(self, url: str) -> Tab:
        """Give this browser a session; the tab stays, on a page without a heart."""
        tab = await self.tab(f"{url}/elsewhere")
        assert await tab.fetches("/in", "POST")
        return tab

    async def arrive(self, url: str, state: str = "open") -> Tab:
        """Open the page with a heart in a tab of its own, and wait for a state of its connection."""
        tab = await self.tab(url)
        await tab.becomes(state)
        return tab

    async def content_processes(self) -> set[int]:
        """The ids of the processes that run this browser's pages, and those of its other users."""
        browser: int = await self._driver.tell("process", context=self._number)
        return {process for process in _descendants(browser) if _runs_pages(process)}


def _descendants(ancestor: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = children.get(ancestor, [])
    while found:
        yield from found
        found = [child for process in found for child in children.get(process, [])]


def _runs_pages(process: int) -> bool:
    with suppress(OSError):
        command = Path(f"/proc/{process}/cmdline").read_bytes()
        return command.replace(b"\0", b" ").endswith(b" tab ")
    return False
