"""Sets up logging: one line an event on standard error, for people or as JSON.

Only the form is decided here. What may be logged is everybody's duty: never prompts, answers or secrets. Lines of
libraries (aiohttp, Alembic, APScheduler) take the same form, from warnings up; of a request that is no HTTP only the
kind of fault is left, since aiohttp would quote its headers.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TextIO, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from structlog.typing import Processor

from gaiad.config import LogConfig


def configure(config: LogConfig) -> None:
    """Set up structlog and the standard library's root logger; calling it again replaces the set-up."""
    level = logging.getLevelNamesMapping()[config.level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last = _rendering(as_json=config.json)
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=cast(TextIO, _Unfailing(sys.stderr))),
        cache_logger_on_first_use=False,
    )
    root = logging.StreamHandler(sys.stderr)
    root.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[root], force=True)
    logging.getLogger("aiohttp.server").addFilter(_without_what_was_sent)


class _Unfailing:
    """A stream whose lines are lost where they cannot be written: a full disk of the log must not end serving."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Push it on, if it goes."""
        with contextlib.suppress(OSError):
            self._stream.flush()


def _without_what_was_sent(record: logging.LogRecord) -> bool:
    """Take the quotes and the traceback out of a line about a request that could not be read."""
    fault = record.exc_info[1] if record.exc_info else None
    if isinstance(fault, HttpProcessingError | web.RequestPayloadError):
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg, record.args = f"a client sent no proper HTTP ({type(fault).__name__})", ()
        record.exc_info = record.exc_text = None
    return True


def _rendering(*, as_json: bool) -> list[Processor]:
    if as_json:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    return [
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    ]
