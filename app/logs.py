"""One structured line per event, with the id of the request it belongs to.

Every logger of the process, uvicorn's and the libraries' included, writes to stderr in one format. A line says what
happened and carries facts as `key=value`; no picture or key is ever one of them, and of headers none but the request's
id and the address that a trusted proxy says. What looks like the password of a URL is masked in every line, tracebacks
included.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import Processor

_UVICORN_LOGGERS = ("uvicorn", "uvicorn.error")

_SILENT_LOGGER = "uvicorn.access"
"""Uvicorn's line a request; ours says more, and less for health checks."""

TELL_EVERY_S = 10.0
"""Least time between two log lines about what comes in numbers."""

_CHATTY_LOGGERS = ("httpx", "httpcore", "asyncio", "filelock", "python_multipart")
"""Libraries that tell more than an operator asked for; only their warnings pass unless LOG_LEVEL is DEBUG."""

_URL_USER = re.compile(r"""([A-Za-z][A-Za-z0-9+.-]*:/{1,2})[^\s"'<>]*@""")
"""All between the slashes and the last @ of a URL: a password that is not percent-encoded may hold any of `/?#@:`."""

_BARE_USER = re.compile(r"""(?<![\w/@:.%+~-])[\w.%+~-]+:[^\s/"'<>@]+@""")
"""`user:password@host` without a scheme, as proxies are often written."""

_URL_TOKEN = re.compile(
    r"""([?&][^=&\s"']*(?:token|key|sig|signature|pass|password|passwd|pwd|secret|credential)=)[^&\s"'<>]+""",
    re.IGNORECASE,
)
"""Parameters by which signed addresses let their bearer in."""


def masked(text: str) -> str:
    """Return `text` with `***` for user and password of URLs, and for the tokens of signed addresses."""
    if "@" in text:
        text = _BARE_USER.sub("***@", _URL_USER.sub(r"\1***@", text))
    return _URL_TOKEN.sub(r"\1***", text) if "=" in text else text


class Seldom:
    """Counts what comes in numbers, refusals say: an overloaded service has better things to do than to log each."""

    def __init__(self) -> None:
        """Begin at none."""
        self._num_untold = 0
        self._told_at = float("-inf")

    def count(self) -> int:
        """Count one more; return how many there were since the last were told, or 0: not yet."""
        self._num_untold += 1
        now = time.monotonic()
        if now - self._told_at < TELL_EVERY_S:
            return 0
        num_untold, self._num_untold, self._told_at = self._num_untold, 0, now
        return num_untold


class _NotEachAccept(logging.Filter):
    """Lets asyncio say now and then that it has no descriptor for a connection, not a thousand times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._seldom = Seldom()

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line is written."""
        return not record.getMessage().startswith("socket.accept() out of system resource") or self._seldom.count() > 0


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
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderers: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json)]
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
    # Our own lines are written directly: the standard library looks for the caller of each and takes it twice as long.
    stream = sys.stderr
    structlog.configure(
        processors=[*shared, *renderers],
        logger_factory=lambda name: _Lines(name, stream),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.PositionalArgumentsFormatter(), *shared, structlog.stdlib.ExtraAdder(allow=())
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers, _mask_line],
        )
    )  # fmt: skip
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
    asyncio_logger = logging.getLogger("asyncio")
    asyncio_logger.filters = [_NotEachAccept()]
    for name in _CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(level if level == "DEBUG" else logging.WARNING)


def _mask_line(_logger: object, _method: str, line: Any) -> str:
    return masked(str(line))


class _Lines:
    """Writes lines of one logger; the name is one of their facts."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self.name = name
        self._stream = stream

    def write(self, line: str) -> None:
        """Write a line, or lose it: no request fails because a log does."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(masked(line) + "\n")
            self._stream.flush()

    debug = info = warning = error = critical = write


def _to_json(line: object, default: Callable[[object], object]) -> str:
    try:
        return orjson.dumps(line, default=default).decode()
    except orjson.JSONEncodeError:
        # Half a character, or a number of more than 64 bits: slower, but a line.
        return json.dumps(line, default=default)


@contextlib.contextmanager
def request_context(request_id: str) -> Iterator[None]:
    """Put `request_id` on every line logged inside, across awaits and `asyncio.to_thread`."""
    before = structlog.contextvars.bind_contextvars(request_id=request_id)
    try:
        yield
    finally:
        structlog.contextvars.reset_contextvars(**before)
