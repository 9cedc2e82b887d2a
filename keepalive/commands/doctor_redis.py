"""What `keepalive doctor` asks of a Redis: whether it keeps what it has acknowledged, and what time it is."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.exceptions import RedisClusterException, RedisError

from ..clock import Clock
from ..errors import StoreError
from ..stores.redis_link import RedisLink
from .finding import Finding, Level

MOST_SKEW = 2.0
"""Seconds by which the clocks may differ before somebody should look; that of Redis decides."""
_BADNESS = (Level.GREEN, Level.YELLOW, Level.RED)
_FAULTS = (RedisError, RedisClusterException, StoreError, OSError)
_UNTOLD = Finding(
    Level.YELLOW,
    "persistence",
    "Redis does not tell this user how it is set up",
    "nobody knows what a crash of it would cost",
    "run this with the URL of a user who may: ACL SETUSER name … +info +config|get",
)


async def examine(url: str, clock: Clock) -> AsyncIterator[Finding]:
    """What is to be said of the Redis at `url`, which answers; of a Cluster, the worst of its primaries."""
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query) if name != "prefix"]
    link = RedisLink(urlunsplit(parts._replace(query=urlencode(query))))
    found: list[Finding] = []
    await link.open()
    try:
        client = link.required()
        if link.clustered:
            await client.initialize()
            for node in client.get_primaries():
                found += [_at(node.name, each) for each in await _look(client, clock, target_nodes=node)]
        else:
            found += await _look(client, clock)
    except _FAULTS:
        found.append(_UNTOLD)
    finally:
        await link.close()
    for about in dict.fromkeys(each.about for each in found):
        same = [each for each in found if each.about == about]
        yield max(same, key=lambda each: _BADNESS.index(each.level))


def _at(node: str, finding: Finding) -> Finding:
    """Say of what is wrong where that is."""
    return finding if finding.level is Level.GREEN else finding._replace(what=f"{node}: {finding.what}")


async def _look(client: Any, clock: Clock, **where: Any) -> list[Finding]:
    """What is to be said of one server."""
    found = []
    try:
        found.append(await _clock(client, clock, **where))
        about = await client.info("persistence", **where) | await client.info("memory", **where)
        fsync = (await client.config_get("appendfsync", **where)).get("appendfsync", "")
        saves = (await client.config_get("save", **where)).get("save", "")
    except _FAULTS:
        return [*found, _UNTOLD]
    return [
        *found,
        _persistence(_text(fsync), bool(about.get("aof_enabled")), bool(saves)),
        _eviction(_text(about.get("maxmemory_policy", "")), int(about.get("maxmemory", 0))),
    ]


async def _clock(client: Any, clock: Clock, **where: Any) -> Finding:
    before = clock.wall()
    seconds, micros = await client.time(**where)
    skew = seconds + micros / 1e6 - (before + clock.wall()) / 2
    if abs(skew) > MOST_SKEW:
        return Finding(
            Level.YELLOW,
            "clock",
            f"that of Redis is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}",
            "deadlines go by that of Redis, logs by this machine's: they do not fit together",
            "let NTP keep both: timedatectl set-ntp true",
        )
    return Finding(
        Level.GREEN, "clock", f"within {max(abs(skew), 0.01):.2f} s of that of Redis, which decides"
    )


def _persistence(fsync: str, appends: bool, saves: bool) -> Finding:
    about = "persistence"
    if appends and fsync != "no":
        loses = "nothing" if fsync == "always" else "at most the last second"
        return Finding(Level.GREEN, about, f"appendonly yes, appendfsync {fsync}: a power cut costs {loses}")
    if appends:
        return Finding(
            Level.YELLOW,
            about,
            "appendfsync no",
            "a power cut may take back the last half minute: logins, and logouts too",
            "set appendfsync everysec; or always, where a logout must survive that",
        )
    if saves:
        return Finding(
            Level.YELLOW,
            about,
            "appendonly no: only snapshots are kept",
            "a crash takes back all since the newest one: logins, and logouts too",
            "run CONFIG SET appendonly yes, and CONFIG REWRITE",
        )
    return Finding(
        Level.RED,
        about,
        "appendonly no, and no snapshots",
        "a restart of Redis signs everybody out",
        "run CONFIG SET appendonly yes, and CONFIG REWRITE",
    )


def _eviction(policy: str, most: int) -> Finding:
    if policy != "noeviction":
        return Finding(
            Level.RED if most else Level.YELLOW,
            "eviction",
            f"maxmemory-policy {policy}",
            "when memory runs out, Redis throws out sessions: users are signed out, ends are forgotten"
            + ("" if most else "; so far maxmemory is not set"),
            "run CONFIG SET maxmemory-policy noeviction, and CONFIG REWRITE",
        )
    return Finding(Level.GREEN, "eviction", "maxmemory-policy noeviction")


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
