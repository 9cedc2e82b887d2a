"""How the standalone server writes its log: lines for people on a terminal, JSON for all else.

An app that embeds the package has logging of its own; nothing here touches that.
"""

import logging
from typing import TextIO

from aiohttp.http import HttpProcessingError
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import JSONRenderer, TimeStamper, format_exc_info
from structlog.stdlib import ProcessorFormatter, add_log_level, add_logger_name
from structlog.types import EventDict, Processor, WrappedLogger

from .lines import LineHandler, to_descriptor


def configure(stream: TextIO) -> None:
    """Have all that is logged, from INFO on, written to `stream`, one event a line.

    As JSON an event has `timestamp` (ISO 8601, UTC), `level`, `logger` and `event`, and where
    there is one, the traceback as `exception`. It never quotes what was received, and no traceback
    shows the values of variables: either may hold an id or a cookie. A stream that takes no more stops
    nobody: lines that do not fit into the queue are dropped and counted.
    """
    about: list[Processor] = [add_log_level, add_logger_name, TimeStamper(fmt="iso", utc=True)]
    render: list[Processor]
    if stream.isatty():
        # Coloured tracebacks take 50 ms each, for which no page would have its beat.
        render = [format_exc_info, _escape, ConsoleRenderer(exception_formatter=plain_traceback)]
    else:
        render = [format_exc_info, JSONRenderer()]
    handler = LineHandler(to_descriptor(stream.fileno()))
    handler.addFilter(_Discretion())
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=about, processors=[ProcessorFormatter.remove_processors_meta, *render]
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _escape(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A terminal obeys control characters; in JSON they are escaped anyway."""
    event["event"] = _printable(str(event["event"]))
    if "exception" in event:  # which ends with whatever somebody has put into an error
        event["exception"] = "\n".join(map(_printable, event["exception"].split("\n")))
    return event


def _printable(text: str) -> str:
    return text if text.isprintable() else repr(text)[1:-1]


class _Discretion(logging.Filter):
    """aiohttp quotes a request that it cannot parse, and that may be a line with a cookie."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            record.msg, record.args = "refused a malformed request: %s", (type(error).__name__,)
            record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True
