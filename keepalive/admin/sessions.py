"""Sessions as operators see them: rows of a list, and why one of them is still alive.

Reads what the heart has recorded, and moves nothing. A session goes by its key in hex: the hash of
an id, with which nobody gets in.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from heapq import nsmallest
from math import inf
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ..live import NEVER, Live, Page
from ..policy import Mode, Reason
from ..presence import SessionPresence
from ..touchers import Left

CHUNK = 500
"""How many sessions are looked at before others have their turn: about a millisecond's worth."""
MOST = 500
"""Most rows of one answer."""

Id = Annotated[
    str,
    Meta(
        pattern="^[0-9a-f]{64}$",
        description="A session: the SHA-256 of its id in hex. It lets nobody in. "
        "Logs and lists for people show the first 16 digits.",
    ),
]
_KEY = 32
"""How long a key is, in bytes."""
Seconds = Annotated[float, Meta(description="in seconds")]


class Search(Struct, kw_only=True, forbid_unknown_fields=True):
    """Which sessions to list; what is empty leaves none out."""

    search: Annotated[
        str,
        Meta(max_length=200, description="In the user's name, or how the id, or an address, begins."),
    ] = ""
    user: Annotated[str, Meta(max_length=1000, description="Exactly this user's.")] = ""
    address: Annotated[str, Meta(max_length=100, description="With a page from there.")] = ""
    node: Annotated[
        str, Meta(max_length=300, description="With a page at this node, which is one of this server's.")
    ] = ""
    limit: Annotated[int, Meta(ge=1, le=MOST, description="Most rows of the answer.")] = 100
    cursor: Annotated[
        str, Meta(pattern="^([0-9a-f]{64})?$", description="`next` of the page of the list before this one.")
    ] = ""


class Row(Struct, kw_only=True):
    """A session with pages on this server."""

    id: Id
    user: str | None
    nodes: list[str]
    """Which of the server's processes have them."""
    pages: int
    """How many are open on this server."""
    visible: int
    """How many of them show."""
    addresses: list[str]
    """Where they are, as far as can be told."""
    mode: Mode
    last_ping: Seconds | None
    """Since the newest ping of any of its pages here; null before the first."""
    last_input: Seconds | None
    """Since the user was last active; null while no page has told."""
    age: Seconds | None
    """Since the login; null where nothing limits it."""
    idle_in: Seconds
    """Until the idle deadline, with all that its pings have earned."""
    absolute_in: Seconds | None
    """Until the absolute deadline; null without one."""


class PageLine(Struct, kw_only=True):
    """One open page on this server."""

    address: str
    visible: bool
    pings: int
    """The number of its newest ping; -1 before the first."""
    last_ping: Seconds | None
    asks: int
    """How often it was asked for an overdue ping since then."""


class Explanation(Struct, kw_only=True):
    """Why a session is alive, and until when."""

    id: Id
    sentence: str
    """All of it, for people."""
    alive_by: str
    """What keeps it alive: `page`, `input`, `request`, or `login` where nothing else has come yet."""
    ends_in: Seconds
    """When it ends if nothing more comes."""
    ends_by: Reason
    """By which deadline; `logout` where its last page was closed and that ends it."""
    extended_by: list[str]
    """What would extend it: `ping`, `input`, `request`; empty past all extension."""
    warned: bool
    """Whether its pages are being warned of the end."""
    page: PageLine | None
    """The page here that was heard last."""
    pages: list[PageLine]
    """All that are open on this server."""
    pages_everywhere: int
    """How many are open on all nodes, as of a second ago."""
    session: Row | None
    """Null without pages on this server."""
    after_last_page: Seconds | None
    """How long it lives on when its last page is closed; null where that ends nothing, or is not known."""


async def find(lives: Mapping[bytes, Live], node: str, wanted: Search) -> bytes:
    """The keys of the sessions that are wanted, one after the other in no order."""
    found: list[bytes] = []
    # A copy: while others have their turn, sessions come and go.
    items = list(lives.items()) if wanted.node in {"", node} else []
    for start in range(0, len(items), CHUNK):
        if start:
            await asyncio.sleep(0)
        part = items[start : start + CHUNK]
        found += [key for key, live in part if live.pages and _matches(live, wanted)]
    return b"".join(found)


async def pick(found: Iterable[bytes], wanted: Search) -> tuple[list[bytes], int, str | None]:
    """One page of what several have found; a session that more than one of them has counts once.

    Returns:
        The keys in order, how many there are before and after them, too, and the cursor for more.
    """
    after = bytes.fromhex(wanted.cursor)
    known: set[bytes] = set()
    best: list[bytes] = []
    for keys in found:
        for start in range(0, len(keys), CHUNK * _KEY):
            if start:
                await asyncio.sleep(0)
            part = keys[start : start + CHUNK * _KEY]
            new = {part[at : at + _KEY] for at in range(0, len(part), _KEY)} - known
            known |= new
            best = nsmallest(wanted.limit + 1, [*best, *(key for key in new if key > after)])
    shown = best[: wanted.limit]
    return shown, len(known), shown[-1].hex() if len(best) > wanted.limit else None


def _matches(live: Live, wanted: Search) -> bool:
    if wanted.user and live.user != wanted.user:
        return False
    if wanted.address and all(page.address != wanted.address for page in live.pages):
        return False
    text = wanted.search.strip()
    return (
        not text
        or text.casefold() in (live.user or "").casefold()
        or live.key.hex().startswith(text.lower())
        or any(page.address.startswith(text) for page in live.pages)
    )


def row(live: Live, node: str, now: float) -> Row:
    """A session with pages here, as a line of the list."""
    policy = live.policy
    absolute_in = None if live.ends_at == inf else live.ends_at - now
    age = None
    if absolute_in is not None and policy.absolute_timeout is not None:
        age = max(0.0, policy.absolute_timeout - absolute_in)
    heard = [page.heard_at for page in live.pages if page.n >= 0]
    return Row(
        id=live.key.hex(),
        user=live.user,
        nodes=[node],
        pages=len(live.pages),
        visible=sum(page.visible for page in live.pages),
        addresses=sorted({page.address for page in live.pages if page.address}),
        mode=policy.mode,
        last_ping=_round(now - max(heard)) if heard else None,
        last_input=None if live.active_at == NEVER else _round(now - live.active_at),
        age=_round(age),
        idle_in=_round(max(0.0, _ends_at(live) - now)),
        absolute_in=_round(absolute_in),
    )


def whole(rows: Iterable[Row]) -> list[Row]:
    """The sessions of which these rows tell, each once, in the order of their ids."""
    parts: dict[str, list[Row]] = {}
    for one in rows:
        parts.setdefault(one.id, []).append(one)
    return [_joined(parts[each]) for each in sorted(parts)]


def _joined(rows: Sequence[Row]) -> Row:
    """One session, of which each row knows a part."""
    newest = max(rows, key=lambda one: one.idle_in)  # deadlines only move on
    return msgspec.structs.replace(
        newest,
        nodes=sorted({node for one in rows for node in one.nodes}),
        pages=sum(one.pages for one in rows),
        visible=sum(one.visible for one in rows),
        addresses=sorted({address for one in rows for address in one.addresses}),
        last_ping=_least(one.last_ping for one in rows),
        last_input=_least(one.last_input for one in rows),
    )


def _least(spans: Iterable[float | None]) -> float | None:
    return min((seconds for seconds in spans if seconds is not None), default=None)


def explain(live: Live, node: str, everywhere: SessionPresence, now: float) -> Explanation:
    """Why a session is alive, as far as the worker knows that has these pages of it."""
    ends_at = _ends_at(live)
    by = Reason.IDLE if ends_at < live.ends_at else Reason.ABSOLUTE
    newest = max(live.pages, key=lambda page: (page.n >= 0, page.heard_at if page.n >= 0 else 0.0))
    line = row(live, node, now)
    mode = live.policy.mode
    # What no ping of these pages has earned, a request, or a page elsewhere, has.
    earned = live.earned_at >= min(live.expires_at, live.ends_at) - 1.0
    if mode is Mode.OBSERVE or not earned:
        alive_by = "request" if newest.n >= 0 or mode is Mode.OBSERVE else "login"
    else:
        alive_by = "page" if mode is Mode.PRESENCE else "input"
    explanation = Explanation(
        id=live.key.hex(),
        sentence="",
        alive_by=alive_by,
        ends_in=_round(max(0.0, ends_at - now)),
        ends_by=by,
        extended_by=[] if by is Reason.ABSOLUTE else _EXTENDED_BY[mode],
        warned=live.warned is not None,
        page=_line(newest, now),
        pages=[_line(page, now) for page in live.pages],
        pages_everywhere=everywhere.pages,
        session=line,
        after_last_page=live.policy.end_after_last_page,
    )
    explanation.sentence = _sentence(explanation, line)
    return explanation


def merged(parts: Sequence[Explanation]) -> Explanation:
    """Why a session is alive of which each part knows some of the pages, and at least one."""
    last = max(each.ends_in for each in parts)
    # Whoever knows the deadline may not know what has moved it: that was a page of another's.
    knowing = [each for each in parts if each.ends_in >= last - 1.0]
    best = min(knowing, key=lambda each: list(_BECAUSE).index(each.alive_by))
    heard = [each.page for each in parts if each.page is not None]
    rows = [each.session for each in parts if each.session is not None]
    line = _joined(rows)
    explanation = msgspec.structs.replace(
        best,
        ends_in=last,
        warned=any(each.warned for each in parts),
        page=min(heard, key=lambda page: inf if page.last_ping is None else page.last_ping, default=None),
        pages=[page for each in parts for page in each.pages],
        session=line,
    )
    explanation.sentence = _sentence(explanation, line)
    return explanation


def explain_elsewhere(key: bytes, left: Left, everywhere: SessionPresence) -> Explanation:
    """Why a session without pages on this server is alive, as far as the store knows."""
    by = Reason.IDLE if left.idle < left.absolute else Reason.ABSOLUTE
    if left.closing:
        by = Reason.LOGOUT
    where = f"others have {everywhere.pages}" if everywhere.pages else "no other has one"
    parts = [f"No page of it is open on this server, and {where}."]
    if everywhere.idle is not None:
        parts.append(f"The last input was {span(everywhere.idle)} ago.")
    if left.closing:
        parts.append(f"The last one was closed: it ends in {span(left.idle)}, unless a page comes back.")
    else:
        parts.append(f"If nothing more comes, it ends in {span(left.idle)} by the {by} timeout.")
    if by is not Reason.ABSOLUTE:
        parts.append("It is extended by any request of the app, and by pages as its own mode has it.")
    return Explanation(
        id=key.hex(),
        sentence=" ".join(parts),
        alive_by="page" if everywhere.pages else "request",
        ends_in=_round(left.idle),
        ends_by=by,
        extended_by=[] if by is Reason.ABSOLUTE else ["request"],
        warned=False,
        page=None,
        pages=[],
        pages_everywhere=everywhere.pages,
        session=None,
        after_last_page=None,
    )


_EXTENDED_BY = {
    Mode.PRESENCE: ["ping", "input", "request"],
    Mode.ACTIVITY: ["input", "request"],
    Mode.OBSERVE: ["request"],
}
_MEANS = {
    Mode.PRESENCE: "any page that answers, and any request of the app",
    Mode.ACTIVITY: "the user's input, and any request of the app; a page that is merely open does not",
    Mode.OBSERVE: "requests of the app alone; its pages only watch",
}
_BECAUSE = {
    "page": "an open page answers",
    "input": "its user was active",
    "request": "a request of the app has extended it, or a page on another server",
    "login": "it began, or was extended by a request, a moment ago; no page here has pinged yet",
}


def _sentence(explained: Explanation, row: Row) -> str:
    page = explained.page
    parts = [f"Alive because {_BECAUSE[explained.alive_by]}."]
    if page is not None and page.last_ping is not None:
        shows = "visible" if page.visible else "hidden"
        at = f" at {page.address}" if page.address else ""
        parts.append(f"The last ping came {span(page.last_ping)} ago from a {shows} page{at}.")
    if row.last_input is not None:
        parts.append(f"The last input was {span(row.last_input)} ago.")
    if explained.ends_by is Reason.ABSOLUTE:
        parts.append(f"It ends in {span(explained.ends_in)} by the absolute timeout, which nothing extends.")
    else:
        parts.append(f"If nothing more comes, it ends in {span(explained.ends_in)} by the idle timeout.")
        parts.append(f"It is extended by {_MEANS[row.mode]}.")
        if row.absolute_in is not None:
            parts.append(f"The absolute timeout ends it in {span(row.absolute_in)} at the latest.")
    if explained.after_last_page is not None:
        parts.append(f"Once its last page is closed, it ends after {span(explained.after_last_page)}.")
    if explained.warned:
        parts.append("Its pages show a warning now.")
    return " ".join(parts)


def span(seconds: float) -> str:
    """Seconds for people, in the two largest units: `42 s`, `3 min 5 s`, `11 h 59 min`."""
    whole = int(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _ends_at(live: Live) -> float:
    """The nearer deadline, with what the pings have earned and the store is still to be told."""
    return min(max(live.expires_at, live.earned_at), live.ends_at)


def _line(page: Page, now: float) -> PageLine:
    return PageLine(
        address=page.address,
        visible=page.visible,
        pings=page.n,
        last_ping=_round(now - page.heard_at) if page.n >= 0 else None,
        asks=page.asks,
    )


def _round(seconds: float | None) -> Any:
    return None if seconds is None else round(seconds, 1)
