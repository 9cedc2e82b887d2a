"""How the block of a heart, or of a pool, is left, whatever goes wrong in it or around it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from aiohttp import ClientSession, CookieJar

import keepalive
from keepalive import HeartPool, KeepaliveError
from keepalive.client import Event, Heart, PoolHeart, State, StateChange
from keepalive.client.pool import AT_ONCE

from .conftest import Serve
from .ports import free_port
from .raw import DEADLINE
from .test_client import World, sign_in


@pytest.fixture
async def world(serve: Serve) -> World:
    world = World()
    world.port = (await serve(world.app)).port
    return world


@pytest.fixture
async def http(world: World) -> AsyncIterator[ClientSession]:
    """Of a user who is signed in."""
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as http:
        await sign_in(http, world)
        yield http


@pytest.fixture(params=["heart", "pool"])
def block(request: pytest.FixtureRequest, world: World, http: ClientSession) -> Heart | HeartPool:
    """What is entered and left."""
    return keepalive.connect(world.url, session=http) if request.param == "heart" else HeartPool(world.url)


async def until_cancelled(entered: asyncio.Event) -> None:
    """And not be stopped by that: there is something to finish first."""
    entered.set()
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


async def test_an_error_after_a_cancellation_is_what_is_raised(block: Heart | HeartPool) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with block:
            await until_cancelled(entered)
            raise LookupError

    task = asyncio.create_task(work())
    await asyncio.wait_for(entered.wait(), DEADLINE)
    task.cancel()
    with pytest.raises(LookupError):
        await task


async def test_who_goes_on_after_a_cancellation_leaves_in_peace(block: Heart | HeartPool) -> None:
    entered = asyncio.Event()

    async def work() -> str:
        async with block:
            await until_cancelled(entered)
        return "finished"

    task = asyncio.create_task(work())
    await asyncio.wait_for(entered.wait(), DEADLINE)
    task.cancel()
    assert await task == "finished"


@pytest.mark.parametrize("pause", range(6))
async def test_cancelled_at_once_it_leaves_nothing(block: Heart | HeartPool, pause: int) -> None:
    before = asyncio.all_tasks()

    async def work() -> None:
        async with block:
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    for _ in range(pause):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not [each for each in asyncio.all_tasks() - before if ".client." in repr(each.get_coro())]
    if isinstance(block, HeartPool) and pause:
        assert block._http.closed


async def test_a_heart_that_has_failed_keeps_nobody_waiting(world: World) -> None:
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as http:
        await sign_in(http, world)
        heart = await keepalive.connect(world.url, session=http).__aenter__()
        events = aiter(heart)
        await http.close()  # which a heart cannot do without
    told = [event async for event in events]
    assert told[-1] == StateChange(State.IDLE, State.CONNECTING)
    with pytest.raises(KeepaliveError, match="does not run"):
        await asyncio.wait_for(heart.ping(), DEADLINE)
    with pytest.raises(ExceptionGroup) as caught:
        await heart.__aexit__(None, None, None)
    assert "closed" in str(caught.value.exceptions[0])


async def test_a_callback_that_raises_a_cancellation_cancels_nothing(
    world: World, http: ClientSession
) -> None:
    """As one does that asks a cancelled task for its result."""
    cancelled = asyncio.get_running_loop().create_future()
    cancelled.cancel()

    def fail(event: Event) -> None:
        cancelled.result()

    async with keepalive.connect(world.url, session=http, on_event=fail) as heart:
        await heart.ping()
        await heart.ping()
        assert len(world.names) == 1, "it has not lost its socket"


async def test_hearts_may_leave_a_pool_as_soon_as_they_fail() -> None:
    """They make room for those that have not had their turn."""
    port = free_port()

    def give_up(heart: PoolHeart, event: Event) -> None:
        if heart.state is State.WAITING:
            heart.leave()

    async with HeartPool(f"http://127.0.0.1:{port}", on_event=give_up) as pool:
        for _ in range(2 * AT_ONCE):
            pool.add({})
        await pool.opened(DEADLINE)
        assert len(pool) == 0


async def test_hearts_may_leave_one_after_the_other(world: World) -> None:
    async with HeartPool(world.url) as pool:
        for _ in range(3):
            pool.add({})
        for heart in pool:
            heart.leave()
        assert len(pool) == 0
