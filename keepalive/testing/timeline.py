"""`Timeline`: what a page and its server have said to each other, to be read after a failure."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from ..messages import Ask, Beat, End, Hello, HttpBeat, Ping, Push, Wait, Warning

MOST = 400
"""Entries that are kept; the oldest go first."""

Said = Ping | Hello | Beat | Ask | Wait | Warning | End | Push | str


class Entry(NamedTuple):
    at: float
    who: str
    said: Said


class Timeline:
    """The life of one page.

    Args:
        began: when it was opened, in monotonic seconds.
    """

    def __init__(self, began: float) -> None:
        self._began = began
        self._entries: deque[Entry] = deque(maxlen=MOST)

    def add(self, at: float, who: str, said: Said) -> None:
        self._entries.append(Entry(at - self._began, who, said))

    def __str__(self) -> str:
        """A table: when, who, what, and until when the session lives by that. Long runs are folded."""
        rows = [("time", "who", "what", "lives until", "")]
        if len(self._entries) == MOST:
            rows.append(("…", "", "", "", "what was before that is not kept"))
        for each in _folded(list(self._entries)):
            if isinstance(each, int):
                rows.append(("…", "", "", "", f"{each} more pings, each with its beat"))
            else:
                what, expires_in, note = _told(each.said)
                until = "" if expires_in is None else clock_face(each.at + expires_in)
                rows.append((clock_face(each.at), each.who, what, until, note))
        wide = [max(len(row[column]) for row in rows) for column in range(5)]
        return "\n".join(
            f"{at:>{wide[0]}}  {who:<{wide[1]}}  {what:<{wide[2]}}  {until:>{wide[3]}}  {note}".rstrip()
            for at, who, what, until, note in rows
        )


def _folded(entries: list[Entry]) -> Iterator[Entry | int]:
    """The entries, with numbers for pings in a row that got their beats; the first and the last stay."""
    at = 0
    while at < len(entries):
        end = at
        while end + 1 < len(entries) and _is_beaten(*entries[end : end + 2]):
            end += 2
        if end - at > 4 * 2:
            yield from entries[at : at + 2]
            yield (end - at) // 2 - 2
            at = end - 2
        yield from entries[at : max(end, at + 1)]
        at = max(end, at + 1)


def _is_beaten(one: Entry, other: Entry) -> bool:
    return isinstance(one.said, Ping) and isinstance(other.said, Beat) and one.said.n == other.said.n


def _told(said: Said) -> tuple[str, float | None, str]:
    """What was said, by when the session ends by that, and what else there is to it."""
    match said:
        case Ping(n, idle):
            return f"ping {n}", None, "" if idle is None else f"user active {clock_face(idle)} ago"
        case Hello():
            note = f"{said.mode}, idle timeout {clock_face(said.idle_timeout)}"
            if said.ends_in is not None:
                note += f", absolute in {clock_face(said.ends_in)}"
            return "hello", said.expires_in, note
        case HttpBeat() | Beat():
            return f"beat {said.n}", said.expires_in, ""
        case Wait(n, retry_in, why):
            return f"wait {n}", None, f"{why}; again in {retry_in:g} s"
        case Warning(expires_in, why):
            return "warning", expires_in, f"{why}, in {clock_face(expires_in)}"
        case End(reason):
            return "end", None, f"{reason}"
        case Ask():
            return "ask", None, ""
        case Push():
            return "push", None, ""
    return str(said), None, ""


def clock_face(seconds: float) -> str:
    """Seconds as h:mm:ss.d, without the hours where there are none."""
    tenths = round(seconds * 10)
    minutes, tenths = divmod(max(tenths, 0), 600)
    hours, minutes = divmod(minutes, 60)
    face = f"{minutes:02}:{tenths // 10:02}.{tenths % 10}" if hours else f"{minutes}:{tenths / 10:04.1f}"
    return f"{hours}:{face}" if hours else face
