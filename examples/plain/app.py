"""Notes that outlive their login: `python app.py [FOLDER]`, then http://127.0.0.1:8080"""

import os
import sys
from pathlib import Path

import csrf
from aiohttp import web
from aiohttp_session import get_session

import keepalive

PAGE = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).with_name("page")
LOGIN = """<title>Sign in</title>
<form method="post"><label>Name <input name="name" required></label> <button>Sign in</button></form>"""
routes = web.RouteTableDef()
routes.static("/page", PAGE)


@routes.get("/")
async def page(request: web.Request) -> web.StreamResponse:
    if "user" not in await get_session(request):
        raise web.HTTPSeeOther("/login")
    return web.FileResponse(PAGE / "index.html")


@routes.get("/login")
async def form(request: web.Request) -> web.Response:
    return web.Response(text=LOGIN, content_type="text/html")


@routes.post("/login")
async def login(request: web.Request) -> web.Response:
    ka.refuse_foreign(request)
    await ka.start(request, str((await request.post())["name"]))
    raise web.HTTPSeeOther("/")


@routes.post("/logout")
async def logout(request: web.Request) -> web.Response:
    ka.refuse_foreign(request)
    await ka.end(request)
    raise web.HTTPSeeOther("/")


@routes.post("/save")
async def save(request: web.Request) -> web.Response:
    await csrf.check(request)
    await ka.push(request, {"saved": (await request.post())["note"]})  # to all pages of this session
    return web.Response(status=204)  # the browser stays on its page


app = web.Application()
hooks = keepalive.Hooks(on_ping=lambda page, ping: {"csrf": csrf.token(page.live.key)})
ka = keepalive.setup(app, "memory://", login="/login", hooks=hooks)
app.add_routes(routes)
web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
