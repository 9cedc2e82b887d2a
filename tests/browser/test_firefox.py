"""What a page does in the states that a browser can be in, in real Firefox; the rows of docs/browser.md."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ..raw import certified, serving
from .conftest import DEADLINE, Server
from .firefox import Firefox, Tab, driving
from .matrix import HIDDEN, IDLE, PATIENT, QUICK, WARNED, Site, always, eventually, is_kept, now, until
from .proxy import Proxy
from .test_guard import Site as Guarded

pytestmark = [pytest.mark.browser, pytest.mark.timeout(150)]

GREETING = 10.0
"""How long a page waits for the server's greeting, in seconds."""
ANIMATIONS = "document.querySelector('session-heart').shadowRoot.getAnimations()"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("firefox") / "driver"
    with driving(path):
        yield path


@pytest.fixture
async def firefox(driver: Path) -> AsyncIterator[Firefox]:
    async with Firefox.opened(driver) as firefox:
        yield firefox


def site_with(heart: str = "", /, **options: Any) -> AbstractAsyncContextManager[Site]:
    """Serves a `Site`."""
    return Site(heart, **options).served()


async def wake(tab: Tab, other: Tab) -> None:
    """Hide a tab behind another, and show it again."""
    await other.front()
    await eventually(lambda: tab.evaluate("document.hidden"))
    await tab.front()


async def all_beat(*tabs: Tab) -> None:
    """Wait until all have heard of the session again, and again."""
    await asyncio.gather(*(tab.beats(2) for tab in tabs))


async def no_complaints(*tabs: Tab) -> None:
    """No exception went uncaught."""
    for tab in tabs:
        assert await tab.seen("errors") == []


async def test_row_07_an_open_page_beats_and_shows_it(firefox: Firefox) -> None:
    async with site_with(**QUICK) as site:
        await firefox.sign_in(site.url)
        page = await firefox.arrive(site.url)
        await always(lambda: page.fetches("/keepalive/state"), 2 * IDLE)
        assert await page.seen("beats") > IDLE  # of twelve; a busy machine may be late with some
        assert await page.evaluate("seen.moving === seen.beats")
        named = "document.querySelector('session-heart').shadowRoot.querySelector('[role=img]').ariaLabel"
        assert await page.evaluate(named) == "Session alive"
        assert len(site.visits) == 1
        await no_complaints(page)


async def test_row_08_a_page_that_is_left_closes_and_comes_back_by_history(firefox: Firefox) -> None:
    async with site_with(**PATIENT) as site:
        await firefox.sign_in(site.url)
        page = await firefox.arrive(site.url)
        await page.evaluate("void (window.loaded = 'before')")
        await page.goto(f"{site.url}/elsewhere")
        await until(lambda: not site.open)
        await page.evaluate("history.back()")
        await until(lambda: len(site.open) == 1)
        await page.becomes("open")
        await page.finds("known")
        assert await page.evaluate("window.loaded ?? 'anew'") == "anew"  # Firefox puts no such page away
        await page.evaluate("history.forward()")
        await until(lambda: not site.open)
        # 1000 is the page's word. Firefox may close what a page has open before it tells the page: with 1001.
        assert {visit.code for visit in site.visits} <= {1000, 1001}
        assert (len(site.visits), site.most) == (2, 1)


@pytest.mark.timeout(300)
async def test_row_10_a_hidden_page_keeps_its_session_until_it_is_closed(firefox: Firefox) -> None:
    async with site_with(**QUICK) as site:
        other = await firefox.sign_in(site.url)
        page = await firefox.arrive(site.url)
        await other.front()
        await eventually(lambda: page.evaluate("document.hidden"))
        before = await page.seen("beats")
        await always(lambda: other.fetches("/keepalive/state"), HIDDEN)
        assert await page.evaluate("document.hidden")
        assert await page.seen("beats") > before + HIDDEN / 2
        await no_complaints(page)

        await page.close()
        await until(lambda: not site.open)
        left = await other.evaluate("fetch('/keepalive/state').then((answer) => answer.json())")
        asked = now()
        assert IDLE / 2 < left["expires_in"] <= IDLE
        await eventually(lambda: other.fetches("/keepalive/state"), lambda alive: not alive)
        assert left["expires_in"] - 0.5 < now() - asked < left["expires_in"] + 1.5


async def test_row_11_a_killed_server_comes_back_with_its_sessions(
    firefox: Firefox, serve: Callable[..., Awaitable[Server]]
) -> None:
    server = await serve("--ping-interval", "1")
    page = await firefox.tab(server.url)
    sign_in = "fetch('/login', {method: 'POST', body: new URLSearchParams({name: 'Ada'})})"
    assert await page.evaluate(f"{sign_in}.then(({{ok}}) => ok)")
    await page.goto(server.url)
    await page.becomes("open")
    await server.kill()
    await page.becomes("waiting")
    await server.start()
    await page.becomes("open")
    await page.beats(2)
    assert (
        await page.evaluate("fetch('/whoami').then((answer) => answer.json()).then(({user}) => user)")
        == "Ada"
    )
    assert await page.seen("ends") == []
    await no_complaints(page)


async def test_row_12_behind_a_proxy_that_swallows_handshakes_pings_go_by_post(firefox: Firefox) -> None:
    async with site_with(**PATIENT) as site, Proxy(site.port) as proxy:
        await firefox.sign_in(proxy.url)
        proxy.treatment = "swallow"
        began = now()
        page = await firefox.arrive(proxy.url, "waiting")
        assert now() - began > GREETING
        await page.becomes("polling", 3 * GREETING)
        assert await page.seen("sockets") == 3
        await eventually(lambda: page.seen("beats"), lambda beats: beats >= 2)
        assert site.posts >= 2
        assert site.visits == []
        await no_complaints(page)


async def test_row_12_a_handshake_that_was_given_up_holds_up_no_other(firefox: Firefox) -> None:
    """Firefox opens one WebSocket to a host after the other: whoever leaves one hanging waits behind it."""
    async with site_with(**PATIENT) as site, Proxy(site.port) as proxy:
        other = await firefox.sign_in(proxy.url)
        proxy.treatment = "swallow"
        page = await firefox.arrive(proxy.url, "waiting")
        proxy.treatment = "pass"
        await wake(page, other)
        await page.becomes("open", GREETING / 2)


async def test_row_13_where_a_policy_forbids_sockets_pings_go_by_post(firefox: Firefox) -> None:
    """`http:` covers no `ws:`, so the constructor throws."""
    async with site_with(csp="default-src 'self'; connect-src http://{host}", **PATIENT) as site:
        await firefox.sign_in(site.url)
        page = await firefox.arrive(site.url, "polling")
        await eventually(lambda: page.seen("beats"), lambda beats: beats >= 2)
        assert "connect-src" in await page.seen("reports")
        assert site.visits == []
        await no_complaints(page)


async def test_row_13_where_a_policy_forbids_all_the_page_goes_on_waiting(firefox: Firefox) -> None:
    async with site_with(csp="default-src 'self'; connect-src 'none'", **QUICK) as site:
        await firefox.sign_in(site.url)
        page = await firefox.arrive(site.url, "waiting")
        await eventually(lambda: page.seen("sockets"), lambda sockets: sockets >= 2)
        await always(_is_one_of(page, "waiting", "connecting"), 5.0)
        assert await page.seen("sockets") <= 4
        assert await page.seen("ends") == []
        assert (site.visits, site.posts) == ([], 0)
        await no_complaints(page)


async def test_row_13_mixed_content_leaves_the_page_waiting(firefox: Firefox, tmp_path: Path) -> None:
    tls, _ = certified(tmp_path)
    async with site_with(**QUICK) as insecure:
        heart = f'src="http://app.test:{insecure.port}/keepalive/"'
        async with Site(heart, csp=None, **QUICK).served(tls=tls) as site:
            page = await firefox.arrive(site.url, "waiting")
            await eventually(lambda: page.seen("sockets"), lambda sockets: sockets >= 2)
            await always(_is_one_of(page, "waiting", "connecting"), 3.0)
            assert await page.seen("ends") == []
            assert (insecure.visits, insecure.posts) == ([], 0)
            await no_complaints(page)


def _is_one_of(page: Tab, *states: str) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return await page.heart("state") in states

    return look


async def test_row_14_where_sockets_are_refused_posts_keep_the_session(firefox: Firefox) -> None:
    policy = {"ping_interval": 1.0, "idle_timeout": 30.0}
    async with site_with(**policy) as site, Proxy(site.port) as proxy:
        await firefox.sign_in(proxy.url)
        proxy.treatment = "strip"
        page = await firefox.arrive(proxy.url, "polling")
        state = "fetch('/keepalive/state').then((answer) => answer.json())"
        await is_kept(lambda: page.evaluate(f"{state}.then((told) => told.expires_in)"))
        assert await page.heart("state") == "polling"
        assert await page.seen("beats") > 0
        assert (site.visits, proxy.handshakes) == ([], 3)
        await no_complaints(page)


async def test_row_14_a_page_that_polls_wakes_and_has_its_socket(firefox: Firefox) -> None:
    async with site_with(**PATIENT) as site, Proxy(site.port) as proxy:
        other = await firefox.sign_in(proxy.url)
        proxy.treatment = "strip"
        page = await firefox.arrive(proxy.url, "polling")
        proxy.treatment = "pass"
        await wake(page, other)
        await page.becomes("open")
        posts = site.posts
        await page.beats(3)
        assert (site.posts, len(site.open), site.most) == (posts, 1, 1)
        await no_complaints(page)


async def test_row_15_when_the_leading_tab_closes_another_leads(firefox: Firefox) -> None:
    async with site_with("share", **PATIENT) as site:
        await firefox.sign_in(site.url)
        leader = await firefox.arrive(site.url)
        followers = [await firefox.arrive(site.url, "following") for _ in range(2)]
        await all_beat(leader, *followers)
        assert len(site.visits) == 1
        began = now()
        await leader.close()
        await until(lambda: len(site.visits) == 2)
        # By the lock, that is: a leader that is silent would be missed after 7 s.
        assert site.visits[1].opened_at - began < 5
        await eventually(lambda: _states(followers), lambda states: states == ["following", "open"])
        await all_beat(*followers)
        assert (len(site.open), site.most) == (1, 1)
        await no_complaints(*followers)


async def test_row_15_when_the_leading_tabs_process_is_killed_another_leads(firefox: Firefox) -> None:
    async with site_with("share", **PATIENT) as site:
        await firefox.sign_in(site.url)
        before = await firefox.content_processes()
        await firefox.arrive(site.url)
        (process,) = await firefox.content_processes() - before
        follower = await firefox.arrive(site.url, "following")
        began = now()
        os.kill(process, signal.SIGKILL)
        await until(lambda: len(site.visits) == 2)
        assert site.visits[1].opened_at - began < 5
        await follower.becomes("open")
        await until(lambda: len(site.open) == 1)
        await follower.beats(2)
        await no_complaints(follower)


async def _states(tabs: list[Tab]) -> list[str]:
    return sorted([await tab.heart("state") for tab in tabs])


async def test_row_16_an_open_socket_is_worth_more_than_what_the_browser_says(firefox: Firefox) -> None:
    async with site_with(**PATIENT) as site:
        await firefox.sign_in(site.url)
        page = await firefox.arrive(site.url)
        for online in ("false", "true"):
            # No test can take the network away from Firefox alone; but what it says of the network, yes.
            await page.evaluate(
                f"void Object.defineProperty(navigator, 'onLine', {{value: {online}, configurable: true}})"
            )
            said = "online" if online == "true" else "offline"
            await page.evaluate(f"void dispatchEvent(new Event('{said}'))")
            await page.beats(3)
            assert await page.heart("state") == "open"
        assert await page.seen("sockets") == 1
        await no_complaints(page)


async def test_row_16_offline_is_never_logged_out(firefox: Firefox) -> None:
    async with site_with(**PATIENT) as site, Proxy(site.port) as proxy:
        await firefox.sign_in(proxy.url)
        page = await firefox.arrive(proxy.url)
        await page.evaluate(
            "void Object.defineProperty(navigator, 'onLine', {value: false, configurable: true})"
        )
        proxy.cut()
        await page.becomes("offline")
        assert site.open == []
        tried = await page.seen("sockets")
        await always(_is_one_of(page, "offline"), 3.0)
        assert await page.seen("sockets") == tried
        await page.evaluate("void (delete navigator.onLine, dispatchEvent(new Event('online')))")
        await page.becomes("open")
        assert await page.seen("ends") == []
        await no_complaints(page)


async def test_row_17_the_strictest_policy_has_nothing_to_report(firefox: Firefox) -> None:
    csp = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'"
    async with site_with(csp=csp, **QUICK) as site:
        await firefox.sign_in(site.url)
        page = await firefox.arrive(site.url)
        await page.beats(3)
        assert await page.evaluate("seen.moving === seen.beats")
        assert (
            await page.evaluate("getComputedStyle(document.querySelector('session-heart')).position")
            == "fixed"
        )
        assert await page.seen("reports") == []
        await no_complaints(page)


async def test_row_17_nothing_moves_for_people_who_prefer_that(driver: Path) -> None:
    async with (
        Firefox.opened(driver, {"ui.prefersReducedMotion": 1}) as firefox,
        site_with(**QUICK) as site,
    ):
        await firefox.sign_in(site.url)
        page = await firefox.arrive(site.url)
        keyframes = f"{ANIMATIONS}.flatMap((each) => each.effect.getKeyframes())"
        frames = await eventually(lambda: page.evaluate(keyframes))
        assert any("opacity" in frame for frame in frames)
        assert all("transform" not in frame for frame in frames)


async def test_row_18_a_clock_that_jumps_makes_the_page_ask(firefox: Firefox) -> None:
    async with site_with(**PATIENT) as site:
        await firefox.sign_in(site.url)
        page = await firefox.arrive(site.url)
        await page.beats(1)
        await page.evaluate("void (({now}) => { Date.now = () => now() + 3_600_000; })(Date)")
        doubt = [["open", False], ["open", True]]
        await eventually(lambda: page.seen("known"), lambda known: known[-2:] == doubt)
        assert PATIENT["idle_timeout"] - DEADLINE < await page.heart("expiresIn") <= PATIENT["idle_timeout"]
        assert await page.seen("ends") == []
        assert len(site.visits) == 1
        await no_complaints(page)


async def test_row_15_signing_out_in_one_tab_ends_the_others(firefox: Firefox) -> None:
    site = Site("", csp=None, **PATIENT)

    async def sign_out(request: web.Request) -> web.Response:
        assert await site.keepalive.end(request)
        return web.Response()

    site.app.router.add_post("/out", sign_out)
    async with site.served():
        await firefox.sign_in(site.url)
        there, here = await firefox.arrive(site.url), await firefox.arrive(site.url)
        assert await here.fetches("/out", "POST")
        await there.becomes("ended")
        await here.becomes("ended")
        assert await there.seen("ends") == await here.seen("ends") == ["logout"]
        assert [visit.code for visit in site.visits] == [4503, 4503]


async def test_row_15_tabs_share_what_the_user_does(firefox: Firefox) -> None:
    async with site_with(mode="activity", **PATIENT) as site:
        await firefox.sign_in(site.url)
        await firefox.arrive(site.url)
        here = await firefox.arrive(site.url)
        there = site.visits[0]
        await until(lambda: len(there.pings) > 1)
        assert all(ping.idle is None for _, ping in there.pings)
        await here.click("button")
        await until(lambda: there.pings[-1][1].idle is not None)
        idle = there.pings[-1][1].idle
        assert idle is not None and 0 <= idle < 3


async def test_row_15_tabs_lose_their_warning_when_one_says_stay(firefox: Firefox) -> None:
    async with site_with(**WARNED) as site:
        await firefox.sign_in(site.url)
        there, here = await firefox.arrive(site.url), await firefox.arrive(site.url)
        for tab in (there, here):
            await tab.finds("warning")
        pings = len(site.visits[0].pings)
        await here.click("button")
        for tab in (here, there):
            await tab.finds("warning", lambda warning: warning is None)
        assert await there.heart("expiresIn") > WARNED["warn_before"] - DEADLINE
        assert len(site.visits[0].pings) == pings  # it was told by the other tab


async def test_row_15_tabs_of_an_insecure_page_have_a_socket_each(firefox: Firefox) -> None:
    """Without a secure context there are no locks, by which tabs choose one that leads."""
    async with site_with("share", **PATIENT) as site:
        url = f"http://app.test:{site.port}"
        await firefox.sign_in(url)
        tabs = [await firefox.arrive(url), await firefox.arrive(url)]
        assert await tabs[0].evaluate("[isSecureContext, 'locks' in navigator]") == [False, False]
        await all_beat(*tabs)
        assert len(site.open) == 2
        await no_complaints(*tabs)


async def test_signing_in_again_in_a_popup_goes_on_in_place(firefox: Firefox) -> None:
    site = Guarded()
    async with serving(site.app) as (_, port):
        site.url = f"http://127.0.0.1:{port}"
        page = await firefox.tab(f"{site.url}/signin")
        await page.type("[name=user]", "ada")
        await page.click("button")
        await page.goto(site.url)
        await _guard_says(page, "alive")
        await page.type("[name=note]", "Mind the dog")
        await page.click("[name=gift]")
        await page.type("[name=secret]", "hush")
        await page.evaluate("void (window.mark = 'kept')")
        await site.keepalive.end_user("ada")
        await _guard_says(page, "ended")
        desk = await page.opens("session-guard >>> [part~=primary]")
        await desk.type("[name=user]", "ada")
        await desk.click("button")
        await _guard_says(page, "alive")
        dialog = "document.querySelector('session-guard').shadowRoot.querySelector('dialog')"
        await eventually(lambda: page.evaluate(f"!{dialog}.open"))
        await eventually(desk.is_closed)
        assert await page.evaluate("window.mark") == "kept"
        form = "document.forms.order.elements"
        typed = await page.evaluate(f"[{form}.note.value, {form}.gift.checked, {form}.secret.value]")
        assert typed == ["Mind the dog", True, "hush"]
        assert await page.evaluate("sessionStorage.length") == 0
        await no_complaints(page)


async def _guard_says(page: Tab, state: str) -> None:
    await eventually(
        lambda: page.evaluate("document.documentElement.dataset.session ?? null"), lambda said: said == state
    )
