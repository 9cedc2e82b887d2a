"""Tasks that are told to stop."""

import asyncio

from keepalive.tasks import stop


async def test_a_task_ends() -> None:
    task = asyncio.create_task(asyncio.sleep(3600))
    await asyncio.sleep(0)
    await stop(task)
    assert task.cancelled()


async def test_nothing_and_what_has_ended_already() -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    await stop(task)
    await stop(None)


async def test_a_task_that_loses_a_cancellation_is_told_again() -> None:
    lost = 0

    async def run() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                lost += 1
                if lost == 2:
                    raise

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await stop(task)
    assert (task.cancelled(), lost) == (True, 2)


async def test_an_error_on_the_way_out_is_not_ours() -> None:
    async def run() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise ValueError("on the way out")

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    await stop(task)
    assert isinstance(task.exception(), ValueError)
