"""What operators look at: an API, and a dashboard that shows it. Off unless somebody is an operator.

from keepalive import admin

admin.mount(app, keepalive, token=os.environ["KEEPALIVE_ADMIN_TOKEN"])
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec
from aiohttp import web

from .. import headers
from ..assets import Files, browser_files
from ..errors import SettingError
from ..siblings import Siblings
from ..tasks import stop
from ..web import Keepalive
from .access import HOW_TO, Access, Authorize, find_token
from .api import OPERATIONS, Api
from .crew import Crew
from .openapi import description
from .operators import Operators
from .watch import Stats, Watch

__all__ = ["Authorize", "find_token", "mount"]


def mount(
    app: web.Application,
    keepalive: Keepalive,
    *,
    token: str | None = None,
    authorize: Authorize | None = None,
    prefix: str = "/keepalive",
    siblings: Siblings | None = None,
) -> None:
    """Add the admin API and the dashboard to an app, at `/keepalive/admin/`.

    Args:
        app: the application.
        keepalive: what `setup` has returned for it.
        token: what lets an operator in, as `Authorization: Bearer …`; at least 32 random characters.
        authorize: an async function that finds the operator who makes a request, and returns a name for
            the audit log, or `None` for anybody else. It may go by a session of the app: requests that
            come from other origins never get to it.
        prefix: as for `setup`.
        siblings: the other workers behind the same port; the standalone server knows its own.

    Raises:
        SettingError: nobody would be an operator, or the token can be guessed.
    """
    if token is None and authorize is None:
        raise SettingError("there is neither an admin token nor an authorize hook", HOW_TO)
    base = f"{prefix}/admin"
    access = Access(token, authorize, keepalive.clock, keepalive.door.trust)
    siblings = siblings or Siblings()
    operators = Operators(access, keepalive, f"{base}/", siblings)
    crew = Crew(keepalive, siblings)
    watch = Watch(keepalive, crew)
    desk = keepalive.beside(operators)
    api = Api(keepalive, access, operators, crew, watch)
    api.description = description(OPERATIONS, f"{base}/api")

    def tell(stats: Stats) -> None:
        if desk.heart.pages:
            told = msgspec.to_builtins(stats)
            with suppress(ValueError):  # more nodes than go into a push: the pages ask for them
                for key in desk.heart.lives:
                    desk.heart.push(key, told)

    async def run(app: web.Application) -> AsyncIterator[None]:
        crew.join()
        watching = asyncio.create_task(watch.run(tell))
        yield
        await stop(watching)

    async def protect(request: web.Request, response: web.StreamResponse) -> None:
        if request.path == base or request.path.startswith(f"{base}/"):
            headers.protect(response)

    async def to_folder(request: web.Request) -> web.Response:
        raise web.HTTPPermanentRedirect(f"{base}/")

    app.cleanup_ctx.append(desk.run)
    app.cleanup_ctx.append(run)
    app.on_shutdown.append(desk.shut_down)
    app.on_response_prepare.append(protect)
    for path in dict.fromkeys(operation.path for operation in OPERATIONS):
        here = [operation for operation in OPERATIONS if operation.path == path]
        app.router.add_route("*", f"{base}/api{path}", api.handler(*here))
    app.router.add_route("*", f"{base}/api", api.handler())
    app.router.add_route("*", f"{base}/api/{{rest:.*}}", api.handler())
    desk.routes.mount(app, base)
    app.router.add_get(base, to_folder)
    app.router.add_get(f"{base}/{{name:.*}}", Files(browser_files() / "admin", index="index.html").serve)
