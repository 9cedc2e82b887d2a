"""What an app pushes, to pages at several processes: each hears it once, in order; and a logout, too."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import ClientSession
from cryptography.fernet import Fernet

import keepalive
from keepalive.client import End, Event, PoolHeart, Push

from .nodes import nodes, sign_in
from .raw import DEADLINE

SECRET = Fernet.generate_key().decode()
TOKEN = "of-an-operator-for-the-tests-0123456789"
PAGES = 9  # at either URL: that all of them come to one of two workers does not happen
PUSHES = 40

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=["sqlite, 1 node, 2 workers", "redis, 1 node, 2 workers", "redis, 2 nodes, 1 worker"])
def shape(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, int, int]:
    """Where the sessions are, how many nodes, and how many workers each has."""
    store, count, workers = request.param.split(", ")
    url = f"sqlite:///{tmp_path}/sessions.db"
    if store == "redis":
        url = f"{request.getfixturevalue('redis_url')}?prefix={tmp_path.name}:"
    return url, int(count.split()[0]), int(workers.split()[0])


async def test_every_page_of_a_user_hears_all_that_is_pushed(
    shape: tuple[str, int, int], tmp_path: Path
) -> None:
    store, count, workers = shape
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    options = ("--workers", str(workers), "--admin-token-file", str(token))
    heard: dict[PoolHeart, list[Event]] = {}

    def hear(heart: PoolHeart, event: Event) -> None:
        if isinstance(event, Push | End):
            heard.setdefault(heart, []).append(event)

    async with nodes(count, store, SECRET, *options) as servers, ClientSession() as http:
        urls = [f"{server.url}/keepalive" for server in servers]

        async def command(method: str, path: str, told: object = None) -> int:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            url = f"{urls[0]}/admin/api/{path}"
            async with http.request(method, url, headers=headers, json=told) as response:
                assert response.status == 200, await response.text()
                (answer,) = (await response.json()).values()
            return int(answer)

        ann, bob = [await sign_in(servers[0].url, name) for name in ("ann", "bob")]
        async with (
            keepalive.HeartPool(urls[0], on_event=hear) as here,
            keepalive.HeartPool(urls[-1], on_event=hear) as there,
        ):
            hearts = []
            for pool in here, there:
                hearts += [pool.add(dict([ann.split("=", 1)])) for _ in range(PAGES)]
                pool.add(dict([bob.split("=", 1)]))
                await pool.opened()
            at_one = [await command("POST", "users/ann/push", {"data": number}) for number in range(PUSHES)]
            # One process alone would have told all of them itself.
            assert min(at_one) < 2 * PAGES
            async with asyncio.timeout(DEADLINE):
                while len(heard) < 2 * PAGES or min(map(len, heard.values())) < PUSHES:
                    await asyncio.sleep(0.01)
            assert heard == {heart: [Push(number) for number in range(PUSHES)] for heart in hearts}
            heard.clear()
            assert await command("DELETE", "users/ann/sessions") == 1
            async with asyncio.timeout(DEADLINE):
                while len(heard) < 2 * PAGES:
                    await asyncio.sleep(0.01)
            ends = [event.reason for events in heard.values() for event in events if isinstance(event, End)]
            assert ends == ["revoked"] * 2 * PAGES
            assert set(heard) == set(hearts)
