"""How the standalone server writes its log: lines for people on a terminal, JSON for all else.

An app that embeds the package has logging of its own; nothing here touches that.
"""

import logging
from typing import TextIO

from structlog.dev import ConsoleRenderer, RichTracebackFormatter
from structlog.processors import JSONRenderer, TimeStamper, format_exc_info
from structlog.stdlib import ProcessorFormatter, add_log_level, add_logger_name
from structlog.types import Processor


def configure(stream: TextIO) -> None:
    """Have all that is logged, from INFO on, written to `stream`, one event a line.

    As JSON an event has `timestamp` (ISO 8601, UTC), `level`, `logger` and `event`, and where
    there is one, the traceback as `exception`. No traceback shows the values of variables: one of
    them may be an id or a cookie.
    """
    about: list[Processor] = [add_log_level, add_logger_name, TimeStamper(fmt="iso", utc=True)]
    render: list[Processor]
    if stream.isatty():
        render = [ConsoleRenderer(exception_formatter=RichTracebackFormatter(show_locals=False))]
    else:
        render = [format_exc_info, JSONRenderer()]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=about, processors=[ProcessorFormatter.remove_processors_meta, *render]
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
