"""Pushes from one server to another through a store, measured: what docs/cluster.md quotes.

    python -m bench.pushes STORE_URL

The store must be empty, and one that processes share: sqlite:///FILE, or any of redis://.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from statistics import quantiles
from time import monotonic

from keepalive.messages import Push, encode
from keepalive.presence import Report
from keepalive.publisher import Publisher
from keepalive.stores import open_store
from keepalive.touchers import News, Pushed

ONE_BY_ONE, AT_ONCE, TURN = 1_000, 100_000, 500


async def main(url: str) -> None:
    here, there = open_store(url), open_store(url)
    await here.open()
    await there.open()
    for store, node in ((here, "here"), (there, "there")):
        await store.roll.report(Report(node, 1, [], b"", anew=True))
    lost: list[int] = []
    publisher = Publisher(here.publish, lost.append)
    watch = there.watch()
    await there.peek(bytes(32))
    took = []
    for number in range(ONE_BY_ONE):
        began = monotonic()
        publisher.add(Pushed("here", None, "ann", encode(Push({"price": number}))))
        await anext(watch)
        took.append((monotonic() - began) * 1000)
    cuts = quantiles(took, n=100)
    told = f"p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms, longest {max(took):.1f} ms"
    print(f"one by one, {ONE_BY_ONE} pushes: {told}")
    pushed = Pushed("here", None, "ann", encode(Push({"text": "x" * 100})))
    began = monotonic()
    heard = asyncio.create_task(_hear(watch, AT_ONCE))
    for number in range(AT_ONCE):
        publisher.add(pushed)
        if number % TURN == TURN - 1:
            await asyncio.sleep(0)
            while publisher.busy:
                await asyncio.sleep(0)
    await asyncio.wait_for(heard, 120)
    rate = AT_ONCE / (monotonic() - began)
    print(
        f"{TURN} a turn, {AT_ONCE} pushes of {len(pushed.message)} B: {rate:,.0f} a second, {sum(lost)} lost"
    )
    await here.close()
    await there.close()


async def _hear(watch: AsyncIterator[News], count: int) -> None:
    for _ in range(count):
        await anext(watch)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1]))
