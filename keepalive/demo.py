"""The demo app of the standalone server: sign in, watch the heart, sign out.

Plain aiohttp-session API throughout; nothing here is needed to use the package.
"""

from aiohttp import hdrs, web
from aiohttp_session import get_session

from .assets import browser_files
from .policy import Reason
from .web import Keepalive

MAX_NAME = 40  # as the page has it


def mount(app: web.Application, keepalive: Keepalive) -> None:
    """Add the demo's routes to an app that has `keepalive`."""
    folder = browser_files() / "demo"

    async def page(request: web.Request) -> web.FileResponse:
        return web.FileResponse(folder / "index.html", headers={hdrs.CACHE_CONTROL: "no-cache"})

    async def login(request: web.Request) -> web.StreamResponse:
        keepalive.refuse_foreign(request)
        name = str((await request.post()).get("name", "")).strip()
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise web.HTTPBadRequest(text=f"Please give a name of 1 to {MAX_NAME} printable characters.\n")
        await keepalive.start(request, name)
        return _done(request, {"user": name})

    async def logout(request: web.Request) -> web.StreamResponse:
        keepalive.refuse_foreign(request)
        (await get_session(request)).invalidate()
        return _done(request, {"user": None})

    async def whoami(request: web.Request) -> web.StreamResponse:
        session = await get_session(request)
        state = await keepalive.state(request)
        answer: dict[str, str | float | None] = {"user": None, "expires_in": None, "ends_in": None}
        if not isinstance(state, Reason):
            answer = {
                "user": session.get("user"),
                "expires_in": state.expires_in,
                "ends_in": state.ends_in,
            }
        return web.json_response(answer, headers={hdrs.CACHE_CONTROL: "no-store"})

    app.router.add_get("/", page)
    app.router.add_post("/login", login)
    app.router.add_post("/logout", logout)
    app.router.add_get("/whoami", whoami)
    app.router.add_static("/demo", folder)


def _done(request: web.Request, answer: dict[str, str | None]) -> web.StreamResponse:
    """A script gets JSON, a form is sent back to the page."""
    if "application/json" in request.headers.get(hdrs.ACCEPT, ""):
        return web.json_response(answer)
    return web.Response(status=303, headers={hdrs.LOCATION: "/"})
