"""The states that a page can be in, one row of the matrix a test, in real Chromium.

The numbers are those of the matrix; rows of the machine, the store and Firefox are tested elsewhere.
"""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest
from playwright.async_api import BrowserContext, Page

from keepalive.messages import CloseCode, Ping

from ..raw import certified
from .conftest import DEADLINE, Launch, Server
from .matrix import (
    HIDDEN,
    IDLE,
    INTERVAL,
    PATIENT,
    QUICK,
    RECORD,
    WARNED,
    Site,
    always,
    arrive,
    becomes,
    devtools,
    eventually,
    go_back,
    heart,
    is_alive,
    is_kept,
    left,
    no_complaints,
    now,
    seen,
    set_frozen,
    sign_in,
    state_of,
    until,
)
from .proxy import Proxy, Treatment

pytestmark = [pytest.mark.browser, pytest.mark.timeout(150)]

Serve = Callable[..., Awaitable[Server]]
BUSY = 2.0
"""What a machine that runs many browsers at once may add to a second, in seconds."""
FROZEN = 60.0
TABS = 10
SHARED = PATIENT | {"ping_interval": 2.0}
HAND_OVER = 2.5 * SHARED["ping_interval"]
"""How soon another tab has to lead, in seconds."""


class OpenSite(Protocol):
    def __call__(self, heart: str = "", **options: Any) -> Awaitable[Site]: ...


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def site(stack: AsyncExitStack) -> OpenSite:
    """Serves sites until the test is over."""

    async def open_site(heart: str = "", **options: Any) -> Site:
        return await stack.enter_async_context(Site(heart, **options).served())

    return open_site


@pytest.fixture
async def browser(desk: Launch) -> BrowserContext:
    """A browser without a session."""
    return await watched(await desk())


async def watched(context: BrowserContext) -> BrowserContext:
    await context.add_init_script(RECORD)
    return context


async def test_row_07_open_page_beats_and_says_so(site: OpenSite, browser: BrowserContext) -> None:
    here = await site(**QUICK)
    await sign_in(browser, here.url)
    page = await arrive(browser, here.url)
    await eventually(lambda: seen(page, "beats"), lambda beats: beats >= 3)
    both = await page.evaluate("[seen.beats, seen.moving]")
    assert both[0] == both[1]
    picture = page.get_by_role("img", name="Session alive")
    assert await picture.count() == 1
    assert (await page.locator("session-heart [part=label]").inner_text()) == ""
    await no_complaints(page)


async def test_row_08_back_forward_cache(site: OpenSite, browser: BrowserContext) -> None:
    """The page says goodbye as it is put away, and greets anew as it is brought back."""
    here = await site(**PATIENT)
    await sign_in(browser, here.url)
    page = await arrive(browser, here.url)
    (first,) = here.visits
    await page.evaluate("window.mark = true")
    await page.goto(f"{here.url}/elsewhere")
    await until(lambda: first.code is not None)
    assert first.code == 1000
    await go_back(page)  # the page is not loaded again, but brought back
    await until(lambda: len(here.visits) == 2)
    await becomes(page, "open")
    await eventually(lambda: heart(page, "known"))
    assert ["connecting", False] in await seen(page, "known")  # until the server had spoken
    assert len(here.open) == 1
    await no_complaints(page)


@pytest.mark.timeout(300)
async def test_row_09_frozen_and_resumed(site: OpenSite, browser: BrowserContext) -> None:
    here = await site(**PATIENT)
    await sign_in(browser, here.url)
    page = await arrive(browser, here.url)
    (first,) = here.visits
    await set_frozen(page, True)
    await until(lambda: first.code is not None)
    assert first.code == CloseCode.RETURNING
    frozen_at = now()
    await until(lambda: now() >= frozen_at + FROZEN, within=FROZEN + DEADLINE)
    assert here.visits == [first]  # nothing runs in a frozen page
    resumed_at = now()
    await set_frozen(page, False)
    await until(lambda: len(here.visits) == 2)
    assert here.visits[1].opened_at - resumed_at < 1.0 + BUSY
    await becomes(page, "open")
    assert [state for state, _ in await seen(page, "states")][-3:] == ["frozen", "connecting", "open"]
    beats = await seen(page, "beats")
    await eventually(lambda: seen(page, "beats"), lambda more: more >= beats + 2)
    assert len(here.visits) == 2
    assert here.most == 1
    await no_complaints(page)


@pytest.mark.timeout(300)
async def test_row_10_hidden_and_throttled(site: OpenSite, desk: Launch) -> None:
    """Timers run once a minute, but the server asks, and the page answers where it hears that."""
    # Stock Chromium waits five minutes with it.
    context = await watched(await desk("--enable-features=IntensiveWakeUpThrottling:grace_period_seconds/10"))
    here = await site(**QUICK)
    await sign_in(context, here.url)
    page = await arrive(context, here.url)
    await page.evaluate("""() => {
      window.pulse = { last: Date.now(), gap: 0 };
      setInterval(() => {
        const now = Date.now();
        Object.assign(pulse, { last: now, gap: Math.max(pulse.gap, now - pulse.last) });
      }, 500);
    }""")
    front = await context.new_page()
    await front.bring_to_front()
    await eventually(lambda: page.evaluate("document.visibilityState === 'hidden'"))
    await always(lambda: is_alive(context, here.url), HIDDEN)
    # By its own timers the page would have been too late: a session lives for six seconds.
    gap = await page.evaluate("Math.max(pulse.gap, Date.now() - pulse.last)")
    assert gap > 1_000 * (IDLE + INTERVAL)
    assert here.keepalive.counts.asks > 0
    (visit,) = here.visits
    assert visit.code is None
    assert not visit.pings[-1][1].visible
    assert await seen(page, "ends") == []
    await no_complaints(page)

    await page.close()
    await until(lambda: visit.code is not None)
    last = visit.pings[-1][0]
    await eventually(lambda: is_alive(context, here.url), lambda alive: not alive)
    assert IDLE - 0.5 < now() - last < IDLE + BUSY


async def test_row_11_server_killed_and_restarted_under_200_pages(serve: Serve) -> None:
    server = await serve()
    script = Path(__file__).with_name("crowd.mjs")
    crowd = await asyncio.create_subprocess_exec(
        "node", "--experimental-websocket", script, server.url, "200",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert crowd.stdout is not None
        async with asyncio.timeout(30):
            assert await crowd.stdout.readline() == b"open\n"
            await server.kill()
            await server.start()
            ready = time.time()
            told = json.loads(await crowd.stdout.readline())
    finally:
        with suppress(ProcessLookupError):
            crowd.kill()
        await crowd.wait()
    assert len(told["back"]) == 200
    assert max(told["back"]) - ready <= 10
    assert max(told["back"]) - min(told["back"]) > 1.5  # not all at once
    assert told["ends"] == 0
    assert told["sockets"] <= 200 * 4  # the first, one or two while the server was away, the last


@pytest.mark.parametrize("treatment", ["swallow", "mute"])
async def test_row_12_black_hole(
    site: OpenSite, stack: AsyncExitStack, browser: BrowserContext, treatment: Treatment
) -> None:
    """No answer to the handshake, or nothing after it: three tries of ten seconds, then pings by POST."""
    here = await site(ping_interval=1, idle_timeout=60)  # a page's half minute may take a busy machine longer
    proxy = await stack.enter_async_context(Proxy(here.port))
    proxy.treatment = treatment
    await sign_in(browser, here.url)
    page = await browser.new_page()
    await page.clock.install(time=0)
    await page.clock.pause_at(1)  # the page's time, as it is told
    await page.goto(proxy.url)
    await becomes(page, "connecting")
    began = ["connecting", await page.evaluate("Date.now()")]

    async def look() -> str:
        await page.clock.run_for(100)
        return await state_of(page)

    await eventually(look, lambda state: state == "polling", within=2 * DEADLINE)
    states = itertools.pairwise([began, *await seen(page, "states")])
    spent = [left_at - came_at for (state, came_at), (_, left_at) in states if state == "connecting"]
    assert spent == pytest.approx([10_000] * 3)
    assert proxy.handshakes == 3
    assert here.posts > 0
    await page.clock.resume()
    await is_kept(lambda: left(browser, here.url))
    assert await seen(page, "beats") > 0
    assert await seen(page, "ends") == []
    assert proxy.handshakes == 3
    await no_complaints(page)


async def test_row_13_policy_blocks_sockets_alone(site: OpenSite, browser: BrowserContext) -> None:
    """A site that names itself by http forgets ws; the pings go by POST."""
    here = await site(csp="default-src 'self'; connect-src http://{host}", ping_interval=1, idle_timeout=30)
    await sign_in(browser, here.url)
    page = await arrive(browser, here.url, "polling")
    await is_kept(lambda: left(browser, here.url))
    assert await seen(page, "beats") > 0
    assert await seen(page, "ends") == []
    assert here.visits == []
    await no_complaints(page)


async def test_row_13_policy_blocks_everything(site: OpenSite, browser: BrowserContext) -> None:
    """The page says that it has no connection: it neither claims to be alive nor signed out."""
    here = await site(csp="default-src 'self'; img-src data:; connect-src 'none'", **QUICK)
    await sign_in(browser, here.url)
    page = await arrive(browser, here.url, "connecting")
    # Sockets, then a POST that finds the server out of reach, too.
    await eventually(lambda: seen(page, "reports.length"), lambda blocked: blocked >= 3)
    await becomes(page, "waiting")
    assert await page.get_by_role("img", name="Reconnecting").count() == 1
    assert set(await seen(page, "reports")) == {"connect-src"}
    assert await seen(page, "ends") == []
    assert (here.visits, here.posts) == ([], 0)
    await no_complaints(page)


async def test_row_13_mixed_content(stack: AsyncExitStack, desk: Launch, tmp_path: Path) -> None:
    """From https to ws: the constructor throws."""
    context = await watched(
        await desk("--ignore-certificate-errors", "--host-resolver-rules=MAP *.test 127.0.0.1")
    )
    plain = await stack.enter_async_context(Site(**QUICK).served())
    ours, _ = certified(tmp_path)
    safe = Site(f'src="http://plain.test:{plain.port}/keepalive/"', **QUICK)
    await stack.enter_async_context(safe.served(tls=ours))
    page = await context.new_page()
    await page.goto(safe.url)
    await eventually(lambda: seen(page, "sockets"), lambda tried: tried >= 2)
    await eventually(lambda: page.get_by_role("img", name="Reconnecting").count())
    assert await page.evaluate("isSecureContext")
    assert await seen(page, "ends") == []
    assert (plain.visits, plain.posts) == ([], 0)
    await no_complaints(page)


async def test_row_14_socket_refused_and_post_allowed(
    site: OpenSite, stack: AsyncExitStack, browser: BrowserContext
) -> None:
    here = await site(ping_interval=1, idle_timeout=30)
    proxy = await stack.enter_async_context(Proxy(here.port))
    proxy.treatment = "strip"
    await sign_in(browser, here.url)
    page = await arrive(browser, proxy.url, "polling")
    await is_kept(lambda: left(browser, here.url))
    assert await seen(page, "ends") == []
    assert (here.visits, proxy.handshakes) == ([], 3)

    proxy.treatment = "pass"
    other = await browser.new_page()
    await other.bring_to_front()
    await eventually(lambda: page.evaluate("document.visibilityState === 'hidden'"))
    await page.bring_to_front()
    await becomes(page, "open")
    posts = here.posts
    beats = await seen(page, "beats")
    await eventually(lambda: seen(page, "beats"), lambda more: more >= beats + 2)
    assert (here.posts, len(here.open), here.most) == (posts, 1, 1)
    await no_complaints(page)


async def tabs(context: BrowserContext, here: Site, many: int) -> tuple[Page, list[Page]]:
    """Open tabs that share a socket: the one that has it, and those that follow."""
    await sign_in(context, here.url)
    leader = await arrive(context, here.url)
    return leader, [await arrive(context, here.url, "following") for _ in range(many - 1)]


async def handed_over(here: Site, followers: list[Page], fallen_at: float, within: float) -> None:
    """One of the followers leads, soon enough; all the others follow it, and hear its beats."""
    await until(lambda: any(visit.opened_at > fallen_at for visit in here.open), within=within + DEADLINE)
    (visit,) = here.open
    assert visit.opened_at - fallen_at < within

    async def states() -> list[str]:
        return sorted([await state_of(page) for page in followers])

    await eventually(states, lambda found: found == ["following"] * (len(followers) - 1) + ["open"])
    counts = [await seen(page, "beats") for page in followers]
    for page, count in zip(followers, counts, strict=True):

        async def has_more(page: Page = page, count: int = count) -> bool:
            return bool(await seen(page, "beats") > count)

        await eventually(has_more)
        assert await seen(page, "ends") == []
        await no_complaints(page)
    assert len(here.open) == 1


async def test_row_15_ten_tabs_one_socket_and_the_leader_closes(
    site: OpenSite, browser: BrowserContext
) -> None:
    here = await site("share", **SHARED)
    leader, followers = await tabs(browser, here, TABS)
    assert len(here.visits) == 1
    fallen_at = now()
    await leader.close()
    await handed_over(here, followers, fallen_at, within=HAND_OVER)
    assert here.most == 1


async def test_row_15_leader_crashes(site: OpenSite, browser: BrowserContext) -> None:
    here = await site("share", **SHARED)
    leader, followers = await tabs(browser, here, 4)
    line = await devtools(leader)
    async with leader.expect_event("crash"):
        fallen_at = now()
        crash = asyncio.ensure_future(line.send("Page.crash"))
    await handed_over(here, followers, fallen_at, within=HAND_OVER)
    crash.cancel()
    await asyncio.gather(crash, return_exceptions=True)


async def test_row_15_leader_freezes(site: OpenSite, browser: BrowserContext) -> None:
    here = await site("share", **SHARED)
    leader, followers = await tabs(browser, here, 4)
    fallen_at = now()
    await set_frozen(leader, True)
    await handed_over(here, followers, fallen_at, within=HAND_OVER)
    await set_frozen(leader, False)
    await becomes(leader, "following")
    await eventually(lambda: heart(leader, "known"))
    assert len(here.open) == 1


async def test_row_15_leader_goes_into_the_back_forward_cache(
    site: OpenSite, browser: BrowserContext
) -> None:
    here = await site("share", **SHARED)
    leader, followers = await tabs(browser, here, 4)
    await leader.evaluate("window.mark = true")
    fallen_at = now()
    await leader.goto(f"{here.url}/elsewhere")
    await handed_over(here, followers, fallen_at, within=HAND_OVER)
    await go_back(leader)
    await becomes(leader, "following")
    await eventually(lambda: heart(leader, "known"))
    assert len(here.open) == 1


async def test_row_15_silent_leader_is_replaced(site: OpenSite, browser: BrowserContext) -> None:
    """One that hangs keeps lock and socket, but says nothing; when it is back it follows."""
    here = await site("share", **SHARED)
    leader, followers = await tabs(browser, here, 4)
    fallen_at = now()
    hang = asyncio.ensure_future(
        leader.evaluate("() => { const end = Date.now() + 12_000; while (Date.now() < end); }")
    )
    # Two intervals and five seconds of silence; at an interval of ten seconds and more that is within 2.5.
    await handed_over(here, followers, fallen_at, within=2 * SHARED["ping_interval"] + 5 + BUSY)
    await hang
    await becomes(leader, "following")
    assert len(here.open) == 1
    assert len(here.visits) == 2


async def test_row_15_without_locks_each_tab_has_its_socket(site: OpenSite, desk: Launch) -> None:
    context = await watched(await desk("--host-resolver-rules=MAP *.test 127.0.0.1"))
    here = await site("share", **PATIENT)
    url = f"http://insecure.test:{here.port}"
    page = await context.new_page()
    await page.goto(f"{url}/elsewhere")
    await page.evaluate("fetch('/in', {method: 'POST'})")
    pages = [await arrive(context, url) for _ in range(2)]
    assert not await pages[0].evaluate("isSecureContext")
    assert len(here.open) == 2
    for page in pages:
        await no_complaints(page)


@pytest.fixture
async def warned(site: OpenSite, browser: BrowserContext) -> tuple[Site, list[Page]]:
    """Ten tabs of a user who is to show up."""
    here = await site(**WARNED)
    await sign_in(browser, here.url)
    pages = [await arrive(browser, here.url) for _ in range(TABS)]
    assert len(here.open) == TABS
    for page in pages:
        await page.locator("session-heart[state=warning]").wait_for(state="attached")
    return here, pages


async def test_row_15_ten_tabs_share_input_and_deadlines(warned: tuple[Site, list[Page]]) -> None:
    """Who says in one tab that they are here has said it in all."""
    here, pages = warned
    asked = [len(visit.pings) for visit in here.visits]
    clicks_at = now()
    await pages[-1].get_by_role("button").click()
    clicked_at = now()

    async def extended() -> bool:
        return all([await heart(page, "warning") is None for page in pages])

    await eventually(extended)
    assert [len(visit.pings) for visit in here.visits[:-1]] == asked[:-1]  # only that one had to ask
    for page in pages:
        assert await heart(page, "expiresIn") > WARNED["warn_before"] - DEADLINE
        await no_complaints(page)
    # What the others tell of the user from now on is what that tab has seen.
    first = here.visits[0]
    asks_at = now()
    await pages[0].evaluate("document.querySelector('session-heart').keepalive.ping()")
    await until(lambda: len(first.pings) > asked[0])
    at, ping = first.pings[-1]
    assert ping.idle is not None
    tick = 0.01  # of two clocks
    assert asks_at - clicked_at - tick <= ping.idle <= at - clicks_at + tick


async def test_row_15_a_warning_goes_away_in_ten_tabs(warned: tuple[Site, list[Page]]) -> None:
    """The hearts of the other tabs show it, too, before these tabs have asked the server."""
    _, pages = warned
    await pages[-1].get_by_role("button").click()

    async def look() -> list[str | None]:
        return [await page.locator("session-heart").get_attribute("state") for page in pages]

    await eventually(look, lambda states: states == ["open"] * TABS)


async def test_row_15_leader_out_of_sight_pings_for_the_tab_in_sight(
    site: OpenSite, browser: BrowserContext
) -> None:
    """As often as the one in sight needs it; and no longer than there is one."""
    here = await site("share", hidden_interval=200.0, **PATIENT)
    leader, (follower,) = await tabs(browser, here, 2)  # the newest tab is the one in front
    (visit,) = here.visits

    def last() -> Ping:
        return visit.pings[-1][1]

    await eventually(lambda: leader.evaluate("document.visibilityState === 'hidden'"))
    pings = len(visit.pings)
    await until(lambda: len(visit.pings) >= pings + 10)
    assert all(ping.visible for _, ping in visit.pings[pings:])
    assert await state_of(follower) == "following"
    front = await browser.new_page()
    await front.bring_to_front()
    await until(lambda: not last().visible)
    await follower.bring_to_front()
    await until(lambda: last().visible)
    assert here.visits == [visit]


async def test_row_16_offline_keeps_an_open_socket(site: OpenSite, browser: BrowserContext) -> None:
    """What a browser says of the network is a hint: an open socket that answers is worth more."""
    here = await site(**PATIENT)
    await sign_in(browser, here.url)
    page = await arrive(browser, here.url)
    line = await devtools(page)
    for offline in True, False:
        # Only what the browser says: to take the network away takes the socket away, too.
        state = {"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        await line.send("Network.overrideNetworkState", state)
        assert await page.evaluate("navigator.onLine") is not offline
        enough = await seen(page, "beats") + 3
        await page.wait_for_function(f"seen.beats >= {enough}")
        assert await state_of(page) == "open"
    assert await seen(page, "sockets") == 1
    assert len(here.open) == 1


async def test_row_16_offline_page_does_not_storm(
    site: OpenSite, stack: AsyncExitStack, browser: BrowserContext
) -> None:
    here = await site(**PATIENT)
    proxy = await stack.enter_async_context(Proxy(here.port))
    await sign_in(browser, here.url)
    page = await arrive(browser, proxy.url)
    await browser.set_offline(True)
    proxy.cut()
    await becomes(page, "offline")
    tried = await seen(page, "sockets")
    await always(lambda: _is(page, "offline"), 5)
    assert await seen(page, "sockets") == tried
    await browser.set_offline(False)
    await becomes(page, "open")  # by itself it would try a minute later
    assert await seen(page, "ends") == []
    assert len(here.open) == 1


async def test_row_16_offline_never_logs_out(
    site: OpenSite, stack: AsyncExitStack, browser: BrowserContext
) -> None:
    """Not even when the session's time has run out: that is for the server to say."""
    here = await site(**QUICK)
    proxy = await stack.enter_async_context(Proxy(here.port))
    await sign_in(browser, here.url)
    page = await arrive(browser, proxy.url)
    await eventually(lambda: heart(page, "known"))
    await browser.set_offline(True)
    proxy.cut()
    await eventually(lambda: is_alive(browser, here.url), lambda alive: not alive)
    await eventually(lambda: heart(page, "known"), lambda known: known is False)
    await always(lambda: _is(page, "offline", "connecting"), 2)
    assert await seen(page, "ends") == []
    assert await seen(page, "sockets") < 12
    await browser.set_offline(False)
    await becomes(page, "ended")
    assert await seen(page, "ends") == ["idle"]
    await no_complaints(page)


async def _is(page: Page, *states: str) -> bool:
    return await state_of(page) in states


async def test_row_17_reduced_motion_strict_policy_and_one_name(
    site: OpenSite, browser: BrowserContext
) -> None:
    strict = (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    )
    here = await site(csp=strict, **PATIENT)
    await sign_in(browser, here.url)
    page = await browser.new_page()
    await page.emulate_media(reduced_motion="reduce")
    await page.goto(here.url)
    await eventually(lambda: seen(page, "beats"), lambda beats: beats >= 2)
    frames = await page.evaluate(
        "document.querySelector('session-heart').shadowRoot.getAnimations()"
        ".filter((each) => !(each instanceof CSSTransition)).flatMap((each) => each.effect.getKeyframes())"
    )
    assert frames
    assert all("transform" not in frame for frame in frames)
    assert await seen(page, "reports") == []
    tree = await (await devtools(page)).send("Accessibility.getFullAXTree")
    pictures = [
        (node["role"]["value"], node["name"]["value"])
        for node in tree["nodes"]
        if not node["ignored"] and "session" in node.get("name", {}).get("value", "").lower()
    ]
    assert pictures == [("image", "Session alive")]
    await no_complaints(page)


# The clock of the page, which a test can set forward; timers run on, as they do after a sleep.
SKEW = """(() => {
  const { now } = Date;
  window.skew = 0;
  Date.now = () => now() + skew;
})()"""


async def test_row_18_clock_jump_is_a_probe(site: OpenSite, browser: BrowserContext) -> None:
    """The page asks at once, knows nothing meanwhile, and takes the server's word."""
    here = await site(ping_interval=INTERVAL, idle_timeout=1800)
    await browser.add_init_script(SKEW)
    await sign_in(browser, here.url)
    page = await arrive(browser, here.url)
    await eventually(lambda: seen(page, "beats"))
    await page.evaluate("skew += 3_600_000")
    jumped_at = now()
    (visit,) = here.visits
    await until(lambda: visit.pings[-1][0] > jumped_at)
    await eventually(
        lambda: seen(page, "known"), lambda known: known[-2:] == [["open", False], ["open", True]]
    )
    assert 1790 < await heart(page, "expiresIn") <= 1800
    assert await seen(page, "ends") == []
    assert here.visits == [visit]
    assert visit.code is None


async def test_row_18_after_a_clock_jump_the_server_ends_the_session(
    site: OpenSite, stack: AsyncExitStack, browser: BrowserContext
) -> None:
    """An hour has passed, no answer comes, and still the page does not take the session for over."""
    here = await site(ping_interval=INTERVAL, idle_timeout=1800)
    proxy = await stack.enter_async_context(Proxy(here.port))
    await browser.add_init_script(SKEW)
    await sign_in(browser, here.url)
    page = await arrive(browser, proxy.url)
    await eventually(lambda: seen(page, "beats"))
    proxy.flows.clear()
    await page.evaluate("skew += 3_600_000")
    await eventually(lambda: heart(page, "known"), lambda known: known is False)
    await here.end(here.visits[0])
    await eventually(lambda: state_of(page), lambda state: state != "open")  # the probe was not answered
    assert await seen(page, "ends") == []
    assert await heart(page, "known") is False
    proxy.flows.set()
    await becomes(page, "ended")
    assert await seen(page, "ends") == ["revoked"]
    assert await heart(page, "known") is True
    await no_complaints(page)


async def test_row_18_woken_page_knows_nothing_until_the_server_has_spoken(
    site: OpenSite, stack: AsyncExitStack, browser: BrowserContext
) -> None:
    here = await site(**PATIENT)
    proxy = await stack.enter_async_context(Proxy(here.port))
    await sign_in(browser, here.url)
    page = await arrive(browser, proxy.url)
    assert await heart(page, "known") is True
    await set_frozen(page, True)
    await until(lambda: here.open == [])
    proxy.flows.clear()
    await set_frozen(page, False)
    await becomes(page, "connecting")
    assert await heart(page, "known") is False
    proxy.flows.set()
    await eventually(lambda: heart(page, "known"))
    assert await state_of(page) == "open"
