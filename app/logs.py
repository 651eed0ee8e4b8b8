"""One structured line per event, with the id of the request it belongs to.

Every logger of the process, uvicorn's and the libraries' included, ends in one handler on stderr. A line says what
happened and carries facts as `key=value`; no picture, key or header value is ever one of them.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Literal

import structlog
from structlog.typing import Processor

_UVICORN_LOGGERS = ("uvicorn", "uvicorn.error")

_SILENT_LOGGER = "uvicorn.access"
"""Uvicorn's line a request; ours says more, and less for health checks."""

_CHATTY_LOGGERS = ("httpx", "httpcore", "asyncio", "filelock", "python_multipart")
"""Libraries that tell more than an operator asked for; only their warnings pass unless LOG_LEVEL is DEBUG."""


def configure_logs(level: str, log_format: Literal["text", "json"]) -> None:
    """Route every logger of the process to stderr; a second call replaces the first.

    Args:
        level: Least severity that is written: DEBUG, INFO, WARNING or ERROR.
        log_format: `text` for people, `json` for machines: one object a line.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )  # fmt: skip
    renderers: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if log_format == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=0,
                sort_keys=False,
                # Where rich is installed the default shows every local variable: pictures and keys among them.
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=())],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _UVICORN_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    silent = logging.getLogger(_SILENT_LOGGER)
    silent.handlers = []
    silent.propagate = False
    for name in _CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(level if level == "DEBUG" else logging.WARNING)


@contextlib.contextmanager
def request_context(request_id: str) -> Iterator[None]:
    """Put `request_id` on every line logged inside, across awaits and `asyncio.to_thread`."""
    with structlog.contextvars.bound_contextvars(request_id=request_id):
        yield
