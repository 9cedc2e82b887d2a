"""The same sessions for every server, made beforehand wherever one will look for them.

A folder holds them, and the servers are told nothing but that:

* `sessions.db`, the SQLite store; its cookies are sealed, in the jar `sealed`;
* `ids`, the bare ids for those who keep sessions in memory; their cookies are in the jar `plain`;
* `redis.port`, where Redis listens, once it does; jar `redis`;
* nothing for sessions that live in their cookie; jar `encrypted`.

A jar has the value of a Cookie header a line. Seal and cookies are encrypted with the key in the
environment.
"""

import asyncio
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from secrets import token_urlsafe

import aiohttp_session
from cryptography.fernet import Fernet

import keepalive
from keepalive.seal import ENVIRONMENT, Seal
from keepalive.touchers import key_of

from .rivals.job import ITEM


def jar(folder: Path, name: str) -> Path:
    """The file with the cookies of that jar."""
    return folder / f"{name}.cookies"


def make(folder: Path, count: int) -> None:
    """Make `count` sessions in all places but Redis."""
    os.environ[ENVIRONMENT] = Fernet.generate_key().decode()  # for this process and the servers
    ids = [token_urlsafe(16) for _ in range(count)]
    (folder / "ids").write_text("\n".join(ids))
    _fill(folder, "plain", [f"{ITEM}={session_id}" for session_id in ids])

    seal = Seal.parse(os.environ[ENVIRONMENT])
    asyncio.run(_store(f"sqlite:///{folder / 'sessions.db'}", ids))
    _fill(folder, "sealed", [f"keepalive={seal.seal(session_id)}" for session_id in ids])

    fernet = Fernet(os.environ[ENVIRONMENT])
    _fill(
        folder,
        "encrypted",
        [f"AIOHTTP_SESSION={fernet.encrypt(_aiohttp(number)).decode()}" for number in range(count)],
    )


def make_in_redis(folder: Path, port: int) -> None:
    """Make the same sessions in Redis, as aiohttp-session's storage has them."""
    from redis import Redis  # noqa: PLC0415 - an extra

    ids = (folder / "ids").read_text().split()
    with Redis(port=port) as redis, redis.pipeline(transaction=False) as pipeline:
        for number, session_id in enumerate(ids):
            pipeline.set(f"AIOHTTP_SESSION_{session_id}", _aiohttp(number), ex=1800)
        pipeline.execute()
    (folder / "redis.port").write_text(str(port))
    _fill(folder, "redis", [f"AIOHTTP_SESSION={session_id}" for session_id in ids])


def _aiohttp(number: int) -> bytes:
    """A session as aiohttp-session writes it."""
    now = int(time.time())
    data = aiohttp_session.SessionData(created=now, session={"user": str(number), "since": now})
    return json.dumps(data, separators=(",", ":")).encode()


def _fill(folder: Path, name: str, cookies: Sequence[str]) -> None:
    jar(folder, name).write_text("\n".join(cookies))


async def _store(url: str, ids: Sequence[str]) -> None:
    store = keepalive.open_store(url)
    policy = keepalive.Policy()
    await store.open()
    try:
        await asyncio.gather(
            *(
                store.create(
                    key_of(session_id), data=b'{"user":"%d"}' % number, user=str(number), policy=policy
                )
                for number, session_id in enumerate(ids)
            )
        )
    finally:
        await store.close()
