"""Takes the pictures of docs/browser.md anew, of the demo in real browsers: look before you keep them.

python -m tests.browser.pictures
"""

import asyncio
import shutil
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Literal, Protocol

from playwright.async_api import Browser, Page, async_playwright

from .conftest import ROOT, SWITCHES
from .demo import ABSOLUTE, IDLE, Demo
from .firefox import Firefox, driving
from .matrix import eventually
from .proxy import Proxy

Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
IMAGES = ROOT / "docs" / "images"
WIDTH, HEIGHT = 900, 660

STATES = {
    "signed out": "signed out",
    "alive": "signed in",
    "idle": "a warning",
    "absolute": "a warning that nothing can extend",
    "unknown": "just awake, and the server has not spoken yet",
    "ended": "after the end",
}
GUARDED = ("idle", "absolute", "unknown", "ended")
HEARTS = {
    "alive": "alive",
    "beat": "in mid-beat",
    "fade": "in mid-beat, reduced motion",
    "unknown": "connecting, waiting, frozen",
    "offline": "offline",
    "idle": "warning",
    "ended": "ended",
}

HEART = "document.querySelector('body > session-heart')"
DIALOG = "document.querySelector('session-guard').shadowRoot.querySelector('dialog')?.open"
SHOWN = {
    "signed out": "!document.getElementById('welcome').hidden",
    "alive": "document.getElementById('last').textContent !== ''",
    "idle": DIALOG,
    "absolute": DIALOG,
    # At first it looks alive. Five seconds later it has given up the socket, and is pale.
    "unknown": f"['connecting', 'waiting'].includes({HEART}.state)",
    "offline": f"{HEART}.state === 'offline'",
    "ended": DIALOG,
}
AT_REST = (
    "[...document.querySelectorAll('session-heart')]"
    ".every((heart) => !heart.shadowRoot.getAnimations().length)"
)
SLEEP = "void (({ now }) => { Date.now = () => now() + 600_000; })(Date)"  # and wake ten minutes later
GO_OFFLINE = "void Object.defineProperty(navigator, 'onLine', { value: false })"
# The heart in the corner, larger than life, and with no dialog before it.
ALONE = f"""(() => {{
  document.querySelector("session-guard").remove();
  for (const [name, value] of Object.entries({{ size: "56px", top: "8px", right: "8px" }}))
    {HEART}.style.setProperty(`--heart-${{name}}`, value);
}})()"""
MID_BEAT = f"""(() => {{
  {HEART}.beat();
  for (const beat of {HEART}.shadowRoot.getAnimations()) {{
    beat.pause();
    beat.currentTime = 500;
  }}
}})()"""

# A sheet has the demo's own background, so that hearts cut out of it have no edge.
SHEET = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; inline-size: max-content; padding: 20px; display: grid; gap: 20px 16px; color: {color};
  background: {background}; grid-template-columns: repeat({columns}, auto); font: 15px/1.4 sans-serif; }}
figure {{ margin: 0; inline-size: min-content; text-align: center; }}
figcaption {{ margin-top: 6px; }}
.page {{ display: block; inline-size: 460px; border: 1px solid #8886; border-radius: 6px; }}
.heart {{ inline-size: 72px; block-size: 72px; margin: 0 28px; background: right top no-repeat; }}
</style><body>{figures}"""
COLORS = {"light": ("#1c1917", "#f6f5f3"), "dark": ("#f3f1ef", "#131215")}


class Screen(Protocol):
    """A page in either browser."""

    async def goto(self, url: str) -> None: ...
    async def evaluate(self, expression: str) -> object: ...
    async def screenshot(self, path: Path, width: int, height: int) -> None: ...


class Chromium:
    """A page of Playwright's, as a `Screen`."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def goto(self, url: str) -> None:
        await self._page.goto(url)

    async def evaluate(self, expression: str) -> object:
        return await self._page.evaluate(expression)

    async def screenshot(self, path: Path, width: int, height: int) -> None:
        await self._page.set_viewport_size({"width": width, "height": height})
        await self._page.screenshot(path=path)


@asynccontextmanager
async def shown(screen: Screen, state: str) -> AsyncIterator[None]:
    """Bring the demo's page into one of the states of `SHOWN`, for as long as that is entered."""
    async with Demo().served() as demo, Proxy(demo.port) as proxy:
        demo.policy = {"idle": IDLE, "absolute": ABSOLUTE}.get(state, demo.policy)
        await screen.goto(proxy.url)
        if state != "signed out":
            await screen.evaluate(
                "fetch('/login', { method: 'POST', body: new URLSearchParams({ name: 'Ada' }) })"
            )
            await screen.goto(proxy.url)
            await appears(screen, "alive")
        match state:
            case "unknown":
                proxy.flows.clear()
                await screen.evaluate(SLEEP)
            case "offline":
                await screen.evaluate(GO_OFFLINE)
                proxy.cut()
            case "ended":
                await demo.end("Ada")
        await appears(screen, state)
        yield


async def appears(screen: Screen, state: str) -> None:
    await eventually(lambda: screen.evaluate(f"Boolean({SHOWN[state]})"))
    await rests(screen)


async def rests(screen: Screen) -> None:
    await eventually(lambda: screen.evaluate(AT_REST))


async def pages_in(screen: Screen, states: Iterable[str], where: str = "") -> list[str]:
    """Pictures of the page in some states, for a sheet."""
    figures = []
    for state in states:
        async with shown(screen, state):
            figures.append(_figure(f'<img class="page" src="{await _photo(screen)}">', STATES[state] + where))
    return figures


async def _photo(screen: Screen, width: int = WIDTH, height: int = HEIGHT) -> str:
    with NamedTemporaryFile(suffix=".png") as file:
        await screen.screenshot(Path(file.name), width, height)
        return f"data:image/png;base64,{b64encode(file.read()).decode()}"


def _figure(content: str, caption: str) -> str:
    return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"


async def hearts(moving: Screen, still: Screen) -> list[str]:
    """Pictures of the heart in all its states, for a sheet; `still` prefers reduced motion."""
    figures = []
    for name, caption in HEARTS.items():
        screen = still if name == "fade" else moving
        async with shown(screen, "alive" if name in ("beat", "fade") else name):
            await screen.evaluate(ALONE)
            await rests(screen)
            if name in ("beat", "fade"):
                await screen.evaluate(MID_BEAT)
            photo = await _photo(screen)
        figures.append(_figure(f'<div class="heart" style="background-image: url({photo})"></div>', caption))
    return figures


async def print_sheet(browser: Browser, name: str, scheme: Scheme, columns: int, figures: list[str]) -> None:
    """Put pictures on one sheet, beneath docs/images."""
    color, background = COLORS[scheme]
    page = await browser.new_page()
    html = SHEET.format(color=color, background=background, columns=columns, figures="".join(figures))
    await page.set_content(html)
    path = IMAGES / f"{name}.png"
    await page.locator("body").screenshot(path=path)
    await page.close()
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB")


async def in_chromium(browser: Browser, scheme: Scheme) -> None:
    moving = Chromium(await browser.new_page(color_scheme=scheme, reduced_motion="no-preference"))
    still = Chromium(await browser.new_page(color_scheme=scheme, reduced_motion="reduce"))
    pages = await pages_in(moving, STATES)
    await print_sheet(browser, f"states-{scheme}", scheme, 2, pages)
    await print_sheet(browser, f"hearts-{scheme}", scheme, len(HEARTS), await hearts(moving, still))
    if scheme == "light":
        async with shown(moving, "alive"):
            await moving.screenshot(IMAGES / "demo-light.png", 1200, 780)


async def in_firefox(driver: Path, scheme: Scheme) -> list[str]:
    preferences = {
        "layout.css.prefers-color-scheme.content-override": {"dark": 0, "light": 1}[scheme],
        "ui.useOverlayScrollbars": 1,  # a screenshot leaves the place of any other blank
    }
    async with Firefox.opened(driver, preferences) as firefox:
        return await pages_in(await firefox.tab("about:blank"), GUARDED, ", in Firefox")


async def main() -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=SWITCHES)
        for scheme in SCHEMES:
            await in_chromium(browser, scheme)
        with TemporaryDirectory() as folder, driving(Path(folder) / "driver"):
            albums = [await in_firefox(Path(folder) / "driver", scheme) for scheme in SCHEMES]
        beside = [figure for pair in zip(*albums, strict=True) for figure in pair]
        await print_sheet(browser, "states-firefox", "light", 2, beside)
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
