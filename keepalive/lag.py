"""How late the event loop is.

Whatever was due meanwhile came as late: beats, answers, asks. So this is the first number to look at
when all pages suffer at once.
"""

import logging

from .histogram import Histogram

log = logging.getLogger(__name__)

STALL = 1.0
"""From this many seconds on it is no lag any more but a stall, which is told in the log."""
ALARM = 5.0
"""For how many seconds after a stall the server calls itself unhealthy: one probe may see it, and only a
server that stalls again and again is replaced."""
_WINDOW = 30.0


class Lag:
    """What a timer sees that is due several times a second."""

    def __init__(self) -> None:
        self.seconds = Histogram()
        self._worst = [0.0, 0.0]  # of the window before, and of this one
        self._window_ends = 0.0
        self._alarm_until = 0.0

    def observe(self, late: float, now: float) -> None:
        """Record that the timer came `late` seconds after it was due.

        Args:
            now: on the event loop's own clock, which stands still while the machine sleeps.
        """
        late = max(late, 0.0)
        self.seconds.add(late)
        if now >= self._window_ends:
            self._worst = [self._worst[1], 0.0]
            self._window_ends = now + _WINDOW
        self._worst[1] = max(self._worst[1], late)
        if late > STALL:
            self._alarm_until = now + ALARM
            log.warning(
                "the event loop stood still for %.1f s: no page had its beat, for something blocked it", late
            )

    @property
    def worst(self) -> float:
        """The longest of the last 30 to 60 seconds, in seconds."""
        return max(self._worst)

    def stalled(self, now: float) -> bool:
        """Whether it stood still a moment ago."""
        return now < self._alarm_until
