"""The dashboard in Chromium: signed in, fed by push, looked through, and used by keyboard alone."""

import asyncio
import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from hashlib import sha384
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Route

from ..visitors import visits
from .conftest import ROOT, Server

TOKEN = "a-token-for-tests-of-44-characters-in-length"
ADMIN = ROOT / "web" / "admin"
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
LIVE = "#source.live"
QUICK = ("--ping-interval", "1", "--idle-timeout", "60", "--trusted-proxies", "127.0.0.1")

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

StartServer = Callable[..., Awaitable[Server]]
Arrive = Callable[..., Awaitable[Page]]


@pytest.fixture
async def server(request: pytest.FixtureRequest, serve: StartServer, tmp_path: Path) -> Server:
    (tmp_path / "token").write_text(TOKEN)
    more = getattr(request, "param", ())
    return await serve("--admin-token-file", str(tmp_path / "token"), *QUICK, *more)


@pytest.fixture
async def people(server: Server) -> AsyncIterator[None]:
    """Forty of them, who come and go."""
    visiting = asyncio.create_task(visits(40, [server.url], within=1))
    yield
    visiting.cancel()
    await asyncio.gather(visiting, return_exceptions=True)


@pytest.fixture
async def arrive(server: Server, chromium: Browser) -> AsyncIterator[Arrive]:
    """Opens the dashboard. Nothing on it may break the policy, or throw."""
    complaints: list[str] = []
    async with AsyncExitStack() as stack:

        async def arrive(scheme: Any = "light", *, token: str = TOKEN, width: int = 1280) -> Page:
            viewport: Any = {"width": width, "height": 900}
            context = await chromium.new_context(color_scheme=scheme, viewport=viewport)
            stack.push_async_callback(context.close)
            page = await context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))

            def note(message: ConsoleMessage) -> None:
                if message.type == "error" and "status of 401" not in message.text:
                    complaints.append(message.text)

            page.on("console", note)
            answer = await page.goto(f"{server.url}/keepalive/admin/")
            assert answer is not None
            assert "require-trusted-types-for" in answer.headers["content-security-policy"]
            await page.get_by_label("Admin token").fill(token)
            await page.get_by_role("button", name="Sign in").click()
            return page

        yield arrive
    assert complaints == []


async def number(page: Page, name: str) -> float:
    """What a tile says."""
    text = await page.locator(f"#{name}").inner_text()
    return float(re.sub(r"[^\d.]", "", text) or "nan")


async def until_true(page: Page, expression: str) -> None:
    await page.wait_for_function(expression, timeout=30_000)


async def test_the_figures_come_by_push(server: Server, people: None, arrive: Arrive) -> None:
    page = await arrive()
    await page.evaluate(
        "{ window.pushes = []; addEventListener('session-push', () => pushes.push(performance.now()), true) }"
    )
    await page.locator(LIVE).wait_for()
    await until_true(page, "() => +document.querySelector('#pages').textContent >= 40")
    await until_true(page, "() => +document.querySelector('#beats').textContent >= 20")
    assert 0 < await number(page, "sessions") <= await number(page, "pages")
    assert await number(page, "users") >= 1
    assert await number(page, "p99") > 0
    assert await page.locator("session-heart").get_attribute("state") == "open"
    await until_true(page, "() => pushes.length >= 3")
    in_vain = """performance.getEntriesByType('resource')
      .filter(({ name }) => name.endsWith('/api/stats'))
      .map(({ startTime }) => startTime)
      .filter((at) => pushes.some((push) => at >= push && at - push < 3000))"""
    assert await page.evaluate(in_vain) == []
    # Something is drawn: the line of the pages reaches up.
    await until_true(
        page,
        """() => [...document.querySelectorAll('figure canvas')].every((canvas) => {
          const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          const colours = new Set();
          for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 200) colours.add(data[at] >> 4);
          return colours.size > 3;
        })""",
    )
    for name in "Online", "Beats a second", "From ping to beat", "Store, for a batch":
        label = await page.get_by_role("img", name=re.compile(f"^{name}: ")).get_attribute("aria-label")
        assert label and re.search(r"\d", label)


async def test_the_wrong_token_is_told(arrive: Arrive) -> None:
    page = await arrive(token="x" * 40)
    await page.get_by_role("alert").filter(has_text="needs the admin token").wait_for()
    assert await page.locator("#board").is_hidden()
    assert await page.evaluate("sessionStorage.length") == 0
    await page.get_by_label("Admin token").fill(TOKEN)
    await page.keyboard.press("Enter")
    await page.locator(LIVE).wait_for()
    assert TOKEN not in page.url


async def test_a_reload_stays_and_a_sign_out_leaves(arrive: Arrive) -> None:
    page = await arrive()
    await page.locator(LIVE).wait_for()
    await page.reload()
    await page.locator(LIVE).wait_for()
    await page.get_by_role("button", name="Sign out").click()
    await page.get_by_label("Admin token").wait_for()
    assert await page.evaluate("[sessionStorage.length, localStorage.length]") == [0, 0]
    assert await page.locator("session-heart").count() == 0
    await page.reload()
    await page.get_by_label("Admin token").wait_for()
    assert await page.locator("#board").is_hidden()


async def test_a_session_is_found_explained_and_ended_by_keyboard(
    server: Server, arrive: Arrive, chromium: Browser
) -> None:
    user = await (await chromium.new_context()).new_page()
    await user.goto(server.url)
    await user.get_by_role("textbox", name="Your name").fill("Ada <b>Lovelace</b>")
    await user.get_by_role("button", name="Sign in", exact=True).click()
    await user.locator("#last", has_text="last beat").wait_for()

    page = await arrive()
    await page.locator(LIVE).wait_for()
    await page.get_by_role("searchbox").focus()
    await page.keyboard.type("nobody")
    await page.locator("#matches", has_text="0 sessions found").wait_for()
    await page.get_by_role("searchbox").fill("lovelace")
    await page.locator("#matches", has_text="1 session found").wait_for()
    row = page.locator("#rows tr")
    assert await row.locator("th").inner_text() == "Ada <b>Lovelace</b>"  # and no markup
    await page.get_by_role("button", name=re.compile("^Explain the session .* of Ada")).focus()
    await page.keyboard.press("Enter")
    told = page.get_by_role("dialog")
    await told.get_by_text("Alive because an open page answers.").wait_for()
    assert "by the idle timeout" in await told.inner_text()
    await page.keyboard.press("Escape")
    await told.wait_for(state="hidden")
    assert "Explain" in str(await page.evaluate("document.activeElement.getAttribute('aria-label')"))

    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    sure = page.get_by_role("alertdialog", name="End this session?")
    await sure.wait_for()
    assert await page.evaluate("document.activeElement.textContent") == "Cancel"
    await page.keyboard.press("Enter")  # whoever only presses Enter twice ends nothing
    await sure.wait_for(state="hidden")
    assert await row.count() == 1
    await row.get_by_role("button", name=re.compile("^End")).press("Enter")
    await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("Enter")
    await page.locator("#matches", has_text="0 sessions found").wait_for()
    await user.locator("session-heart[state=ended]").first.wait_for(state="attached")
    await page.locator("#ends", has_text="Ended by an operator").wait_for()
    await page.locator("#closes", has_text="4506").wait_for()


async def test_rows_stay_under_the_pointer(people: None, arrive: Arrive) -> None:
    """The list is asked for anew every few seconds; a button that somebody is about to press stays."""
    page = await arrive()
    await page.locator("#rows tr").nth(5).wait_for()
    await page.evaluate("window.kept = [...document.querySelectorAll('#rows tr')]")
    ages = await page.locator("#rows tr td:nth-child(7)").all_inner_texts()
    async with page.expect_response(lambda response: "api/sessions?" in response.url):
        pass
    await until_true(
        page,
        "() => [...document.querySelectorAll('#rows td:nth-child(7)')].map((each) => each.textContent)"
        f".join() !== {','.join(ages)!r}",
    )
    assert await page.evaluate(
        """() => {
          const rows = [...document.querySelectorAll('#rows tr')];
          const same = window.kept.filter(({ dataset }) => rows.some((row) => row.dataset.id === dataset.id));
          return same.length > 5 && same.every((row) => row.isConnected);
        }"""
    )


async def test_without_a_socket_it_asks(server: Server, people: None, chromium: Browser) -> None:
    """And says so; when the server was away for a while it goes on by itself."""
    page = await chromium.new_page()
    await page.add_init_script("globalThis.WebSocket = class { constructor() { throw new Error('none') } }")
    await page.goto(f"{server.url}/keepalive/admin/")
    await page.get_by_label("Admin token").fill(TOKEN)
    await page.get_by_role("button", name="Sign in").click()
    await page.locator("#source", has_text="by request").wait_for()
    await until_true(page, "() => +document.querySelector('#pages').textContent >= 40")
    await server.kill()
    await page.get_by_role("alert").filter(has_text="does not answer").wait_for()
    await server.start()
    await page.get_by_role("alert").filter(has_text="does not answer").wait_for(state="hidden")


async def test_without_its_history_it_is_live_all_the_same(server: Server, chromium: Browser) -> None:
    page = await chromium.new_page()
    await page.route("**/api/stats/history", lambda route: route.abort())
    await page.goto(f"{server.url}/keepalive/admin/")
    await page.get_by_label("Admin token").fill(TOKEN)
    await page.get_by_role("button", name="Sign in").click()
    await page.locator(LIVE).wait_for()


async def test_a_server_that_hangs_is_asked_once_at_a_time(server: Server, chromium: Browser) -> None:
    page = await chromium.new_page()
    await page.add_init_script("globalThis.WebSocket = class { constructor() { throw new Error('none') } }")
    await page.goto(f"{server.url}/keepalive/admin/")
    await page.get_by_label("Admin token").fill(TOKEN)
    await page.get_by_role("button", name="Sign in").click()
    await page.locator("#source", has_text="by request").wait_for()
    hanging: list[Route] = []

    async def hang(route: Route) -> None:
        hanging.append(route)

    await page.route("**/api/stats", hang)
    await until_true(page, "() => performance.now() > 7000")  # it would have asked several times
    assert len(hanging) == 1
    await hanging.pop().continue_()
    async with asyncio.timeout(10):
        while not hanging:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("server", [("--workers", "2")], indirect=True)
async def test_a_server_is_drained_after_a_question(server: Server, arrive: Arrive) -> None:
    page = await arrive()
    await page.locator(LIVE).wait_for()
    await page.locator("#node", has_text=", 2 workers").wait_for()
    assert await page.locator("#nodes .tag").all_inner_texts() == ["this server"] * 2
    await page.get_by_role("button", name="Drain this server").click()
    await page.get_by_role("alertdialog").get_by_role("button", name="Drain it").click()
    await page.locator("#nodes tr:nth-child(1) .warn", has_text="draining").wait_for()
    await page.locator("#nodes tr:nth-child(2) .warn", has_text="draining").wait_for()
    assert await page.locator("#drain").is_disabled()
    for _ in range(8):
        ready = await page.context.request.get(f"{server.url}/readyz", headers={"Connection": "close"})
        assert ready.status == 503
    await page.locator(LIVE).wait_for()  # whoever drains a node can watch it


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["sign-in", "board", "why", "sure", "small"])
async def test_axe_finds_nothing(people: None, arrive: Arrive, view: str, scheme: str) -> None:
    page = await arrive(scheme, width=360 if view == "small" else 1280)
    await page.locator(LIVE).wait_for()
    await page.locator("#rows tr").nth(3).wait_for()
    if view == "sign-in":
        await page.get_by_role("button", name="Sign out").click()
    if view == "why":
        await page.get_by_role("button", name=re.compile("^Explain")).first.click()
        await page.get_by_role("dialog").wait_for()
    if view == "sure":
        await page.get_by_role("button", name=re.compile("^End the")).first.click()
        await page.get_by_role("alertdialog").wait_for()
    await page.evaluate(AXE.read_text())
    found = await page.evaluate("axe.run()")
    assert [
        (each["id"], each["nodes"][0]["html"], each["nodes"][0]["failureSummary"])
        for each in found["violations"]
    ] == []
    assert "color-contrast" in [each["id"] for each in found["passes"]]  # it has looked
    wide = await page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert not wide


# What is vendored.


def test_what_is_vendored_is_what_was_published() -> None:
    """The page loads these bytes or none, and they are those of the package that the lock names."""
    page = (ADMIN / "index.html").read_text("utf-8")
    for name in "uPlot.iife.min.js", "uPlot.min.css":
        vendored = (ADMIN / "vendor" / name).read_bytes()
        assert vendored == (ROOT / "web" / "node_modules" / "uplot" / "dist" / name).read_bytes()
        digest = b64encode(sha384(vendored).digest()).decode()
        assert f'"vendor/{name}" integrity="sha384-{digest}"' in page
    licence = (ADMIN / "vendor" / "uPlot.LICENSE").read_text("utf-8")
    assert "MIT" in licence and "Permission is hereby granted" in licence
    lock = json.loads((ROOT / "web" / "package-lock.json").read_text("utf-8"))
    assert lock["packages"]["node_modules/uplot"]["integrity"].startswith("sha512-")


def test_the_page_has_nothing_inline() -> None:
    page = (ADMIN / "index.html").read_text("utf-8")
    assert "style=" not in page and "<style" not in page
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert not re.search(r"\son\w+=", page)
