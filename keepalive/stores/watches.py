"""`Watches`: who wants to hear of ended sessions. Lives on one event loop."""

from asyncio import Queue
from collections.abc import Iterable
from typing import Self
from weakref import WeakSet

from ..errors import StoreError
from ..touchers import Ended


class Watch:
    """An async iterator over the sessions that ended since it was made."""

    def __init__(self) -> None:
        self._news: Queue[Ended | StoreError | None] = Queue()

    def tell(self, ended: Ended | StoreError | None) -> None:
        """Hand over one end; an error breaks the iteration off, and `None` finishes it, after all that
        came before."""
        self._news.put_nowait(ended)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Ended:
        ended = await self._news.get()
        if isinstance(ended, StoreError):
            raise ended
        if ended is None:
            self._news.put_nowait(None)  # a finished iterator stays finished
            raise StopAsyncIteration
        return ended


class Watches:
    """The watches of one store. One that nobody holds any more drops out by itself."""

    def __init__(self) -> None:
        self._watches: WeakSet[Watch] = WeakSet()

    def __bool__(self) -> bool:
        return bool(self._watches)

    def add(self) -> Watch:
        """A watch that misses nothing told from now on."""
        watch = Watch()
        self._watches.add(watch)
        return watch

    def tell(self, ended: Iterable[Ended]) -> None:
        """Tell every watch of each end."""
        for one in ended:
            for watch in self._watches:
                watch.tell(one)

    def lose(self, error: StoreError) -> None:
        """Break off every watch: an end may have been missed."""
        for watch in self._watches:
            watch.tell(error)
        self._watches.clear()

    def finish(self) -> None:
        """Let every watch run out after what it has been told."""
        for watch in self._watches:
            watch.tell(None)
        self._watches.clear()
