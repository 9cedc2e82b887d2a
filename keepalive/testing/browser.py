"""`BrowserMachine`: a client's machine, with what only a browser has (web/machine.js has the rules)."""

from math import ceil, inf

from msgspec.structs import replace

from ..client.machine import LEAST_DELAY, LEAST_INTERVAL, Effect, Event, Machine, State
from ..messages import Hello, HttpBeat

THROTTLED = 60.0
"""The timers of a hidden page run this often, in seconds."""

OFFLINE = 60.0
"""Between attempts while the network says that it is away, in seconds."""


class BrowserMachine(Machine):
    """The life of a page's connection; `visible` is whether the page shows."""

    __slots__ = ("_paces", "_visible", "online")

    def __init__(self) -> None:
        super().__init__()
        self.online = True
        """What the network says of itself; it is only a hint."""
        self._visible = True
        self._paces = (self._interval, self._interval)

    @property
    def visible(self) -> bool:
        return self._visible

    @visible.setter
    def visible(self, visible: bool) -> None:
        self._visible = visible
        self._interval = self._pace

    @property
    def interval(self) -> float:
        """Between the pings of a page that shows, in seconds."""
        return self._paces[0]

    @property
    def due(self) -> float:
        due = super().due
        return due if self._visible or due == inf else ceil(due / THROTTLED) * THROTTLED

    def take(self, event: Event, now: float, random: float) -> list[Effect]:
        if isinstance(event, Hello | HttpBeat) and event.interval is not None:
            shown = max(LEAST_INTERVAL, event.interval)
            self._paces = shown, max(shown, event.hidden_interval or 0.0)
            event = replace(event, interval=self._pace)
        before = self.state
        effects = super().take(event, now, random)
        if self.state is State.WAITING and before is not State.WAITING and not self.online:
            self._failures = 1  # that the network is away says nothing of the server
            left = inf if self.expires_at is None or self.expires_at <= now else self.expires_at - now
            self._deadlines["retry"] = now + max(LEAST_DELAY, min(OFFLINE, left / 2))
        return effects

    @property
    def _pace(self) -> float:
        shown, hidden = self._paces
        return shown if self._visible else hidden
