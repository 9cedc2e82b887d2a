"""How much a session, a user, an address and all of them together may ask of one server.

Pure; time is an argument, in monotonic seconds. docs/security.md tells why each number is what it is.
"""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, fields
from math import inf

from .errors import SettingError

SHARE_OF_FILES = 0.9
"""How much of the file limit pages may take: the store, the log and plain requests need the rest."""
ASKS_PER_PAGE = 2.0
"""How often a page may ask over HTTP a second: it posts once in 2 s at most, and an app that asks for the
state once a second beside it is not to be hampered."""
BURST = 5.0
"""How many seconds' worth of requests over HTTP may come at once."""
MOST_KEYS = 65_536
"""How many keys `Buckets` know at most, 10 MB; beyond, the one that came first is forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one server; whoever comes beyond one is turned away, or makes room.

    Raises:
        SettingError: one is not over 0, or one of the pages is not whole.
    """

    pages: int | None = None
    """Open pages in all. Without a number, nine tenths of the files that the process may open: a page
    is one, and a server without free ones accepts nobody and cannot open its store."""
    pages_per_session: int = 20
    """More tabs than people have open of one app; the oldest makes room, so a copied cookie cannot
    fill the server."""
    pages_per_user: int = 100
    """Five devices full of tabs; one account cannot fill the server."""
    pages_per_address: int = 200
    """An office behind one address; one machine cannot fill the server. Sockets count until they are gone."""
    handshakes_per_second: float = 2000.0
    """Nearly four fifths of the 2,608 that a core was measured to let in, so that beats go on; as many as
    other servers send when they restart (`heart.LET_IN`), so that no restart is hampered."""
    misses_per_minute: float = 100.0
    """Cookies of ours, but of no session, that an address may present: each costs a read of the store.
    People come with one after an outage; whoever replays them comes with thousands."""
    messages_per_second: float = 10.0
    """Of one page, over a long time; five seconds' worth may come at once. A page pings every 25 s. Over
    HTTP nobody says which page asks: there it is of a session, or `ASKS_PER_PAGE` for each page that it
    may have, whichever is more."""

    def __post_init__(self) -> None:
        for each in fields(self):
            number = getattr(self, each.name)
            if number is None and each.name == "pages":
                continue
            whole = each.name.startswith("pages")
            if isinstance(number, bool) or not isinstance(number, int if whole else int | float):
                raise SettingError(f"{each.name} is {number!r}", "give it a number")
            if not 0 < number < inf:  # which NaN is not, either
                raise SettingError(
                    f"{each.name} is {number}", "give it a number over 0; a large one is no limit"
                )

    def pages_within(self, files: float) -> float:
        """How many pages may be open.

        Args:
            files: how many files the process may open.
        """
        return files * SHARE_OF_FILES if self.pages is None else self.pages

    @property
    def asks_per_second(self) -> float:
        """How often a session may ask over HTTP, over a long time."""
        return max(self.messages_per_second, ASKS_PER_PAGE * self.pages_per_session)


class Tally(Counter[str]):
    """How many pages, or sockets, each one has; who has none takes no memory."""

    def add(self, key: str) -> None:
        self[key] += 1

    def remove(self, key: str) -> None:
        left = self[key] - 1
        if left > 0:
            self[key] = left
        else:
            self.pop(key, None)


class Buckets:
    """A token bucket for each key. One that is full again is forgotten.

    Args:
        rate: tokens that come back each second.
        burst: how many there are at most, and at first.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._held: dict[Hashable, tuple[float, float]] = {}  # the tokens there were, and when

    def __len__(self) -> int:
        return len(self._held)

    def take(self, key: Hashable, now: float) -> bool:
        """Take a token, if there is one."""
        tokens = self._tokens(key, now)
        if tokens < 1:
            return False
        if key not in self._held and len(self._held) >= MOST_KEYS:
            del self._held[next(iter(self._held))]
        self._held[key] = tokens - 1, now
        return True

    def give_back(self, key: Hashable, now: float) -> None:
        """Put back a token that was taken, for nothing has come of it."""
        tokens = self._tokens(key, now) + 1
        if tokens < self._burst:
            self._held[key] = tokens, now
        else:
            self._held.pop(key, None)

    def sweep(self, now: float) -> None:
        """Forget the buckets that are full again; to be called now and then."""
        self._held = {key: held for key, held in self._held.items() if self._tokens(key, now) < self._burst}

    def _tokens(self, key: Hashable, now: float) -> float:
        tokens, at = self._held.get(key, (self._burst, now))
        return min(self._burst, tokens + (now - at) * self._rate)
