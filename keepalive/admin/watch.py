"""What goes on, once a second: this node's figures and those of the others, and the last ten minutes."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from msgspec import MsgspecError, Struct, json

from ..errors import StoreError
from ..presence import Presence
from ..stats import Figures, Rates, rates
from ..web import Keepalive
from .crew import Crew

log = logging.getLogger(__name__)

EVERY = 1.0
"""How often it looks, in seconds."""
WINDOW = 5
"""Rates and quantiles are those of so many looks: a single second's jump about too much to be read."""
KEPT = 600
"""How many looks are remembered."""


class Node(Struct, kw_only=True):
    """One node, now."""

    name: str
    this: bool
    """Whether it is of the server that answers: one of the processes behind its port."""
    up: float
    """For how many seconds."""
    lag: float
    """How late its event loop was at worst, in the last 30 to 60 s, in seconds."""
    draining: bool
    now: Rates
    """Over the last five seconds."""
    ends: dict[str, int]
    """Since its start, by reason."""
    closes: dict[str, int]
    """Since its start, by close code."""


class Moment(Struct, kw_only=True):
    """All nodes together, at one time."""

    at: float
    """Seconds since the epoch, by this node's clock."""
    now: Rates
    """Over the last five seconds."""


class Stats(Struct, kw_only=True):
    """What goes on now."""

    moment: Moment
    nodes: list[Node]
    """By name."""
    sessions: int | None
    """Different sessions with open pages over all nodes; null while the store does not tell."""
    users: int | None
    """Different users of them, likewise."""


class Watch:
    """Looks at all nodes, and remembers.

    Args:
        keepalive: knows them, by the store.
        crew: knows those of this server, without it.
    """

    def __init__(self, keepalive: Keepalive, crew: Crew) -> None:
        self.history: deque[Moment] = deque(maxlen=KEPT)
        self._keepalive = keepalive
        self._crew = crew
        self._looks: deque[dict[str, Figures]] = deque(maxlen=WINDOW + 1)
        self.stats = self._stats({}, [keepalive.figures()], None)

    async def run(self, tell: Callable[[Stats], object]) -> None:
        """Look once a second, and tell, until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            try:
                tell(await self.look())
            except Exception:
                log.exception("the figures for the operators could not be told")

    async def look(self) -> Stats:
        """Look at all nodes now."""
        nodes, presence = await self._everywhere()
        self.stats = self._stats(nodes, await self._crew.figures(), presence)
        self.history.append(self.stats.moment)
        return self.stats

    async def _everywhere(self) -> tuple[dict[str, Figures], Presence | None]:
        """All nodes as the store knows them; without a store that answers, none."""
        try:
            told, presence = await self._keepalive.nodes(), await self._keepalive.presence()
        except StoreError:  # the heart tells of it in the log
            return {}, None
        nodes = {}
        for blob in told.values():
            try:
                figures = json.decode(blob, type=Figures)
            except MsgspecError:  # of another release
                continue
            nodes[figures.name] = figures
        return nodes, presence

    def _stats(self, told: dict[str, Figures], crew: list[Figures], presence: Presence | None) -> Stats:
        here = {node.name: node for node in crew}
        nodes = told | here
        self._looks.append(nodes)
        before = self._looks[0]
        pairs = {name: (before.get(name, node), node) for name, node in nodes.items()}
        return Stats(
            moment=Moment(at=round(self._keepalive.clock.wall(), 3), now=rates(pairs.values())),
            nodes=[
                Node(
                    name=name,
                    this=name in here,
                    up=node.up,
                    lag=node.lag,
                    draining=node.draining,
                    now=rates([pairs[name]]),
                    ends=node.ends,
                    closes=node.closes,
                )
                for name, node in sorted(nodes.items())
            ],
            sessions=None if presence is None else presence.sessions,
            users=None if presence is None else presence.users,
        )
