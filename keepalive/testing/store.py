"""`FaultyStore`: a session store that can be down, slow, or read-only."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from ..errors import KeepaliveError, StoreUnavailable
from ..stores import SessionStore

Fault = Literal["down", "slow", "read-only"]

_READS = {"load", "peek"}
_WRITES = {"create", "save", "touch", "end", "rotate", "end_user", "publish"}


class FaultyStore:
    """Stands around a `SessionStore`, and is one.

    Args:
        store: where the sessions are.
    """

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self.fault: Fault | None = None

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return partial(self._ask, name, found) if name in _READS | _WRITES else found

    async def _ask(self, name: str, method: Callable[..., Awaitable[Any]], *args: Any, **named: Any) -> Any:
        if self.fault == "down" or (self.fault == "read-only" and name in _WRITES):
            raise StoreUnavailable(f"the session store is {self.fault}, as the test wants it")
        answer = await method(*args, **named)
        if self.fault == "slow":  # what was asked is done all the same
            raise TimeoutError
        return answer


class StoreFault:
    """Gives the stores of a test a fault, for the length of a block.

        with store_fault("down"):
            await clock.advance(minutes=5)

    `down`: nothing can be asked. `slow`: all that is asked is done, but answered later than a server
    waits for it, 0.8 s. `read-only`: sessions can be looked at, but not touched, begun or ended.
    """

    def __init__(self, stores: list[FaultyStore]) -> None:
        self._stores = stores

    @contextmanager
    def __call__(self, fault: Fault) -> Iterator[None]:
        if fault not in ("down", "slow", "read-only"):
            raise KeepaliveError(f"there is no fault {fault!r}", "use down, slow or read-only")
        if not self._stores:
            raise KeepaliveError(
                "there is no store that could fail",
                "start keepalive_server, or give keepalive_app an app that has no store of its own",
            )
        self._set(fault)
        try:
            yield
        finally:
            self._set(None)

    def _set(self, fault: Fault | None) -> None:
        for store in self._stores:
            store.fault = fault
