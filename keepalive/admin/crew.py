"""All workers behind the port as one: what an operator asks one of them is put to each, and merged.

What is asked here is of pages, which each worker knows by itself. What a store knows all of them know.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from msgspec import Struct, json

from ..presence import SessionPresence
from ..siblings import Siblings
from ..stats import Figures
from ..web import Keepalive
from .access import Refused
from .sessions import Explanation, Row, Search, explain, find, merged, pick, row, whole

log = logging.getLogger(__name__)
T = TypeVar("T")

DRAINING = "draining"


class Sessions(Struct, kw_only=True):
    """A page of the list, in the order of ids."""

    nodes: list[str]
    """Whose sessions these are: the processes behind this port, each with those that have pages there."""
    missing: int
    """How many more there are that have not answered."""
    sessions: list[Row]
    matches: int
    """How many there are on all pages of the list."""
    next: str | None
    """The cursor for the next page; null on the last."""


class Draining(Struct, kw_only=True):
    """These take no more pages, and part with those that they have."""

    nodes: list[str]
    pages: int
    """How many are still there."""
    missing: int
    """How many have not answered; they drain as soon as they can."""


class Found(Struct):
    """What one worker has found."""

    node: str
    keys: bytes
    """Of the sessions, one after the other."""


class Crew:
    """The workers of a server.

    Args:
        keepalive: of this one.
        siblings: how to ask the others.
    """

    def __init__(self, keepalive: Keepalive, siblings: Siblings) -> None:
        self._keepalive = keepalive
        self._siblings = siblings
        self._draining: asyncio.Task[None] | None = None
        self.node = keepalive.figures().name
        """This worker's name."""
        self._answer("figures", None, self._figures)
        self._answer("find", Search, self._find)
        self._answer("rows", list[bytes], self._rows)
        self._answer("explain", tuple[bytes, SessionPresence], self._explain)
        self._answer("drain", tuple[str, bool], self._drain)

    def join(self) -> None:
        """Where all of them drain, so does the one that comes in the place of another."""
        if self._siblings.announced(DRAINING):
            self._draining = asyncio.create_task(self._part(leaves=False))

    async def figures(self) -> list[Figures]:
        """The figures of each."""
        return (await self._ask("figures", None, Figures))[0]

    async def search(self, wanted: Search) -> Sessions:
        """The sessions with pages here, at whichever of them.

        Raises:
            Refused: they are asked for by a node that is none of them.
        """
        found, missing = await self._ask("find", wanted, Found)
        nodes = sorted(each.node for each in found)
        if wanted.node:
            _check(wanted.node, nodes, missing)
        keys, matches, cursor = await pick([each.keys for each in found], wanted)
        # Of each session, all that any of them knows; not of the pages alone that were looked for.
        rows, _ = await self._ask("rows", keys, list[Row])
        return Sessions(
            nodes=nodes,
            missing=missing,
            sessions=whole(each for some in rows for each in some),
            matches=matches,
            next=cursor,
        )

    async def explain(self, key: bytes, everywhere: SessionPresence) -> tuple[Explanation | None, int]:
        """Why a session with pages here is alive, and how many have not said what they know of it."""
        told, missing = await self._ask("explain", (key, everywhere), list[Explanation])
        parts = [each for some in told for each in some]
        return merged(parts) if parts else None, missing

    async def drain(self, node: str) -> Draining:
        """Drain all of them; or one, and then new pages come to the others.

        Raises:
            Refused: there is none of that name.
        """
        leaves = False
        if node:
            known, missing = await self._ask("figures", None, Figures)
            _check(node, [each.name for each in known], missing)
            leaves = any(each.name != node and not each.draining for each in known)
        else:
            self._siblings.announce(DRAINING)
        told, missing = await self._ask("drain", (node, leaves), Figures)
        those = [each for each in told if node in {"", each.name}]
        return Draining(
            nodes=sorted(each.name for each in those),
            pages=sum(each.pages for each in those),
            missing=0 if node else missing,
        )

    # What each of them answers.

    async def _figures(self, told: None) -> Figures:
        return self._keepalive.figures()

    async def _find(self, wanted: Search) -> Found:
        return Found(self.node, await find(self._keepalive.heart.lives, self.node, wanted))

    async def _rows(self, keys: list[bytes]) -> list[Row]:
        lives, now = self._keepalive.heart.lives, self._keepalive.clock.monotonic()
        here = [lives[key] for key in keys if key in lives]
        return [row(live, self.node, now) for live in here if live.pages]

    async def _explain(self, told: tuple[bytes, SessionPresence]) -> list[Explanation]:
        key, everywhere = told
        live = self._keepalive.heart.lives.get(key)
        if live is None or not live.pages:
            return []
        return [explain(live, self.node, everywhere, self._keepalive.clock.monotonic())]

    async def _drain(self, told: tuple[str, bool]) -> Figures:
        node, leaves = told
        if node in {"", self.node} and self._draining is None:
            self._draining = asyncio.create_task(self._part(leaves))
            await asyncio.sleep(0)  # until it has begun
        return self._keepalive.figures()

    async def _part(self, leaves: bool) -> None:
        log.warning("an operator drains this node: it takes no more pages until it is started anew")
        if leaves:
            await self._siblings.leave_port()
        await self._keepalive.drain()

    def _answer(self, question: str, kind: Any, run: Callable[[Any], Awaitable[object]]) -> None:
        async def answer(told: bytes) -> bytes:
            return json.encode(await run(json.decode(told, type=kind)))

        self._siblings.answer(question, answer)

    async def _ask(self, question: str, told: object, kind: type[T]) -> tuple[list[T], int]:
        """What they answer, and how many do not."""
        answers = (await self._siblings.ask(question, json.encode(told))).values()
        heard = [json.decode(answer, type=kind) for answer in answers if answer is not None]
        return heard, len(answers) - len(heard)


def _check(node: str, nodes: list[str], missing: int) -> None:
    """Refuse what is to be done at a node that is not behind this port."""
    if node not in nodes and missing:
        raise Refused(503, f"{missing} of its nodes do not answer", "try again in a moment", retry=2)
    if node not in nodes:
        raise Refused(
            404, "this server has no such node", "GET stats lists them; ask the machine that the node is of"
        )
