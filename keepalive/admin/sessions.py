"""Sessions as operators see them: rows of a list, and why one of them is still alive.

Reads what the heart has recorded, and moves nothing. A session goes by its key in hex: the hash of
an id, with which nobody gets in.
"""

import asyncio
from collections.abc import Mapping
from heapq import nsmallest
from math import inf
from typing import Annotated, Any

from msgspec import Meta, Struct

from ..live import NEVER, Live, Page
from ..policy import Mode, Policy, Reason
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
Seconds = Annotated[float, Meta(description="in seconds")]


class Search(Struct, kw_only=True, forbid_unknown_fields=True):
    """Which sessions to list; what is empty leaves none out."""

    search: Annotated[
        str,
        Meta(max_length=200, description="In the user's name, or how the id, or an address, begins."),
    ] = ""
    user: Annotated[str, Meta(max_length=1000, description="Exactly this user's.")] = ""
    address: Annotated[str, Meta(max_length=100, description="With a page from there.")] = ""
    node: Annotated[str, Meta(max_length=300, description="None, unless it is this node.")] = ""
    limit: Annotated[int, Meta(ge=1, le=MOST, description="Most rows of the answer.")] = 100
    cursor: Annotated[
        str, Meta(pattern="^([0-9a-f]{64})?$", description="`next` of the page of the list before this one.")
    ] = ""


class Row(Struct, kw_only=True):
    """A session with pages on this node."""

    id: Id
    user: str | None
    node: str
    pages: int
    """How many are open on this node."""
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
    """One open page on this node."""

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
    """All that are open on this node."""
    pages_everywhere: int
    """How many are open on all nodes, as of a second ago."""
    session: Row | None
    """Null without pages on this node."""


async def search(
    lives: Mapping[bytes, Live], node: str, wanted: Search, now: float
) -> tuple[list[Row], int, str | None]:
    """List sessions in the order of their ids; others have their turn every `CHUNK` of them.

    Returns:
        The rows, how many there are before and after them, too, and the cursor for more.
    """
    matches = 0
    after = bytes.fromhex(wanted.cursor)
    best: list[tuple[bytes, Live]] = []
    # A copy: while others have their turn, sessions come and go.
    items = list(lives.items()) if wanted.node in ("", node) else []
    for start in range(0, len(items), CHUNK):
        if start:
            await asyncio.sleep(0)
        found = [item for item in items[start : start + CHUNK] if item[1].pages and _matches(item[1], wanted)]
        matches += len(found)
        best += [item for item in found if item[0] > after]
        if len(best) > wanted.limit + 1:
            best = nsmallest(wanted.limit + 1, best, key=lambda item: item[0])
    best.sort(key=lambda item: item[0])
    shown = best[: wanted.limit]
    more = shown[-1][0].hex() if len(best) > wanted.limit else None
    return [row(live, node, now) for _, live in shown], matches, more


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
        node=node,
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


def explain(live: Live, node: str, everywhere: SessionPresence, now: float) -> Explanation:
    """Why a session with pages here is alive."""
    ends_at = _ends_at(live)
    by = Reason.IDLE if ends_at < live.ends_at else Reason.ABSOLUTE
    newest = max(live.pages, key=lambda page: (page.n >= 0, page.heard_at if page.n >= 0 else 0.0))
    line = row(live, node, now)
    mode = live.policy.mode
    # What no ping of these pages has earned, a request, or a page on another node, has.
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
    )
    explanation.sentence = _sentence(explanation, line, live.policy)
    return explanation


def explain_elsewhere(key: bytes, left: Left, everywhere: SessionPresence) -> Explanation:
    """Why a session without pages on this node is alive, as far as the store knows."""
    by = Reason.IDLE if left.idle < left.absolute else Reason.ABSOLUTE
    if left.closing:
        by = Reason.LOGOUT
    where = f"other nodes have {everywhere.pages}" if everywhere.pages else "no other node has one"
    parts = [f"No page of it is open on this node, and {where}."]
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
    "request": "a request of the app has extended it, or a page on another node",
    "login": "it began, or was extended by a request, a moment ago; no page here has pinged yet",
}


def _sentence(explained: Explanation, row: Row, policy: Policy) -> str:
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
        parts.append(f"It is extended by {_MEANS[policy.mode]}.")
        if row.absolute_in is not None:
            parts.append(f"The absolute timeout ends it in {span(row.absolute_in)} at the latest.")
    if policy.end_after_last_page is not None:
        parts.append(f"Once its last page is closed, it ends after {span(policy.end_after_last_page)}.")
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
