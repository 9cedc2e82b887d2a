"""A session that ends with its last page, in a real browser: which closes are goodbyes, and which are not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from playwright.async_api import BrowserContext

from .conftest import Launch
from .matrix import (
    RECORD,
    Site,
    always,
    arrive,
    becomes,
    eventually,
    go_back,
    is_alive,
    seen,
    set_frozen,
    sign_in,
)

pytestmark = pytest.mark.browser

AFTER = 5.0
RULES: dict[str, Any] = {"ping_interval": 1.0, "idle_timeout": 600.0, "end_after_last_page": AFTER}
SLACK = 2.0

OpenSite = Callable[..., Awaitable[Site]]


@pytest.fixture
async def site() -> AsyncIterator[OpenSite]:
    """Serves sites until the test is over."""
    async with AsyncExitStack() as stack:

        async def open_site(heart: str = "") -> Site:
            return await stack.enter_async_context(Site(heart, **RULES).served())

        yield open_site


@pytest.fixture
async def browser(desk: Launch) -> BrowserContext:
    context = await desk()
    await context.add_init_script(RECORD)
    await context.new_page()  # of no site: with its last tab Chromium forgets its session cookies
    return context


async def stays(browser: BrowserContext, here: Site) -> None:
    """The session lives, past the time at which it would have ended."""
    await always(lambda: is_alive(browser, here.url), AFTER + SLACK)


async def ends(browser: BrowserContext, here: Site) -> None:
    """The session ends, but not before the time that is left for a reload."""
    await always(lambda: is_alive(browser, here.url), AFTER - SLACK)
    await eventually(lambda: is_alive(browser, here.url), lambda alive: not alive)


async def test_the_only_tab_is_closed(site: OpenSite, browser: BrowserContext) -> None:
    here = await site()
    await sign_in(browser, here.url)
    page = await arrive(browser, here.url)
    await page.close()
    await ends(browser, here)
    late = await browser.new_page()
    await late.goto(here.url)
    await becomes(late, "ended")
    assert await seen(late, "ends") == ["logout"]


async def test_a_reload(site: OpenSite, browser: BrowserContext) -> None:
    here = await site()
    await sign_in(browser, here.url)
    page = await arrive(browser, here.url)
    await page.reload()
    await becomes(page, "open")
    await stays(browser, here)
    before, after = here.visits
    assert (before.code in (1000, 1001), after.code) == (True, None)
    assert before.page.id != after.page.id
    await page.close()
    await ends(browser, here)


async def test_two_tabs(site: OpenSite, browser: BrowserContext) -> None:
    here = await site()
    await sign_in(browser, here.url)
    one, other = [await arrive(browser, here.url) for _ in range(2)]
    await one.close()
    await stays(browser, here)
    await other.close()
    await ends(browser, here)


async def test_two_tabs_that_share_a_socket(site: OpenSite, browser: BrowserContext) -> None:
    """The tab that takes the socket over is the browser's next page."""
    here = await site("share")
    await sign_in(browser, here.url)
    leader = await arrive(browser, here.url)
    follower = await arrive(browser, here.url, "following")
    await leader.close()
    await becomes(follower, "open")
    await stays(browser, here)
    await follower.close()
    await ends(browser, here)


async def test_another_site_in_the_same_tab(site: OpenSite, browser: BrowserContext) -> None:
    """Put into the back/forward cache, the page has said goodbye; brought back in time, it is there again."""
    here = await site()
    await sign_in(browser, here.url)
    page = await arrive(browser, here.url)
    await page.evaluate("window.mark = true")
    await page.goto(f"{here.url}/elsewhere")
    await asyncio.sleep(AFTER - SLACK)
    await go_back(page)
    await becomes(page, "open")
    await stays(browser, here)
    await page.goto(f"{here.url}/elsewhere")
    await ends(browser, here)


async def test_a_frozen_tab_is_not_closed(site: OpenSite, browser: BrowserContext) -> None:
    here = await site()
    await sign_in(browser, here.url)
    page = await arrive(browser, here.url)
    await set_frozen(page, True)
    await stays(browser, here)
    await set_frozen(page, False)
    await becomes(page, "open")
    before, after = here.visits
    assert before.page.id == after.page.id
    await page.close()
    await ends(browser, here)
