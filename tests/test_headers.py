"""What the server says to browsers about its pages, on everything that it answers."""

import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import keepalive
from keepalive.headers import CONTENT_SECURITY_POLICY, HEADERS
from keepalive.server import make_app
from keepalive.settings import Settings

from .conftest import Answer, Browse, Browser, Serve

PATHS = [
    "/",
    "/demo/demo.js",
    "/demo/demo.css",
    "/whoami",
    "/keepalive/client/keepalive.js",
    "/keepalive/client/nothing.js",
    "/keepalive/state",
    "/keepalive/heartbeat",
    "/keepalive/ws",
    "/healthz",
    "/readyz",
    "/metrics",
    "/nothing",
    "/fail",
]


async def served(serve: Serve, browse: Browse, **settings: Any) -> Browser:
    app = make_app(Settings(store="memory://", **settings), demo=True)

    async def fail(request: web.Request) -> web.Response:
        raise RuntimeError

    app.router.add_get("/fail", fail)
    return await browse((await serve(app)).port)


async def everything(browser: Browser) -> dict[str, Answer]:
    """An answer of each kind: pages, files, JSON, errors and a redirect, with a session and without."""
    answers = {f"{path} without a session": await browser.get(path) for path in PATHS}
    answers["POST /login"] = await browser.post("/login", data={"name": "ann"})
    answers |= {path: await browser.get(path) for path in PATHS}
    answers["POST /"] = await browser.post("/")
    answers["not modified"] = await browser.get(
        "/keepalive/client/keepalive.js",
        headers={"If-None-Match": answers["/keepalive/client/keepalive.js"].headers["ETag"]},
    )
    answers["foreign"] = await browser.post("/keepalive/heartbeat", headers={"Origin": "null"})
    answers["misdirected"] = await browser.get("/keepalive/state", headers={"Host": "a b"})
    return answers


async def test_all_that_the_server_answers_is_hardened(serve: Serve, browse: Browse) -> None:
    browser = await served(serve, browse)
    answers = await everything(browser)
    assert {answer.status for answer in answers.values()} >= {
        200,
        303,
        304,
        400,
        401,
        403,
        404,
        405,
        426,
        500,
    }
    for name, answer in answers.items():
        assert HEADERS.items() <= answer.headers.items(), name
        assert "Server" not in answer.headers, name
        assert "Strict-Transport-Security" not in answer.headers, name
        kept = "/client/" in name or "/demo/" in name or name in ("/", "/ without a session", "not modified")
        expected = "no-cache|public, max-age=300|no-store" if kept else "no-store"
        assert re.fullmatch(expected, answer.headers["Cache-Control"]), name


async def test_over_https_browsers_are_told_to_stay_there(serve: Serve, browse: Browse) -> None:
    browser = await served(serve, browse, secure=True)
    for name, answer in (await everything(browser)).items():
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains", name


async def test_a_socket_has_no_use_for_them(serve: Serve, browse: Browse) -> None:
    """And every byte of it is sent 2,000 times a second after a restart."""
    page = await (await served(serve, browse, secure=True)).page()
    assert page.status == 101
    assert set(page.headers) - {"Date"} == {
        "Upgrade", "Connection", "Sec-WebSocket-Accept", "Sec-WebSocket-Protocol"
    }  # fmt: skip


def test_the_policy_lets_nothing_in() -> None:
    policy = dict(each.split(" ", 1) for each in CONTENT_SECURITY_POLICY.split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert policy["trusted-types"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert not re.search(r"unsafe|\*|http|blob", CONTENT_SECURITY_POLICY)


def test_no_script_and_no_style_stands_in_a_page() -> None:
    """Nor in an attribute, which the policy would keep from running."""
    pages = list((Path(__file__).parents[1] / "web").glob("[!n]*/**/*.html"))
    assert pages
    for page in pages:
        text = page.read_text("utf-8")
        assert not re.search(r"<script(?![^>]* src=)|<style|\s(on\w+|style)=|javascript:", text), page


@pytest.mark.parametrize("prefix", ["/keepalive", "/api/ka"])
async def test_an_embedding_app_keeps_its_own_headers(serve: Serve, browse: Browse, prefix: str) -> None:
    app, inner = web.Application(), web.Application()
    keepalive.setup(inner, "memory://", prefix=prefix)

    async def own(request: web.Request) -> web.Response:
        return web.Response(text="<script>alert(1)</script>")

    inner.router.add_get("/own", own)
    inner.router.add_get(f"{prefix}/own", own)
    app.router.add_get("/own", own)
    app.add_subapp("/inner", inner)
    browser = await browse((await serve(app)).port)
    for path in "/own", "/inner/own", f"/inner{prefix}/own", "/inner/nothing":
        headers = (await browser.get(path)).headers
        assert not HEADERS.keys() & headers.keys(), path
        assert "Cache-Control" not in headers, path
    for path in "state", "heartbeat", "client/keepalive.js", "client/nothing.js", "ws":
        headers = (await browser.get(f"/inner{prefix}/{path}")).headers
        assert HEADERS.items() <= headers.items(), path
        assert "Strict-Transport-Security" not in headers, path
        assert "Cache-Control" in headers
