"""Another process on the same SQLite file: `python -m tests.stores.child PATH (write | end KEY | fork)`.

`write` acknowledges on standard output, line by line, what the store has confirmed, until killed.
`fork` tells what becomes of an open store in a process that was forked from its own.
"""

import asyncio
import os
import sys
import warnings

from keepalive.errors import StoreUnavailable
from keepalive.policy import Policy, Reason
from keepalive.stores import open_store
from keepalive.touchers import Touch, key_of


def acknowledge(what: str, name: str, value: int) -> None:
    sys.stdout.write(f"{what} {value} {name}\n")
    sys.stdout.flush()


async def write(path: str) -> None:
    store = open_store(f"sqlite:///{path}")
    await store.open()

    async def live(name: str) -> None:
        key = key_of(name)
        await store.create(key, data=b"0", user=name, policy=Policy())
        acknowledge("data", name, 0)
        for number in range(1, 4):
            await store.save(key, data=str(number).encode(), user=name)
            acknowledge("data", name, number)
            await store.touch([Touch(key, 1800.0 + 60 * number)])
            acknowledge("keep", name, 1800 + 60 * number)
        await store.end(key, Reason.LOGOUT)
        acknowledge("end", name, 0)

    number = 0
    while True:
        await asyncio.gather(*[live(f"{number} {one}") for one in range(8)])
        number += 1


async def end(path: str, key: bytes) -> None:
    store = open_store(f"sqlite:///{path}")
    await store.open()
    await store.end(key, Reason.LOGOUT)
    await store.close()


async def fork(path: str) -> None:
    store = open_store(f"sqlite:///{path}")
    await store.open()
    warnings.simplefilter("ignore")  # Python warns of forks beside threads, as it should
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        await store.close()
        return

    async def use() -> None:
        try:
            await store.peek(key_of("a"))
        except StoreUnavailable as error:
            sys.stdout.write(type(error).__name__)
        await store.close()
        sys.stdout.write(", closed\n")

    asyncio.run(use())
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [path, "write"]:
            asyncio.run(write(path))
        case [path, "fork"]:
            asyncio.run(fork(path))
        case [path, "end", key]:
            asyncio.run(end(path, bytes.fromhex(key)))
