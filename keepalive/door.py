"""Where sessions live, be that a store or the browsers' own cookies, as the server sees it.

A request presents a session; the door says whether that lets it in, and what remains of it.
"""

import asyncio
from collections.abc import Awaitable
from typing import Protocol, TypeVar

import msgspec
from aiohttp import web

from .errors import StoreUnavailable
from .heart import STORE_TIMEOUT
from .policy import Mode, Policy, Reason
from .touchers import Left, Ticket, Toucher
from .trust import Trust

T = TypeVar("T")


class Door(Protocol):
    """What a server needs of it: who may come in, and the toucher for the heart."""

    trust: Trust

    @property
    def toucher(self) -> Toucher: ...
    @property
    def user_key(self) -> str: ...
    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def sweep(self) -> None: ...
    def is_secure(self, request: web.Request) -> bool: ...
    def presents(self, request: web.Request) -> bool: ...
    async def key(self, request: web.Request) -> bytes | None: ...
    async def look(self, request: web.Request) -> tuple[Policy, Left] | Reason: ...
    async def admit(self, request: web.Request, response: web.StreamResponse) -> Ticket | Reason: ...
    async def end_user(self, user: str, reason: Reason, *, keep: bytes | None = None) -> int: ...


class State(msgspec.Struct, omit_defaults=True):
    """What remains of a session, in seconds."""

    expires_in: float
    mode: Mode
    idle_timeout: float
    warn_before: float
    ends_in: float | None = None


async def remains(door: Door, request: web.Request) -> State | Reason:
    """What remains of the session that a request presents; touches nothing.

    Raises:
        StoreError: nothing is known of it.
    """
    found = await in_time(door.look(request))
    if isinstance(found, Reason):
        return outward(found)
    policy, left = found
    return State(
        expires_in=round(min(left.idle, left.absolute), 3),
        ends_in=None if policy.absolute_timeout is None else round(left.absolute, 3),
        mode=policy.mode,
        idle_timeout=policy.idle_timeout,
        warn_before=policy.warn_before,
    )


async def in_time(answer: Awaitable[T]) -> T:
    """What the store answers.

    Raises:
        StoreError: it does not, or that takes it too long.
    """
    try:
        async with asyncio.timeout(STORE_TIMEOUT):
            return await answer
    except TimeoutError:
        raise StoreUnavailable("the session store does not answer") from None


def outward(reason: Reason) -> Reason:
    """What is said to whoever presents the id of a session that is over."""
    return Reason.REVOKED if reason is Reason.ROTATED else reason
