"""Where a server answers: the URL that a user gives, and those of the routes below it."""

from typing import NamedTuple

import aiohttp
from yarl import URL

from ..errors import SettingError

PREFIX = "/keepalive/"
"""Where `setup` mounts the routes unless told otherwise."""
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


class Address(NamedTuple):
    """A server's routes."""

    base: URL
    """Ends in a slash."""

    @property
    def socket(self) -> URL:
        return self.base / "ws"

    @property
    def heartbeat(self) -> URL:
        return self.base / "heartbeat"

    @property
    def authorization(self) -> str | None:
        """The header that stands for the user and the password in the URL, as aiohttp sends it (RFC 7617)."""
        if self.base.user is None and self.base.password is None:
            return None
        return aiohttp.encode_basic_auth(self.base.user or "", self.base.password or "", "latin-1")


def address_of(url: str | URL) -> Address:
    """The address that a user means.

    Args:
        url: where the routes are mounted, as in https://app.example/keepalive; an origin alone
            stands for its `/keepalive`.

    Raises:
        SettingError: it is no such URL.
    """
    try:
        given = URL(url)
        scheme = _SCHEMES[given.scheme]
        if not given.raw_host:
            raise ValueError
        given.raw_host.encode("idna")  # as whoever looks it up will
        path = PREFIX if given.raw_path in ("", "/") else given.raw_path.rstrip("/") + "/"
        address = Address(given.with_scheme(scheme).with_path(path, encoded=True))
        _ = address.authorization  # to hear of what cannot be sent
    except (ValueError, TypeError, KeyError):
        raise SettingError(
            "the server's URL is not one", "write it as in https://app.example/keepalive"
        ) from None
    return address
