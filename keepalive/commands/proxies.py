"""What the configuration of a proxy means for pages: how long it lets a socket be silent, and what it hides.

Only what is written in the text counts; `include` is not followed.
"""

import re
from typing import NamedTuple

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SPAN = re.compile(r"(\d+)(us|ms|[smhdw]?)")
_NGINX_DEFAULT = 60.0


class Proxy(NamedTuple):
    """What is to be known of a proxy."""

    patience: float
    """After how many seconds of silence it cuts a page's socket."""
    told_by: str
    """By which line."""
    faults: tuple[tuple[str, str, str], ...] = ()
    """What else keeps pages out: what, why, and how to mend it."""


def read_proxy(text: str) -> Proxy:
    """Read the configuration of nginx or HAProxy.

    Raises:
        ValueError: it is neither, or says nothing of pages.
    """
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    plain = "\n".join(lines)
    if "proxy_pass" in plain:
        return _nginx(plain)
    if re.search(r"^(defaults|frontend|backend|listen)\b", plain, re.MULTILINE):
        return _haproxy(plain)
    raise ValueError("it is no configuration of nginx (with a proxy_pass) or HAProxy")


def _nginx(text: str) -> Proxy:
    """https://nginx.org/en/docs/http/ngx_http_proxy_module.html and …/websocket.html."""
    spans = re.findall(r"\bproxy_read_timeout\s+([^;]+);", text)
    patience = min((_seconds(span, "s") for span in spans), default=_NGINX_DEFAULT)
    headers = {
        name.lower(): value for name, value in re.findall(r"proxy_set_header\s+(\S+)\s+([^;]+);", text)
    }
    faults = []
    if "$http_upgrade" not in headers.get("upgrade", "") or "connection" not in headers:
        faults.append(
            (
                "Upgrade and Connection are not passed on",
                "no page can open its socket",
                "add proxy_http_version 1.1 and proxy_set_header for both: see deploy/nginx.conf",
            )
        )
    if not re.search(r"\$(http_)?host\b", headers.get("host", "")):
        faults.append(
            (
                "Host is not passed on",
                "the server does not know its own origin, and refuses its own pages with 403",
                "add proxy_set_header Host $http_host",
            )
        )
    return Proxy(patience, "proxy_read_timeout" if spans else "nginx's default", tuple(faults))


def _haproxy(text: str) -> Proxy:
    """https://docs.haproxy.org, `timeout tunnel`: it alone counts for a socket, where it is set."""
    told = re.findall(r"^timeout\s+(tunnel|client|server)\s+(\S+)", text, re.MULTILINE)
    for names in ({"tunnel"}, {"client", "server"}):
        spans = [(_seconds(span, "ms"), f"timeout {name}") for name, span in told if name in names]
        if spans:
            return Proxy(*min(spans))
    raise ValueError("it sets neither timeout tunnel nor timeout client")


def _seconds(text: str, unit: str) -> float:
    """A span such as `60`, `60s` or `1m 30s`; a bare number is of the given unit."""
    parts = _SPAN.findall(text)
    if not parts or _SPAN.sub("", text).strip():
        raise ValueError(f"{text!r} is no span of time")
    return sum(int(number) * _SECONDS[mark or unit] for number, mark in parts)
