"""The admin API: what operators can ask and do, as one table, and how its requests are answered.

Everything is JSON, errors too. Each request is one of an operator's, and leaves a line in the audit log.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NamedTuple

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta, Struct

from .. import __version__
from ..errors import SettingError, StoreError
from ..heart import MAX_PUSH
from ..policy import Reason
from ..web import Keepalive
from .access import Access, Audit, Refused, note
from .crew import Crew, Draining, Sessions
from .operators import Operators
from .sessions import Explanation, Id, Search, explain_elsewhere
from .watch import Moment, Stats, Watch

log = logging.getLogger(__name__)

PATIENCE = 5.0
"""What takes longer has failed, in seconds; a request must be whole by then, too."""
MAX_BODY = MAX_PUSH + 1024
"""The longest body of a request, in bytes."""


class Problem(Struct):
    """Why a request was not answered."""

    error: str
    solution: str


class Ended(Struct):
    """How many sessions were ended, everywhere and for ever."""

    ended: int


class Pushed(Struct):
    """How many pages were sent it by the process that answers; the others hear of it, too."""

    pages: int


class History(Struct):
    """The last ten minutes, a moment a second, the oldest first."""

    moments: list[Moment]


class Operator(Struct):
    """Who asks, and whom."""

    operator: str
    version: str


class Where(Struct, forbid_unknown_fields=True):
    """A node, or all of the server's."""

    node: Annotated[
        str, Meta(max_length=300, description="This one of its nodes alone; new pages go to the others.")
    ] = ""


class Push(Struct, forbid_unknown_fields=True):
    """What the pages shall hear, as the `data` of a push."""

    data: Annotated[Any, Meta(description="Anything, up to 32 KiB of JSON.")]


class Call(NamedTuple):
    """A request that was let in, with all that it says."""

    request: web.Request
    response: web.Response
    operator: str
    key: bytes
    """Of the session in the path; empty without one."""
    user: str
    """In the path; empty without one."""
    query: Any
    body: Any


class Operation(NamedTuple):
    """One line of the table: what the routes and their description are made from."""

    method: str
    path: str
    name: str
    summary: str
    answer: Any
    """The type of what comes back."""
    run: "Callable[[Api, Call], Awaitable[object]]"
    status: int = 200
    query: type[Struct] | None = None
    body: type[Struct] | None = None
    errors: tuple[int, ...] = ()
    """What may come besides those that may always come."""


class Api:
    """Answers operators.

    Args:
        keepalive: whose sessions.
        access: knows them.
        operators: the dashboard's socket.
        crew: all workers of this server.
        watch: knows what goes on.
    """

    def __init__(
        self, keepalive: Keepalive, access: Access, operators: Operators, crew: Crew, watch: Watch
    ) -> None:
        self._keepalive = keepalive
        self._access = access
        self._operators = operators
        self._crew = crew
        self._watch = watch
        self.description: dict[str, Any] = {}
        """The OpenAPI description, once it is made."""

    def handler(self, *operations: Operation) -> Callable[[web.Request], Awaitable[web.Response]]:
        """What serves one path, whatever the method; without operations there is nothing there."""
        by_method = {operation.method: operation for operation in operations}
        if hdrs.METH_GET in by_method:
            by_method[hdrs.METH_HEAD] = by_method[hdrs.METH_GET]

        async def serve(request: web.Request) -> web.Response:
            response = web.Response(content_type="application/json")
            operation = by_method.get(request.method)
            operator, key, user = "nobody", b"", None
            try:
                self._access.limit(request)
                self._keepalive.refuse_foreign(request)
                operator = await self._access.operator(request)
                if not by_method:
                    raise Refused(404, "there is nothing here", "openapi.json lists what there is")
                if operation is None:
                    allowed = ", ".join(by_method)
                    raise Refused(405, "this method does not go with this path", f"use {allowed}", allowed)
                key, user = _key_in(request), request.match_info.get("user")
                call = await _call(request, response, operator, operation, key)
                async with asyncio.timeout(PATIENCE):
                    answer = await operation.run(self, call)
                response.set_status(operation.status)
            except Exception as error:
                refused = _refusal(error)
                response.set_status(refused.status)
                response.headers.update(refused.headers)
                answer = Problem(refused.problem, refused.solution)
            response.body = msgspec.json.encode(answer)
            if response.status != 429:  # else anybody could fill the log, and push the rest out of its queue
                action = "unknown" if operation is None else operation.name
                address = self._keepalive.door.trust.address(request)
                note(Audit(operator, address, action, response.status, key[:8].hex() or None, user))
            return response

        return serve

    # The table.

    async def list_sessions(self, call: Call) -> Sessions:
        return await self._crew.search(call.query)

    async def explain_session(self, call: Call) -> Explanation:
        everywhere = await self._keepalive.presence_of(call.key)
        explanation, missing = await self._crew.explain(call.key, everywhere)
        if explanation is None:
            left = await self._keepalive.door.toucher.peek(call.key)
            if left is Reason.UNKNOWN:
                raise _no_such_session()
            if isinstance(left, Reason):
                raise Refused(404, f"this session is over: {left}", "the audit log has when it ended")
            explanation = explain_elsewhere(call.key, left, everywhere)
        if missing:
            explanation.sentence += f" Nodes of this server that do not answer, and may know more: {missing}."
        return explanation

    async def end_session(self, call: Call) -> Ended:
        if not await self._keepalive.end(call.key, Reason.REVOKED):
            raise _no_such_session()
        return Ended(1)

    async def end_user(self, call: Call) -> Ended:
        return Ended(await self._keepalive.end_user(call.user, Reason.REVOKED))

    async def push_session(self, call: Call) -> Pushed:
        return Pushed(await self._keepalive.push(call.key, call.body.data))

    async def push_user(self, call: Call) -> Pushed:
        return Pushed(self._keepalive.push_user(call.user, call.body.data))

    async def stats(self, call: Call) -> Stats:
        return self._watch.stats

    async def history(self, call: Call) -> History:
        return History(list(self._watch.history))

    async def drain(self, call: Call) -> Draining:
        return await self._crew.drain(call.query.node)

    async def sign_in(self, call: Call) -> Operator:
        self._operators.sign_in(call.request, call.response, call.operator)
        return Operator(call.operator, __version__)

    async def sign_out(self, call: Call) -> Operator:
        await self._operators.sign_out(call.request, call.response)
        return Operator(call.operator, __version__)

    async def describe(self, call: Call) -> dict[str, Any]:
        return self.description


OPERATIONS = (
    Operation(
        "GET", "/sessions", "list_sessions", "List the sessions with pages on this server, or search them",
        Sessions, Api.list_sessions, query=Search, errors=(404, 503),
    ),
    Operation(
        "GET", "/sessions/{id}", "explain_session", "Why a session is alive, and until when",
        Explanation, Api.explain_session, errors=(404, 503),
    ),
    Operation(
        "DELETE", "/sessions/{id}", "end_session", "End a session, everywhere and for ever",
        Ended, Api.end_session, errors=(404, 503),
    ),
    Operation(
        "POST", "/sessions/{id}/push", "push_session", "Send data to a session's pages, everywhere",
        Pushed, Api.push_session, body=Push,
    ),
    Operation(
        "DELETE", "/users/{user}/sessions", "end_user", "End all sessions of a user, everywhere",
        Ended, Api.end_user, errors=(409, 503),
    ),
    Operation(
        "POST", "/users/{user}/push", "push_user", "Send data to a user's pages, everywhere",
        Pushed, Api.push_user, body=Push,
    ),
    Operation("GET", "/stats", "stats", "What goes on, on each node and all together", Stats, Api.stats),
    Operation("GET", "/stats/history", "history", "The last ten minutes", History, Api.history),
    Operation(
        "POST", "/drain", "drain", "Take no more pages at this server, and part with those that are here;"
        " only a restart takes that back", Draining, Api.drain, 202, query=Where, errors=(404, 503),
    ),
    Operation(
        "POST", "/operator", "sign_in", "Let this browser open the dashboard's socket",
        Operator, Api.sign_in,
    ),
    Operation(
        "DELETE", "/operator", "sign_out", "Let it no more", Operator, Api.sign_out,
    ),
    Operation(
        "GET", "/openapi.json", "describe", "This description", dict[str, Any], Api.describe,
    ),
)  # fmt: skip


async def _call(
    request: web.Request, response: web.Response, operator: str, operation: Operation, key: bytes
) -> Call:
    """A request with all that it says, checked."""
    query = body = None
    told = dict(request.query)
    if operation.query is None and told:
        raise Refused(400, "nothing can be asked for here by query", "leave out what follows the ?")
    if operation.query is not None:
        if len(told) != len(request.query):
            raise Refused(400, "a parameter was given twice", "give each once")
        query = msgspec.convert(told, operation.query, strict=False)
    if operation.body is not None:
        if request.content_type != "application/json":
            raise Refused(415, "the body is no JSON", "send it with Content-Type: application/json")
        body = msgspec.json.decode(await _body(request), type=operation.body)
    return Call(request, response, operator, key, request.match_info.get("user", ""), query, body)


def _key_in(request: web.Request) -> bytes:
    """The session that the path names; nothing where it names none."""
    told = request.match_info.get("id", "")
    try:
        msgspec.convert(told or "0" * 64, Id)
    except msgspec.ValidationError:
        raise Refused(400, "this is no session", "name it by the 64 hex digits that the list has") from None
    return bytes.fromhex(told)


async def _body(request: web.Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > MAX_BODY:
                    raise Refused(413, f"the body is over {MAX_BODY} bytes", "push a link to it instead")
    except TimeoutError:
        raise Refused(408, "the body was not whole in time", "send it again") from None
    return bytes(body)


def _no_such_session() -> Refused:
    return Refused(404, "there is no such session, or it is over", "GET sessions lists those that live")


def _refusal(error: Exception) -> Refused:
    """What to answer when a request went wrong."""
    match error:
        case Refused():
            return error
        case web.HTTPException():  # of the checks that all of this server's requests pass
            return Refused(error.status, (error.text or error.reason).strip(), "see docs/security.md")
        case msgspec.MsgspecError() | RecursionError() | UnicodeError():
            return Refused(400, f"this cannot be read: {error}", "openapi.json says what is expected")
        case StoreError() | TimeoutError():
            return Refused(
                503, str(error) or "the session store does not answer", "try again in a moment", retry=2
            )
        case SettingError():
            return Refused(409, error.problem, error.solution)
        case ValueError():
            return Refused(413, str(error), "push a link to it instead")
        case ConnectionError() | web.RequestPayloadError():
            return Refused(400, "the body did not come whole", "send it again")
    log.exception("an operator's request failed")
    return Refused(500, "an error of the server", "its log says more")
