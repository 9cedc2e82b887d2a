"""Cookies as the shell has them: a Netscape cookie file, which is curl's, or a variable of the environment.

Neither is on a command line, where everybody on the machine could read it. Values are sent and kept
as the server has written them, quotes included.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from http.cookies import CookieError, Morsel
from pathlib import Path
from tempfile import mkstemp
from typing import NamedTuple

import aiohttp
from yarl import URL

from ..client.cookies import cookie_of, ends_at, set_by
from ..clock import Clock, SystemClock
from ..errors import SettingError

log = logging.getLogger(__name__)

VARIABLE = "KEEPALIVE_COOKIE"
"""What a request would send as `Cookie`, as in `name=value; name=value`."""
_HTTP_ONLY = "#HttpOnly_"


def cookies_for(url: URL, path: Path | None, environ: Mapping[str, str]) -> aiohttp.CookieJar:
    """The cookies that a command takes along; the jar of a file keeps there what is renewed.

    Args:
        url: where they will be sent.
        path: of a Netscape cookie file; without it the environment has them.
        environ: the environment.

    Raises:
        SettingError: there are none for that URL, or they cannot be read.
    """
    told = environ.get(VARIABLE, "")
    if path is not None:
        jar: aiohttp.CookieJar = CookieFile(path)
    else:
        jar = aiohttp.CookieJar(unsafe=True, quote_cookie=False)
        for pair in filter(None, map(str.strip, told.split(";"))):
            name, _, value = pair.partition("=")
            try:
                morsel = cookie_of(name, value)
            except CookieError:
                raise SettingError(
                    f"{VARIABLE} holds no cookies", "write them as name=value; name=value"
                ) from None
            morsel["secure"] = url.scheme == "https"  # no redirect shall take it along in the clear
            jar.update_cookies({name: morsel}, url.origin())
    if not jar.filter_cookies(url):
        has_none = f"{path or VARIABLE} has none for {url.origin()}" if path or told else "there is none"
        raise SettingError(
            f"a session is known by its cookie, and {has_none}",
            f"sign in, as with curl --cookie-jar FILE, and give --cookies FILE, or set {VARIABLE}",
        )
    return jar


class CookieFile(aiohttp.CookieJar):
    """The cookies of a Netscape cookie file. What the server renews is written back into its line.

    Cookies past their date are sent as well: whether a session is over is for the server to say.
    Other lines, and other cookies that the server sets, are left as they are.

    Args:
        path: of the file.
        clock: tells when a cookie with a `Max-Age` ends.

    Raises:
        SettingError: it cannot be read, or is no such file.
    """

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        super().__init__(unsafe=True, quote_cookie=False)  # addresses have cookies, too
        self._path = path
        self._clock = clock or SystemClock()
        try:
            for _, cookie in self._read():
                if cookie is not None:
                    self.update_cookies({cookie.name: cookie.morsel}, cookie.origin)
        except OSError as error:
            raise SettingError(
                f"cannot read {path}: {error.strerror}", "name a file that curl --cookie-jar has written"
            ) from None
        except (ValueError, CookieError):
            raise SettingError(
                f"{path} is no Netscape cookie file", "name one that curl --cookie-jar has written"
            ) from None

    def update_cookies_from_headers(self, headers: Sequence[str], response_url: URL) -> None:
        """Take what a response sets, and keep what it renews."""
        host = response_url.raw_host or ""
        renewed = {}
        for header in headers:
            try:
                morsel = set_by(header)
            except CookieError:
                continue
            self.update_cookies({morsel.key: morsel}, response_url)
            domain = morsel["domain"].lstrip(".") or host
            if f".{host}".endswith(f".{domain}"):  # nobody sets what is another's
                renewed[domain, morsel["path"] or response_url.parent.path, morsel.key] = morsel
        try:
            self._keep(renewed)
        except (OSError, ValueError) as error:  # the session lives on all the same
            log.warning("cannot write a renewed cookie back into %s: %s", self._path, error)

    def _keep(self, renewed: "Mapping[tuple[str, str, str], Morsel[str]]") -> None:
        """Write the file anew: whole or not at all, for the command beside us may be reading it."""
        lines = []
        changed = False
        for text, cookie in self._read():  # anew, for that command may have written, too
            line: str | None = text
            if cookie and (morsel := renewed.get((cookie.host, cookie.path, cookie.name))):
                line = cookie.renewed_by(morsel, self._clock.wall())
                changed = True
            if line is not None:
                lines.append(f"{line}\n")
        if not changed:
            return
        path = self._path.resolve()
        descriptor, name = mkstemp(dir=path.parent)  # for its owner alone
        draft = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.writelines(lines)
            draft.chmod(path.stat().st_mode & 0o777)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)  # there is none, unless something went wrong

    def _read(self) -> "list[tuple[str, _Cookie | None]]":
        lines = self._path.read_text("utf-8").removesuffix("\n").split("\n")  # other breaks may be in a value
        return [(text, _Cookie.parse(text)) for text in lines]


class _Cookie(NamedTuple):
    """The fields of a line, in their order."""

    domain: str
    subdomains: str
    path: str
    secure: str
    expires: str
    name: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "_Cookie | None":
        """The cookie of a line; `None` if that is empty, or a comment.

        Raises:
            ValueError: it is neither.
        """
        if not text.strip() or (text.startswith("#") and not text.startswith(_HTTP_ONLY)):
            return None
        fields = text.split("\t")
        if len(fields) != len(cls._fields):
            raise ValueError("a line of another form")
        return cls(*fields)

    @property
    def host(self) -> str:
        return self.domain.removeprefix(_HTTP_ONLY).lstrip(".")

    @property
    def origin(self) -> URL:
        return URL.build(scheme="https", host=self.host)

    @property
    def morsel(self) -> "Morsel[str]":
        """As an aiohttp jar takes it."""
        morsel = cookie_of(self.name, self.value)
        morsel["path"] = self.path
        morsel["secure"] = self.secure == "TRUE"
        if self.subdomains == "TRUE":
            morsel["domain"] = self.host
        return morsel

    def renewed_by(self, morsel: "Morsel[str]", now: float) -> str | None:
        """The line with what a response has set; `None` if that takes the cookie back.

        Raises:
            ValueError: what it has set cannot be a line.
        """
        if "\t" in morsel.value:
            raise ValueError("a tab in the value")
        until = ends_at(morsel, now)
        if until is not None and until <= now:
            return None
        return "\t".join(self._replace(value=morsel.value, expires=f"{until or 0:.0f}"))
