"""What only the memory store promises; the rest is in test_contract."""

from keepalive.clock import ManualClock
from keepalive.policy import Policy, Reason
from keepalive.stores.memory import MemoryStore
from keepalive.touchers import key_of

A = key_of("a")


async def test_closing_forgets_everything() -> None:
    store = MemoryStore(ManualClock())
    await store.open()
    await store.create(A, data=b"", user=None, policy=Policy())
    await store.close()
    await store.open()
    assert await store.load(A) is Reason.UNKNOWN
    await store.close()


async def test_a_session_that_is_over_gives_its_memory_back() -> None:
    clock = ManualClock()
    store = MemoryStore(clock)
    await store.open()
    for name in ("ended", "expired"):
        await store.create(key_of(name), data=bytes(1000), user="ann", policy=Policy())
    await store.end(key_of("ended"), Reason.LOGOUT)
    await store.save(key_of("ended"), data=bytes(1000), user="ann")
    assert store._sessions[key_of("ended")].data == b""
    clock.advance(1800)
    await store.sweep()
    assert store._sessions[key_of("expired")].data == b""
    await store.close()
