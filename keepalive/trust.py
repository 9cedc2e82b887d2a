"""What a server believes of a request: who sent it, by which scheme, to which host, with which cookie.

What a header says may be anybody's word. That of a proxy counts where the operator has named the
proxy, and nobody else's does.
"""

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import hdrs, web

from .errors import SettingError

_Address = IPv4Address | IPv6Address
_HOST = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)  # RFC 9110 §7.2
_PORT = re.compile(r"\[(.+)\](?::[0-9]+)?|([^:]+):[0-9]+")
_SCHEMES = {"https": True, "wss": True, "http": False, "ws": False}


class Trust:
    """Whose word counts.

    Args:
        proxies: addresses and networks whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed, such
            as `10.0.0.0/8`. Not `Forwarded` (RFC 7239): proxies that write the one pass on the other as
            they got it, and believing both would be believing anybody.
        hosts: the names that a request may be for, without a port; none stands for all.

    Raises:
        SettingError: one of them is none.
    """

    def __init__(self, proxies: Collection[str] = (), hosts: Collection[str] = ()) -> None:
        for name, value in ("trusted_proxies", proxies), ("hosts", hosts):
            if isinstance(value, str):
                raise SettingError(f"{name} is the text {value!r}", f"give a list: [{value!r}]")
        self._proxies = tuple(map(_network, proxies))
        self._hosts = frozenset(map(_host, hosts))

    def address(self, request: web.Request) -> str:
        """Of whom a request is: the address nearest to us that is no trusted proxy's.

        Of IPv6 the network of 64 bits, for that is what one customer has. Empty where there is none
        (a Unix socket).
        """
        found = _address(request.remote or "")
        if found is None:
            return ""
        told = ",".join(request.headers.getall("X-Forwarded-For", ())).split(",")
        for each in reversed(told):  # each proxy adds whom it was asked by, at the end
            further = _address(each.strip()) if self._trusts(found) else None
            if further is None:
                break
            found = further
        return _customer(found)

    def stranger(self, peer: str) -> str | None:
        """Of whom a connection is, as in `address`; `None` if it is a proxy's, or may be one's."""
        found = _address(peer)
        if found is None or self._trusts(found) or not self.is_counted(address := _customer(found)):
            return None
        return address

    def is_counted(self, address: str) -> bool:
        """Whether an address is one of the outside, whose pages and misses have a limit.

        As long as no proxy is named, a private address may be one: to count it would be to count all
        who come through it as one.
        """
        return address != "" and (bool(self._proxies) or ip_network(address).is_global)

    def is_secure(self, request: web.Request) -> bool:
        """Whether the browser speaks https, with us or with a trusted proxy."""
        peer = _address(request.remote or "")
        if peer is not None and self._trusts(peer):
            told = ",".join(request.headers.getall("X-Forwarded-Proto", ())).split(",")
            return _SCHEMES.get(told[-1].strip().lower(), request.secure)
        return request.secure

    def refuse_host(self, request: web.Request) -> None:
        """Let only requests pass that are for one host, and for one of ours.

        Raises:
            web.HTTPBadRequest: there is not exactly one valid `Host` (RFC 9112 §3.2).
            web.HTTPMisdirectedRequest: it is another server's (RFC 9110 §15.5.20).
        """
        hosts = request.headers.getall(hdrs.HOST, [])
        valid = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if valid is None:
            raise web.HTTPBadRequest(text="send one Host header, as in app.example:8443\n")
        if self._hosts and valid[1].lower() not in self._hosts:
            raise web.HTTPMisdirectedRequest(
                text="This server is not that host's; its setting `hosts` lists those that it is.\n"
            )

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._proxies)


def cookie_in(request: web.Request, name: str) -> str | None:
    """The value of a cookie that a request presents, without the quotes that may be around it.

    A request that may present two of the name is refused: which one counts is anybody's guess. A page of
    a sibling host can set such a second one, to have a victim use the attacker's session (RFC 6265 §8.6);
    even one of the prefix `__Host-`, behind a blank in the value of another cookie, where `request.cookies`
    begins a new one. Browsers part cookies by semicolons alone.

    Raises:
        web.HTTPBadRequest: it may.
    """
    lines = request.headers.getall(hdrs.COOKIE, ())
    pairs = [pair.partition("=") for line in lines for pair in line.split(";")]
    values = [value.strip() for found, _, value in pairs if found.strip() == name]
    wherever = re.compile(rf"(?:^|[;\s]){re.escape(name)}(?=[=;\s]|$)")
    if len(values) > 1 or sum(len(wherever.findall(line)) for line in lines) != len(values):
        raise web.HTTPBadRequest(text="Two session cookies came. Please clear this site's cookies.\n")
    if not values:
        return None
    quoted = len(values[0]) > 1 and values[0][0] == values[0][-1] == '"'
    return values[0][1:-1] if quoted else values[0]


def _address(text: str) -> _Address | None:
    """The address that a text is, or begins with before a port."""
    if ported := _PORT.fullmatch(text):
        text = ported[1] or ported[2]
    try:
        found = ip_address(text.partition("%")[0])  # fe80::1%eth0 is of a zone
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def _customer(address: _Address) -> str:
    return str(address) if address.version == 4 else str(ip_network((address, 64), strict=False))


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError:
        raise SettingError(
            f"{text!r} in trusted_proxies is no address", "write 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32"
        ) from None


def _host(text: str) -> str:
    valid = _HOST.fullmatch(text)
    if valid is None or valid[2]:
        raise SettingError(
            f"{text!r} in hosts is no host name", "write it without scheme and port: app.example"
        )
    return text.lower()
