"""What a proxy's configuration means for pages."""

import pytest

from keepalive.commands.proxies import read_proxy

from ..nodes import DEPLOY

NGINX = """
location / {
    proxy_pass http://keepalive;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_set_header Host $http_host;
    # proxy_read_timeout 1s;
    %s
}
"""
HAPROXY = """
defaults
    timeout client 30s
    timeout server 50000   # milliseconds
    %s
"""


@pytest.mark.parametrize(
    ("text", "patience", "told_by"),
    [
        (NGINX % "proxy_read_timeout 90;", 90, "proxy_read_timeout"),
        (NGINX % "proxy_read_timeout 1m 30s;", 90, "proxy_read_timeout"),
        (NGINX % "proxy_read_timeout 1h; proxy_read_timeout 500ms;", 0.5, "proxy_read_timeout"),
        (NGINX % "", 60, "nginx's default"),
        (HAPROXY % "timeout tunnel 1h", 3600, "timeout tunnel"),
        (HAPROXY % "timeout tunnel 9000", 9, "timeout tunnel"),
        (HAPROXY % "# timeout tunnel 9000", 30, "timeout client"),
    ],
)
def test_how_long_it_waits(text: str, patience: float, told_by: str) -> None:
    proxy = read_proxy(text)
    assert (proxy.patience, proxy.told_by, proxy.faults) == (patience, told_by, ())


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("proxy_set_header Upgrade $http_upgrade;", "Upgrade and Connection are not passed on"),
        ("proxy_set_header Connection $connection_upgrade;", "Upgrade and Connection are not passed on"),
        ("proxy_set_header Host $http_host;", "Host is not passed on"),
    ],
)
def test_what_it_hides(line: str, fault: str) -> None:
    (found,) = read_proxy((NGINX % "").replace(line, "")).faults
    assert found[0] == fault


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no configuration of nginx"),
        ("server { listen 80; }", "no configuration of nginx"),
        ("defaults\n mode http", "neither timeout tunnel"),
        (NGINX % "proxy_read_timeout forever;", "'forever' is no span of time"),
    ],
)
def test_what_it_cannot_read(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_proxy(text)


@pytest.mark.parametrize("name", ["nginx.conf", "haproxy.cfg"])
def test_ours_are_sound(name: str) -> None:
    proxy = read_proxy((DEPLOY / name).read_text())
    assert (proxy.patience, proxy.faults) == (60, ())
