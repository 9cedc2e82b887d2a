"""The admin API of a running server, as the command line asks it."""

import json
from http.client import HTTPException, HTTPMessage
from typing import IO, Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from ..errors import KeepaliveError, SettingError

HERE = "http://127.0.0.1:8080"
PATIENCE = 10.0
"""How long an answer may take, in seconds."""
_PAGE = 500


class Remote(NamedTuple):
    """One server, and what lets an operator in.

    Args:
        url: where it serves, without the path of the API.
        token: what it knows operators by.
    """

    url: str
    token: str

    @property
    def exposes_token(self) -> bool:
        """Whether others on the network can read the token on its way."""
        parts = urlsplit(self.url)
        return parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost")

    def sessions(self, limit: int, **wanted: str | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Sessions with pages on that server: rows, at most `limit`, and what else the last answer says."""
        rows: list[dict[str, Any]] = []
        cursor: str | None = ""
        answer: dict[str, Any] = {}
        while cursor is not None and len(rows) < limit:
            query = {name: value for name, value in {**wanted, "cursor": cursor}.items() if value}
            answer = self.ask("GET", "/sessions", limit=str(min(limit - len(rows), _PAGE)), **query)
            rows += answer.pop("sessions")
            cursor = answer["next"]
        return rows, answer

    def session(self, name: str) -> str:
        """The whole id of a session that goes by its first digits.

        Raises:
            SettingError: it is no id, or no session with pages there has it, or several do.
        """
        if not name or set(name) - set("0123456789abcdef") or len(name) > 64:
            raise SettingError(
                f"{name!r} is no session",
                "name it by its first digits, as keepalive sessions list shows them",
            )
        if len(name) == 64:
            return name
        rows, _ = self.sessions(_PAGE, search=name)
        found = [row["id"] for row in rows if row["id"].startswith(name)]
        if len(found) != 1:
            raise SettingError(
                f"{len(found) or 'no'} sessions with pages on this server begin with {name}",
                "give more digits" if found else "ask the server that has its pages, or give all 64 digits",
            )
        return str(found[0])

    def ask(self, method: str, path: str, **query: str) -> Any:
        """One question, and its answer.

        Raises:
            KeepaliveError: there is none, or it is no; says what to do.
        """
        url = f"{self.url.rstrip('/')}/keepalive/admin/api{path}" + (f"?{urlencode(query)}" if query else "")
        if urlsplit(url).scheme not in ("http", "https"):
            raise SettingError(f"{self.url} is no address of a server", f"write it as in {HERE}")
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}
        try:
            with _OPENER.open(Request(url, method=method, headers=headers), timeout=PATIENCE) as response:  # noqa: S310
                return json.load(response)
        except HTTPError as error:
            with error:
                raise self._refusal(error) from None
        except (URLError, OSError, HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise KeepaliveError(
                f"no keepalive server answers at {self.url} ({reason})",
                "start it, or name another one by --url",
            ) from None

    def _refusal(self, error: HTTPError) -> KeepaliveError:
        try:
            told = json.load(error)
            problem, solution = str(told["error"]), str(told["solution"])
        except (ValueError, KeyError, TypeError, OSError):  # not from the API
            if error.code == 404:
                return KeepaliveError(
                    f"the server at {self.url} has no admin API",
                    "give it a token, in KEEPALIVE_ADMIN_TOKEN or by admin_token_file, and start it anew",
                )
            return KeepaliveError(
                f"the server at {self.url} answers {error.code}",
                "name the server itself by --url, and no proxy in front of it",
            )
        if error.code == 401:
            return KeepaliveError(
                f"the server at {self.url} has another admin token",
                "set KEEPALIVE_ADMIN_TOKEN, or --admin-token-file, to the one that it was started with",
            )
        return KeepaliveError(problem, solution)


def path_of(*parts: str) -> str:
    """A path whose parts are whatever people call their users."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


class _Stay(HTTPRedirectHandler):
    """A redirect would take the token along to somebody else."""

    def redirect_request(  # noqa: PLR0917 - so the base has it
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


# No proxy of the environment: it would read the token, and knows no 127.0.0.1 of ours.
_OPENER = build_opener(ProxyHandler({}), _Stay())
