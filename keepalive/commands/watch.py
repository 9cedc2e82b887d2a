"""A live heart in the terminal: what it hears, and how long its session still has."""

import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from math import inf

import aiohttp
import msgspec
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..client import Event, Heart, State, StateChange
from ..client.address import Address
from ..clock import Clock
from ..errors import SessionEnded
from ..messages import Beat, End, Push, Warning, encode
from .show import plain, span

REMEMBERED = 8
"""Events that stay on the screen."""
THUMP = 0.4
"""How long a beat is seen, in seconds."""
BAR = 30
"""Columns of the bar."""
_PATIENCE = aiohttp.ClientTimeout(total=10)
_COLOURS = {State.OPEN: "green", State.ENDED: "bold red"}
LIVES_BY = {
    "presence": "any page that answers",
    "activity": "the user's input, and the app's own requests",
    "observe": "the app's own requests alone",
}


Heard = Beat | Warning | Push | StateChange
"""What is told; the end is for the exit code."""


class Rules(msgspec.Struct):
    """What `GET …/state` tells of a session that a heart does not."""

    idle_timeout: float
    warn_before: float


async def rules_of(http: aiohttp.ClientSession, address: Address) -> Rules | None:
    """The rules of a session, which this asks for without a touch; `None` where they cannot be had."""
    try:
        async with http.get(address.base / "state", timeout=_PATIENCE, allow_redirects=False) as response:
            return msgspec.json.decode(await response.read(), type=Rules)
    except (aiohttp.ClientError, OSError, msgspec.MsgspecError):
        return None


async def watch(heart: Heart, tell: Callable[[Heard], object]) -> None:
    """Tell all that a heart hears until its session ends.

    Raises:
        SessionEnded: it has.
    """
    await _relay(heart, aiter(heart), tell)


async def watch_live(
    heart: Heart, http: aiohttp.ClientSession, address: Address, console: Console, clock: Clock
) -> None:
    """As `watch`, on a screen that is drawn anew all the time."""
    events = aiter(heart)
    view = View(heart, address, await rules_of(http, address), clock)
    with Live(view, console=console, refresh_per_second=8):
        await _relay(heart, events, view.add)


async def _relay(heart: Heart, events: AsyncIterator[Event], tell: Callable[[Heard], object]) -> None:
    tell(StateChange(heart.state, State.CONNECTING))
    async for event in events:
        if isinstance(event, End):
            raise SessionEnded(event.reason, event.login)
        tell(event)


def as_line(event: Heard) -> str:
    """An event for programs: the message of the protocol, or a `state`."""
    if isinstance(event, StateChange):
        return json.dumps({"type": "state", "state": event.state, "previous": event.previous})
    return encode(event).decode()


def as_text(event: Heard) -> Text:
    """An event for people."""
    match event:
        case Beat(n, expires_in, ends_in):
            latest = "" if ends_in is None else f", ends in {span(ends_in)}"
            return Text.assemble(("♥ ", "red"), f"beat {n}: expires in {span(expires_in)}{latest}")
        case Warning(expires_in, why, extendable):
            hope = "a ping or a request extends it" if extendable else "nothing extends it"
            return Text(f"! expires in {span(expires_in)} by its {why} timeout; {hope}", "yellow")
        case Push(data):
            return Text.assemble("→ push ", plain(json.dumps(data, ensure_ascii=False)))
        case StateChange(state):
            return Text.assemble(("· ", "dim"), _state(state))


class View:
    """What stands on the screen.

    Args:
        heart: that is watched.
        address: its server's.
        rules: of its session, as far as they are known.
        clock: for the time of day, and for what was just now.
    """

    def __init__(self, heart: Heart, address: Address, rules: Rules | None, clock: Clock) -> None:
        self._heart = heart
        self._address = address
        self._rules = rules
        self._clock = clock
        self._past: deque[tuple[float, Heard]] = deque(maxlen=REMEMBERED)
        self._beats = 0
        self._beat_at = -inf

    def add(self, event: Heard) -> None:
        now = self._clock.wall()
        self._past.append((now, event))
        if isinstance(event, Beat):
            self._beats += 1
            self._beat_at = now

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._head()
        yield Text()
        yield self._session()
        yield Text()
        yield from self._history()

    def _head(self) -> Table:
        row = Table.grid(expand=True)
        row.add_column()
        row.add_column(justify="right")
        beats_now = self._clock.wall() - self._beat_at < THUMP
        heart = ("♥", "bold bright_red" if beats_now else "red")
        where = str(self._address.base.with_user(None))  # without its password, too
        row.add_row(Text.assemble(heart, "  ", (where, "bold")), _state(self._heart.state))
        return row

    def _session(self) -> Table:
        mode, expires_in, ends_in = self._heart.mode, self._heart.expires_in, self._heart.ends_in
        expiry = Table.grid(padding=(0, 2))
        expiry.add_row(span(expires_in), self._bar(expires_in), Text("unless it is extended", "dim"))
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_row("expires in", expiry)
        if ends_in is not None:
            table.add_row("ends in", Text.assemble(span(ends_in), ("  whatever happens", "dim")))
        if mode is not None:
            table.add_row("mode", Text.assemble(mode, (f"  lives by {LIVES_BY[mode]}", "dim")))
        beats = Text(f"{self._beats:,}")
        if self._beats:
            beats.append(f"  the last one {span(self._clock.wall() - self._beat_at)} ago", "dim")
        table.add_row("beats", beats)
        return table

    def _bar(self, expires_in: float | None) -> ProgressBar | None:
        """What is left of the idle timeout."""
        if self._rules is None or expires_in is None:
            return None
        colour = "green" if expires_in > self._rules.warn_before else "yellow"
        return ProgressBar(
            self._rules.idle_timeout, expires_in, BAR, complete_style=colour, finished_style=colour
        )

    def _history(self) -> Iterator[Text]:
        for at, event in self._past:
            line = Text.assemble((time_of_day(at), "dim"), "  ", as_text(event))
            line.no_wrap, line.overflow = True, "ellipsis"
            yield line


def time_of_day(at: float) -> str:
    return f"{datetime.fromtimestamp(at):%H:%M:%S}"


def _state(state: State) -> Text:
    return Text(state.value, _COLOURS.get(state, "yellow"))
