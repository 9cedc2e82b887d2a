"""`FaultyStore`: a session store that can be down, slow, or read-only."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal

from aiohttp import web

from ..errors import KeepaliveError, StoreUnavailable
from ..session import KeepaliveStorage
from ..stores import SessionStore

Fault = Literal["down", "slow", "read-only"]

_WRITES = {"create", "save", "touch", "end", "rotate", "end_user", "publish"}
_HURRIED = {"load", "peek", "touch", "publish"}
"""What a server asks for its pages, who get another answer where the store is late. For all else it waits."""
_patient = ContextVar("patient", default=False)


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
        return partial(self._ask, name, found) if name in _WRITES | _HURRIED else found

    async def _ask(self, name: str, method: Callable[..., Awaitable[Any]], *args: Any, **named: Any) -> Any:
        if self.fault == "down" or (self.fault == "read-only" and name in _WRITES):
            raise StoreUnavailable(f"the session store is {self.fault}, as the test wants it")
        answer = await method(*args, **named)
        if self.fault == "slow" and name in _HURRIED and not _patient.get():
            raise TimeoutError  # what was asked is done all the same
        return answer


class PatientStorage(KeepaliveStorage):
    """Tells a `FaultyStore` of the app's own requests, which wait for it however slow it is."""

    async def load_session(self, request: web.Request) -> Any:
        before = _patient.set(True)
        try:
            return await super().load_session(request)
        finally:
            _patient.reset(before)


class StoreFault:
    """Gives the stores of a test a fault, for the length of a block.

        with store_fault("down"):
            await clock.advance(minutes=5)

    `down`: nothing can be asked. `slow`: all that is asked is done, but answered later than the 0.8 s for
    which a server lets its pages wait; the app's own requests wait longer, and are answered. `read-only`:
    sessions can be looked at, but not touched, begun or ended.
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
