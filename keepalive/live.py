"""A session with open pages on this server: facts as they were recorded, and what follows.

Pure; time is an argument, in monotonic seconds. The heart records the facts and acts on the
decisions.
"""

from collections.abc import Sequence
from hashlib import sha256
from itertools import takewhile
from math import inf
from typing import NamedTuple, Protocol

from msgspec import Raw, to_builtins

from .messages import Beat, Hello, Ping, Warning
from .policy import Mode, Reason, is_evidence
from .touchers import MOST_PAGES, Left, Pages, Ticket, Touch

NEVER = -inf
OVERDUE = 1.25
"""After how many of its intervals a page is asked for a ping."""
LEAST_DEBT = 0.5
"""Seconds of earned life that are worth a touch of their own: when the last page leaves, and once in
`touch_every`."""


class Socket(Protocol):
    """How a page is reached. Once it is closed, neither method does anything."""

    def send(self, message: bytes) -> None:
        """Send one encoded message."""

    def close(self, code: int, reason: str = "") -> None:
        """Close with a code of the protocol."""


class Page:
    """One open page.

    Args:
        live: its session.
        socket: how it is reached.
        address: of whom it is, as far as can be told.
        id: its name for its whole life in the browser, where pages are counted.
    """

    __slots__ = ("address", "asks", "heard_at", "id", "live", "n", "socket", "visible")

    def __init__(self, live: "Live", socket: Socket, address: str = "", id: str = "") -> None:  # noqa: A002
        self.live = live
        self.socket = socket
        self.address = address
        self.id = id
        self.n = -1
        """The number of its newest ping."""
        self.heard_at = inf
        """When it was greeted, or has pinged since."""
        self.asks = 0
        """How often it was asked for a ping since then."""
        self.visible = True

    def greeted(self, now: float) -> None:
        """Record that it has been told when to ping."""
        self.heard_at = now

    def heard(self, ping: Ping, now: float) -> bool:
        """Record a ping; whether it is a new one, or an old one repeated."""
        self.heard_at = now
        self.asks = 0
        if ping.n <= self.n:
            return False
        self.n = ping.n
        self.visible = ping.visible
        return True

    @property
    def answers(self) -> bool:
        """Whether it surely runs: it has pinged, and is not asked why no more.

        A tab that is closed while it connects cannot say goodbye; nor can one whose network is gone, and
        that may have come back, and been closed, at another server.
        """
        return self.n >= 0 and not self.asks

    @property
    def overdue_at(self) -> float:
        """When it is to be asked for a ping, or has been often enough."""
        policy = self.live.policy
        interval = policy.ping_interval if self.visible else policy.hidden_interval
        # Whoever is asked answers at once, hidden or not.
        return self.heard_at + OVERDUE * interval + self.asks * policy.ping_interval

    def look_again_at(self, now: float) -> float:
        """When to see whether it is overdue: a hidden page that shows again is so earlier."""
        return min(self.overdue_at, now + OVERDUE * self.live.policy.ping_interval)


class Live:
    """A session with open pages here, as far as this server knows it.

    Args:
        ticket: its beginning.
        now: when the store gave that word; before it was asked, to be on the safe side.
    """

    __slots__ = (
        "active_at", "confirmed_at", "earned_at", "ends_at", "expires_at", "gone", "key", "over",
        "pages", "paid_at", "policy", "renew", "timed", "user", "warned",
    )  # fmt: skip

    def __init__(self, ticket: Ticket, now: float) -> None:
        self.key = ticket.key
        self.policy = ticket.policy
        self.user = ticket.user
        self.pages: tuple[Page, ...] = ()
        self.gone: tuple[str, ...] = ()
        """The pages that were closed for good, and the store does not know yet."""
        self.over: Reason | None = None
        self.active_at = NEVER
        """When the user was last active."""
        self.earned_at = NEVER
        """The idle deadline that its pings have earned so far, whether the store knows or not."""
        self.paid_at = NEVER
        """How much of that the store has been asked for, where it has granted less."""
        self.warned: Reason | None = None
        """Of which deadline its pages have been warned."""
        self.timed = False
        """Whether the heart will look at its deadlines by itself."""
        self.confirm(ticket.left, now)

    @property
    def session(self) -> str:
        """A short name for logs and lists, from the hash of the session's id."""
        return self.key[:8].hex()

    def confirm(self, left: Left, now: float, touch: Touch | None = None) -> None:
        """Record the store's word: what remained at `now`, and after which touch of then, if any."""
        self.confirmed_at = now
        self.expires_at = now + left.idle
        """The idle deadline, as the store has it: capped by the absolute one."""
        self.ends_at = now + left.absolute
        """The absolute deadline, as the store has it."""
        self.renew = left.renew
        if touch is not None and touch.keep is not None and touch.keep > left.idle:
            self.paid_at = now + touch.keep
        if touch is not None and touch.pages is not None:
            self.gone = tuple(page for page in self.gone if page not in touch.pages.gone)
        if self.warns_at > now:
            self.warned = None

    def heard(self, ping: Ping, now: float) -> None:
        """Record what a ping says of the user, and what it earns."""
        idle = ping.idle
        keep = self.policy.keep(idle)
        if keep is not None and (earned_at := now + keep) > self.earned_at:
            self.earned_at = earned_at
        if is_evidence(idle) and (active_at := now - idle) > self.active_at:
            self.active_at = active_at

    def parted(self, page: Page) -> list[Page]:
        """Record that a page was closed for good, where pages are counted.

        Returns:
            Its older sockets: a page has one at a time, so they were lost, though nobody has noticed.
        """
        if not self.counts_pages:
            return []
        self.gone += (page.id,)
        older = takewhile(lambda other: other is not page, self.pages)
        return [other for other in older if other.id == page.id]

    @property
    def counts_pages(self) -> bool:
        """Whether the session ends with its last page."""
        return self.policy.end_after_last_page is not None

    @property
    def warns_at(self) -> float:
        return self.expires_at - self.policy.warn_before

    @property
    def why(self) -> Reason:
        """Which deadline is the nearer one."""
        return Reason.IDLE if self.expires_at < self.ends_at else Reason.ABSOLUTE

    @property
    def next_at(self) -> float:
        """When it is to be warned, or has been warned and is to end."""
        return self.expires_at if self.warned is self.why else self.warns_at

    @property
    def due_at(self) -> float:
        """When the store is to be told again what the pings have earned."""
        return self.confirmed_at + self.policy.touch_every

    @property
    def debt(self) -> float:
        """By how many seconds the pings have earned more than the store knows of."""
        # Comparisons, for every ping comes here: min() and max() take four times as long.
        earned_at = self.earned_at if self.earned_at < self.ends_at else self.ends_at
        known_at = self.expires_at if self.expires_at > self.paid_at else self.paid_at
        return earned_at - known_at

    def must_ask(self, now: float) -> bool:
        """Whether a ping has to go to the store, or can be answered from its last word."""
        every = self.policy.touch_every
        if now - self.confirmed_at >= every or now >= self.expires_at:
            return True
        debt = self.debt
        if debt > LEAST_DEBT and self.expires_at - self.due_at < LEAST_DEBT:
            return True  # when it is due, it is too late
        # While a warning shows, a request of the app may have moved the deadline at any time.
        return debt >= every or self.warned is Reason.IDLE

    def touch(self, now: float, waiting: Sequence["Waiting"] = ()) -> Touch:
        """The line for the next batch: what was earned, seen from `now`, and by whom it is awaited."""
        keep = None if self.earned_at == NEVER else self.earned_at - now
        idle = None if self.active_at == NEVER else now - self.active_at
        return Touch(self.key, keep, idle, self._news(waiting))

    def _news(self, waiting: Sequence["Waiting"]) -> Pages | None:
        """What the store has to know of the pages; nothing where they are not counted.

        Nor where one pings over HTTP that says no name: as any request, that takes back the end which the
        last page has brought on. What a page that was lost has still earned does not.
        """
        end_after = self.policy.end_after_last_page
        if end_after is None:
            return None
        names = [page.id for page in self.pages if page.answers]
        names += [page.id for page, _, _ in waiting if page.id and page.id not in self.gone]
        here = tuple(dict.fromkeys(names))[-MOST_PAGES:]
        by_request = any(not page.id for page, _, _ in waiting)
        if by_request and not (here or self.gone):
            return None
        return Pages(here, self.gone, end_after)

    def hello(self, now: float, spread: float) -> Hello:
        policy, hidden = self.policy, self.policy.hidden_interval
        return Hello(
            interval=policy.ping_interval,
            idle_timeout=policy.idle_timeout,
            expires_in=_seconds(self.expires_at - now),
            ends_in=self._ends_in(now),
            warn_before=policy.warn_before,
            mode=policy.mode,
            spread=spread,
            who=None if self.user is None else who(self.user),
            hidden_interval=hidden if hidden > policy.ping_interval else None,
        )

    def rules(self) -> dict[str, object]:
        """What a `hello` tells that does not change while the session lives."""
        hello = to_builtins(self.hello(self.confirmed_at, 0.0))
        kept = ("interval", "hidden_interval", "warn_before", "mode", "who")
        return {name: hello[name] for name in kept if name in hello}

    def beat(self, n: int, now: float, data: Raw | None) -> Beat:
        # By position, for it is answered to every ping.
        return Beat(n, _seconds(self.expires_at - now), self._ends_in(now), 2, self.renew, data)

    def warning(self, now: float) -> Warning:
        return Warning(
            expires_in=_seconds(self.expires_at - now),
            why=self.why,
            extendable=self.why is Reason.IDLE and self.policy.mode is not Mode.OBSERVE,
        )

    def _ends_in(self, now: float) -> float | None:
        return None if self.ends_at == inf else _seconds(self.ends_at - now)


class Waiting(NamedTuple):
    """A ping that the next batch answers."""

    page: Page
    n: int
    data: Raw | None


def who(user: str) -> str:
    """A short name by which pages tell one user from another, though not whom."""
    # A name that came as JSON may hold half of a surrogate pair.
    return sha256(b"keepalive who " + user.encode(errors="surrogatepass")).hexdigest()[:16]


def _seconds(remaining: float) -> float:
    return int(remaining * 1000 + 0.5) / 1000 if remaining > 0 else 0.0  # round() takes thrice as long
