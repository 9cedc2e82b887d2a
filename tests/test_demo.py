"""The demo app: sign in, look, sign out."""

import pytest
from aiohttp import web

import keepalive
from keepalive import demo

from .conftest import Browse, Browser, Serve
from .test_web import ended

JSON = {"Accept": "application/json"}


@pytest.fixture
async def browser(serve: Serve, browse: Browse) -> Browser:
    app = web.Application()
    demo.mount(app, keepalive.setup(app, "memory://"))
    return await browse((await serve(app)).port)


async def test_the_page_and_its_files(browser: Browser) -> None:
    """No script stands in the page: tests/test_headers.py has the policy that forbids it."""
    page = await browser.get("/")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html"
    assert b"<script>" not in page.body
    assert (await browser.get("/demo/demo.js")).status == 200


@pytest.mark.parametrize("path", ["/demo/", "/demo/../package.json", "/demo/%2e%2e/keepalive.js"])
async def test_no_other_files(browser: Browser, path: str) -> None:
    assert (await browser.get(path)).status in (403, 404)


async def test_in_and_out(browser: Browser) -> None:
    assert (await browser.get("/whoami")).json == {"user": None, "expires_in": None, "ends_in": None}
    answer = await browser.post("/login", data={"name": " Ann Ä. "}, headers=JSON)
    assert answer.json == {"user": "Ann Ä."}
    told = (await browser.get("/whoami")).json
    assert told["user"] == "Ann Ä."
    assert 1799 < told["expires_in"] <= 1800
    assert 43199 < told["ends_in"] <= 43200
    page = await browser.page()
    assert (await browser.post("/logout", headers=JSON)).json == {"user": None}
    assert await ended(page) == ("logout", 4503)
    assert (await browser.get("/whoami")).json["user"] is None


async def test_a_form_is_sent_back_to_the_page(browser: Browser) -> None:
    for path in "/login", "/logout":
        answer = await browser.post(path, data={"name": "ann"})
        assert (answer.status, answer.headers["Location"]) == (303, "/")


@pytest.mark.parametrize("name", [None, "", "  ", "x" * 41, "a\nb", "a\x00", "\u202eann"])
async def test_names_that_are_none(browser: Browser, name: str | None) -> None:
    answer = await browser.post("/login", data={} if name is None else {"name": name})
    assert (answer.status, answer.body) == (400, b"Please give a name of 1 to 40 printable characters.\n")
    assert browser.cookie == ""


async def test_the_page_asks_for_no_longer_name_than_is_taken(browser: Browser) -> None:
    page = (await browser.get("/")).body
    assert page.count(b'name="name"') == page.count(b'maxlength="%d"' % demo.MAX_NAME) == 1
    assert (await browser.post("/login", data={"name": "x" * demo.MAX_NAME}, headers=JSON)).status == 200


@pytest.mark.parametrize("path", ["/login", "/logout"])
async def test_no_other_site_signs_in_or_out(browser: Browser, path: str) -> None:
    """Login CSRF signs a victim in as the attacker."""
    await browser.post("/login", data={"name": "ann"})
    answer = await browser.post(path, data={"name": "bob"}, headers={"Origin": "https://evil.example"})
    assert answer.status == 403
    assert (await browser.get("/whoami")).json["user"] == "ann"
