"""An app whose sessions have rules: `python app.py`, then http://127.0.0.1:8080"""

from aiohttp import web
from aiohttp_session import get_session

import keepalive

RULES = keepalive.Policy(mode="activity", idle_timeout=900, absolute_timeout=8 * 3600)


async def reports(request: web.Request) -> web.Response:
    if "user" not in await get_session(request):
        raise web.HTTPUnauthorized
    return web.Response(text="what only Ann may read")


def make_app() -> web.Application:
    app = web.Application()
    ka = keepalive.setup(app, "memory://", policy=RULES)

    async def login(request: web.Request) -> web.Response:
        ka.refuse_foreign(request)
        await ka.start(request, str((await request.post())["name"]))
        return web.Response()

    app.add_routes([web.post("/login", login), web.get("/reports", reports)])
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=8080)
