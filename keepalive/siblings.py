"""`Siblings`: the workers behind one port, asked as one.

What comes in by the port reaches one of them by luck, but an operator, or a scrape, means them all. So
each answers the others, over a Unix socket in a folder that is of their user alone.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from .workers import Seat

log = logging.getLogger(__name__)

PATIENCE = 1.0
"""How long one may take to answer, in seconds; one that has stalled takes longer."""

Answer = Callable[[bytes], Awaitable[bytes]]
"""Answers a question, with what was told beside it. No answer is empty."""


class Siblings:
    """This worker among the others.

    Args:
        seat: which one it is; a process that is not one of several has only itself to ask.
    """

    def __init__(self, seat: Seat | None = None) -> None:
        self._seat = seat
        self._answers: dict[str, Answer] = {}
        self.leave_port: Callable[[], Awaitable[None]] = _nothing
        """Leaves all requests to the others, once those under way are answered; whoever listens says how."""

    def answer(self, question: str, by: Answer) -> None:
        """Say how a question is answered here."""
        self._answers[question] = by

    async def run(self, app: object) -> AsyncIterator[None]:
        """Answer the others (an aiohttp `cleanup_ctx`)."""
        if self._seat is None:
            yield
            return
        path = self._seat.folder / f"{self._seat.name}.sock"
        path.unlink(missing_ok=True)  # of the worker in whose place this one came
        server = await asyncio.start_unix_server(self._listen, path)
        yield
        server.close()
        path.unlink(missing_ok=True)

    async def ask(self, question: str, told: bytes = b"") -> dict[str, bytes | None]:
        """Put a question to all, this one as well.

        Returns:
            The answers, by the names of the seats; `None` from one that is there and does not answer.
            A process by itself has no name.
        """
        name, others = "", list[Path]()
        if self._seat is not None:
            name = self._seat.name
            others = [path for path in self._seat.folder.glob("*.sock") if path.stem != name]
        asked = [_ask(path, question, told) for path in others]
        own, *answers = await asyncio.gather(self._answers[question](told), *asked)
        heard = {path.stem: answer for path, answer in zip(others, answers, strict=True) if answer != _GONE}
        return dict(sorted({name: own, **heard}.items()))

    def announce(self, notice: str) -> None:
        """Tell it to those that will come in the place of others; the others have to be asked."""
        if self._seat is not None:
            (self._seat.folder / notice).touch()

    def announced(self, notice: str) -> bool:
        """Whether it was told before this one came."""
        return self._seat is not None and (self._seat.folder / notice).exists()

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            question = (await reader.readline()).decode().strip()
            answer = await self._answers[question](await reader.read())
            with suppress(OSError):  # whoever asked has given up
                writer.write(answer)
                await writer.drain()
        except Exception:
            log.exception("another worker's question could not be answered")
        finally:
            writer.close()


_GONE = b""


async def _ask(path: Path, question: str, told: bytes) -> bytes | None:
    """What another has to say; `_GONE` if it is no more, and `None` if it does not answer."""
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(f"{question}\n".encode() + told)
                writer.write_eof()
                return await reader.read() or None
            finally:
                writer.close()
    except (FileNotFoundError, ConnectionRefusedError):
        return _GONE
    except (OSError, TimeoutError):
        return None


async def _nothing() -> None:
    """Where there is no port of ours to leave."""
