"""The dialogs of `<session-guard>`, and signing in again in place, in real Chromium."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser, BrowserContext, Error, Locator, Page

import keepalive
from keepalive import Policy, Reason

from ..raw import serving
from .conftest import DEADLINE, ROOT
from .matrix import until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(150)]

PAGES = Path(__file__).with_name("pages")
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " frame-src 'self'; form-action 'self'; require-trusted-types-for 'script'; trusted-types 'none'"
)
POLICIES = {
    "calm": Policy(ping_interval=1),
    # These warn four seconds after the sign-in, or after the last input; the last ends soon.
    "idle": Policy(idle_timeout=60, warn_before=56, ping_interval=1, mode="activity"),
    "absolute": Policy(idle_timeout=60, absolute_timeout=60, warn_before=56, ping_interval=1),
    "brief": Policy(idle_timeout=12, warn_before=8, ping_interval=1, mode="activity"),
}
SIGN_IN = """<!doctype html><html lang="en"><title>Sign in</title><link rel="icon" href="data:,">
<form method="post"><label>Name <input name="user"></label><button>Sign in</button></form></html>"""
STYLE = """html { background: Canvas; } body { font-family: sans-serif; }
main { max-width: 40rem; margin: 2rem auto; padding: 0 1rem; }"""


class Site:
    """An app with a guarded page, and one to sign in."""

    def __init__(self) -> None:
        self.url = ""
        self.app = web.Application()
        self.keepalive = keepalive.setup(self.app, "memory://", policy=self._policy, login="/signin")
        self.app.router.add_get("/", self._page)
        self.app.router.add_get("/guard.css", _static(STYLE, "text/css"))
        self.app.router.add_get("/signin", _static(SIGN_IN))
        self.app.router.add_post("/signin", self._sign_in)
        self.app.router.add_get("/welcome", _static("<!doctype html><title>Welcome</title>"))
        self.app.router.add_post("/signout", self._sign_out)

    @staticmethod
    def _policy(data: Mapping[str, Any]) -> Policy:
        return POLICIES[data["policy"]]

    async def _page(self, request: web.Request) -> web.Response:
        html = (PAGES / "guard.html").read_text()
        options = request.query.get("guard", "")
        return web.Response(
            text=html.replace("<session-guard ", f"<session-guard {options} "),
            content_type="text/html",
            headers={"Content-Security-Policy": POLICY},
        )

    async def _sign_in(self, request: web.Request) -> web.Response:
        user = str((await request.post())["user"])
        await self.keepalive.start(request, user, {"policy": request.query.get("policy", "calm")})
        return web.Response(status=303, headers={"Location": "/welcome"})

    async def _sign_out(self, request: web.Request) -> web.Response:
        await self.keepalive.end(request)
        return web.Response(status=303, headers={"Location": "/signin"})


def _static(text: str, content_type: str = "text/html") -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type=content_type)

    return answer


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    async with serving(site.app) as (_, port):
        site.url = f"http://127.0.0.1:{port}"
        yield site


Arrive = Callable[..., Awaitable[Page]]


@pytest.fixture
async def context(chromium: Browser) -> BrowserContext:
    return await chromium.new_context()


@pytest.fixture
def arrive(site: Site, context: BrowserContext) -> Arrive:
    """Signs in as Ada, unless told that she is, and opens the guarded page."""

    async def arrive(policy: str | None = "calm", guard: str = "", scheme: Any = None) -> Page:
        page = await context.new_page()
        await page.emulate_media(color_scheme=scheme)
        if policy is not None:
            await context.request.post(f"{site.url}/signin?policy={policy}", form={"user": "ada"})
        await page.goto(f"{site.url}/?guard={guard}")
        await holds(page, "document.querySelector('session-guard').keepalive?.who")
        return page

    return arrive


async def holds(page: Page, expression: str) -> None:
    """Wait until an expression is true in the page. (Playwright's own way to wait needs `eval` there.)"""
    async with asyncio.timeout(DEADLINE):
        while True:
            with suppress(Error):  # on its way to another document
                if await page.evaluate(expression):
                    return
            await asyncio.sleep(0.02)


async def becomes(page: Page, state: str) -> None:
    await page.locator(f"html[data-session={state}]").wait_for(state="attached", timeout=DEADLINE * 1000)


def dialog(page: Page) -> Locator:
    return page.get_by_role("alertdialog")


async def type_in(page: Page) -> None:
    await page.get_by_label("Note to the driver").fill("Mind the dog")
    await page.get_by_label("It is a gift").check()
    await page.get_by_label("Password").fill("hush")
    await page.evaluate("window.mark = 'kept'")


async def typed(page: Page) -> list[Any]:
    note, gift = page.get_by_label("Note to the driver"), page.get_by_label("It is a gift")
    secret = page.get_by_label("Password")
    return [await note.input_value(), await gift.is_checked(), await secret.input_value()]


async def is_same(page: Page) -> bool:
    """Whether it has not been loaded again."""
    mark: object = await page.evaluate("window.mark")
    return mark == "kept"


async def sign_in(desk: Page, user: str) -> None:
    await desk.get_by_label("Name").fill(user)
    await desk.get_by_role("button", name="Sign in").click()


async def test_one_key_stays_signed_in(arrive: Arrive) -> None:
    page = await arrive("idle")
    await dialog(page).wait_for()
    await becomes(page, "warning")
    left = await page.evaluate("document.querySelector('session-guard').keepalive.expiresIn")
    assert 20 < left < 60
    await page.keyboard.press("Enter")
    await dialog(page).wait_for(state="hidden")
    await becomes(page, "alive")


async def test_staying_in_one_tab_closes_the_dialog_in_all(arrive: Arrive) -> None:
    here = await arrive("idle")
    there = await arrive(None)
    await dialog(here).wait_for()
    await dialog(there).wait_for()
    await there.get_by_role("button", name="Stay signed in").click()
    await dialog(there).wait_for(state="hidden")
    await dialog(here).wait_for(state="hidden")


async def test_nothing_extends_the_absolute_deadline(arrive: Arrive) -> None:
    page = await arrive("absolute")
    await dialog(page).filter(has_text="cannot be extended").wait_for()
    await page.get_by_role("button", name="OK").click()
    await dialog(page).wait_for(state="hidden")
    await becomes(page, "warning")
    assert await page.title() == "≤ 1:00 · Orders"


async def test_an_idle_session_ends_in_a_dialog_that_says_so(arrive: Arrive) -> None:
    page = await arrive("brief")
    await dialog(page).filter(has_text="about to end").wait_for()
    await dialog(page).filter(has_text="no activity for too long").wait_for()
    assert not await page.get_by_role("link", name="Ada Lovelace").is_visible()


async def test_signing_out_from_the_warning(arrive: Arrive) -> None:
    page = await arrive("idle")
    await dialog(page).wait_for()
    await page.get_by_role("button", name="Sign out").click()
    await page.wait_for_url("**/signin")


@pytest.mark.parametrize("reason", [Reason.IDLE, Reason.ABSOLUTE, Reason.REVOKED, Reason.LOGOUT])
async def test_signing_in_again_in_a_popup_goes_on_in_place(
    site: Site, arrive: Arrive, reason: Reason
) -> None:
    page = await arrive()
    await type_in(page)
    await site.keepalive.end_user("ada", reason)
    await becomes(page, "ended")
    async with page.expect_popup() as popup:
        await page.get_by_role("button", name="Sign in again").click()
    desk = await popup.value
    await dialog(page).filter(has_text="in the other window").wait_for()
    await sign_in(desk, "ada")
    await becomes(page, "alive")
    await dialog(page).wait_for(state="hidden")
    await until(desk.is_closed)
    assert await is_same(page)
    assert await typed(page) == ["Mind the dog", True, "hush"]
    assert await page.evaluate("sessionStorage.length") == 0


async def test_a_popup_that_is_closed_leaves_the_dialog_as_it_was(site: Site, arrive: Arrive) -> None:
    page = await arrive()
    await type_in(page)
    await site.keepalive.end_user("ada")
    button = page.get_by_role("button", name="Sign in again")
    for _ in range(2):
        async with page.expect_popup() as popup:
            await button.click()
        desk = await popup.value
        await desk.close()
        await dialog(page).filter(has_text="The site ended the session").wait_for()
        await page.get_by_text("in the other window").wait_for(state="hidden")
    assert await is_same(page)


async def test_signing_in_in_a_frame(site: Site, arrive: Arrive) -> None:
    page = await arrive(guard="frame")
    await type_in(page)
    await site.keepalive.end_user("ada")
    await page.get_by_role("button", name="Sign in again").click()
    desk = page.frame_locator("session-guard iframe")
    await desk.get_by_label("Name").fill("ada")
    await desk.get_by_role("button", name="Sign in").click()
    await becomes(page, "alive")
    assert await is_same(page)
    assert await typed(page) == ["Mind the dog", True, "hush"]


async def test_another_user_gets_a_page_of_their_own(site: Site, arrive: Arrive) -> None:
    page = await arrive()
    await type_in(page)
    await site.keepalive.end_user("ada")
    async with page.expect_popup() as popup:
        await page.get_by_role("button", name="Sign in again").click()
    await sign_in(await popup.value, "bob")
    await holds(page, "window.mark === undefined")
    await becomes(page, "alive")
    await holds(page, "!sessionStorage.getItem('session-guard')")
    assert await typed(page) == ["", False, ""]


async def test_signing_in_in_another_tab_is_enough(
    site: Site, arrive: Arrive, context: BrowserContext
) -> None:
    here = await arrive()
    await type_in(here)
    await site.keepalive.end_user("ada")
    await becomes(here, "ended")
    there = await arrive("calm")
    await becomes(here, "alive")
    assert await is_same(here)
    await there.close()


async def test_where_popups_are_blocked_what_was_typed_comes_back(site: Site, arrive: Arrive) -> None:
    page = await arrive()
    await type_in(page)
    await page.evaluate("window.open = () => null")
    await site.keepalive.end_user("ada")
    await page.get_by_role("button", name="Sign in again").click()
    await page.wait_for_url("**/signin")
    await sign_in(page, "ada")
    await page.wait_for_url("**/welcome")
    await page.goto(f"{site.url}/")
    await holds(page, "document.querySelector('textarea').value")
    assert await typed(page) == ["Mind the dog", True, ""]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("subject", ["idle", "absolute", "ended", "frame"])
async def test_axe_finds_nothing(site: Site, arrive: Arrive, subject: str, scheme: Any) -> None:
    policy = subject if subject in POLICIES else "calm"
    page = await arrive(policy, "frame" if subject == "frame" else "", scheme)
    if subject not in POLICIES:
        await site.keepalive.end_user("ada")
    await dialog(page).wait_for()
    if subject == "frame":
        await page.get_by_role("button", name="Sign in again").click()
        await page.frame_locator("session-guard iframe").get_by_label("Name").wait_for()
    await page.evaluate(AXE.read_text())
    found = await page.evaluate("axe.run()")
    assert [
        (each["id"], each["nodes"][0]["html"], each["nodes"][0]["failureSummary"])
        for each in found["violations"]
    ] == []
    assert "aria-dialog-name" in [each["id"] for each in found["passes"]]  # it has looked
