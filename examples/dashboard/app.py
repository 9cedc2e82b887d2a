"""A chart that lives all day: `python app.py`, then http://127.0.0.1:8080"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator
from itertools import count
from math import sin
from pathlib import Path

from aiohttp import web
from aiohttp_session import get_session

import keepalive
from keepalive.live import Page

PAGE = Path(__file__).with_name("page") / "index.html"
LOGIN = """<title>Sign in</title>
<form method="post"><label>Name <input name="name" required></label> <button>Sign in</button></form>"""
routes = web.RouteTableDef()
load = deque([50.0], maxlen=120)
users: set[str] = set()


@routes.get("/")
async def page(request: web.Request) -> web.StreamResponse:
    if "user" not in await get_session(request):
        raise web.HTTPSeeOther("/login")
    return web.FileResponse(PAGE)


@routes.get("/login")
async def form(request: web.Request) -> web.Response:
    return web.Response(text=LOGIN, content_type="text/html")


@routes.post("/login")
async def login(request: web.Request) -> web.Response:
    ka.refuse_foreign(request)
    await ka.start(request, str((await request.post())["name"]))
    raise web.HTTPSeeOther("/")


async def measure(app: web.Application) -> AsyncIterator[None]:
    async def forever() -> None:
        for second in count():
            load.append(50 + 25 * sin(second / 9) + 15 * sin(second / 2.3))  # a sensor would be read here
            for user in users:
                ka.push_user(user, {"load": [load[-1]]}, here=True)  # every process measures by itself
            await asyncio.sleep(1)

    measuring = asyncio.create_task(forever())
    yield
    measuring.cancel()


def greet(opened: Page) -> None:
    """A page that comes, or comes back, gets what it has missed."""
    users.add(opened.live.user)
    ka.push_user(opened.live.user, {"load": list(load), "anew": True}, here=True)


app = web.Application()
ka = keepalive.setup(
    app,
    "sqlite:///dashboard.db",  # who is signed in stays so when this is started again
    policy=keepalive.Policy(idle_timeout=1800, absolute_timeout=24 * 3600),
    hooks=keepalive.Hooks(on_open=greet),
    login="/login",
)
app.add_routes(routes)
app.cleanup_ctx.append(measure)
web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
