"""`Watches`: who wants to hear of ended sessions and of pushes. Lives on one event loop."""

from asyncio import Queue
from collections.abc import Iterable, Sequence
from typing import Self
from weakref import WeakSet

from msgspec import msgpack

from ..errors import StoreError
from ..touchers import News, Pushed

_ENCODER = msgpack.Encoder()
_DECODER = msgpack.Decoder(list[Pushed])


def pack(batch: Sequence[Pushed]) -> bytes:
    """Pushes as bytes, for a way on which only bytes go."""
    return _ENCODER.encode(batch)


def unpack(packed: bytes) -> list[Pushed]:
    """The pushes in such bytes.

    Raises:
        msgspec.MsgspecError: somebody else has written them.
    """
    return _DECODER.decode(packed)


class Watch:
    """An async iterator over what was told since it was made."""

    def __init__(self) -> None:
        self._news: Queue[News | StoreError | None] = Queue()

    def tell(self, news: News | StoreError | None) -> None:
        """Hand over one thing; an error breaks the iteration off, and `None` finishes it, after all that
        came before."""
        self._news.put_nowait(news)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> News:
        news = await self._news.get()
        if isinstance(news, StoreError):
            raise news
        if news is None:
            self._news.put_nowait(None)  # a finished iterator stays finished
            raise StopAsyncIteration
        return news


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

    def tell(self, news: Iterable[News]) -> None:
        """Tell every watch all of it."""
        for one in news:
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
