"""What a heart tells the program, and who listens to it."""

import asyncio
from collections import deque
from typing import NamedTuple, Self

from ..messages import Beat, End, Push, Warning
from .machine import State

BACKLOG = 1000
"""Events that a slow `async for` may leave waiting; the oldest go first."""


class StateChange(NamedTuple):
    """The connection is in another state."""

    state: State
    previous: State


Event = Beat | Warning | End | Push | StateChange
"""What a heart tells. An `End` is the last one of its session."""


class Events:
    """The events of one `async for`."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque(maxlen=BACKLOG)
        self._finished = False
        self._more = asyncio.Event()

    def add(self, event: Event) -> None:
        self._waiting.append(event)
        self._more.set()

    def finish(self) -> None:
        self._finished = True
        self._more.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._waiting:
            if self._finished:
                raise StopAsyncIteration
            self._more.clear()
            await self._more.wait()
        return self._waiting.popleft()
