"""What the rivals have in common: the sessions in memory, their deadlines, and the words."""

from http.cookies import SimpleCookie
from pathlib import Path

from keepalive.clock import SystemClock
from keepalive.messages import Beat, Hello
from keepalive.policy import Policy

ITEM = "sid"
"""The name of the cookie that holds a session's id."""


class Session:
    """A session with an open page.

    Args:
        job: whose rules it follows.
    """

    __slots__ = ("_ends_at", "_idle_at", "_job")

    def __init__(self, job: "Job") -> None:
        now = job.clock.monotonic()
        self._job = job
        self._idle_at = now + job.policy.idle_timeout
        self._ends_at = now + (job.policy.absolute_timeout or 0.0)

    def touch(self) -> tuple[float, float]:
        """Move the idle deadline; what remains until it and until the absolute one, in seconds."""
        now = self._job.clock.monotonic()
        self._idle_at = min(now + self._job.policy.idle_timeout, self._ends_at)
        return round(self._idle_at - now, 3), round(self._ends_at - now, 3)

    def beat(self, n: int) -> Beat:
        """The answer to a ping, which touches the session."""
        expires_in, ends_in = self.touch()
        return Beat(n, expires_in, ends_in)

    def beat_items(self, n: int) -> dict[str, object]:
        """The same for a codec that knows only dictionaries."""
        expires_in, ends_in = self.touch()
        return {"type": "beat", "n": n, "expires_in": expires_in, "ends_in": ends_in}

    def hello(self) -> Hello:
        policy = self._job.policy
        expires_in, ends_in = self.touch()
        return Hello(
            interval=policy.ping_interval,
            idle_timeout=policy.idle_timeout,
            expires_in=expires_in,
            ends_in=ends_in,
            warn_before=policy.warn_before,
            mode=policy.mode,
            spread=3.0,
        )


class Job:
    """The job of one server.

    Args:
        folder: holds what the servers share with the benchmark: see `bench.sessions`.
        policy: the rules of all sessions.
    """

    def __init__(self, folder: Path, policy: Policy) -> None:
        self.folder = folder
        self.policy = policy
        self.clock = SystemClock()
        self._ids = frozenset((folder / "ids").read_text().split())
        self._live: dict[str, Session] = {}

    def admit(self, cookies: str) -> Session | None:
        """The session of a page that wants to connect, by its Cookie header; `None` if there is none."""
        found = SimpleCookie(cookies).get(ITEM)
        if found is None or found.value not in self._ids:
            return None
        return self._live.setdefault(found.value, Session(self))
