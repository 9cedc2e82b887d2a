"""With `frames`, what a user does in a frame of the page counts as theirs: in real Chromium and Firefox."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser

from .firefox import Firefox, driving
from .matrix import PAGE, PATIENT, Site, arrive, sign_in, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(150)]

AWAY = 3.0
"""Seconds, after which a user who is back tells on the next ping."""
ADD = """new Promise((resolve) => document.body.append(
  Object.assign(document.createElement("iframe"), { id: "later", src: "/inside", onload: () => resolve() })
))"""
MOVE_ON = """new Promise((resolve) => Object.assign(
  document.querySelector("#there"), { src: "/inside?anew", onload: () => resolve() }))"""


@asynccontextmanager
async def framing(heart: str) -> AsyncIterator[Site]:
    """Serves a page with a frame, at `/framed`; the frame is one button."""
    site = Site(heart, mode="activity", **PATIENT)

    def shows(text: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def show(request: web.Request) -> web.Response:
            return web.Response(text=text, content_type="text/html")

        return show

    page = PAGE.replace("</body>", '<iframe id="there" src="/inside"></iframe></body>')
    site.app.router.add_get("/framed", shows(page.format(heart=heart)))
    site.app.router.add_get(
        "/inside", shows("<!doctype html><button style='position: fixed; inset: 0; width: 100%'>In</button>")
    )
    async with site.served():
        yield site


async def tells(site: Site, click: Callable[[], Awaitable[Any]]) -> None:
    """Click once the user has been away for a while, or was never there; the page tells of the return."""
    (visit,) = site.visits

    def away() -> bool:
        return all(ping.idle is None or ping.idle > AWAY for _, ping in visit.pings[-1:])

    await until(away)
    await click()
    await until(lambda: not away())


async def test_a_click_in_a_frame_is_the_users(chromium: Browser) -> None:
    async with framing("frames") as site:
        context = await chromium.new_context()
        await sign_in(context, site.url)
        page = await arrive(context, f"{site.url}/framed")
        await tells(site, page.frame_locator("#there").get_by_role("button").click)
        await page.evaluate(ADD)
        await tells(site, page.frame_locator("#later").get_by_role("button").click)
        await page.evaluate(MOVE_ON)
        await tells(site, page.frame_locator("#there").get_by_role("button").click)


async def test_a_click_in_a_frame_is_nobodys_unless_asked_for(chromium: Browser) -> None:
    async with framing("") as site:
        context = await chromium.new_context()
        await sign_in(context, site.url)
        page = await arrive(context, f"{site.url}/framed")
        await page.frame_locator("#there").get_by_role("button").click()
        (visit,) = site.visits
        before = len(visit.pings)
        await until(lambda: len(visit.pings) >= before + 2)
        assert all(ping.idle is None for _, ping in visit.pings)


async def test_a_click_in_a_frame_is_the_users_in_firefox(tmp_path: Path) -> None:
    driver = tmp_path / "driver"
    with driving(driver):
        async with Firefox.opened(driver) as firefox, framing("frames") as site:
            await firefox.sign_in(site.url)
            page = await firefox.arrive(f"{site.url}/framed")
            await tells(site, lambda: page.click("#there"))
            await page.evaluate(ADD)
            await tells(site, lambda: page.click("#later"))
