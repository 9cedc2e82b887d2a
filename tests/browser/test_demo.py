"""What axe says of the demo's page in each of its states, in real Chromium."""

from typing import Literal

import pytest
from playwright.async_api import Browser

from .conftest import ROOT, sign_in
from .demo import IDLE, Demo

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", ["signed out", "alive", "warning", "ended"])
async def test_axe_finds_nothing(chromium: Browser, state: str, scheme: Literal["light", "dark"]) -> None:
    page = await chromium.new_page(color_scheme=scheme)
    async with Demo().served() as demo:
        if state == "signed out":
            await page.goto(demo.url)
            await page.get_by_role("textbox", name="Your name").wait_for()
        else:
            if state == "warning":
                demo.policy = IDLE
            await sign_in(page, demo.url)
            if state == "ended":
                await demo.end("Ada")
            await page.locator(f"html[data-session={state}]").wait_for(state="attached")
        if state in ("warning", "ended"):
            await page.get_by_role("alertdialog").wait_for()
        await page.evaluate(AXE.read_text())
        found = await page.evaluate("axe.run()")
    assert [
        (each["id"], each["nodes"][0]["html"], each["nodes"][0]["failureSummary"])
        for each in found["violations"]
    ] == []
    assert "color-contrast" in [each["id"] for each in found["passes"]]  # it has looked
