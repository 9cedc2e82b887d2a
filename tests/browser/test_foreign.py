"""What a page of another origin, and what was slipped into ours, can do in real Chromium: nothing."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from playwright.async_api import Browser, Page, Response, Route

import keepalive
from keepalive import KEEPALIVE

from ..raw import Served, serving, until
from .conftest import Server, sign_in

pytestmark = pytest.mark.browser

# Opens a socket and tells how it ended.
OPEN = """(url) => new Promise((resolve) => {
  const socket = new WebSocket(url, "keepalive.v1");
  const heard = [];
  socket.onmessage = ({ data }) => heard.push(JSON.parse(data).type);
  socket.onclose = ({ code }) => resolve({ code, heard });
  setTimeout(() => resolve({ code: 0, heard }), 3000);
})"""
# A form could send the same; it cannot read the answer, but could keep a session alive.
POST = """async (url) => {
  await fetch(url, { method: "POST", mode: "no-cors", credentials: "include" }).catch(() => null);
}"""


class Site:
    """An app with keepalive, and what browsers have sent it."""

    def __init__(self) -> None:
        self.app = web.Application(middlewares=[self._note])
        self.heart = keepalive.setup(self.app, "memory://")
        self.app.router.add_get("/", self._page)
        self.seen: list[web.Request] = []

    @web.middleware
    async def _note(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.seen.append(request)
        return await handler(request)

    async def _page(self, request: web.Request) -> web.Response:
        if "login" in request.query:
            await self.heart.start(request, "ann")
        return web.Response(text="<!doctype html><title>a page</title>", content_type="text/html")

    def asked(self, path: str) -> web.Request:
        """The newest request for a path."""
        return [request for request in self.seen if request.path == path][-1]


Visit = Callable[[Site], Awaitable[Served]]


@pytest.fixture
async def visit() -> AsyncIterator[Visit]:
    async with AsyncExitStack() as stack:

        async def visit(site: Site) -> Served:
            return await stack.enter_async_context(serving(site.app))

        yield visit


@pytest.mark.parametrize(("host", "carries"), [("localhost", True), ("127.0.0.1", False)])
async def test_a_page_of_another_origin_is_refused(
    visit: Visit, chromium: Browser, host: str, carries: bool
) -> None:
    """On another port of the same host, its requests carry even a `SameSite=Strict` cookie."""
    ours, theirs = Site(), Site()
    port, other = (await visit(ours)).port, (await visit(theirs)).port
    context = await chromium.new_context()
    page = await context.new_page()
    await page.goto(f"http://localhost:{port}/?login")
    (cookie,) = await context.cookies()
    await context.add_cookies(
        [
            {
                "name": cookie["name"],
                "value": cookie["value"],
                "url": f"http://localhost:{port}",
                "sameSite": "Strict",
            }
        ]
    )
    url = f"ws://localhost:{port}/keepalive/ws"
    assert await page.evaluate(OPEN, url) == {"code": 0, "heard": ["hello"]}

    await page.goto(f"http://{host}:{other}/")
    assert await page.evaluate(OPEN, url) == {"code": 1006, "heard": []}
    handshake = ours.asked("/keepalive/ws")
    assert handshake.headers["Origin"] == f"http://{host}:{other}"
    assert (cookie["value"] in handshake.headers.get("Cookie", "")) is carries
    await page.evaluate(POST, f"http://localhost:{port}/keepalive/heartbeat")
    await until(lambda: ours.asked("/keepalive/heartbeat"))
    counts = ours.app[KEEPALIVE].counts
    assert counts.handshakes == {"accepted": 1, "origin": 1}
    assert counts.beats == 0


# The demo under its policy.

REPORTS = """(() => {
  window.reports = [];
  const note = ({ effectiveDirective }) => reports.push(effectiveDirective);
  addEventListener("securitypolicyviolation", note, true);
})()"""
INJECTED = """
<script>window.ran = "inline"</script>
<img src="/nothing.png" onerror="window.ran = 'attribute'">
<a id="link" href="javascript:window.ran = 'address'">click</a>
<style>body { opacity: 0 }</style>
<script src="https://evil.example/x.js"></script>
<base href="https://evil.example/">
<iframe srcdoc="<script>parent.ran = 'frame'</script>"></iframe>
</body>"""
# Ways to make code of a text, tried by a timer, for what a debugger evaluates is under no policy.
SINKS = """() => new Promise((resolve) => {
  const sinks = [
    () => void (document.body.lastChild.innerHTML = "<b>x</b>"),
    () => eval("1"),
    () => setTimeout("1"),
  ];
  const thrown = (sink) => {
    try {
      sink();
    } catch ({ name }) {
      return name;
    }
  };
  setTimeout(() => resolve(sinks.map(thrown)));
})"""
Serve = Callable[..., Awaitable[Server]]


async def watched(browser: Browser) -> tuple[Page, list[str]]:
    """A page that notes what its policy forbids, and what the console complains of."""
    page = await browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.add_init_script(REPORTS)
    return page, complaints


async def test_the_demo_has_nothing_to_report(serve: Serve, chromium: Browser) -> None:
    server = await serve("--idle-timeout", "60", "--ping-interval", "1", "--warn-before", "55")
    page, complaints = await watched(chromium)
    answers: list[Response] = []

    def note(answer: Response) -> None:  # Playwright does not take a method of a built-in type
        answers.append(answer)

    page.on("response", note)
    await sign_in(page, server.url)
    assert await page.evaluate("document.cookie") == ""  # there is one, for requests alone
    await page.get_by_role("button", name="Sign out").click()
    await page.get_by_role("textbox", name="Your name").wait_for()
    assert await page.evaluate("reports") == []
    assert complaints == []
    assert len(answers) > 8
    for answer in answers:
        assert "trusted-types 'none'" in (await answer.all_headers())["content-security-policy"], answer.url


async def test_what_is_slipped_into_the_demo_does_not_run(serve: Serve, chromium: Browser) -> None:
    """Even if somebody found a way to put markup into it; the page itself goes on."""
    server = await serve()
    page, _ = await watched(chromium)

    async def inject(route: Route) -> None:
        answer = await route.fetch()
        text = (await answer.text()).replace("</body>", INJECTED)
        await route.fulfill(response=answer, body=text)  # with the headers of the server

    await page.route(f"{server.url}/", inject)
    await sign_in(page, server.url)
    await page.evaluate("document.getElementById('link').click()")
    assert await page.evaluate(SINKS) == ["TypeError", "EvalError", "TypeError"]
    assert await page.evaluate("window.ran ?? null") is None
    reports = await page.evaluate("reports")
    assert {"script-src-elem", "script-src-attr", "style-src-elem", "base-uri"} <= set(reports)
    assert "require-trusted-types-for" in reports
    assert await page.evaluate("getComputedStyle(document.body).opacity") == "1"
