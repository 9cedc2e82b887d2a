"""Who has access to the admin API: who is an operator, how often they may ask, and a line for each use.

A token in the `Authorization` header is nothing that a browser adds by itself, so no other site can
ask with it (no CSRF). A hook may go by a cookie; then it takes the check of the `Origin`, too.
"""

import logging
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from hmac import compare_digest
from math import ceil
from pathlib import Path
from typing import NamedTuple

from aiohttp import hdrs, web

from ..clock import Clock
from ..errors import SettingError
from ..limits import Buckets
from ..seal import Seal
from ..trust import Trust

Authorize = Callable[[web.Request], Awaitable[str | None]]
"""Finds the operator who makes a request, by name; `None` if it is nobody that may."""

TOKEN = "KEEPALIVE_ADMIN_TOKEN"  # noqa: S105 - the name of a variable
SHORTEST = 32
"""The shortest token, in characters: 192 bits, where it is random base64."""
HOW_TO = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
REQUESTS = 20.0, 100.0
"""How many an address may make a second over a long time, and at once: a dashboard makes one or two."""
GUESSES = 0.1, 10.0
"""The same of requests with a wrong token: ten, and then one in ten seconds."""


class Refused(Exception):
    """A request that gets an error for an answer.

    Args:
        status: of HTTP.
        problem: what is wrong with it; one sentence without a full stop.
        solution: what to do about it.
        allow: the methods that go with the path.
        retry: when to try again, in seconds.
    """

    def __init__(
        self, status: int, problem: str, solution: str, allow: str = "", retry: float | None = None
    ) -> None:
        super().__init__(problem)
        self.status = status
        self.problem = problem
        self.solution = solution
        self.headers = {}
        if allow:
            self.headers[hdrs.ALLOW] = allow
        if retry is not None:
            self.headers[hdrs.RETRY_AFTER] = str(ceil(retry))
        if status == 401:
            self.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="keepalive admin"'


def find_token(environ: Mapping[str, str], path: Path | None) -> str | None:
    """The token from the environment, or else from a file; `None` if neither is told.

    Raises:
        SettingError: the file cannot be read, or the token is none.
    """
    token = environ.get(TOKEN)
    if not token and path is not None:
        try:
            token = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeError) as error:
            raise SettingError(f"the token file {path} cannot be used ({error})", HOW_TO) from None
    if not token and path is None:
        return None
    return check_token(token or "")


def check_token(token: str) -> str:
    """A token that is fit for the gate.

    Raises:
        SettingError: it can be guessed, or cannot stand in a header.
    """
    if len(token) < SHORTEST:
        raise SettingError(f"the admin token has {len(token)} characters and needs {SHORTEST}", HOW_TO)
    if not token.isascii() or not token.isprintable() or " " in token:
        raise SettingError("the admin token has characters that cannot stand in a header", HOW_TO)
    return token


class Access:
    """Lets operators in.

    Args:
        token: what an operator may present.
        authorize: who else is one.
        clock: for the limits.
        trust: knows of whom a request is.
    """

    def __init__(self, token: str | None, authorize: Authorize | None, clock: Clock, trust: Trust) -> None:
        self._token = None if token is None else check_token(token).encode()
        self._authorize = authorize
        self._clock = clock
        self._trust = trust
        self._requests = Buckets(*REQUESTS)
        self._guesses = Buckets(*GUESSES)

    def limit(self, request: web.Request) -> None:
        """Let an address ask only so often, and for itself whoever has the token there.

        Behind a proxy that is not named all have one address: else anybody could keep the operator out.

        Raises:
            Refused: it has asked too often.
        """
        whose = f"{self._trust.address(request)} {self._bearer(request) or ''}"
        if not self._requests.take(whose, self._clock.monotonic()):
            raise _too_many(1)

    async def operator(self, request: web.Request) -> str:
        """Who makes a request.

        Raises:
            Refused: nobody that may, or an address that has guessed too often.
        """
        if hdrs.AUTHORIZATION in request.headers:
            name = self._bearer(request)
            # The token is too long to be guessed at any speed (NIST SP 800-63B §5.1.2.2: from 64 bits on);
            # this bounds what guesses cost, and who has it need not wait for those of others.
            address, now = self._trust.address(request), self._clock.monotonic()
            if name is None and not self._guesses.take(address, now):
                raise _too_many(1 / GUESSES[0])
        else:
            name = await self.visitor(request)
        if name is not None:
            return name
        if self._token is None:
            raise Refused(403, "this is for operators", "sign in to the app as one of them")
        raise Refused(401, "this needs the admin token", "send it as the header Authorization: Bearer …")

    async def visitor(self, request: web.Request) -> str | None:
        """Who makes a request, by the hook alone: a browser sends no token when it opens a socket."""
        return None if self._authorize is None else await self._authorize(request)

    def sweep(self) -> None:
        """Forget the addresses that have not asked for long."""
        now = self._clock.monotonic()
        self._requests.sweep(now)
        self._guesses.sweep(now)

    def seal(self) -> Seal:
        """Seals what an operator's browser may keep: alike on all nodes with the same token."""
        if self._token is None:
            return Seal.fresh()
        key = sha256(b"keepalive operators\0" + self._token).digest()
        return Seal([urlsafe_b64encode(key).decode()])

    def _bearer(self, request: web.Request) -> str | None:
        lines = request.headers.getall(hdrs.AUTHORIZATION, [])
        if self._token is None or len(lines) != 1:
            return None
        scheme, _, given = lines[0].partition(" ")
        matches = compare_digest(self._token, given.strip().encode(errors="surrogateescape"))
        return "token" if matches and scheme.lower() == "bearer" else None


def _too_many(seconds: float) -> Refused:
    problem = "too many requests from this address"
    return Refused(429, problem, "wait as long as Retry-After says", retry=seconds)


class Audit(NamedTuple):
    """What the audit log says of one use."""

    operator: str
    address: str
    action: str
    status: int
    session: str | None
    """Which session it was about, by the first digits of its hash; of an operator's requests alone."""
    user: str | None
    """The same of a user."""


def note(use: Audit) -> None:
    """Write down that someone has used the API, or has tried to."""
    told = {name: value for name, value in use._asdict().items() if value is not None}
    logging.getLogger("keepalive.audit").info("admin", extra=told)
