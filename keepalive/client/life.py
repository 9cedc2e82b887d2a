"""The one task that a heart, or a pool of them, lives in; how it is left."""

import asyncio


async def leave(life: asyncio.Task[None]) -> None:
    """Cancel a task, and see it gone, however often the wait for that is cancelled.

    Raises:
        CancelledError: the wait was. A cancellation before it is no affair of the block's end.
        ExceptionGroup: the task had failed.
    """
    problem: BaseException | None = None
    while not life.done():
        life.cancel()
        try:
            await asyncio.wait([life])
        except asyncio.CancelledError as cancelled:
            problem = cancelled
    if problem is None and not life.cancelled():
        problem = life.exception()
    if problem is not None:
        raise problem
