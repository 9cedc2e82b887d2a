"""The life of one heart's connection, without I/O: facts in, decisions out, time as an argument.

The rules are a page's (web/machine.js), less what only a browser has: hidden and frozen pages, a
network that says it is away, other tabs. The transcripts in tests/conformance hold both to them.

1. Everything that decides is here; everything that acts runs the effects and reports facts.
2. `TABLE` is the whole state machine. What it does not list changes nothing.
3. Deadlines are data, named like the event that they become. Each belongs to its state: leaving
   the state forgets it.
4. An event is heard before deadlines are checked, so that a late message still disproves a silence.
5. `connecting` and `open` hold the one socket; entering `connecting` opens it, leaving both drops it.
6. Only the server ends a session.

Times are monotonic seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Any, NamedTuple

from ..messages import (
    CLOSE_CODE,
    Answer,
    Beat,
    End,
    Hello,
    HttpBeat,
    Message,
    Push,
    Wait,
    Warning,
)
from ..policy import Mode, Reason

GREETING = 10.0
"""From opening the socket to `hello`."""
PROBE = 5.0
"""From waking up to an answer."""
STABLE = 5.0
"""An open socket this old has proved itself."""
GAP = 2.0
"""Between pings, and between attempts, that something hastens."""
LEAST_GAP = 0.2
"""Between pings that the program asks for one by one: half of what a server allows for long."""
LEAST_DELAY, MOST_DELAY = 0.5, 30.0
LEAST_INTERVAL = 1.0
BLOCKED = 2
"""Failures before a POST tells whether it is the server that is away, or only the socket."""
REOPEN = 300.0
"""A heart that polls tries the socket now and then."""

_REASONS: dict[int, Reason] = {code: reason for reason, code in CLOSE_CODE.items() if code >= 4500}


class State(StrEnum):
    """Of a heart's connection."""

    IDLE = "idle"
    """Not started, or stopped."""
    CONNECTING = "connecting"
    """A socket is on its way to its `hello`."""
    OPEN = "open"
    WAITING = "waiting"
    """For the next attempt."""
    POLLING = "polling"
    """Pings go over HTTP, for only the socket fails."""
    ENDED = "ended"
    """The session is over."""


class Fact(StrEnum):
    """What the runner reports besides messages."""

    START = "start"
    STOP = "stop"
    NUDGE = "nudge"
    """Ask the server soon: `GAP` after the last time at the earliest."""
    DEMAND = "demand"
    """The program asks for a ping now."""
    WAKE = "wake"
    """Whoever runs it was away for a while: the server has to say something soon."""
    TICK = "tick"
    """A deadline has passed."""


class Closed(NamedTuple):
    """The socket is gone."""

    code: int
    """1006 where nobody said why."""


class Posted(NamedTuple):
    """A POST is done."""

    n: int
    """The ping that it carried."""
    message: Answer | None
    """`None` if it got no answer of this protocol."""


Event = Message | Fact | Closed | Posted


class Connect(NamedTuple):
    """Open the socket."""


class Drop(NamedTuple):
    """Let go of the socket."""

    returns: bool
    """Whether the heart will want another; if not, that is its goodbye."""


class Send(NamedTuple):
    """Ping over the socket."""

    n: int


class Post(NamedTuple):
    """Ping over HTTP."""

    n: int


class Emit(NamedTuple):
    """Tell the program."""

    message: Beat | Warning | End | Push


Effect = Connect | Drop | Send | Post | Emit


@dataclass(slots=True)
class _Turn:
    """What surrounds one event."""

    now: float
    random: float
    effects: list[Effect]


class Machine:
    """One heart. Its attributes are for reading."""

    __slots__ = (
        "_answered", "_deadlines", "_failures", "_interval", "_pinged", "_posting", "_spread", "_tried",
        "_warn_before", "end", "ends_at", "expires_at", "mode", "n", "state", "warned",
    )  # fmt: skip

    def __init__(self) -> None:
        self.state = State.IDLE
        self.n = 0
        """The number of the last ping."""
        self.expires_at: float | None = None
        """The nearer deadline of the session, as the server last told; once it is over, when that was."""
        self.ends_at: float | None = None
        """The absolute one."""
        self.mode: Mode | None = None
        self.warned: Reason | None = None
        """Of what, if a warning stands."""
        self.end: End | None = None
        """Why the session is over."""
        self._deadlines: dict[str, float] = {}
        self._interval = 25.0
        self._spread = 3.0
        self._warn_before = 60.0
        self._pinged = self._tried = -inf
        self._failures = 0  # attempts in a row that did not hold
        self._answered = False  # whether a POST was answered where the socket was not
        self._posting = 0  # the number of the ping that a POST carries just now

    @property
    def due(self) -> float:
        """When the runner has to report the next `TICK`; `inf` while there is nothing to wait for."""
        return min(self._deadlines.values(), default=inf)

    @property
    def busy(self) -> bool:
        """Whether it waits for the server: to be greeted, or for the answer to a POST."""
        return self.state is State.CONNECTING or (self._posting > 0 and "posted" in TABLE[self.state])

    def take(self, event: Event, now: float, random: float) -> list[Effect]:
        """Take one event.

        Args:
            event: what happened.
            now: when.
            random: a number in [0, 1), by which pauses differ.

        Returns:
            What to do, in order.
        """
        turn = _Turn(now, random, [])
        late = now - self.due
        self._step(_name(event), event, turn)
        if self.state is State.OPEN and not isinstance(event, Fact | Closed | Posted):
            _listen(self, event, turn)
        if late > self._interval:  # nothing has run here for so long
            self._step("jump", None, turn)
        while self._deadlines:
            name = min(self._deadlines, key=self._deadlines.__getitem__)
            if self._deadlines[name] > now:
                break
            del self._deadlines[name]
            self._step(name, None, turn)
        return turn.effects

    def _step(self, name: str, event: Any, turn: _Turn) -> None:
        row = TABLE[self.state].get(name)
        if row is None:
            return
        before = self.state
        after = row.to(self, event) if callable(row.to) else row.to or before
        if after is not before:
            self.state = after
            self._deadlines.clear()
            if before in _HOLDS_SOCKET and after not in _HOLDS_SOCKET:
                turn.effects.append(Drop(returns="retry" in TABLE[after]))
        if row.do is not None:
            row.do(self, event, turn)
        if after is not before and after in ENTER:
            ENTER[after](self, event, turn)


_HOLDS_SOCKET = frozenset({State.CONNECTING, State.OPEN})


def _name(event: Event) -> str:
    if isinstance(event, Fact):
        return event.value
    if isinstance(event, Closed | Posted):
        return type(event).__name__.lower()
    return str(event.__struct_config__.tag)


# Where a lost socket or an answer leads.


def _after_close(m: Machine, event: Closed) -> State:
    return State.ENDED if 4500 <= event.code <= 4999 else _after_loss(m, event)


def _after_loss(m: Machine, event: object) -> State:
    m._failures += 1
    return State.POLLING if m._answered else State.WAITING


def _after_post(m: Machine, event: Posted) -> State:
    if event.n != m._posting:
        return m.state
    if isinstance(event.message, End):
        return State.ENDED
    if m.state is State.WAITING and isinstance(event.message, HttpBeat):
        return State.CONNECTING
    if m.state is State.POLLING and event.message is None:
        return State.WAITING
    return m.state


def _after_pause(m: Machine, event: object) -> State:
    return State.CONNECTING if m._failures < BLOCKED else State.WAITING


# What an event teaches.


def _begin(m: Machine, event: object, turn: _Turn) -> None:
    m._failures = m._posting = 0
    m._answered = False
    m.warned = None
    m.expires_at = m.ends_at = m.end = None


def _greet(m: Machine, event: Hello, turn: _Turn) -> None:
    m._answered = False
    m._spread = _seconds(event.spread, m._spread)
    _agree(m, event)
    _remember(m, event, turn)


def _agree(m: Machine, event: Hello | HttpBeat) -> None:
    """The rules of the session, which come with a hello, and with a beat over HTTP."""
    m._interval = max(LEAST_INTERVAL, _seconds(event.interval, m._interval))
    m._warn_before = _seconds(event.warn_before, m._warn_before)
    m.mode = event.mode


def _remember(m: Machine, event: Hello | Beat, turn: _Turn) -> None:
    left = _seconds(event.expires_in, 0.0)
    m.expires_at = turn.now + left
    m.ends_at = None if event.ends_in is None else turn.now + event.ends_in
    if left > m._warn_before:
        m.warned = None


def _confirm(m: Machine, event: Beat, turn: _Turn) -> None:
    m._deadlines.pop("unanswered", None)
    _remember(m, event, turn)
    turn.effects.append(Emit(event))
    if event.renew and m.state is State.OPEN:
        _post(m, event, turn)


def _defer(m: Machine, event: Wait | None, turn: _Turn) -> None:
    m._deadlines.pop("unanswered", None)
    retry_in = m._interval if event is None else _seconds(event.retry_in, m._interval)
    m._deadlines["ping"] = turn.now + max(LEAST_DELAY, retry_in) * (1 + turn.random / 10)


def _warn(m: Machine, event: Warning, turn: _Turn) -> None:
    m.expires_at = turn.now + _seconds(event.expires_in, 0.0)
    m.warned = event.why
    turn.effects.append(Emit(event))


def _tell(m: Machine, event: Push, turn: _Turn) -> None:
    turn.effects.append(Emit(event))


def _conclude(m: Machine, event: End | Closed, turn: _Turn) -> None:
    if m.state is not State.ENDED:
        return
    m.end = event if isinstance(event, End) else End(_REASONS.get(event.code, Reason.UNKNOWN))
    m.expires_at = m.ends_at = turn.now
    m.warned = None
    turn.effects.append(Emit(m.end))


def _settle(m: Machine, event: Posted, turn: _Turn) -> None:
    """Beside an open socket a POST only brought a cookie; without one it is the ping."""
    if event.n != m._posting:
        return
    m._posting = 0
    message = event.message
    if isinstance(message, End):
        _conclude(m, message, turn)
    elif m.state is State.OPEN:
        return
    elif isinstance(message, HttpBeat):
        m._answered = True
        _agree(m, message)
        _confirm(m, message, turn)
        _foresee(m, message, turn)
    elif m.state is State.POLLING:
        _defer(m, message, turn)
    elif m.state is State.WAITING:
        m._failures += 1
        m._answered = False
        retry_in = 0.0 if message is None else _seconds(message.retry_in, 0.0)
        m._deadlines["retry"] = turn.now + max(_delay(m, turn), retry_in)


def _foresee(m: Machine, event: HttpBeat, turn: _Turn) -> None:
    """Nobody can call a heart that polls, so it warns itself; and it asks when a warning comes due, by the
    deadline that a ping does not move.
    """
    fixed_at = m.ends_at if m.mode is Mode.PRESENCE else m.expires_at
    due = -inf if fixed_at is None else fixed_at - m._warn_before
    if m.state is State.POLLING:
        _no_later(m, "ping", _next_ping(m, turn))  # one that was asked for meanwhile comes first
        if due > turn.now:
            _no_later(m, "ping", max(due, turn.now + LEAST_INTERVAL))
    why = Reason.ABSOLUTE if event.ends_in is not None and event.ends_in <= event.expires_in else Reason.IDLE
    if m.warned is why or event.expires_in > m._warn_before:
        return
    extendable = why is Reason.IDLE and m.mode is not Mode.OBSERVE
    _warn(m, Warning(event.expires_in, why, extendable), turn)


# What the heart says.


def _ping(m: Machine, event: object, turn: _Turn) -> None:
    m._pinged = turn.now
    m._deadlines["ping"] = _next_ping(m, turn)
    m.n += 1
    turn.effects.append(Send(m.n))


def _post(m: Machine, event: object, turn: _Turn) -> None:
    if m._posting:
        return
    m._pinged = turn.now
    m.n += 1
    m._posting = m.n
    turn.effects.append(Post(m.n))


def _poll(m: Machine, event: object, turn: _Turn) -> None:
    """One POST at a time; a ping that comes due meanwhile waits for it."""
    if m._posting:
        m._deadlines["ping"] = turn.now + LEAST_GAP
    else:
        _post(m, event, turn)


def _knock(m: Machine, event: object, turn: _Turn) -> None:
    """While only the socket fails, a POST knows whether the server is there."""
    if m.state is State.WAITING:
        m._tried = turn.now
        _post(m, event, turn)


def _hasten(m: Machine, event: object, turn: _Turn) -> None:
    _no_later(m, "ping", max(turn.now, m._pinged + GAP))


def _demand(m: Machine, event: object, turn: _Turn) -> None:
    _no_later(m, "ping", max(turn.now, m._pinged + LEAST_GAP))


def _insist(m: Machine, event: object, turn: _Turn) -> None:
    """Who asks now does not wait for a back-off."""
    _no_later(m, "retry", max(turn.now, m._tried + GAP))


def _probe(m: Machine, event: object, turn: _Turn) -> None:
    _listen(m, event, turn)
    m._deadlines["unanswered"] = turn.now + PROBE
    _hasten(m, event, turn)


def _listen(m: Machine, event: object, turn: _Turn) -> None:
    """The server spoke: by when it has to again."""
    m._deadlines["silence"] = turn.now + 2 * m._interval + 5


def _next_ping(m: Machine, turn: _Turn) -> float:
    """When it is due: ±10 %, so that hearts which came together do not stay together."""
    return turn.now + m._interval * (0.9 + 0.2 * turn.random)


def _prove(m: Machine, event: object, turn: _Turn) -> None:
    m._failures = 0


# What entering a state brings with it.


def _connect(m: Machine, event: object, turn: _Turn) -> None:
    turn.effects.append(Connect())
    m._tried = turn.now
    m._deadlines["greeting"] = turn.now + GREETING


def _open(m: Machine, event: object, turn: _Turn) -> None:
    m._deadlines["stable"] = turn.now + STABLE
    _ping(m, event, turn)  # a heart long away is kept


def _wait(m: Machine, event: object, turn: _Turn) -> None:
    m._deadlines["retry"] = turn.now + _delay(m, turn)


def _fall_back(m: Machine, event: object, turn: _Turn) -> None:
    m._deadlines["retry"] = turn.now + REOPEN
    _post(m, event, turn)


# Small parts.


def _seconds(told: float | None, otherwise: float) -> float:
    return told if told is not None and told >= 0 else otherwise


def _no_later(m: Machine, name: str, when: float) -> None:
    m._deadlines[name] = min(m._deadlines.get(name, inf), when)


def _delay(m: Machine, turn: _Turn) -> float:
    """Full jitter. A first loss is likely everybody's, so the server says over how long to spread it.

    Never over half of what remains of the session: to come back after its end saves nothing.
    """
    most = m._spread if m._failures <= 1 else min(MOST_DELAY, 2.0 ** min(m._failures - 1, 10))
    left = 0.0 if m.expires_at is None else m.expires_at - turn.now
    if left > 0:
        most = min(most, left / 2)
    return max(LEAST_DELAY, most * turn.random)


Action = Callable[[Machine, Any, _Turn], None]


class Row(NamedTuple):
    """What an event does in a state."""

    to: State | Callable[[Machine, Any], State] | None = None
    do: Action | None = None


_LIVE = {"stop": Row(State.IDLE), "posted": Row(_after_post, _settle)}
_SOCKET = {**_LIVE, "end": Row(State.ENDED, _conclude), "closed": Row(_after_close, _conclude)}

TABLE: dict[State, dict[str, Row]] = {
    State.IDLE: {"start": Row(State.CONNECTING, _begin)},
    State.CONNECTING: {**_SOCKET, "hello": Row(State.OPEN, _greet), "greeting": Row(_after_loss)},
    State.OPEN: {
        **_SOCKET,
        "beat": Row(do=_confirm),
        "ask": Row(do=_ping),
        "wait": Row(do=_defer),
        "warning": Row(do=_warn),
        "push": Row(do=_tell),
        "ping": Row(do=_ping),
        "nudge": Row(do=_hasten),
        "demand": Row(do=_demand),
        "stable": Row(do=_prove),
        "wake": Row(do=_probe),
        "jump": Row(do=_probe),
        "silence": Row(_after_loss),
        "unanswered": Row(_after_loss),
    },
    State.WAITING: {
        **_LIVE,
        "retry": Row(_after_pause, _knock),
        "wake": Row(State.CONNECTING),
        "nudge": Row(do=_insist),
        "demand": Row(do=_insist),
    },
    State.POLLING: {
        **_LIVE,
        "ping": Row(do=_poll),
        "nudge": Row(do=_hasten),
        "demand": Row(do=_demand),
        "retry": Row(State.CONNECTING),
        "wake": Row(State.CONNECTING),
    },
    State.ENDED: {"stop": Row(State.IDLE), "start": Row(State.CONNECTING, _begin)},
}
"""The whole machine: by state and event, which state follows and what is done."""

ENTER: dict[State, Action] = {
    State.CONNECTING: _connect,
    State.OPEN: _open,
    State.WAITING: _wait,
    State.POLLING: _fall_back,
}
"""What entering a state does."""
