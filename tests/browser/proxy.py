"""A proxy between browser and server that treats WebSockets as bad proxies do."""

import asyncio
import re
from typing import Literal, Self

Treatment = Literal["pass", "strip", "swallow", "mute"]

_UPGRADE = re.compile(rb"^upgrade: *websocket\r\n", re.IGNORECASE | re.MULTILINE)
_HOP_BY_HOP = re.compile(rb"^(connection|upgrade):[^\r]*\r\n", re.IGNORECASE | re.MULTILINE)
_END_OF_HEAD = b"\r\n\r\n"


class Proxy:
    """On a free port of 127.0.0.1, as long as it is entered. HTTP passes; handshakes get a treatment.

    * `pass`: through.
    * `strip`: without `Upgrade`, so that the server sees a plain request and refuses it.
    * `swallow`: read, and never answered.
    * `mute`: the server's 101 comes through, but not a byte after it.

    Args:
        port: the server's, on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self.treatment: Treatment = "pass"
        self.handshakes = 0
        """How many pages asked for a WebSocket."""
        self.flows = asyncio.Event()
        """While it is cleared, nothing comes through in either direction."""
        self.flows.set()
        self._server_port = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.cut()

    def cut(self) -> None:
        """Break off all connections that stand."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or not self._server.is_serving():  # it came while the door was closing
            writer.transport.abort()
            return
        self._writers.add(writer)  # here, for a task that is cancelled before it starts closes nothing
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = {writer}
        try:
            head = await reader.readuntil(_END_OF_HEAD)
            treatment: Treatment = "pass"
            if _UPGRADE.search(head):  # a browser sends it on a connection of its own
                treatment = self.treatment
                self.handshakes += 1
            if treatment == "swallow":
                await reader.read()
                return
            if treatment == "strip":
                head = _HOP_BY_HOP.sub(b"", head)
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
            writers.add(to_server)
            self._writers.add(to_server)
            await self.flows.wait()
            to_server.write(head)
            if treatment == "mute":
                writer.write(await from_server.readuntil(_END_OF_HEAD))
                await reader.read()
                return
            await asyncio.gather(self._pump(reader, to_server), self._pump(from_server, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass  # one side has hung up, so the other is hung up on
        finally:
            self._writers -= writers
            for each in writers:
                each.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self.flows.wait()
            writer.write(data)
            await writer.drain()
        await self.flows.wait()
        writer.write_eof()
