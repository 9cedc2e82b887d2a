"""All live sessions of one server: batches of touches, deadlines, warnings, ends, pushes.

A page pings; what the ping earns waits for the next batch; the store confirms the batch; the page
gets its beat. Batches are group commits: what arrives while one is under way forms the next, and
an idle server sends at once. Nothing here knows sockets, HTTP or a particular store.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from random import uniform
from secrets import token_hex
from sys import intern
from typing import Any, NamedTuple

from msgspec import Raw, json

from . import audit
from .clock import Clock
from .errors import StoreError
from .histogram import Histogram
from .limits import Limits, Tally
from .live import LEAST_DEBT, NEVER, Live, Page, Socket, Waiting
from .messages import CLOSE_CODE, Ask, CloseCode, End, Ping, Push, Wait, Warning, encode
from .policy import Reason
from .publisher import Publish, Publisher
from .tasks import stop
from .touchers import Left, News, Pushed, Ticket, Touch, Toucher
from .wheel import Wheel

log = logging.getLogger(__name__)

STORE_TIMEOUT = 0.8
"""A store that has not confirmed a batch within this many seconds counts as down."""
MAX_BATCH = 200
"""Most touches in one batch: enough to share a commit, few enough that no beat waits for long while the
answers are given."""
REMEMBER_ENDS = 30.0
"""For how many seconds an end is remembered, for a page that is still in its handshake."""
TICK = 0.1
"""How often the wheels turn, in seconds."""
MAX_PUSH = 32 * 1024
"""The longest message that an app may push, or add to a beat, in bytes: half of what may wait for a
page before that counts as a slow reader."""
LOOK_AGAIN = 60.0
"""A session hangs on the wheel for at most this many seconds, though its deadline be far: one whose
pages are gone must not be held for hours."""
LET_IN = 2000
"""How many pages a second may come to another process: four fifths of what a core was measured to let in.
Where `Limits.handshakes_per_second` is lower, that."""
LEAST_SPREAD = 3.0
"""Over how many seconds pages spread a reconnect where they are few."""
RETRY = 1.0
"""How long a store that is down is left alone, in seconds, by those who have no ping to answer."""

ABNORMAL = 1006
"""What stands for a close code where a connection was cut (RFC 6455 §7.1.5)."""
_GOODBYE = (CloseCode.NORMAL, CloseCode.GOING_AWAY)
"""A page says so itself: its tab is closed, or shows something else."""
_ASK = encode(Ask())
_SIZES = (1, 2, 5, 10, 20, 50, 100, MAX_BATCH)


class Hooks(NamedTuple):
    """What an app can hear of its sessions: plain functions, called on the event loop.

    One that raises is logged, and changes nothing else. One that has to await something starts a
    task of its own.
    """

    on_open: Callable[[Page], object] | None = None
    """A page has connected."""
    on_ping: Callable[[Page, Ping], dict[str, Any] | None] | None = None
    """A page has pinged for the first time with this number; may return the beat's `data`, up to
    32 KiB of JSON."""
    on_warning: Callable[[Live, Warning], object] | None = None
    """The pages of a session are being warned."""
    on_end: Callable[[Live, Reason], object] | None = None
    """A session with pages here is over. A login is no end: its pages come back with the new id."""


@dataclass(slots=True)
class Counts:
    """What has happened since the start."""

    opens: int = 0
    pings: int = 0
    beats: int = 0
    waits: int = 0
    asks: int = 0
    warnings: int = 0
    pushes: int = 0
    """Messages to pages here, whoever has pushed."""
    lost_pushes: int = 0
    """Pushes of this server that have not reached the others, as far as is known."""
    batches: int = 0
    touches: int = 0
    failures: int = 0
    """Batches that the store has not confirmed."""
    sizes: Histogram = field(default_factory=lambda: Histogram(_SIZES))
    """Touches in each batch that the store has confirmed."""
    ends: Counter[Reason] = field(default_factory=Counter)
    closes: Counter[int] = field(default_factory=Counter)
    """Closed sockets, by close code; `ABNORMAL` where nobody said why."""
    handshakes: Counter[str] = field(default_factory=Counter)
    """Requests for a socket, by what became of them: `accepted`, or why not."""
    store: Histogram = field(default_factory=Histogram)
    """How long the store took for a batch, where it answered."""
    batched: Histogram = field(default_factory=Histogram)
    """From ping to beat, for pings that went to the store: all of a batch count with its slowest, from
    when the first of them was heard until the last beat was written. A ping that is answered from
    the store's last word is answered in the same breath; nobody reads a clock for it."""

    def told_closes(self) -> dict[str, int]:
        """`closes` for others to read: by the protocol's codes, and `other`.

        A page may choose from two thousand besides, and that many would make reports too long.
        """
        known = {str(int(code)): self.closes[code] for code in (*CloseCode, ABNORMAL)}
        return known | {"other": self.closes.total() - sum(known.values())}


class Heart:
    """Keeps the sessions of connected pages alive.

    Args:
        toucher: the store, or the narrow part of one.
        clock: for all deadlines.
        hooks: what the app wants to hear.
        login: where a page can sign in again, told with an `end`.
        limits: of pages; with one more than a session may have, its oldest has to go.
        publish: brings pushes to the other servers that share the store; without it there are none.
    """

    def __init__(
        self,
        toucher: Toucher,
        clock: Clock,
        *,
        hooks: Hooks | None = None,
        login: str | None = None,
        limits: Limits | None = None,
        publish: Publish | None = None,
    ) -> None:
        self.node = token_hex(8)
        """What the servers that share a store know this one by; a random name for its life."""
        self.counts = Counts()
        self.pages = 0
        """How many are here, with those that are in their handshake."""
        self.addresses = Tally()
        """The same by address."""
        self.users: dict[str, list[Page]] = {}
        """Those of each user."""
        self.store_up = True
        """Whether the store has confirmed the newest batch; until the first, that it has been opened."""
        self._toucher = toucher
        self._clock = clock
        self._hooks = hooks or Hooks()
        self._login = login
        self._limits = limits or Limits()
        now = clock.monotonic()
        self._lives: dict[bytes, Live] = {}
        self._changed: set[bytes] = set()
        self._silent: Wheel[Page] = Wheel(now, self._page_is_silent, TICK)
        self._deadlines: Wheel[Live] = Wheel(now, self._deadline_is_near, TICK)
        self._ends: dict[bytes, Reason] = {}
        self._old_ends: Wheel[bytes] = Wheel(now, self._forget_end, TICK)
        self._queue: dict[Live, list[Waiting]] = {}  # what the next batch asks for, and for whom
        self._queued_at = now  # since when the oldest of it has waited, or longer
        self._batch: dict[Live, list[Waiting]] = {}  # what is on its way to the store and back
        self._unanswered: set[Live] = set()  # to be asked for again, without haste
        self._retry_at = 0.0
        self._quiet_until = 0.0
        self._committing: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._publisher = None if publish is None else Publisher(publish, self._lose)

    # The life of a heart.

    def start(self) -> None:
        """Begin to hear of ended sessions. Needs a running loop."""
        self._watching = asyncio.create_task(self._watch(self._toucher.watch()))

    def tick(self) -> None:
        """Do what has come due; to be called every `TICK` seconds, or at `due`."""
        now = self._clock.monotonic()
        self._silent.turn(now)
        self._deadlines.turn(now)
        self._old_ends.turn(now)
        if now >= self._retry_at:
            self._retry(now)

    @property
    def due(self) -> float:
        """When `tick` will have something to do, in monotonic seconds, unless something happens before."""
        due = min(self._silent.due, self._deadlines.due, self._old_ends.due)
        return min(due, self._retry_at) if self._unanswered else due

    @property
    def busy(self) -> bool:
        """Whether a batch, or a push, is on its way to the store and back."""
        return self._committing is not None or (self._publisher is not None and self._publisher.busy)

    async def stop(self, within: float = 0.0) -> None:
        """Close all pages as `part` does, and write down what they have earned."""
        await self.part(within)
        await stop(self._watching)
        while self._unanswered:
            self._enqueue(self._unanswered.pop())
        if self._committing is not None:
            await self._committing
        if self._publisher is not None:
            await self._publisher.finish()

    async def part(self, within: float) -> None:
        """Close all pages that are here now; the server restarts, as far as they are concerned.

        Args:
            within: seconds over which to spread the closing: as many as other nodes take to let so many
                pages in, but at most these. Until its turn comes, a page has its beats; one whose ping
                is on its way to the store then goes once that is answered, or the store is down.
        """
        pages = [page for live in self._lives.values() for page in live.pages]
        turns = max(1, int(min(within, len(pages) / self._let_in) / TICK))
        now = asyncio.get_running_loop().time
        began = now()
        late: list[Page] = []
        for turn in range(turns):
            if turn:
                await asyncio.sleep(began + turn * TICK - now())
            waiting = self._waiting_pages()
            late += pages[turn::turns]
            self._send_away([page for page in late if page not in waiting])
            late = [page for page in late if page in waiting]
        if late and self._committing is not None:  # what is on its way, and what has queued behind it
            await asyncio.wait([self._committing], timeout=2 * STORE_TIMEOUT)
        self._send_away(late)

    def _waiting_pages(self) -> set[Page]:
        """Whose pings the store has not answered."""
        batches = (self._batch, self._queue)
        return {ping.page for batch in batches for waiting in batch.values() for ping in waiting}

    def _send_away(self, pages: Sequence[Page]) -> None:
        for page in pages:
            page.socket.close(CloseCode.RESTART, "the server restarts")
            self.leave(page)

    @property
    def _let_in(self) -> float:
        """How many pages a second another process takes, which is set up as this one is."""
        return min(LET_IN, self._limits.handshakes_per_second)

    @property
    def sessions(self) -> int:
        """How many sessions have pages here."""
        return len(self._lives)

    # Who is here.

    @property
    def lives(self) -> Mapping[bytes, Live]:
        """The sessions that are here, by their keys; the last page of some may have left just now."""
        return self._lives

    def take_changes(self) -> set[bytes]:
        """Which sessions have had pages come or go since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def idle(self, key: bytes) -> float | None:
        """Seconds since the user's last input, if a page of the session that is here has told."""
        live = self._lives.get(key)
        return None if live is None or live.active_at == NEVER else self._clock.monotonic() - live.active_at

    # Pages.

    def join(
        self,
        ticket: Ticket,
        socket: Socket,
        read_at: float,
        address: str = "",
        id: str = "",  # noqa: A002 - what a page calls it
    ) -> Page:
        """Let a page in.

        Args:
            ticket: its session.
            socket: how to reach it.
            read_at: monotonic time before the store was asked for the ticket.
            address: of whom it is, as far as can be told.
            id: the page's own name for itself; kept only where pages are counted.
        """
        live = self._live(ticket, read_at)
        page = Page(live, socket, intern(address), id if live.counts_pages else "")
        page.live.pages += (page,)
        self._changed.add(page.live.key)
        self.pages += 1
        self.addresses.add(page.address)
        if page.live.user is not None:
            self.users.setdefault(page.live.user, []).append(page)
        return page

    def on_open(self, page: Page) -> None:
        """Greet a page; the first that it hears."""
        live = page.live
        if live.over is not None:
            self._tell_end(page, live.over)
            return
        if page not in live.pages:  # has said goodbye over another socket, while this one was on its way
            page.socket.close(CloseCode.NO_ANSWER, "the page is gone")
            return
        now = self._clock.monotonic()
        page.socket.send(encode(live.hello(now, max(LEAST_SPREAD, self.pages / self._let_in))))
        if live.warned is live.why:  # as the other pages have been
            page.socket.send(encode(live.warning(now)))
        page.greeted(now)
        self._silent.add(page, page.overdue_at)
        self._time(live, now)
        self.counts.opens += 1
        self._call(self._hooks.on_open, page)
        if len(live.pages) > self._limits.pages_per_session:
            self._evict(live)

    def on_ping(self, page: Page, ping: Ping, now: float) -> None:
        """Answer a ping that came at `now`: at once from the store's last word, or with the next batch."""
        live = page.live
        if live.over is not None:
            return
        # The store is told at once that a page has come: the session may be about to end for want of one.
        comes = page.n < 0 and live.counts_pages
        data = self._heard(page, ping, now)
        if comes or live.must_ask(now):
            self._enqueue(live, Waiting(page, ping.n, data))
        else:
            self._beat(page, ping.n, now, data)

    def on_close(self, page: Page, code: int) -> None:
        """A page's connection is over."""
        self.counts.closes[code] += 1
        self.leave(page, for_good=code in _GOODBYE)

    def leave(self, page: Page, *, for_good: bool = False) -> None:
        """Forget a page. When a session's last one leaves, what it has earned is written down.

        Args:
            page: which one.
            for_good: whether it has said so itself, and will not come back.
        """
        live = page.live
        if page in live.pages:
            if for_good:
                for other in live.parted(page):
                    other.socket.close(CloseCode.NO_ANSWER, "the page is gone")
                    self.leave(other)
            live.pages = tuple(other for other in live.pages if other is not page)
            self._changed.add(live.key)
            self._uncount(page)
            self._settle(live)

    def _uncount(self, page: Page) -> None:
        self.pages -= 1
        self.addresses.remove(page.address)
        user = page.live.user
        if user is not None:
            self.users[user].remove(page)
            if not self.users[user]:
                del self.users[user]

    def _evict(self, live: Live) -> None:
        """Have the oldest page of a session make room; the session lives on, so there is no `login`."""
        oldest = next(page for page in live.pages if page.heard_at < inf)  # others cannot be told yet
        oldest.socket.send(encode(End(Reason.EVICTED)))
        oldest.socket.close(CloseCode.EVICTED, Reason.EVICTED)
        self.leave(oldest, for_good=True)

    async def ping_once(
        self,
        ticket: Ticket,
        ping: Ping,
        read_at: float,
        id: str = "",  # noqa: A002 - what a page calls it
    ) -> bytes:
        """Answer a ping that came by itself, over HTTP; always with the store's word.

        Args:
            ticket: its session.
            ping: what it says.
            read_at: monotonic time before the store was asked for the ticket.
            id: what its page calls itself, if it says so: then it counts as open from now on, as with a
                socket, and until it has said goodbye over one.

        Returns:
            The encoded `beat`, with the rules of the session, `wait` or `end`.
        """
        reply = _Reply(ping.n)
        live = self._live(ticket, read_at)
        page = Page(live, reply, id=id if live.counts_pages else "")
        if live.over is not None:
            self._tell_end(page, live.over)
        else:
            data = self._heard(page, ping, self._clock.monotonic())
            self._enqueue(live, Waiting(page, ping.n, data))
        message = await reply.message
        answer = json.decode(message, type=dict[str, Any])
        # A page without a socket has had no hello that told the rules.
        return encode(answer | live.rules()) if answer["type"] == "beat" else message

    # What the app has to say.

    def push(self, key: bytes, data: object, *, here: bool = False) -> int:
        """Send `data` to the pages of a session, unless `here` also to those at other servers.

        Returns:
            To how many that are here.
        """
        return self._push(Pushed(self.node, key, None, _push(data)), here)

    def push_user(self, user: str, data: object, *, here: bool = False) -> int:
        """Send `data` to all pages of a user; as `push`."""
        return self._push(Pushed(self.node, None, user, _push(data)), here)

    def _push(self, pushed: Pushed, here: bool) -> int:
        if self._publisher is not None and not here:
            self._publisher.add(pushed)
        return self._deliver(pushed)

    def _lose(self, count: int) -> None:
        self.counts.lost_pushes += count

    def _deliver(self, pushed: Pushed) -> int:
        if pushed.user is not None:
            pages: Sequence[Page] = self.users.get(pushed.user, ())
        else:
            live = self._lives.get(pushed.key or b"")
            pages = () if live is None else live.pages
        for page in pages:
            page.socket.send(pushed.message)
        self.counts.pushes += len(pages)
        return len(pages)

    # Sessions.

    def _live(self, ticket: Ticket, read_at: float) -> Live:
        """The session of a ticket, known already or from now on."""
        live = self._lives.get(ticket.key)
        if live is None:
            live = Live(ticket, read_at)
            if ticket.key in self._ends:  # while the page's handshake was on its way
                live.over = self._ends[ticket.key]
            else:
                self._lives[ticket.key] = live
        elif read_at > live.confirmed_at:
            live.confirm(ticket.left, read_at)
        return live

    def _heard(self, page: Page, ping: Ping, now: float) -> Raw | None:
        """Record a ping; returns what the app adds to its beat, as JSON."""
        self.counts.pings += 1
        if not page.heard(ping, now):
            return None  # an old one, or a repeated one: it changes nothing
        page.live.heard(ping, now)
        return None if self._hooks.on_ping is None else self._call(self._data, page, ping)

    def _data(self, page: Page, ping: Ping) -> Raw | None:
        """What the app adds to a beat. Encoded now: in a batch it could cost others their beats."""
        assert self._hooks.on_ping is not None
        data = self._hooks.on_ping(page, ping)
        if data is None:
            return None
        encoded = encode(data)
        if encoded[:1] != b"{" or len(encoded) > MAX_PUSH:
            raise ValueError(f"on_ping must return an object of at most {MAX_PUSH} bytes of JSON, or None")
        return Raw(encoded)

    def _beat(self, page: Page, n: int, now: float, data: Raw | None) -> None:
        self.counts.beats += 1
        page.socket.send(encode(page.live.beat(n, now, data)))

    def _wait(self, page: Page, n: int) -> None:
        self.counts.waits += 1
        wait = Wait(n, retry_in=round(uniform(1.0, 3.0), 1), why="store")  # noqa: S311 - spreads load
        page.socket.send(encode(wait))

    def _settle(self, live: Live) -> None:
        """Let go of a session without pages, but not of what they have earned, nor of their leaving."""
        if (live.pages and not live.gone) or live in self._queue or live.over is not None:
            return
        if live.gone or live.debt > LEAST_DEBT:
            self._enqueue(live)
        else:
            self._forget(live)

    def _forget(self, live: Live) -> None:
        if self._lives.get(live.key) is live:  # and not one that came after it
            del self._lives[live.key]

    def _forget_end(self, key: bytes, now: float) -> None:
        self._ends.pop(key, None)

    def _time(self, live: Live, now: float) -> None:
        """Hang a session on the wheel until its next touch, warning or end."""
        if not live.timed:
            live.timed = True
            due_at = live.due_at if live.due_at > now else inf  # past that, the next ping asks by itself
            self._deadlines.add(live, min(live.next_at, due_at, now + LOOK_AGAIN))

    def _deadline_is_near(self, live: Live, now: float) -> None:
        """A warning or the end is due, unless the store has a later deadline by now: ask it.

        Or it is told what the pings have earned, once in `touch_every` and many sessions at a time,
        lest each ping that comes next waits for it alone.
        """
        live.timed = False
        if live.over is not None or not live.pages:
            return
        if now >= live.next_at or (now >= live.due_at and live.debt > LEAST_DEBT):
            self._enqueue(live)
        else:
            self._time(live, now)

    def _page_is_silent(self, page: Page, now: float) -> float | None:
        """Ask a page whose ping is overdue; let go of one that does not answer."""
        if page not in page.live.pages:
            return None
        if now < page.overdue_at:
            return page.look_again_at(now)
        if page.asks == 2:
            page.socket.close(CloseCode.NO_ANSWER, "no answer")
            return None
        page.asks += 1
        self.counts.asks += 1
        page.socket.send(_ASK)
        return page.overdue_at

    def _end(self, live: Live, reason: Reason) -> None:
        live.over = reason
        self._forget(live)
        pages, live.pages = live.pages, ()
        self._changed.add(live.key)
        for page in pages:
            self._uncount(page)
            self._tell_end(page, reason)
        if pages and reason is not Reason.ROTATED:
            self.counts.ends[reason] += 1
            if reason in (Reason.IDLE, Reason.ABSOLUTE):  # any other end is noted by whoever has made it
                audit.ended(live.key, live.user, reason=reason)
            self._call(self._hooks.on_end, live, reason)

    def _tell_end(self, page: Page, reason: Reason) -> None:
        if reason is not Reason.ROTATED:  # then the browser has a new cookie to come back with
            page.socket.send(encode(End(reason, self._login)))
        page.socket.close(CLOSE_CODE[reason], reason)

    async def _watch(self, watch: AsyncIterator[News] | None) -> None:
        """Hear of ended sessions, and of what other servers push, until the store is closed."""
        while True:
            try:
                async for news in watch or self._toucher.watch():
                    if not isinstance(news, Pushed):
                        self._has_ended(*news)
                    elif news.origin != self.node:
                        self._deliver(news)
                return
            except StoreError as error:
                log.warning("ended sessions may have been missed; asking for all that are here: %s", error)
            except Exception:
                log.exception("the watch for ended sessions broke off; watching anew")
            watch = None
            await asyncio.sleep(uniform(1, 2) * RETRY)  # noqa: S311 - other servers have lost theirs, too
            self._unanswered.update(self._lives.values())  # the touch tells of what ended meanwhile

    def _has_ended(self, key: bytes, reason: Reason) -> None:
        self._ends[key] = reason
        self._old_ends.add(key, self._clock.monotonic() + REMEMBER_ENDS)
        live = self._lives.get(key)
        if live is not None:
            self._end(live, reason)

    # Batches.

    def _enqueue(self, live: Live, *waiting: Waiting) -> None:
        if not self._queue:
            self._queued_at = self._clock.monotonic()
        self._queue.setdefault(live, []).extend(waiting)
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit())

    async def _commit(self) -> None:
        """Write batch after batch until nothing waits.

        A task's first step comes after all that this turn of the event loop has received.
        """
        try:
            while self._queue:
                queued_at = self._queued_at
                batch = self._batch = self._next_batch()
                now = self._clock.monotonic()
                touches = [live.touch(now, waiting) for live, waiting in batch.items()]
                try:
                    async with asyncio.timeout(STORE_TIMEOUT):
                        results = await self._toucher.touch(touches)
                    lines = list(zip(batch.items(), touches, results, strict=True))
                except Exception as error:  # whatever it is, those who wait get their answer
                    self._store_is_down(batch, error)
                    continue
                self._store_answers(len(batch), self._clock.monotonic() - now)
                for (live, waiting), touch, result in lines:
                    try:
                        self._confirm(live, waiting, touch, result, now)
                    except Exception:  # must not cost the rest of the batch its beats
                        log.exception("a session could not be answered")
                        for page in {*live.pages, *(ping.page for ping in waiting)}:
                            page.socket.close(CloseCode.INTERNAL_ERROR, "an error of the server")
                answers = sum(map(len, batch.values()))
                self.counts.batched.add(self._clock.monotonic() - queued_at, answers)
        finally:
            self._committing, self._batch = None, {}

    def _next_batch(self) -> dict[Live, list[Waiting]]:
        """Take from the queue what may be asked for at once."""
        if len(self._queue) <= MAX_BATCH:
            batch, self._queue = self._queue, {}
            return batch
        return {live: self._queue.pop(live) for live in list(islice(self._queue, MAX_BATCH))}

    def _confirm(
        self, live: Live, waiting: Sequence[Waiting], touch: Touch, result: Left | Reason, asked_at: float
    ) -> None:
        """Act on the store's word for one session of a batch."""
        if live.over is None and isinstance(result, Reason):
            self._end(live, result)
        if live.over is not None:
            for page, _, _ in waiting:
                self._tell_end(page, live.over)
            return
        assert isinstance(result, Left)
        warned, expired_at = live.warned, live.expires_at
        live.confirm(result, asked_at, touch)
        now = self._clock.monotonic()
        if live.expires_at - expired_at > LEAST_DEBT:
            unwarned = warned is not None and live.warned is None
            audit.extended(live.key, live.user, expires_in=live.expires_at - now, after_warning=unwarned)
        for page, n, data in waiting:
            if now < live.expires_at:
                self._beat(page, n, now, data)
            else:  # the machine slept over the answer
                self._wait(page, n)
        if live.pages:
            if now >= live.warns_at and live.warned is not live.why:
                self._warn(live, now)
            self._time(live, now)
        self._settle(live)

    def _warn(self, live: Live, now: float) -> None:
        live.warned = live.why
        warning = live.warning(now)
        message = encode(warning)
        for page in live.pages:
            page.socket.send(message)
        self.counts.warnings += 1
        audit.warned(live.key, live.user, why=warning.why, expires_in=warning.expires_in)
        self._call(self._hooks.on_warning, live, warning)

    def _store_answers(self, touches: int, seconds: float) -> None:
        self.store_up = True
        self.counts.batches += 1
        self.counts.touches += touches
        self.counts.sizes.add(touches)
        self.counts.store.add(seconds)

    def _store_is_down(self, batch: dict[Live, list[Waiting]], error: Exception) -> None:
        """No beat, no extension, no end: whoever waits is told so, also behind this batch."""
        behind, self._queue = self._queue, {}
        self.store_up = False
        self.counts.failures += 1
        now = self._clock.monotonic()
        if now >= self._quiet_until:  # one line a second tells enough of an outage
            self._quiet_until = self._retry_at = now + RETRY
            log.warning(
                "the session store confirmed none of %d touches; trying again: %s",
                len(batch), str(error) or "no answer in time",
                exc_info=None if isinstance(error, StoreError | TimeoutError) else error,
            )  # fmt: skip
        for live, waiting in (*batch.items(), *behind.items()):
            for page, n, _ in waiting:
                self._wait(page, n)
            self._unanswered.add(live)  # its pages may be gone, or its deadline may be due

    def _retry(self, now: float) -> None:
        """Ask again what the store could not be asked: one batch a tick, however many there are.

        Who pings meanwhile waits behind one of them at most, and other servers on the store have their turn.
        """
        self._retry_at = now + 0.9 * TICK  # the next tick may come a little early
        while self._unanswered and len(self._queue) < MAX_BATCH:
            self._enqueue(self._unanswered.pop())

    def _call(self, hook: Callable[..., Any] | None, *args: object) -> Any:
        if hook is None:
            return None
        try:
            return hook(*args)
        except Exception:
            log.exception("a hook of the app failed")  # the traceback names it
            return None


def _push(data: object) -> bytes:
    message = encode(Push(data))
    if len(message) > MAX_PUSH:
        raise ValueError(f"a push of {len(message)} bytes is over {MAX_PUSH}: push a link to it instead")
    return message


class _Reply:
    """Stands in for the socket of a page that is a single HTTP request."""

    def __init__(self, n: int) -> None:
        self._n = n
        self.message: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def send(self, message: bytes) -> None:
        if not self.message.done():
            self.message.set_result(message)

    def close(self, code: int, reason: str = "") -> None:
        # Closed without a word: the browser has a new cookie and shall ask again with that.
        self.send(encode(Wait(self._n, retry_in=1.0, why=reason)))
