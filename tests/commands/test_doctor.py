"""`keepalive doctor`: green where all is well, and red with the reason where it is not."""

import json
import os
import sqlite3
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from aiohttp import hdrs, web
from cryptography.fernet import Fernet
from redis import Redis

from keepalive import cli
from keepalive.clock import ManualClock
from keepalive.commands import doctor
from keepalive.commands.doctor import Case, examine
from keepalive.commands.finding import Finding, Level
from keepalive.server import make_app
from keepalive.settings import Settings

from ..conftest import Serve
from ..nodes import DEPLOY, ROOT
from ..redis import RedisServer, cluster, sentinels

KEY = Fernet.generate_key().decode()
WEAK = "A" * 43 + "="
TOKEN = "KEEPALIVE_ADMIN_TOKEN"
Files = tuple[int, int]


@pytest.fixture(autouse=True)
def _a_plain_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in [name for name in os.environ if name.startswith("KEEPALIVE_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    limit_files(monkeypatch, 100_000)


def limit_files(monkeypatch: pytest.MonkeyPatch, hard: int) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda what: (1024, hard))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[Finding]]:
    """Its exit code, and what it found."""
    code = cli.main(["doctor", "--json", *arguments])
    out, err = capsys.readouterr()
    assert err == ""
    found = [Finding(**each) for each in json.loads(out)["findings"]]
    for finding in found:
        assert bool(finding.why and finding.fix) is (finding.level != Level.GREEN)
    return code, found


def bad(found: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.level, finding.about) for finding in found if finding.level != Level.GREEN]


def test_the_default_set_up_is_green(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, found = run(capsys)
    assert (code, bad(found)) == (0, [])
    assert len(found) > 10
    assert list(tmp_path.iterdir()) == []  # it has made nothing


async def test_after_the_first_start_it_is_so_still(tmp_path: Path, serve: Serve) -> None:
    settings = Settings(store="sqlite:///sessions.db")
    await serve(make_app(settings))
    found = [finding async for finding in examine(Case(settings, {}))]
    assert bad(found) == []
    assert any(finding.what.startswith("opens in") for finding in found)


def test_people_get_it_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--host", "0.0.0.0"]) == 1
    out = " ".join(capsys.readouterr().out.split())  # releases of rich differ in their padding
    assert "✗ cookies the server listens on 0.0.0.0, and secure is automatic" in out
    assert "why the session cookie goes without Secure" in out
    assert "do let a proxy end TLS, and name it in trusted_proxies" in out
    assert "1 red" in out
    assert "\x1b" not in out


def file(name: str, text: str, mode: int = 0o600) -> Callable[[pytest.MonkeyPatch], None]:
    def make(monkeypatch: pytest.MonkeyPatch) -> None:
        path = Path(name)
        path.write_text(text)
        path.chmod(mode)

    return make


def environ(**variables: str) -> Callable[[pytest.MonkeyPatch], None]:
    def tell(monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return tell


def mounted(kind: str) -> Callable[[pytest.MonkeyPatch], None]:
    def mount(monkeypatch: pytest.MonkeyPatch) -> None:
        mounts = Path("mounts")
        mounts.write_text(f"/dev/sda / ext4 rw 0 0\nhost:/data {Path.cwd()} {kind} rw 0 0\n")
        monkeypatch.setattr(doctor, "_MOUNTS", mounts)

    return mount


def few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_files(monkeypatch, 4096)


def fewer_files(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_files(monkeypatch, 1024)


def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SystemClock", lambda: ManualClock(wall=0.0))


def old_aiohttp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "3.9.5")


def damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    file("sessions.db", "This is no database. " * 100)(monkeypatch)


def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pass


def proxy(text: str) -> Callable[[pytest.MonkeyPatch], None]:
    return file("proxy.conf", text)


REDIS = ["--store", "redis://127.0.0.1:1/0"]
BEHIND = ["--proxy", "proxy.conf", "--trusted-proxies", "127.0.0.1"]
HERE = ["--store", "sqlite:///sessions.db"]


@pytest.mark.parametrize(
    ("arguments", "prepare", "expected"),
    [
        (["--idle-timeout", "10"], nothing, "settings: idle_timeout (10 s) is shorter than three"),
        (["--store", "mysql://x"], nothing, "store: no store goes by this mysql URL"),
        (["--host", "0.0.0.0"], nothing, "cookies: the server listens on 0.0.0.0, and secure is"),
        (["--origin", "https://a.example"], nothing, "cookies: pages come from https://a.example"),
        (["--origin", "http://a.example"], nothing, "origins: http://a.example is not https"),
        (["--origin", "https://*.example", "--secure", "on"], nothing, "origins: an origin has a wildcard"),
        (REDIS, environ(KEEPALIVE_SECRET=KEY), "store: Redis does not answer"),
        (REDIS, nothing, "secret: there is none"),
        ([], environ(KEEPALIVE_SECRET=WEAK), "secret: a key in KEEPALIVE_SECRET is not random"),
        ([], environ(KEEPALIVE_SECRET="hunter2"), "secret: a secret that seals the session cookies"),
        (["--secret-file", "key"], nothing, "secret: key cannot be read: No such file"),
        (["--secret-file", "key"], file("key", KEY, 0o644), "secret: key may be read by everybody"),
        ([], environ(KEEPALIVE_ADMIN_TOKEN="letmein"), "admin: the admin token has 7 characters"),
        ([], environ(KEEPALIVE_ADMIN_TOKEN="ab" * 20), "admin: the admin token is not random"),
        (["--admin-token-file", "key"], file("key", KEY, 0o644), "admin: key may be read by everybody"),
        (["--audit", "missing/audit.log"], nothing, "audit log: missing/audit.log cannot be written"),
        (["--pages", "10000"], few_files, "open files: at most 4,096 in a process, which leaves room"),
        ([], stopped_clock, "clock: it says 1970-01-01"),
        ([], old_aiohttp, "versions: aiohttp 3.9.5 is older than"),
        (HERE, mounted("nfs4"), "store: sessions.db is on a network file system (nfs4)"),
        (HERE, damaged, "store: sessions.db"),
        (BEHIND, proxy("proxy_pass x; proxy_read_timeout 20s;"), "proxy: proxy.conf cuts a silent socket"),
        (BEHIND, nothing, "proxy: proxy.conf cannot be read: No such file"),
        (["--url", "http://127.0.0.1:1"], nothing, "public: http://127.0.0.1:1 cannot be reached"),
    ],
)
def test_what_is_wrong_is_red(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    prepare: Callable[[pytest.MonkeyPatch], None],
    expected: str,
) -> None:
    prepare(monkeypatch)
    code, found = run(capsys, *arguments)
    assert code == 1
    about, _, what = expected.partition(": ")
    red = [finding for finding in found if finding.level == Level.RED]
    assert [finding for finding in red if finding.about == about and what in finding.what], red


def test_a_trusted_proxy_says_what_is_https(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--host", "0.0.0.0", "--origin", "https://a.example", "--trusted-proxies", "127.0.0.1"]
    _, found = run(capsys, *arguments)
    (cookies,) = (finding for finding in found if finding.about == "cookies")
    assert cookies.level == Level.GREEN
    assert "where a trusted proxy says" in cookies.what
    _, found = run(capsys, *arguments, "--secure", "off")
    (cookies,) = (finding for finding in found if finding.about == "cookies")
    assert cookies.level == Level.RED


@pytest.mark.parametrize(
    ("arguments", "prepare", "expected"),
    [
        (["--absolute-timeout", "none"], nothing, "lifetimes: absolute_timeout is off"),
        (["--store", "memory://"], nothing, "store: sessions live in the memory"),
        (["--workers", "9"], nothing, "workers: 9 workers on 2 cores"),
        ([], fewer_files, "open files: at most 1,024"),
        (["--audit", "log"], file("log", "", 0o644), "audit log: log may be read by everybody"),
        (BEHIND, proxy("defaults\ntimeout tunnel 40s"), "proxy: proxy.conf cuts a silent socket"),
        (["--secure", "on"], nothing, "proxy: there seems to be one"),
    ],
)
def test_what_is_unwise_is_yellow(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    prepare: Callable[[pytest.MonkeyPatch], None],
    expected: str,
) -> None:
    prepare(monkeypatch)
    code, found = run(capsys, *arguments)
    assert code == 0
    (one,) = [finding for finding in found if finding.level != Level.GREEN]
    assert one.level == Level.YELLOW
    assert f"{one.about}: {one.what}".startswith(expected)


def test_root_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert bad(run(capsys)[1]) == [("yellow", "user")]


def test_what_others_may_read_of_the_sessions(capsys: pytest.CaptureFixture[str]) -> None:
    sqlite3.connect("sessions.db").close()
    Path("sessions.db").chmod(0o644)
    _, found = run(capsys, *HERE)
    assert ("yellow", "store") in bad(found)


def test_extras_that_are_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert bad(run(capsys)[1]) == [("yellow", "extras"), ("yellow", "extras")]


def test_our_own_proxies_are_green(capsys: pytest.CaptureFixture[str]) -> None:
    files = [f"--proxy={DEPLOY / name}" for name in ("nginx.conf", "haproxy.cfg")]
    assert run(capsys, *files, "--trusted-proxies", "127.0.0.1")[0] == 0


def test_the_floor_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"aiohttp>={doctor.LEAST_AIOHTTP},<4" in project["dependencies"]
    for version in doctor.PYTHONS:
        named = ".".join(map(str, version))
        assert f"Programming Language :: Python :: {named}" in project["classifiers"]
    assert f">={doctor.PYTHONS[0][0]}.{doctor.PYTHONS[0][1]}" == project["requires-python"]


# Redis.


async def redis_findings(url: str, variables: Mapping[str, str]) -> dict[str, Finding]:
    case = Case(Settings(store=f"{url}/0?prefix=doctor:"), variables)
    return {finding.about: finding async for finding in examine(case)}


@pytest.mark.parametrize(
    ("settings", "about", "level"),
    [
        ({"appendonly": "no", "save": ""}, "persistence", Level.RED),
        ({"appendonly": "no", "save": "60 1"}, "persistence", Level.YELLOW),
        ({"appendonly": "yes", "appendfsync": "no"}, "persistence", Level.YELLOW),
        ({"appendonly": "yes", "appendfsync": "everysec"}, "persistence", Level.GREEN),
        ({"maxmemory-policy": "allkeys-lru", "maxmemory": "100mb"}, "eviction", Level.RED),
        ({"maxmemory-policy": "volatile-ttl", "maxmemory": "0"}, "eviction", Level.YELLOW),
        ({"maxmemory-policy": "noeviction", "maxmemory": "0"}, "eviction", Level.GREEN),
    ],
)
async def test_what_redis_keeps(redis_url: str, settings: dict[str, str], about: str, level: Level) -> None:
    with Redis.from_url(redis_url) as redis:
        before = {name: redis.config_get(name)[name] for name in settings}
        try:
            for name, value in settings.items():
                redis.config_set(name, value)
            found = await redis_findings(redis_url, {"KEEPALIVE_SECRET": KEY})
        finally:
            for name, value in before.items():
                redis.config_set(name, value)
    assert found[about].level is level
    assert found["clock"].level is Level.GREEN


async def test_a_redis_that_tells_nothing(redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        may = "~* &* +@all -info -config"
        redis.execute_command("ACL", "SETUSER", "quiet", "reset", "on", ">pass", *may.split())
        try:
            found = await redis_findings(redis_url.replace("//", "//quiet:pass@"), {"KEEPALIVE_SECRET": KEY})
        finally:
            redis.execute_command("ACL", "DELUSER", "quiet")
    assert found["persistence"].level is Level.YELLOW
    assert "+config|get" in found["persistence"].fix


async def test_a_redis_whose_clock_is_off(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SystemClock", ManualClock)
    found = await redis_findings(redis_url, {"KEEPALIVE_SECRET": KEY})
    assert found["clock"].level is Level.YELLOW


def keep_all(*servers: RedisServer) -> None:
    for server in servers:
        server.call("CONFIG", "SET", "appendonly", "yes", "maxmemory-policy", "noeviction")


async def test_of_a_cluster_the_worst_primary_counts(tmp_path: Path) -> None:
    with cluster(tmp_path) as whole:
        keep_all(*whole.primaries)
        found = await redis_findings(whole.url, {"KEEPALIVE_SECRET": KEY})
        for about in "store", "clock", "persistence", "eviction":
            assert found[about].level is Level.GREEN, found[about]
        for bad in whole.primaries:
            bad.call("CONFIG", "SET", "appendonly", "no", "maxmemory-policy", "allkeys-lru")
            found = await redis_findings(whole.url, {"KEEPALIVE_SECRET": KEY})
            keep_all(bad)
            for about, level in ("persistence", Level.RED), ("eviction", Level.YELLOW):
                assert found[about].level is level
                assert found[about].what.startswith(f"127.0.0.1:{bad.port}: ")


async def test_behind_sentinels_the_primary_counts(tmp_path: Path) -> None:
    with sentinels(tmp_path) as guarded:
        keep_all(guarded.primary)
        found = await redis_findings(guarded.url, {"KEEPALIVE_SECRET": KEY})
        for about in "store", "clock", "persistence", "eviction":
            assert found[about].level is Level.GREEN, found[about]
        guarded.primary.call("CONFIG", "SET", "appendonly", "no")
        found = await redis_findings(guarded.url, {"KEEPALIVE_SECRET": KEY})
        assert found["persistence"].level is Level.RED


# Where browsers reach the server.


async def public(serve: Serve, middleware: object = None) -> list[Finding]:
    app = make_app(Settings(store="memory://"))
    if middleware is not None:
        app.middlewares.append(middleware)  # type: ignore[arg-type]
    url = f"http://127.0.0.1:{(await serve(app)).port}"
    case = Case(Settings(store="memory://"), {}, url=url)
    return [finding async for finding in examine(case) if finding.about == "public"]


async def test_a_server_as_browsers_reach_it(serve: Serve) -> None:
    (found,) = await public(serve)
    assert found.level is Level.GREEN


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        (hdrs.HOST, "upstream", "refuses its own pages"),
        (hdrs.UPGRADE, None, "answers a handshake with 426"),
        (hdrs.ORIGIN, None, "lets pages of a foreign origin in"),
    ],
)
async def test_a_proxy_that_changes_headers(serve: Serve, name: str, value: str | None, what: str) -> None:
    @web.middleware
    async def proxy(request: web.Request, handler: Callable[..., object]) -> object:
        headers = request.headers.copy()
        headers.pop(name)
        if value is not None:
            headers[name] = value
        return await handler(request.clone(headers=headers))  # type: ignore[misc]

    (found,) = await public(serve, proxy)
    assert found.level is Level.RED
    assert what in found.what
