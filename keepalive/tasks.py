"""The end of a task that runs until it is told to stop."""

import asyncio
from typing import Any

_AGAIN = 0.1
"""After how many seconds a task that goes on is told again."""


async def stop(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task and see it end, whatever it ends with.

    Once may not be enough: a library that waits for two things at a time can lose a cancellation, as
    `asyncio.wait_for` did before Python 3.12 (https://github.com/python/cpython/issues/86296), and a
    loop that goes on then would hold up the shutdown for ever.
    """
    if task is None:
        return
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_AGAIN)
    if not task.cancelled():
        task.exception()  # has been seen
