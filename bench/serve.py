"""One process that serves one of the rivals in Python until its standard input ends.

    python -m bench.serve SERVER LOOP FOLDER PORT [TOUCH_EVERY]

SERVER is a function of `bench.rivals`, as module.function. It shares PORT with whoever else serves
there; 0 takes a free one. It prints its port once it listens.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from keepalive.policy import Policy
from keepalive.server import BACKLOG, calm_garbage_collector

from .rivals.job import Job


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.new_event_loop
    import uvloop  # noqa: PLC0415 - an extra

    return uvloop.new_event_loop


if __name__ == "__main__":
    server, loop, folder, port, *touch_every = sys.argv[1:]
    module, _, function = server.partition(".")
    serve = getattr(import_module(f"bench.rivals.{module}"), function)
    job = Job(Path(folder), Policy(touch_every=float(touch_every[0]) if touch_every else None))
    listen = socket.create_server(("127.0.0.1", int(port)), backlog=BACKLOG, reuse_port=True)
    calm_garbage_collector()  # for all of them alike
    # The kernel holds who comes before the server is up.
    print(listen.getsockname()[1], flush=True)
    with asyncio.Runner(loop_factory=_loop_factory(loop)) as runner:
        runner.get_loop().add_reader(sys.stdin.fileno(), os._exit, 0)
        runner.run(serve(listen, job))
