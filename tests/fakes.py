"""Stand-ins for what surrounds a heart: time, a store with faults, and the sockets of pages."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from copy import copy
from typing import TypeVar

import msgspec

from keepalive.clock import ManualClock
from keepalive.errors import StoreUnavailable
from keepalive.heart import Heart, Hooks
from keepalive.live import Page
from keepalive.messages import Beat, End, Message, Ping, Wait
from keepalive.policy import Policy, Reason
from keepalive.stores import Record
from keepalive.stores.memory import MemoryStore
from keepalive.touchers import Left, News, Ticket, Touch, key_of

M = TypeVar("M")

STEP = 0.125
"""Seconds between two ticks: about what a server does, and exact in binary."""

_message: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def typed(message: bytes) -> Message:
    """What a page reads in one of the server's messages."""
    return _message.decode(message)


async def settle() -> None:
    """Let the event loop do all that it can do without the clock."""
    for _ in range(5):
        await asyncio.sleep(0)


async def advance(clock: ManualClock, heart: Heart, seconds: float, step: float = STEP) -> None:
    """Let `seconds` pass as a server sees them: a tick every `step`."""
    await settle()
    for _ in range(round(seconds / step)):
        clock.advance(step)
        heart.tick()
        if heart.busy:
            await settle()
    await settle()


async def until(condition: Callable[[], object]) -> None:
    """Wait, on the machine's clock, until something has happened; for what no fake can hurry."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


class FakeSocket:
    """Keeps what a page is sent. Like a real one, it sends nothing more once it is closed."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.closed: int | None = None

    def send(self, message: bytes) -> None:
        if self.closed is None:
            self.messages.append(typed(message))

    def close(self, code: int, reason: str = "") -> None:
        if self.closed is None:
            self.closed = code


class FaultyToucher:
    """The narrow part of a store, with faults.

    Args:
        store: what it stands around.
        clock: moved by `latency`, half of it on the way to the store and half on the way back.
    """

    def __init__(self, store: MemoryStore, clock: ManualClock) -> None:
        self._store = store
        self._clock = clock
        self.batches: list[list[Touch]] = []
        """All that was asked, answered or not."""
        self.error: Exception | None = None
        """Raised instead of an answer."""
        self.latency = 0.0
        self.reached = asyncio.Event()
        """Cleared, no request reaches the store."""
        self.answers = asyncio.Event()
        """Cleared, no answer comes back from it."""
        self.reached.set()
        self.answers.set()

    @property
    def touches(self) -> list[Touch]:
        return [line for batch in self.batches for line in batch]

    def down(self) -> None:
        self.error = StoreUnavailable("the store is down")

    def up(self) -> None:
        self.error = None

    async def touch(self, batch: Sequence[Touch]) -> Sequence[Left | Reason]:
        self.batches.append(list(batch))
        self._clock.advance(self.latency / 2)
        await self.reached.wait()
        if self.error is not None:
            raise self.error
        results = await self._store.touch(batch)
        await self.answers.wait()
        self._clock.advance(self.latency / 2)
        return results

    async def peek(self, key: bytes) -> Left | Reason:
        return await self._store.peek(key)

    async def end(self, key: bytes, reason: Reason) -> bool:
        return await self._store.end(key, reason)

    def watch(self) -> AsyncIterator[News]:
        return self._store.watch()


class FakePage:
    """A page and its socket, from the side of the browser."""

    def __init__(
        self,
        heart: Heart,
        ticket: Ticket,
        read_at: float,
        now: Callable[[], float],
        name: str = "",
        *,
        address: str = "",
    ) -> None:
        self.socket = FakeSocket()
        self._heart = heart
        self._now = now
        self.n = 0
        self.page: Page = heart.join(ticket, self.socket, read_at, address, name)

    def open(self) -> None:
        """The handshake is done."""
        self._heart.on_open(self.page)

    def ping(self, idle: float | None = None, *, n: int | None = None, visible: bool = True) -> int:
        """Send a ping, the next one unless `n` says which; returns its number."""
        if n is None:
            self.n += 1
            n = self.n
        if self.socket.closed is None:
            self._heart.on_ping(self.page, Ping(n=n, idle=idle, visible=visible), self._now())
        return n

    def leave(self, code: int = 1001) -> None:
        """The connection is gone, by default for the tab is closed."""
        self.socket.close(code)
        self._heart.on_close(self.page, code)

    @property
    def messages(self) -> list[Message]:
        return self.socket.messages

    @property
    def closed(self) -> int | None:
        return self.socket.closed

    def of(self, kind: type[M]) -> list[M]:
        """All messages of a kind."""
        return [message for message in self.messages if isinstance(message, kind)]

    def answers(self, n: int) -> list[Beat | Wait]:
        """What was said to one ping."""
        return [message for message in self.messages if isinstance(message, Beat | Wait) and message.n == n]

    @property
    def beat(self) -> Beat:
        """The newest beat."""
        return self.of(Beat)[-1]

    @property
    def reason(self) -> Reason | None:
        """Why the session is over, as this page was told."""
        ends = self.of(End)
        return ends[-1].reason if ends else None

    @property
    def gone(self) -> tuple[Reason | None, int | None]:
        """How the server took its leave: the reason that it gave, and the close code."""
        return self.reason, self.closed


class World:
    """A heart on a memory store, in virtual time. Sessions go by a name."""

    def __init__(
        self, policy: Policy | None = None, *, hooks: Hooks | None = None, login: str | None = None
    ) -> None:
        self.clock = ManualClock(wall=0.0)
        self.store = MemoryStore(self.clock)
        self.toucher = FaultyToucher(self.store, self.clock)
        self.policy = policy or Policy()
        self.heart = Heart(self.toucher, self.clock, hooks=hooks, login=login, publish=self.store.publish)

    async def start(self) -> "World":
        await self.store.open()
        self.heart.start()
        return self

    async def stop(self) -> None:
        await self.heart.stop()
        await self.store.close()

    def beside(self) -> "World":
        """Another server on the same store; to be started and stopped by its heart alone."""
        other = copy(self)
        other.heart = Heart(self.toucher, self.clock, publish=self.store.publish)
        return other

    async def login(self, name: str, user: str | None = None) -> None:
        await self.store.create(key_of(name), data=b"", user=user, policy=self.policy)

    async def ticket(self, name: str) -> tuple[Ticket, float]:
        """A session as the store has it now, and when it was asked."""
        read_at = self.clock.monotonic()
        record = await self.store.load(key_of(name))
        assert isinstance(record, Record), record
        return Ticket(key_of(name), self.policy, record.user, record.left), read_at

    async def page(self, name: str, page: str = "") -> FakePage:
        """Open a page of a session, which begins if there is none; `page` is what it calls itself."""
        if await self.left(name) is Reason.UNKNOWN:
            await self.login(name)
        opened = FakePage(self.heart, *await self.ticket(name), self.clock.monotonic, page)
        opened.open()
        return opened

    async def left(self, name: str) -> Left | Reason:
        """What the store says, whatever the faults."""
        return await self.store.peek(key_of(name))

    async def idle(self, name: str) -> float:
        """Seconds until the idle deadline of a session that lives."""
        left = await self.left(name)
        assert isinstance(left, Left), left
        return left.idle

    async def request(self, name: str) -> None:
        """The app's own request extends a session, as another process would."""
        await self.store.touch([Touch(key_of(name), self.policy.idle_timeout, idle=0.0)])

    async def end(self, name: str, reason: Reason = Reason.LOGOUT) -> None:
        assert await self.store.end(key_of(name), reason)
        await settle()

    async def advance(self, seconds: float, step: float = STEP) -> None:
        await advance(self.clock, self.heart, seconds, step)

    async def keep_pinging(
        self,
        seconds: float,
        *pages: FakePage,
        every: float = 25.0,
        idle: float | None = None,
        step: float = STEP,
    ) -> None:
        """Let time pass while `pages` ping; the first ping comes at the end of a pause."""
        for _ in range(round(seconds / every)):
            await self.advance(every, step)
            for page in pages:
                page.ping(idle)
            await settle()
