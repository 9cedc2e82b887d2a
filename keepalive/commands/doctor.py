"""`keepalive doctor`: what is wrong with a set-up, why that matters, and what to do about it.

Each check looks at one thing and reports; it changes nothing, and makes no file but those that a
store's own start would touch. Green is fine, yellow is unwise, red will hurt.
"""

import asyncio
import os
import re
import resource
import shutil
import ssl
import stat
import sys
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from importlib import metadata
from importlib.util import find_spec
from ipaddress import ip_address
from math import inf
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from ..admin import find_token
from ..admin.access import TOKEN
from ..clock import Clock, SystemClock
from ..errors import KeepaliveError, SettingError
from ..limits import SHARE_OF_FILES
from ..seal import ENVIRONMENT, Seal
from ..settings import Settings, duration
from ..stores import open_store
from .finding import Finding, Level
from .proxies import read_proxy

SLOW_STORE = 0.1
"""A store that takes longer than this many seconds for a look-up makes every beat late."""
LEAST_DISK = 100e6
"""Bytes that should be free where the database grows."""
FEW_PAGES = 1000
"""What a server should have room for, where nobody has said how many pages are wanted."""
LEAST_VARIETY = 16
"""So many different characters, or bytes, has what is random and long enough; of 32 bytes, 30 differ."""
PROBE_TIMEOUT = 5.0
"""How long the public address may take for each answer, in seconds."""
LEAST_AIOHTTP = "3.14.4"
PYTHONS = (3, 11), (3, 14)
"""The oldest and the newest that this release was tested with."""
_BUILT = datetime(2026, 1, 1, tzinfo=UTC).timestamp()  # no clock can be right that is before this
_REMOTE = ("nfs", "cifs", "smb", "9p", "ceph", "glusterfs", "lustre", "afs", "fuse.sshfs", "fuse.glusterfs")
_MOUNTS = Path("/proc/self/mounts")
_OTHERS = stat.S_IRWXO


class Case(NamedTuple):
    """What is to be examined."""

    settings: Settings
    environ: Mapping[str, str]
    proxies: tuple[Path, ...] = ()
    """The configurations of the proxies in front."""
    url: str | None = None
    """Where browsers reach the server."""


async def examine(case: Case) -> AsyncIterator[Finding]:
    """All findings, one after the other."""
    for check in _CHECKS:
        for finding in check(case):
            yield finding
    async for finding in _store(case):
        yield finding
    if case.url is not None:
        for finding in await asyncio.to_thread(list, _public(case.url)):
            yield finding


def refused(error: SettingError) -> Finding:
    """What is found where the settings themselves are refused."""
    return Finding(Level.RED, "settings", error.problem, "the server would not start", error.solution)


# What runs, and as whom.


def _versions(case: Case) -> Iterator[Finding]:
    least, most = PYTHONS
    running = sys.version_info[:2]
    python = ".".join(map(str, running))
    found = metadata.version("aiohttp")
    if _numbers(found) < _numbers(LEAST_AIOHTTP):
        yield Finding(
            Level.RED,
            "versions",
            f"aiohttp {found} is older than {LEAST_AIOHTTP}",
            "it has known holes, and control frames break sockets",
            'run pip install --upgrade "session-keepalive[server]"',
        )
    elif running > most:
        yield Finding(
            Level.YELLOW,
            "versions",
            f"Python {python} is newer than what this release was tested with",
            f"it was tested with {least[0]}.{least[1]} to {most[0]}.{most[1]}",
            "upgrade session-keepalive, or take a Python that it knows",
        )
    else:
        yield Finding(Level.GREEN, "versions", f"Python {python}, aiohttp {found}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _user(case: Case) -> Iterator[Finding]:
    if os.geteuid() == 0 and case.settings.port >= 1024:
        yield Finding(
            Level.YELLOW,
            "user",
            "this is root",
            "whoever breaks into the server owns the machine; and root may read what its own user may not",
            "run the server, and this command, as a user of its own: see deploy/keepalive.service",
        )


def _extras(case: Case) -> Iterator[Finding]:
    gains = {
        "prometheus_client": ("metrics", "without it /metrics answers 404"),
        "uvloop": ("uvloop", "without it a core answers a third fewer pings"),
    }
    for module, (extra, why) in gains.items():
        if find_spec(module) is None:
            yield Finding(
                Level.YELLOW,
                "extras",
                f"{extra} is not installed",
                why,
                f'run pip install "session-keepalive[{extra}]"',
            )
    if all(find_spec(module) for module in gains):
        yield Finding(Level.GREEN, "extras", "metrics and uvloop are installed")


# What the settings say.


def _policy(case: Case) -> Iterator[Finding]:
    settings = case.settings
    advice = settings.policy().advice()
    for line in advice:
        what, _, why = line.partition(": ")
        yield Finding(
            Level.YELLOW, "lifetimes", what, why, f"change {what.split()[0]}, or leave it out for its default"
        )
    if not advice:
        absolute = duration(settings.absolute_timeout) if settings.absolute_timeout else "off"
        idle, ping = duration(settings.idle_timeout), duration(settings.ping_interval)
        yield Finding(
            Level.GREEN,
            "lifetimes",
            f"mode {settings.mode}, idle {idle}, absolute {absolute}, a ping every {ping}",
        )


def _cookies(case: Case) -> Iterator[Finding]:
    settings = case.settings
    https = [origin for origin in settings.origin if origin.startswith("https://")]
    plain = [
        origin for origin in settings.origin if not origin.startswith("https://") and not _is_here(origin)
    ]
    if "*" in "".join(settings.origin):
        yield Finding(
            Level.RED,
            "origins",
            "an origin has a wildcard",
            "it matches nothing here, and where it did, any site could use your users' sessions",
            "name each origin: https://app.example.com",
        )
    elif plain:
        yield Finding(
            Level.RED,
            "origins",
            f"{plain[0]} is not https",
            "whoever is on the network between can put a page there, and use your users' sessions",
            "serve those pages by https, and change origin",
        )
    else:
        allowed = " and of ".join(["the server's own origin", *settings.origin])
        yield Finding(Level.GREEN, "origins", f"only pages of {allowed} may connect")
    if settings.secure:
        yield Finding(Level.GREEN, "cookies", "Secure, HttpOnly, SameSite=Lax, with the prefix __Host-")
    elif settings.trusted_proxies and settings.secure is None:
        yield Finding(
            Level.GREEN,
            "cookies",
            "HttpOnly, SameSite=Lax; Secure and __Host- where a trusted proxy says that it was https",
        )
    elif https or not _is_local(settings.host):
        because = f"pages come from {https[0]}" if https else f"the server listens on {settings.host}"
        yield Finding(
            Level.RED,
            "cookies",
            f"{because}, and secure is {'off' if settings.secure is False else 'automatic'}",
            "the session cookie goes without Secure, so any plain http request of the browser gives it away;"
            " and pages of https are refused as foreign",
            "let a proxy end TLS, and name it in trusted_proxies; or set secure to on",
        )
    elif urlsplit(case.url or "").scheme == "https":
        yield Finding(
            Level.RED,
            "cookies",
            f"browsers come by {case.url}, and secure is not on",
            "the session cookie goes without Secure, and the pages are refused as foreign",
            "name the proxy that ends TLS in trusted_proxies; or set secure to on",
        )
    else:
        yield Finding(
            Level.GREEN, "cookies", "HttpOnly, SameSite=Lax; not Secure, as only this machine gets in"
        )


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_here(origin: str) -> bool:
    return _is_local(urlsplit(origin).hostname or "")


def _secret(case: Case) -> Iterator[Finding]:
    about, settings = "secret", case.settings
    text, path = case.environ.get(ENVIRONMENT), settings.secret_file
    if not text and path is None:
        database = _database(settings)
        if database is not None:
            path = database.with_name(f"{database.name}.secret")
            if not path.exists():
                yield Finding(Level.GREEN, about, f"will be made in {path} at the first start")
                return
        elif settings.store.startswith("memory:"):
            yield Finding(Level.GREEN, about, "made anew by each process, as its sessions are")
            return
        else:
            yield Finding(
                Level.RED,
                about,
                "there is none",
                "nodes that share sessions need the same key, or no node can read another's cookies",
                f"run keepalive keygen once; give every node that key, in {ENVIRONMENT} or by secret_file",
            )
            return
    where = ENVIRONMENT
    try:
        if not text:
            assert path is not None
            where = str(path)
            text = path.read_text("ascii")
            mode = path.stat().st_mode
            if mode & _OTHERS:
                yield Finding(
                    Level.RED,
                    about,
                    f"{path} may be read by everybody on this machine",
                    "whoever has the key can forge any user's cookie",
                    f"run chmod 600 {path}; if others may have seen it, make a new one",
                )
                return
        Seal.parse(text)
    except SettingError as error:
        yield Finding(Level.RED, about, error.problem, "the server would not start", "run keepalive keygen")
        return
    except (OSError, UnicodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is no text"
        yield Finding(
            Level.RED,
            about,
            f"{where} cannot be read: {problem}",
            "the server would not start",
            "check the path and whose file it is; keepalive keygen makes a key",
        )
        return
    keys = text.replace(",", " ").split()
    if any(len(set(urlsafe_b64decode(key))) < LEAST_VARIETY for key in keys):
        yield Finding(
            Level.RED,
            about,
            f"a key in {where} is not random",
            "whoever guesses it can forge any user's cookie",
            "run keepalive keygen, and take that",
        )
        return
    more = f", and {len(keys) - 1} former" if len(keys) > 1 else ""
    yield Finding(Level.GREEN, about, f"a random key{more}, from {where}")


def _admin_token(case: Case) -> Iterator[Finding]:
    path = case.settings.admin_token_file
    try:
        token = find_token(case.environ, path)
    except SettingError as error:
        yield Finding(
            Level.RED,
            "admin",
            error.problem,
            "the server would not start; and whoever guesses the token can end everybody's sessions",
            "run keepalive keygen, and take that",
        )
        return
    if token is None:
        yield Finding(Level.GREEN, "admin", "the API is off, for there is no token")
    elif len(set(token)) < LEAST_VARIETY:
        yield Finding(
            Level.RED,
            "admin",
            "the admin token is not random",
            "whoever guesses it can list and end everybody's sessions",
            "run keepalive keygen, and take that",
        )
    elif not case.environ.get(TOKEN) and path is not None and path.stat().st_mode & _OTHERS:
        yield Finding(
            Level.RED,
            "admin",
            f"{path} may be read by everybody on this machine",
            "whoever has the token can list and end everybody's sessions",
            f"run chmod 600 {path}; if others may have seen it, make a new one",
        )
    else:
        yield Finding(Level.GREEN, "admin", "the API is on, with a long token")


def _audit_log(case: Case) -> Iterator[Finding]:
    about, where = "audit log", case.settings.audit
    if where is None or where == "-":
        yield Finding(Level.GREEN, about, "off" if where is None else "goes to standard output")
        return
    path = Path(where)
    if not os.access(path if path.exists() else path.parent, os.W_OK) or path.is_dir():
        yield Finding(
            Level.RED,
            about,
            f"{path} cannot be written",
            "the server would not start",
            "make its folder, owned by the server's user",
        )
    elif path.exists() and path.stat().st_mode & _OTHERS:
        yield Finding(
            Level.YELLOW,
            about,
            f"{path} may be read by everybody on this machine",
            "it tells who was signed in, and when",
            f"run chmod 600 {path}",
        )
    else:
        yield Finding(Level.GREEN, about, f"{path}")


# What the machine has.


def _files(case: Case) -> Iterator[Finding]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = inf if hard == resource.RLIM_INFINITY else int(hard * SHARE_OF_FILES)
    wanted = case.settings.pages
    if room < (wanted or FEW_PAGES):
        yield Finding(
            Level.YELLOW if wanted is None else Level.RED,
            "open files",
            f"at most {hard:,} in a process, which leaves room for {room:,} pages",
            f"pages over that are turned away with 503{f'; {wanted:,} are wanted' if wanted else ''}",
            f"raise the hard limit to {int((wanted or FEW_PAGES) / SHARE_OF_FILES) + 1}: LimitNOFILE= in the"
            " systemd unit, or ulimit -Hn in a shell",
        )
    else:
        yield Finding(Level.GREEN, "open files", f"room for {room:,} pages in each process")


def _clock(case: Case) -> Iterator[Finding]:
    wall = SystemClock().wall()
    if wall < _BUILT:
        yield Finding(
            Level.RED,
            "clock",
            f"it says {datetime.fromtimestamp(wall, UTC):%Y-%m-%d}",
            "deadlines are dates: all sessions end when the clock is put right",
            "set the clock, and let NTP keep it: timedatectl set-ntp true",
        )
    elif not case.settings.store.startswith("redis"):  # that has one of its own
        yield Finding(Level.GREEN, "clock", "the store goes by this machine's")


def _workers(case: Case) -> Iterator[Finding]:
    workers = case.settings.workers
    # Of those that the machine has, a container may use fewer; not every system can tell.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers > cores:
        yield Finding(
            Level.YELLOW,
            "workers",
            f"{workers} workers on {cores} cores",
            "each keeps a core busy, so they only take time from each other",
            f"set workers to {cores} or fewer",
        )
    else:
        yield Finding(Level.GREEN, "workers", f"{workers} of {cores} cores")


# Where sessions live.


async def _store(case: Case) -> AsyncIterator[Finding]:
    url = case.settings.store
    database = _database(case.settings)
    if database is not None:
        findings = list(_folder(database))
        for finding in findings:
            yield finding
        if not database.exists() or any(finding.level is Level.RED for finding in findings):
            return
    clock: Clock = SystemClock()
    try:
        store = open_store(url)
        began = clock.monotonic()
        await store.open()
        try:
            opened = clock.monotonic() - began
            took = inf
            for _ in range(3):  # one may be unlucky
                asked = clock.monotonic()
                await store.peek(bytes(32))
                took = min(took, clock.monotonic() - asked)
        finally:
            await store.close()
    except KeepaliveError as error:
        yield Finding(
            Level.RED,
            "store",
            error.problem,
            "the server would not start, or answer no ping",
            error.solution or "start the store, and look into its log",
        )
        return
    if url.startswith("memory:"):
        yield Finding(
            Level.YELLOW,
            "store",
            "sessions live in the memory of the process",
            "a restart signs everybody out",
            "set store to sqlite:///path/to/sessions.db",
        )
    elif took > SLOW_STORE:
        yield Finding(
            Level.YELLOW,
            "store",
            f"it took {took * 1000:.0f} ms for a look-up",
            "beats come as late as the store answers",
            "move it nearer, or find out what keeps it busy",
        )
    else:
        what = f"opens in {opened * 1000:.0f} ms, answers in {took * 1000:.1f} ms"
        yield Finding(Level.GREEN, "store", what)
    if url.startswith("redis"):
        from . import doctor_redis  # noqa: PLC0415 - an extra

        async for finding in doctor_redis.examine(url, clock):
            yield finding


def _database(settings: Settings) -> Path | None:
    """The file of a SQLite store."""
    parts = urlsplit(settings.store)
    return Path(parts.path[1:]) if parts.scheme == "sqlite" else None


def _folder(database: Path) -> Iterator[Finding]:
    """Whether a database can live there."""
    there = next(folder for folder in database.absolute().parents if folder.exists())
    remote = _remote(there)
    if not os.access(there, os.W_OK | os.X_OK) or (database.exists() and not os.access(database, os.W_OK)):
        yield Finding(
            Level.RED,
            "store",
            f"{database} cannot be written",
            "no session could be kept",
            "name a folder of the server's user in store, or run as that user",
        )
    elif remote is not None:
        yield Finding(
            Level.RED,
            "store",
            f"{database} is on a network file system ({remote})",
            "SQLite's write-ahead log needs memory that all processes share, which no network has:"
            " the database gets damaged",
            "keep it on a local disk; for several machines use Redis",
        )
    elif database.exists() and database.stat().st_mode & _OTHERS:
        yield Finding(
            Level.YELLOW,
            "store",
            f"{database} may be read by everybody on this machine",
            "it holds what your app keeps in its sessions",
            f"run chmod 600 {database}",
        )
    elif (free := shutil.disk_usage(there).free) < LEAST_DISK:
        yield Finding(
            Level.YELLOW,
            "store",
            f"{free / 1e6:.0f} MB are free beside {database}",
            "on a full disk nobody can sign in, and no beat is given",
            "make room",
        )
    elif not database.exists():
        yield Finding(Level.GREEN, "store", f"{database} will be made at the first start")


def _remote(folder: Path) -> str | None:
    """The kind of network file system that a folder is on, if it is on one."""
    try:
        mounts = [line.split()[1:3] for line in _MOUNTS.read_text().splitlines()]
    except OSError:  # no Linux
        return None
    around = [(len(point), kind) for point, kind in mounts if folder.is_relative_to(point)]
    kind = max(around, default=(0, ""))[1]
    return kind if kind.startswith(_REMOTE) else None


# What stands in front.


def _proxies(case: Case) -> Iterator[Finding]:
    public = case.url is not None and not _is_here(case.url)
    if (case.proxies or public or case.settings.secure) and not case.settings.trusted_proxies:
        yield Finding(
            Level.YELLOW,
            "proxy",
            "there seems to be one, and trusted_proxies names none",
            "to the limits, and in the audit log, all pages come from one address: the proxy's",
            "set trusted_proxies to its address, such as 127.0.0.1",
        )
    policy = case.settings.policy()
    interval = max(policy.ping_interval, policy.hidden_interval)
    for path in case.proxies:
        try:
            proxy = read_proxy(path.read_text())
        except (OSError, ValueError) as error:
            yield Finding(
                Level.RED,
                "proxy",
                f"{path} cannot be read: {error.strerror if isinstance(error, OSError) else error}",
                "nothing is known of the proxy",
                "name a file of nginx or HAProxy, with all that it includes (nginx -T writes that)",
            )
            continue
        patience = f"{proxy.patience:g} s ({proxy.told_by})"
        if proxy.patience < 2 * interval:
            cuts = proxy.patience <= 1.25 * interval
            yield Finding(
                Level.RED if cuts else Level.YELLOW,
                "proxy",
                f"{path} cuts a silent socket after {patience}, and pages ping every {interval:g} s",
                "sockets are cut between two pings" if cuts else "a single late ping costs the socket",
                f"raise it to {2 * interval:g} s or more, or lower"
                f" {'hidden_interval' if policy.hidden_interval > policy.ping_interval else 'ping_interval'}",
            )
        else:
            yield Finding(
                Level.GREEN, "proxy", f"{path} waits {patience} for a page that pings every {interval:g} s"
            )
        for what, why, fix in proxy.faults:
            yield Finding(Level.RED, "proxy", f"{path}: {what}", why, fix)


def _public(url: str) -> Iterator[Finding]:
    """What a browser would meet; three handshakes without a cookie, and two requests."""
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    try:
        own, foreign = _handshake(url, origin), _handshake(url, "https://foreign.invalid")
        shown = [] if _is_here(url) else [path for path in ("/metrics", "/healthz") if _get(url, path) == 200]
    except (OSError, HTTPException) as error:
        problem = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else str(error)
        yield Finding(
            Level.RED,
            "public",
            f"{url} cannot be reached: {problem}",
            "no browser gets in there",
            "check the address, the proxy and its certificate",
        )
        return
    if own == 403:
        yield Finding(
            Level.RED,
            "public",
            f"{url} refuses its own pages",
            "the server does not know itself by that name: the proxy hides Host, or secure is not on",
            "pass Host on with its port (nginx: proxy_set_header Host $http_host); for https, secure is on",
        )
    elif own != 101:
        yield Finding(
            Level.RED,
            "public",
            f"{url} answers a handshake with {own}",
            "pages cannot open their socket",
            "have the proxy pass Upgrade and Connection on, to the server's port: see deploy/nginx.conf",
        )
    elif foreign != 403:
        yield Finding(
            Level.RED,
            "public",
            f"{url} lets pages of a foreign origin in ({foreign})",
            "any site that a user visits could use the session",
            "have the proxy leave the header Origin alone",
        )
    else:
        yield Finding(Level.GREEN, "public", f"{url} lets its own pages in, and no others")
    for path in shown:
        yield Finding(
            Level.RED,
            "public",
            f"{path} is open to everybody",
            "it tells strangers how your server is doing, and how to tell when it is not",
            "have the proxy answer 404 there: see deploy/nginx.conf",
        )


_CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    _versions,
    _extras,
    _user,
    _policy,
    _cookies,
    _secret,
    _admin_token,
    _audit_log,
    _files,
    _clock,
    _workers,
    _proxies,
)


def _handshake(url: str, origin: str) -> int:
    return _get(
        url,
        "/keepalive/ws",
        {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "a2VlcGFsaXZlIGRvY3Rvcg==",
            "Sec-WebSocket-Protocol": "keepalive.v1",
            "Origin": origin,
        },
    )


def _get(url: str, path: str, headers: Mapping[str, str] | None = None) -> int:
    """The status of an answer."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.netloc, timeout=PROBE_TIMEOUT)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        return connection.getresponse().status
    finally:
        connection.close()
