"""Who is here: how many pages and users are online over all nodes, and the part of a store that adds them up.

A node tells the store once a second what has changed among its sessions, and the store counts at once, so
that whoever asks waits for a look-up, never for a count. What a node has told holds for `KEPT` seconds: one
that dies vanishes by itself.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

KEPT = 4.0
"""For how many seconds, by the store's clock, a node counts as alive after its last report."""


class Presence(NamedTuple):
    """How much is online, over all nodes that share the store."""

    pages: int
    """Open pages; those that ping over HTTP, without a socket, are not among them."""
    sessions: int
    """Different sessions with open pages."""
    users: int
    """Different users of those sessions; a session without a user adds none."""
    nodes: int
    """Processes that serve them."""


class SessionPresence(NamedTuple):
    """What is online of one session, over all nodes that share the store."""

    pages: int
    """Its open pages."""
    idle: float | None
    """Seconds since the user's last input, as far as is known; `None` if nothing is, or it is over."""


class Online(NamedTuple):
    """One session's line in a report."""

    key: bytes
    user: str | None
    pages: int
    """How many it has on that node now, not how many more; 0 when the last has left."""


class Report(NamedTuple):
    """What a node tells of itself."""

    node: str
    """Its name, a random one for its life."""
    number: int
    """One more with each report. It shows whether the store has heard the one before."""
    lines: Sequence[Online]
    """The sessions that have changed since then, each once."""
    stats: bytes
    """Figures for the operator; the store keeps the newest ones and does not look into them."""
    anew: bool = False
    """Whether to forget what the node has told before: its roll begins with this report."""


class Roll(Protocol):
    """Adds up what the nodes report. Soft state: what is lost, the nodes tell anew.

    Every method raises `StoreUnavailable` when the store could not be asked.
    """

    async def report(self, report: Report) -> bool:
        """Take a report, and count its node as alive for `KEPT` seconds from now.

        Returns:
            Whether it was taken. If not, nothing has changed: the store does not have the one before it,
            and the node must tell its roll anew. One that begins anew is taken, unless it comes late.
        """

    async def leave(self, node: str) -> None:
        """Take a node out, with all its pages."""

    async def presence(self) -> Presence:
        """The totals over the nodes that are alive."""

    async def presence_of(self, key: bytes) -> SessionPresence:
        """One session, over the nodes that are alive; its last input is the newest that the store knows."""

    async def nodes(self) -> Mapping[str, bytes]:
        """The nodes that are alive, each with the `stats` of its newest report."""
