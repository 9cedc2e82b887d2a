"""What a user gets, in real Chromium."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import Browser, Page

from .conftest import DEADLINE, Server, client, sign_in, user

pytestmark = [pytest.mark.browser, pytest.mark.timeout(150)]

Serve = Callable[..., Awaitable[Server]]
IDLE = 6
QUICK = ("--idle-timeout", str(IDLE), "--ping-interval", "1")

# Counts, on the large heart of the demo, the beats it hears and the animations that they start.
WATCH = """() => {
  const heart = document.querySelector("#stage session-heart");
  window.seen = {beats: 0, running: 0, ends: []};
  heart.addEventListener("session-beat", () => {
    seen.beats += 1;
    const [animation] = heart.shadowRoot.getAnimations({subtree: true});
    if (animation?.playState === "running") seen.running += 1;
  });
  heart.addEventListener("session-end", ({reason}) => seen.ends.push([reason, Date.now()]));
}"""


# Notes when the server has answered which request.
NOTE_ANSWERS = """() => {
  window.answered = {};
  const { fetch } = window;
  window.fetch = async (path, options) => {
    const response = await fetch(path, options);
    answered[path] = Date.now();
    return response;
  };
}"""


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_an_open_page_keeps_its_session_and_a_closed_one_does_not(
    serve: Serve, chromium: Browser
) -> None:
    server = await serve(*QUICK)
    page = await chromium.new_page()
    await sign_in(page, server.url)
    await page.evaluate(WATCH)
    async with client(page) as session:
        until = now() + 2.5 * IDLE
        while now() < until:
            assert await user(session, server.url) == "Ada"
            await asyncio.sleep(0.25)
        seen = await page.evaluate("seen")
        assert seen["beats"] > IDLE  # of fifteen; a busy machine may be late with some
        assert seen["running"] == seen["beats"]
        assert seen["ends"] == []

        await page.close()
        closed = now()
        while await user(session, server.url) is not None:
            assert now() < closed + DEADLINE
            await asyncio.sleep(0.05)
        assert now() > closed + IDLE / 2  # the session outlived its page, by what the last ping was worth


async def test_signing_out_in_one_tab_ends_the_other(serve: Serve, chromium: Browser) -> None:
    server = await serve()
    context = await chromium.new_context()
    here, there = await context.new_page(), await context.new_page()
    await sign_in(here, server.url)
    await there.goto(server.url)
    await there.locator("#last", has_text="last beat").wait_for()
    await there.evaluate(WATCH)
    await here.evaluate(NOTE_ANSWERS)
    await here.get_by_role("button", name="Sign out").click()
    await here.get_by_role("textbox", name="Your name").wait_for()
    answered = await here.evaluate("answered['/logout']")

    await there.get_by_role("heading", name="You are signed out").wait_for()
    ((reason, when),) = await there.evaluate("seen.ends")
    assert reason == "logout"
    # By the browser's own clock, from the server's answer in one tab to the end in the other: told, and not
    # found out by the next ping, 25 s later. How fast it is told is for the server's own tests.
    assert when - answered < 10_000
    assert await there.locator("#stage session-heart").get_attribute("state") == "ended"


async def test_a_sign_out_that_fails_is_told_where_it_was_asked_for(serve: Serve, chromium: Browser) -> None:
    server = await serve()
    page = await chromium.new_page()
    await sign_in(page, server.url)
    await server.kill()
    await page.get_by_role("button", name="Sign out").click()
    await page.get_by_role("alert").filter(has_text="You may still be signed in.").wait_for()
    await server.start()
    await page.get_by_role("button", name="Ping now").click()
    await page.locator("#logout-problem:empty").wait_for(state="attached")
    await page.get_by_role("button", name="Sign out").click()
    await page.get_by_role("textbox", name="Your name").wait_for()


async def test_the_page_claims_no_more_than_it_knows(serve: Serve, chromium: Browser) -> None:
    """That a lost connection signs nobody out is true only until the session's time has run out."""
    server = await serve(*QUICK)
    page = await chromium.new_page()
    await sign_in(page, server.url)
    summary = page.locator("#summary")
    await summary.filter(has_text="Leave this page open").wait_for()
    await server.kill()
    await summary.filter(has_text="That signs nobody out").wait_for()
    await summary.filter(has_text="time has run out").wait_for()
    await server.start()
    await page.get_by_role("button", name="Ping now").click()
    await page.get_by_role("heading", name="You are signed out").wait_for()
    await page.get_by_text("There was no activity for too long.").wait_for()


async def test_a_page_that_only_looks_on_says_so(serve: Serve, chromium: Browser) -> None:
    server = await serve("--mode", "observe", "--warn-before", "4", *QUICK)
    page = await chromium.new_page()
    await sign_in(page, server.url)
    assert "open page does not" in await page.locator("#mode-means").inner_text()
    assert "Leave this page open" not in await page.locator("#summary").inner_text()
    await page.get_by_text("Only using the application keeps the session.").wait_for()
    await page.reload()
    await page.locator("#stage session-heart[state=open]").wait_for()  # and not in the warning state
    await page.get_by_role("heading", name="You are signed out").wait_for()


async def test_an_idle_user_is_told_that_there_was_no_input(serve: Serve, chromium: Browser) -> None:
    server = await serve(
        "--mode", "activity", "--idle-timeout", "12", "--warn-before", "9", "--ping-interval", "1"
    )
    page = await chromium.new_page()
    await sign_in(page, server.url)
    await page.get_by_role("button", name="Stay signed in").click()
    await page.locator("#stage session-heart[state=open]").wait_for()
    await page.get_by_text("There was no activity for too long.").wait_for()


async def test_whoever_is_signed_out_signs_in_again_where_they_are(serve: Serve, chromium: Browser) -> None:
    server = await serve()
    page = await chromium.new_page()
    await sign_in(page, server.url)
    await page.evaluate("window.mark = true")
    await page.evaluate("fetch('/logout', {method: 'POST'})")
    await page.get_by_role("heading", name="You are signed out").wait_for()
    assert not await page.locator("#log").is_visible()
    async with page.expect_popup() as popup:
        await page.get_by_role("button", name="Sign in again").click()
    desk = await popup.value
    await desk.get_by_role("textbox", name="Your name").fill("Ada")
    async with desk.expect_event("close"):  # by the page behind it
        await desk.get_by_role("button", name="Sign in").click()
    await page.locator("#stage session-heart[state=open]").wait_for()
    await page.locator("#log").wait_for()
    assert await page.evaluate("window.mark") is True


async def test_a_killed_server_comes_back_with_its_sessions(serve: Serve, chromium: Browser) -> None:
    server = await serve()
    page = await chromium.new_page()
    await sign_in(page, server.url)
    heart = page.locator("#stage session-heart")
    await server.kill()
    await page.locator("#stage session-heart[state=waiting]").wait_for()
    await server.start()
    await page.locator("#stage session-heart[state=open]").wait_for()
    await page.wait_for_function(
        "() => document.querySelector('#last').textContent.startsWith('last beat 0')"
    )
    assert await heart.get_attribute("state") == "open"
    async with client(page) as session:
        assert await user(session, server.url) == "Ada"


async def test_signing_in_again_elsewhere_brings_the_other_tab_along(serve: Serve, chromium: Browser) -> None:
    server = await serve()
    context = await chromium.new_context()
    here, there = await context.new_page(), await context.new_page()
    await sign_in(here, server.url)
    await there.goto(server.url)
    await there.locator("#last", has_text="last beat").wait_for()
    await there.evaluate(WATCH)
    # A login while signed in gives the session another id; the other tab has the new cookie too.
    response = await here.evaluate(
        "fetch('/login', {method: 'POST', body: new URLSearchParams({name: 'Ada'})}).then(r => r.status)"
    )
    assert response == 200
    await there.wait_for_function("() => seen.beats > 0", timeout=DEADLINE * 1000)
    assert await there.evaluate("seen.ends") == []
    assert await there.locator("#stage session-heart").get_attribute("state") == "open"


async def test_beat_is_one_animation_a_second_for_each_time(serve: Serve, chromium: Browser) -> None:
    server = await serve()
    page = await chromium.new_page()
    await sign_in(page, server.url)
    # Pressed and looked at in one task: a beat of the server's that came between would add to this one.
    pressed = await page.wait_for_function(
        f"() => !{ANIMATIONS}.some(a => a.playState === 'running')"
        f" && (document.querySelector('#beat').click(), {ANIMATIONS}.map(a => a.effect.getComputedTiming()))"
    )
    timing = await pressed.json_value()
    assert [(each["duration"], each["iterations"]) for each in timing] == [(1000, 2)]


async def test_nothing_moves_for_people_who_prefer_that(serve: Serve, chromium: Browser) -> None:
    server = await serve()
    page: Page = await chromium.new_page(reduced_motion="reduce")
    await sign_in(page, server.url)
    await page.get_by_role("button", name="Just beat").click()
    frames = await page.evaluate(f"{ANIMATIONS}.flatMap(a => a.effect.getKeyframes())")
    assert frames
    assert all("transform" not in frame for frame in frames)


ANIMATIONS = (
    "document.querySelector('#stage session-heart').shadowRoot.getAnimations({subtree: true})"
    ".filter(a => !(a instanceof CSSTransition))"
)
