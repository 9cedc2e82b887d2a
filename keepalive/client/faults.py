"""Why a connection failed, as one error of ours: what happened, and what to do."""

import re
import ssl

import aiohttp
from yarl import URL

from ..errors import ConnectError, NotKeepaliveError, OriginError, ServerUnavailable, TlsError, VersionError
from ..messages import SUBPROTOCOL

_BUSY = {429, 502, 503, 504}
_TWO_COOKIES = "Two session cookies came"
_OFFERED = re.compile(r"\bkeepalive\.v\d+\b")
_AGAIN = "see that it runs, or try again later"
_MOUNTED = "give the URL under which its routes are mounted, as in https://app.example/keepalive"


def failed(url: URL, error: Exception) -> ConnectError:
    """What kept a connection from being made, or a request from its answer."""
    if isinstance(error, ConnectError):
        return error
    origin = url.origin()
    if isinstance(error, aiohttp.ClientSSLError | aiohttp.ClientConnectorCertificateError | ssl.SSLError):
        return TlsError(
            f"no secure connection to {origin}",
            "mend its certificate, trust its issuer with an SSLContext in the session's connector,"
            " or write http:// if it speaks no TLS",
        )
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return ServerUnavailable(
            f"the proxy lets nobody through to {origin}", "see that it runs, and whom it lets through"
        )
    if isinstance(error, aiohttp.ClientResponseError):
        return refused(url, error.status)
    if isinstance(error, TimeoutError):
        return ServerUnavailable(f"{origin} does not answer in time", _AGAIN)
    return ServerUnavailable(f"nobody answers at {origin}", _AGAIN)


def refused(url: URL, status: int, body: str = "") -> ConnectError:
    """What a refused handshake means.

    Args:
        url: where.
        status: of the answer; 0 if it was no HTTP.
        body: its text, as far as known.
    """
    if status in _BUSY:
        return not_now(url, f"HTTP {status}")
    if status == 403:
        return OriginError(
            f"{url.origin()} refuses the origin",
            "send no Origin header, or one that its setting `origin`, or `origins` of setup(), lists",
        )
    if status == 421:
        return NotKeepaliveError(
            f"the server at {url.origin()} does not answer for this host",
            "use a host name that its setting `hosts` lists, or add this one there",
        )
    if status == 400 and _TWO_COOKIES in body:
        return ConnectError(
            f"{url.origin()} refuses two session cookies in one request",
            "clear this site's cookies in the cookie jar, and sign in again",
        )
    offered = _OFFERED.search(body)
    if status == 400 and offered and offered[0] != SUBPROTOCOL:
        return VersionError(
            f"the server speaks {offered[0]}, and this client {SUBPROTOCOL}",
            "use the release of session-keepalive that the server has",
        )
    return not_ours(url, f"HTTP {status}" if status else "no HTTP")


def not_ours(url: URL, answer: str) -> NotKeepaliveError:
    """Somebody has given an answer that this server never gives."""
    return NotKeepaliveError(f"no keepalive server answers at {url.origin()}{url.path} ({answer})", _MOUNTED)


def not_now(url: URL, why: str) -> ServerUnavailable:
    """The server, or its proxy, says that it cannot."""
    return ServerUnavailable(f"{url.origin()} cannot let anybody in now ({why})", "try again later")


def no_hello(url: URL) -> ServerUnavailable:
    """A socket that was never greeted, and a POST that got no answer either."""
    return ServerUnavailable(f"{url.origin()} has said nothing, neither by WebSocket nor by HTTP", _AGAIN)
