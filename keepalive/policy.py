"""How long a session lives: the two timeouts, the modes, and the arithmetic of deadlines.

Pure: time is an argument, and deadlines are seconds on whatever clock the caller uses.
The words are OWASP's (Session Management Cheat Sheet, ASVS 5.0 V7.3).
"""

from dataclasses import dataclass
from enum import StrEnum
from math import inf, isfinite
from typing import TypeGuard

from .errors import SettingError

# WCAG 2.2.1 gives a person at least this many seconds to ask for more time.
_LEAST_WARNING = 20.0
# Browsers run the timers of a page hidden for long only once a minute. On top of two intervals of
# silence, a hidden page needs up to two such minutes to notice a dead connection and to reconnect;
# the rest is for the connection itself.
_RECONNECTING = 130.0
# A reload closes a page before the next one opens: that takes so long at least, and on a slow network or
# by way of another site, where someone pays or signs in, longer.
_LEAST_RELOAD = 5.0
_SLOW_RELOAD = 15.0


class Mode(StrEnum):
    """What a page's ping may do to the idle deadline."""

    PRESENCE = "presence"
    """An open page that answers keeps the session alive."""
    ACTIVITY = "activity"
    """Only the user's input does; a ping merely reports when that was."""
    OBSERVE = "observe"
    """Pings report, only the app's own requests extend."""


class Reason(StrEnum):
    """Why a session is over."""

    IDLE = "idle"
    ABSOLUTE = "absolute"
    LOGOUT = "logout"
    REVOKED = "revoked"
    EVICTED = "evicted"
    ROTATED = "rotated"
    """Signed in anew: the id was replaced. Never sent to a page: one that is connected is asked
    to come back with its new cookie, and whoever presents the old id hears `revoked`."""
    UNKNOWN = "unknown"


# Looking a member up in its enumeration takes longer than comparing it.
_PRESENCE, _OBSERVE = Mode.PRESENCE, Mode.OBSERVE


@dataclass(frozen=True, slots=True, init=False)
class Policy:
    """The lifetime rules of a session. Impossible ones are refused.

    Args:
        idle_timeout: longest time without a touch, in seconds.
        absolute_timeout: longest life since login, in seconds; nothing extends it. `None` means
            no such limit and has to be written out.
        warn_before: how many seconds ahead of a deadline the page is warned; by default the
            smaller of 60 and a third of `idle_timeout`.
        ping_interval: how often a page pings, in seconds.
        hidden_interval: the same while the page is hidden; at least `ping_interval`, and by default
            no different.
        mode: what a ping may do; a `Mode` or its name.
        touch_every: a session is touched in the store at most this often, in seconds, unless a
            ping moves its deadline by more, or a warning shows that it may withdraw; 0 touches for
            every ping. By default a twentieth of `idle_timeout`, at least 5 and at most 60, but
            never more than an eighth of it.
        end_after_last_page: how many seconds after its last page was closed a session ends, unless
            a page or a request comes back meanwhile; at least 5 and under `idle_timeout`. A reload,
            a lost network and a crash are no close. `None`, the default, does not count pages.

    Raises:
        SettingError: a value is out of range, or two contradict each other; says what to change.
    """

    idle_timeout: float
    absolute_timeout: float | None
    warn_before: float
    ping_interval: float
    hidden_interval: float
    mode: Mode
    touch_every: float
    end_after_last_page: float | None

    def __init__(
        self,
        *,
        idle_timeout: float = 1800.0,
        absolute_timeout: float | None = 43200.0,
        warn_before: float | None = None,
        ping_interval: float = 25.0,
        hidden_interval: float | None = None,
        mode: Mode | str = Mode.PRESENCE,
        touch_every: float | None = None,
        end_after_last_page: float | None = None,
    ) -> None:
        _require_positive("idle_timeout", idle_timeout)
        _require_positive("ping_interval", ping_interval)
        try:
            mode = Mode(mode)
        except ValueError:
            names = ", ".join(Mode)
            raise SettingError(f"there is no mode {mode!r}", f"use one of {names}") from None
        if hidden_interval is None:
            hidden_interval = ping_interval
        _require_positive("hidden_interval", hidden_interval)
        if warn_before is None:
            warn_before = min(60.0, idle_timeout / 3)
        if touch_every is None:
            touch_every = min(max(idle_timeout / 20, 5.0), 60.0, idle_timeout / 8)
        if absolute_timeout is not None:
            _require_positive("absolute_timeout", absolute_timeout)
            if absolute_timeout < idle_timeout:
                raise SettingError(
                    f"absolute_timeout ({absolute_timeout:g} s) is under idle_timeout ({idle_timeout:g} s)",
                    "raise absolute_timeout or lower idle_timeout",
                )
        if hidden_interval < ping_interval:
            raise SettingError(
                f"hidden_interval ({hidden_interval:g} s) is under ping_interval ({ping_interval:g} s)",
                "raise hidden_interval, or leave it out",
            )
        intervals = {"ping_interval": ping_interval}
        if mode is _PRESENCE:  # in the others, a page that is merely open keeps nothing alive
            intervals["hidden_interval"] = hidden_interval
        for name, interval in intervals.items():
            if idle_timeout < 3 * interval:
                raise SettingError(
                    f"idle_timeout ({idle_timeout:g} s) is shorter than three times {name} ({interval:g} s)",
                    f"raise idle_timeout to {3 * interval:g} s or lower {name} to {idle_timeout / 3:g} s",
                )
        if not 0 <= warn_before < idle_timeout:
            raise SettingError(
                f"warn_before ({warn_before:g} s) is not between 0 and idle_timeout ({idle_timeout:g} s)",
                f"give warn_before less than {idle_timeout:g} seconds, but not less than 0, or leave it out",
            )
        if not 0 <= touch_every <= idle_timeout / 2:
            raise SettingError(
                f"touch_every ({touch_every:g} s) is not between 0 and half of"
                f" idle_timeout ({idle_timeout:g} s)",
                f"give touch_every 0 to {idle_timeout / 2:g} seconds, or leave it out",
            )
        if end_after_last_page is not None and not _LEAST_RELOAD <= end_after_last_page < idle_timeout:
            raise SettingError(
                f"end_after_last_page ({end_after_last_page:g} s) is not between {_LEAST_RELOAD:g} s, which"
                f" a reload may take, and idle_timeout ({idle_timeout:g} s)",
                f"give it {_LEAST_RELOAD:g} seconds or more, but less than {idle_timeout:g}, or leave it out",
            )
        fix = object.__setattr__  # the instance is frozen for everyone else
        fix(self, "idle_timeout", float(idle_timeout))
        fix(self, "absolute_timeout", None if absolute_timeout is None else float(absolute_timeout))
        fix(self, "warn_before", float(warn_before))
        fix(self, "ping_interval", float(ping_interval))
        fix(self, "hidden_interval", float(hidden_interval))
        fix(self, "mode", mode)
        fix(self, "touch_every", float(touch_every))
        fix(self, "end_after_last_page", end_after_last_page and float(end_after_last_page))

    def advice(self) -> list[str]:
        """Settings that work but are unwise, one sentence each; empty when there are none."""
        found = []
        if self.warn_before < _LEAST_WARNING:
            found.append(
                f"warn_before is {self.warn_before:g} s: people need at least {_LEAST_WARNING:g} s "
                "to ask for more time (WCAG 2.2.1)"
            )
        interval = self.hidden_interval if self.mode is _PRESENCE else self.ping_interval
        if self.mode is _PRESENCE and self.warn_before > self.idle_timeout - 2 * interval:
            found.append(
                f"warn_before is {self.warn_before:g} s: pages are warned between their pings, up to"
                f" {interval:g} s apart, although they keep the session alive"
            )
        comfortable = 2 * interval + _RECONNECTING
        if self.idle_timeout < comfortable:
            found.append(
                f"idle_timeout is {self.idle_timeout:g} s: browsers run a hidden page's timers once "
                f"a minute, so a reconnect may come too late below {comfortable:g} s"
            )
        if self.end_after_last_page is not None and self.end_after_last_page < _SLOW_RELOAD:
            found.append(
                f"end_after_last_page is {self.end_after_last_page:g} s: a reload over a slow network, or a"
                f" detour by way of another site, may take {_SLOW_RELOAD:g} s, and signs the user out"
            )
        if self.absolute_timeout is None:
            found.append("absolute_timeout is off: an open page keeps its session for ever")
        return found

    def keep(self, idle: float | None) -> float | None:
        """How many seconds from now the idle deadline shall reach, for a ping of now.

        Args:
            idle: seconds since the user's last input, as the page reports it; `None` if unknown.

        Returns:
            Seconds from now, which may be negative; `None` if the ping earns nothing. An absurd
            `idle` (negative, or not a number) is no evidence of a user.
        """
        if self.mode is _PRESENCE:
            return self.idle_timeout
        if self.mode is _OBSERVE or not is_evidence(idle):
            return None
        return self.idle_timeout - idle

    def deadlines(self, now: float) -> tuple[float, float]:
        """The idle and the absolute deadline of a session that begins `now`; `inf` means none."""
        absolute = inf if self.absolute_timeout is None else now + self.absolute_timeout
        return now + self.idle_timeout, absolute


def is_evidence(idle: float | None) -> TypeGuard[float]:
    """Whether a reported `idle`, in seconds, can be true; a page's clock may have jumped."""
    return idle is not None and 0 <= idle < inf


def extended(idle_at: float, absolute_at: float, until: float) -> float:
    """The idle deadline after a touch: it never moves back, and never beyond the absolute one."""
    return min(max(idle_at, until), absolute_at)


def verdict(now: float, idle_at: float, absolute_at: float, closes_at: float = inf) -> Reason | None:
    """Whether a session with these deadlines is over at `now`, and why; `None` while it lives.

    The deadline that passed first is the reason, and stays so when another has passed, too. Past
    `closes_at` the reason is `logout`: closing the last page was the user's own doing.
    """
    if now < min(idle_at, absolute_at, closes_at):
        return None
    if closes_at < min(idle_at, absolute_at):
        return Reason.LOGOUT
    return Reason.IDLE if idle_at < absolute_at else Reason.ABSOLUTE


def _require_positive(name: str, seconds: float) -> None:
    if not (isfinite(seconds) and seconds > 0):
        raise SettingError(f"{name} is {seconds:g}", f"give {name} a positive number of seconds")
