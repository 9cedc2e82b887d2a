"""A session with open pages on this server: facts as they were recorded, and what follows.

Pure; time is an argument, in monotonic seconds. The heart records the facts and acts on the
decisions.
"""

from math import inf
from typing import NamedTuple, Protocol

from .messages import Beat, Hello, Ping, Warning
from .policy import Mode, Reason, is_evidence
from .touchers import Left, Ticket, Touch

LEAST_DEBT = 0.5
"""Seconds of earned life that are worth a touch of their own: when the last page leaves, and while
its pages show a warning."""


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
    """

    __slots__ = ("asks", "due", "idle", "live", "n", "socket", "visible")

    def __init__(self, live: "Live", socket: Socket) -> None:
        self.live = live
        self.socket = socket
        self.n = -1
        """The number of its newest ping."""
        self.asks = 0
        """How often it was asked since."""
        self.due = inf
        """When its next ping is overdue."""
        self.visible = True
        self.idle: float | None = None
        """Seconds since the user's last input, as the newest ping has it."""

    def heard(self, ping: Ping, now: float) -> bool:
        """Record a ping; whether it is a new one, or an old one repeated."""
        self.asks = 0
        self.due = now + self.live.policy.ping_interval * 1.25
        if ping.n <= self.n:
            return False
        self.n = ping.n
        self.visible = ping.visible
        self.idle = ping.idle
        return True


class Live:
    """A session with open pages here, as far as this server knows it.

    Args:
        ticket: its beginning.
        now: when the store gave that word; before it was asked, to be on the safe side.
    """

    __slots__ = (
        "active_at", "confirmed_at", "earned_at", "ends_at", "idle_at", "key", "over", "pages",
        "paid_at", "policy", "queued", "renew", "timed", "user", "waiting", "warned",
    )  # fmt: skip

    def __init__(self, ticket: Ticket, now: float) -> None:
        self.key = ticket.key
        self.policy = ticket.policy
        self.user = ticket.user
        self.pages: tuple[Page, ...] = ()
        self.over: Reason | None = None
        self.active_at = -inf
        """When the user was last active."""
        self.earned_at = -inf
        """The idle deadline that its pings have earned so far, whether the store knows or not."""
        self.paid_at = -inf
        """How much of that the store has been asked for; it may have granted less."""
        self.warned: Reason | None = None
        """Of which deadline its pages have been warned."""
        # The heart's bookkeeping.
        self.waiting: tuple[Waiting, ...] = ()
        self.queued = False
        self.timed = False
        self.confirm(ticket.left, now)

    @property
    def session(self) -> str:
        """A short name for logs and lists, from the hash of the session's id."""
        return self.key[:8].hex()

    def confirm(self, left: Left, now: float, touch: Touch | None = None) -> None:
        """Record the store's word: what remained at `now`, and after which touch of then, if any."""
        self.confirmed_at = now
        self.idle_at = now + left.idle
        """The idle deadline, as the store has it."""
        self.ends_at = now + left.absolute
        """The absolute deadline, as the store has it."""
        self.renew = left.renew
        if touch is not None and touch.keep is not None:
            self.paid_at = now + touch.keep
        if self.warns_at > now:
            self.warned = None

    def heard(self, ping: Ping, now: float) -> None:
        """Record what a ping says of the user, and what it earns."""
        keep = self.policy.keep(ping.idle)
        if keep is not None:
            self.earned_at = max(self.earned_at, now + keep)
        if is_evidence(ping.idle):
            self.active_at = max(self.active_at, now - ping.idle)

    @property
    def expires_at(self) -> float:
        """The nearer of both deadlines."""
        return min(self.idle_at, self.ends_at)

    @property
    def warns_at(self) -> float:
        return self.expires_at - self.policy.warn_before

    @property
    def why(self) -> Reason:
        """Which deadline is the nearer one; stores cap the idle one by the absolute one."""
        return Reason.IDLE if self.idle_at < self.ends_at else Reason.ABSOLUTE

    @property
    def next_at(self) -> float:
        """When it is to be warned, or has been warned and is to end."""
        return self.expires_at if self.warned is self.why else self.warns_at

    @property
    def debt(self) -> float:
        """By how many seconds the pings have earned more than the store knows of."""
        return min(self.earned_at, self.ends_at) - max(self.idle_at, self.paid_at)

    def must_ask(self, now: float) -> bool:
        """Whether a ping has to go to the store, or can be answered from its last word."""
        every = self.policy.touch_every
        worth = LEAST_DEBT if self.warned else every
        return now - self.confirmed_at >= every or self.debt >= worth or now >= self.expires_at

    def touch(self, now: float) -> Touch:
        """The line for the next batch: what was earned, seen from `now`."""
        keep = None if self.earned_at == -inf else self.earned_at - now
        idle = None if self.active_at == -inf else now - self.active_at
        return Touch(self.key, keep, idle)

    def hello(self, now: float, spread: float) -> Hello:
        policy = self.policy
        return Hello(
            interval=policy.ping_interval,
            idle_timeout=policy.idle_timeout,
            expires_in=_seconds(self.expires_at - now),
            ends_in=self._ends_in(now),
            warn_before=policy.warn_before,
            mode=policy.mode,
            spread=spread,
        )

    def beat(self, n: int, now: float, data: dict[str, object] | None) -> Beat:
        return Beat(
            n=n,
            expires_in=_seconds(self.expires_at - now),
            ends_in=self._ends_in(now),
            renew=self.renew,
            data=data,
        )

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
    data: dict[str, object] | None


def _seconds(remaining: float) -> float:
    return round(max(remaining, 0.0), 3)
