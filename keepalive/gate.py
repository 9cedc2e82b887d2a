"""The gate before a handshake: who is turned away, and why, before anything is read from the store.

Whoever is turned away before the upgrade sees close code 1006 in a script, and comes back with back-off.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

from aiohttp import hdrs, web

from .clock import Clock
from .connection import Connections
from .heart import Heart
from .limits import BURST, Buckets, Limits
from .live import Page
from .trust import Trust

log = logging.getLogger(__name__)

TELL_EVERY = 60.0
"""How often the log tells that pages are turned away for the same reason, in seconds."""
_ALL = ""  # all handshakes share one bucket

_PROXY = "if that is the address of a proxy, name it in `trusted_proxies`"
_ADVICE = {
    "files": "as many pages are open as the file limit, or `pages`, allows: raise it",
    "rate": "more come than `handshakes_per_second`",
    "address": f"an address has `pages_per_address` open; {_PROXY}",
    "user": "a user has `pages_per_user` open",
    "misses": f"an address has presented more cookies of no session than `misses_per_minute`; {_PROXY}",
    "asks": "a session asks over HTTP more than `messages_per_second` and `pages_per_session` allow",
}
"""What the log says of pages that are turned away."""
_ANSWERS: dict[str, tuple[type[web.HTTPServiceUnavailable | web.HTTPTooManyRequests], int]] = {
    "files": (web.HTTPServiceUnavailable, 10),
    "rate": (web.HTTPServiceUnavailable, 2),
    "address": (web.HTTPTooManyRequests, 30),
    "misses": (web.HTTPTooManyRequests, 60),
}
"""What those hear who are turned away before the upgrade, and after how many seconds to come again."""


class Gate:
    """Knows how many are in, and how fast they come.

    Args:
        heart: has the pages that are in, or in their handshake, and counts what became of each.
        connections: has the sockets, among them those that are being closed, and are pages no more.
        limits: from when on whom to turn away.
        trust: which addresses are told apart.
        clock: for the rates.
    """

    def __init__(
        self, heart: Heart, connections: Connections[Page], limits: Limits, trust: Trust, clock: Clock
    ) -> None:
        self._heart = heart
        self._connections = connections
        self._limits = limits
        self._trust = trust
        self._clock = clock
        self._most_pages = inf
        rate, misses = limits.handshakes_per_second, limits.misses_per_minute
        self._handshakes = Buckets(rate, max(1.0, 2 * rate))
        self._misses = Buckets(misses / 60, max(1.0, misses))
        self._asks = Buckets(limits.asks_per_second, BURST * limits.asks_per_second)
        self._told: dict[str, float] = {}

    def open(self, files: float) -> None:
        """Begin, in a process that may open so many files."""
        self._most_pages = self._limits.pages_within(files)

    @property
    def results(self) -> Counter[str]:
        """What became of the handshakes."""
        return self._heart.counts.handshakes

    @contextmanager
    def refusing(self, why: str) -> Iterator[None]:
        """Count a handshake that is refused inside."""
        try:
            yield
        except web.HTTPException:
            self.results[why] += 1
            raise

    def enter(self, address: str) -> None:
        """Let a handshake begin.

        Raises:
            web.HTTPException: there is no room, or there are too many at once.
        """
        self.refuse_full(address)
        if not self._handshakes.take(_ALL, self._clock.monotonic()):
            self.results["rate"] += 1
            raise self._turned_away("rate")

    def refuse_full(self, address: str) -> None:
        """Let a handshake go on only where there is room.

        Raises:
            web.HTTPException: there is none.
        """
        if self._is_full(address):
            why = "address"
        elif self._is_full_up():
            why = "files"
        else:
            return
        self.results[why] += 1
        raise self._turned_away(why)

    def has_room(self, user: str | None, address: str) -> bool:
        """Whether a page of this user may join; if not, that is counted."""
        if user is not None and len(self._heart.users.get(user, ())) >= self._limits.pages_per_user:
            why = "user"
        elif self._is_full(address):  # by those whose handshakes were under way with this one
            why = "address"
        elif self._is_full_up():
            why = "files"
        else:
            return True
        self.results[why] += 1
        self._tell(why)
        return False

    def guess(self, address: str) -> None:
        """Let a cookie be looked up that an address has presented.

        Raises:
            web.HTTPTooManyRequests: it has presented too many of no session.
        """
        if self._trust.is_counted(address) and not self._misses.take(address, self._clock.monotonic()):
            raise self._turned_away("misses")

    def forgive(self, address: str) -> None:
        """That was no guess, or nobody knows."""
        if self._trust.is_counted(address):
            self._misses.give_back(address, self._clock.monotonic())

    def sweep(self) -> None:
        """Forget the addresses that have not guessed, and the sessions that have not asked, for long."""
        for buckets in self._misses, self._asks:
            buckets.sweep(self._clock.monotonic())

    def may_ask(self, key: bytes) -> bool:
        """Whether a session may ask once more over HTTP; if not, the log has that."""
        if self._asks.take(key, self._clock.monotonic()):
            return True
        self._tell("asks")
        return False

    def _is_full_up(self) -> bool:
        return max(self._heart.pages, self._connections.open) >= self._most_pages

    def _is_full(self, address: str) -> bool:
        most = max(self._heart.addresses[address], self._connections.addresses[address])
        return most >= self._limits.pages_per_address and self._trust.is_counted(address)

    def _turned_away(self, why: str) -> web.HTTPException:
        self._tell(why)
        kind, seconds = _ANSWERS[why]
        headers = {hdrs.RETRY_AFTER: str(seconds), hdrs.CACHE_CONTROL: "no-store"}
        return kind(headers=headers, text="Too many. Please try again later.\n")

    def _tell(self, why: str) -> None:
        """One line a minute says enough; the counts have the rest."""
        now = self._clock.monotonic()
        if now >= self._told.get(why, now):
            self._told[why] = now + TELL_EVERY
            log.warning("pages are turned away: %s", _ADVICE[why])
