"""What a `Set-Cookie` says (RFC 6265 §5.2), to those who keep cookies without a jar.

`http.cookies.SimpleCookie` would read such a line as a `Cookie` of many: it drops all of it for an attribute
that it does not know, or takes that for a cookie.
"""

from contextlib import suppress
from email.utils import parsedate_to_datetime
from http.cookies import Morsel

_VALUED, _FLAGS = {"domain", "path", "max-age", "expires"}, {"secure", "httponly"}


def set_by(header: str) -> "Morsel[str]":
    """The cookie that a `Set-Cookie` sets; attributes that are unknown are left out.

    Raises:
        CookieError: its name is none.
    """
    pair, *attributes = header.split(";")
    name, _, value = pair.partition("=")
    cookie = cookie_of(name.strip(), value.strip())
    for attribute in attributes:
        name, _, value = map(str.strip, attribute.partition("="))
        if name.lower() in _VALUED:
            cookie[name] = value
        elif name.lower() in _FLAGS:
            cookie[name] = True
    return cookie


def cookie_of(name: str, value: str) -> "Morsel[str]":
    """A cookie whose value stays as it is written, quotes included.

    Raises:
        CookieError: the name is none.
    """
    cookie: Morsel[str] = Morsel()
    cookie.set(name, value, value)
    return cookie


def ends_at(cookie: "Morsel[str]", now: float) -> float | None:
    """Until when to keep a cookie that was set at `now`, in seconds since 1970; `None` for as long as the
    browser runs. An attribute that is malformed counts as absent."""
    with suppress(ValueError):
        return now + int(cookie["max-age"])
    with suppress(ValueError):
        return parsedate_to_datetime(cookie["expires"]).timestamp()
    return None
