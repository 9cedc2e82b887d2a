"""`Page`: a fake browser tab. It pings, answers, and comes back as the real page does."""

from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from random import Random
from typing import Protocol

from aiohttp.abc import AbstractCookieJar

from ..client.machine import Closed, Connect, Drop, Effect, Emit, Event, Fact, Post, Posted, Send, State
from ..clock import Clock
from ..errors import KeepaliveError
from ..messages import Answer, Beat, CloseCode, End, Message, Ping, Push, Warning
from .browser import BrowserMachine
from .timeline import Said, Timeline

_INPUT_EVERY = 1.0  # seconds; the page takes no notice of more


class Link(Protocol):
    """How a tab reaches its server. What comes of it is told by `Page.hear`, never from inside a call."""

    jar: AbstractCookieJar

    def connect(self, page: "Page") -> None:
        """Open a socket, in place of the one before."""

    def send(self, ping: Ping) -> None:
        """Ping over it."""

    def part(self, code: int) -> None:
        """Close it; 1006 is without a word."""

    def cut(self) -> None:
        """The network is gone: nothing gets through any more, and nobody is told."""

    def post(self, page: "Page", ping: Ping) -> None:
        """Ping over HTTP."""


class Schedule(Protocol):
    """Calls back at a time of the page's clock."""

    def __call__(self, when: float, callback: Callable[[], object]) -> object: ...


class Page:
    """A tab of a browser, with a heart on its page. Opened by the fixture `page`.

    What a user or a browser does takes no time; what follows from it is there after the next
    `await clock.advance(…)`. Without the fixture `clock`, it takes as long as in a browser.

    Args:
        name: which one, in messages.
        number: the same for the same page in each run; its timers differ by it from those of others.
        link: to the server.
        clock: its time.
        call_at: calls back at a time of that.
        tabs: all of its browser; they tell each other of the user's input.
    """

    def __init__(
        self, name: str, number: int, link: Link, clock: Clock, call_at: Schedule, *, tabs: Sequence["Page"]
    ) -> None:
        self.name = name
        self.beats: list[Beat] = []
        self.pushes: list[object] = []
        """The data of each push."""
        self.warnings: list[Warning] = []
        """All that have come; `warning` is the one that stands."""
        self.ended_after: float | None = None
        """When the page heard of the end, in seconds since it was opened."""
        self.gone = False
        """Whether it was closed, or has crashed."""
        self._link = link
        self._clock = clock
        self._call_at = call_at
        self._tabs = tabs
        self._machine = BrowserMachine()
        self._random = Random(number)  # noqa: S311 - pauses that are the same in each run
        self._facts: deque[Event] = deque()
        self._busy = False
        self._timed_at = inf  # when it will be called back
        self._began = clock.monotonic()
        self._active_at: float | None = None
        self._asleep_until = -inf
        self._frozen = False
        self._parting = CloseCode.NORMAL
        self.timeline = Timeline(self._began)
        self.hear(Fact.START)

    def __repr__(self) -> str:
        return f"<{self.name}: {self.state}>"

    # What the page knows.

    @property
    def state(self) -> str:
        """Of the connection: `connecting`, `open`, `waiting`, `polling`, `frozen`, `ended`, or `idle`
        once the page is gone."""
        return "frozen" if self._frozen else self._machine.state.value

    @property
    def reason(self) -> str | None:
        """Why the session is over, as the page was told."""
        end = self._machine.end
        return None if end is None else end.reason.value

    @property
    def warning(self) -> Warning | None:
        """The warning that stands."""
        return self.warnings[-1] if self._machine.warned else None

    @property
    def expires_in(self) -> float | None:
        """Seconds until the session ends unless something extends it; `None` while unknown."""
        at = self._machine.expires_at
        return None if at is None else max(0.0, at - self._clock.monotonic())

    @property
    def visible(self) -> bool:
        """Whether it shows."""
        return self._machine.visible

    @property
    def online(self) -> bool:
        """What its browser says of the network."""
        return self._machine.online

    @property
    def asleep(self) -> bool:
        """Whether its computer is."""
        return self._clock.monotonic() < self._asleep_until

    @property
    def cookies(self) -> AbstractCookieJar:
        """Of its browser; for another tab, or an aiohttp `ClientSession`."""
        return self._link.jar

    # What its user does.

    def input(self) -> None:
        """Move the mouse, or press a key."""
        self._expect(self.visible, "hidden", "show() it first")
        self._expect(not (self._frozen or self.asleep), "not running", "resume() it, or let it wake up")
        now = self._clock.monotonic()
        quiet = inf if self._active_at is None else now - self._active_at
        if quiet < _INPUT_EVERY:
            return
        for tab in self._tabs:
            if not tab._frozen:  # as such a one has left the channel
                tab._active_at = now
        self._note("input")
        if quiet > self._machine.interval or (self.warning is not None and self.warning.extendable):
            self.hear(Fact.NUDGE)

    def stay(self) -> None:
        """Press `Stay signed in`."""
        self.hear(Fact.NUDGE)

    def hide(self) -> None:
        """Show another tab: its timers run once a minute."""
        self._expect()
        self._note("hidden")
        self._machine.visible = False
        self._arm()

    def show(self) -> None:
        self._expect()
        self._note("shown")
        self._machine.visible = True
        self._wake()

    def close(self) -> None:
        """Close the tab, as a user does: the server is told."""
        self._leave("closed", CloseCode.GOING_AWAY)

    # What its browser does, or the world.

    def freeze(self) -> None:
        """As browsers do with a tab that was hidden for long; it closes its socket, and will come back."""
        self._expect()
        if self._machine.state in (State.IDLE, State.ENDED):
            return
        self._note("frozen")
        self._frozen, self._parting = True, CloseCode.RETURNING
        self._take(Fact.STOP)
        self._parting = CloseCode.NORMAL

    def resume(self) -> None:
        """Thaw it again."""
        self._note("resumed")
        if self._frozen:
            self._frozen = False
            self.hear(Fact.START)

    def sleep(self, seconds: float) -> None:
        """Close the lid: nothing runs until so many seconds have passed."""
        self._expect()
        self._note(f"asleep for {seconds:g} s")
        self._asleep_until = self._clock.monotonic() + seconds
        self._timed_at = self._asleep_until
        self._call_at(self._asleep_until, self._rise)

    def go_offline(self) -> None:
        self._expect()
        self._note("offline")
        self._machine.online = False
        self._link.cut()
        self._wake()

    def go_online(self) -> None:
        self._expect()
        self._note("online")
        self._machine.online = True
        self._wake()

    def crash(self) -> None:
        """The tab is gone without a goodbye."""
        self._leave("crashed", 1006)

    # Facts in, effects out.

    def hear(self, fact: Event) -> None:
        """Take a fact, now or when the page can."""
        self._facts.append(fact)
        if self._busy:
            return
        self._busy = True
        try:
            while self._facts and not self.asleep and not self.gone:
                self._take(self._facts.popleft())
        finally:
            self._busy = False

    def told(self, message: Message | Closed) -> None:
        """Take what a server says."""
        if not self.gone:
            self._note(f"close {message.code}" if isinstance(message, Closed) else message, "server")
            self.hear(message)

    def answered(self, n: int, answer: Answer | None) -> None:
        """Take what a ping over HTTP has got; `None` if nothing."""
        if not self.gone:
            self._note("no answer" if answer is None else answer, "server")
            self.hear(Posted(n, answer))

    def _take(self, fact: Event) -> None:
        effects = self._machine.take(fact, self._clock.monotonic(), self._random.random())
        self._arm()
        for effect in effects:
            self._do(effect)

    def _wake(self) -> None:
        if not (self._frozen or self.asleep):
            self.hear(Fact.WAKE)

    def _rise(self) -> None:
        self._timed_at = inf
        if not (self.gone or self.asleep):
            self._note("awake")
            self.hear(Fact.TICK)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Connect() if self.online:
                self._note("connects")
                self._link.connect(self)
            case Connect():
                self._note("cannot connect")
                self.hear(Closed(1006))
            case Drop():
                self._link.part(CloseCode.RETURNING if effect.returns else self._parting)
            case Send(n):
                self._link.send(self._ping(n))
            case Post(n):
                self._link.post(self, self._ping(n))
            case Emit(message):
                self._emit(message)

    def _emit(self, message: Beat | Warning | End | Push) -> None:
        match message:
            case Beat():
                self.beats.append(message)
            case Warning():
                self.warnings.append(message)
            case Push(data):
                self.pushes.append(data)
            case End():
                self.ended_after = self._clock.monotonic() - self._began

    def _ping(self, n: int) -> Ping:
        idle = None if self._active_at is None else self._clock.monotonic() - self._active_at
        ping = Ping(n, idle=idle, visible=self._machine.visible)
        self._note(ping)
        return ping

    def _arm(self) -> None:
        due = self._machine.due
        if due < self._timed_at:
            self._timed_at = due
            self._call_at(due, self._on_time)

    def _on_time(self) -> None:
        now = self._clock.monotonic()
        if now < self._timed_at or self.gone or self.asleep:
            return  # it has been called for another time since
        self._timed_at = inf
        if self._machine.due <= now:
            self.hear(Fact.TICK)
        else:
            self._arm()

    def _leave(self, how: str, code: int) -> None:
        self._expect()
        self._note(how)
        self._machine.take(Fact.STOP, self._clock.monotonic(), 0.0)
        self._link.part(code)
        self.gone = True

    def _expect(self, fits: bool = True, problem: str = "", solution: str = "") -> None:
        if self.gone:
            raise KeepaliveError(f"{self.name} is gone", "open another one")
        if not fits:
            raise KeepaliveError(f"{self.name} is {problem}", solution)

    def _note(self, said: Said, who: str = "page") -> None:
        self.timeline.add(self._clock.monotonic(), who, said)
