"""One structured line per event, with the id of the request it belongs to.

Every logger of the process, uvicorn's and the libraries' included, writes to stderr in one format. A line says what
happened and carries facts as `key=value`; no picture or key is ever one of them, and of headers none but the request's
id and the address that a trusted proxy says. What looks like the password of a URL is masked in every line, tracebacks
included.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import select
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, TextIO, cast

import orjson
import structlog
from structlog.typing import EventDict, Processor

_log = structlog.get_logger(__name__)

_UVICORN_LOGGERS = ("uvicorn", "uvicorn.error")

_SILENT_LOGGER = "uvicorn.access"
"""Uvicorn's line a request; ours says more, and less for health checks."""

TELL_EVERY_S = 10.0
"""Least time between two log lines about what comes in numbers."""

_PIPE_BYTES = 2**20
"""Room of the pipe to whoever reads the log, where it is one: seconds of a busy service. The kernel's most without
privileges; its usual 64 KiB are 300 lines."""

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


class _Stderr:
    """Standard error of a service: where nobody reads it any more, lines are dropped and nobody waits.

    A pipe that is not read is full after 64 KiB, and then each write waits: the event loop's, those of threads that
    decode, those of libraries in C. So the descriptor is opened anew, to be written without waiting, for the whole
    process; the open file stays as it is, since other processes have it too.
    """

    def __init__(self, fd: int) -> None:
        self.on_drop: Callable[[int], object] = lambda _: None
        self._fd = fd
        self._num_dropped = 0
        self._has_untold = False
        self._rest = b""
        self._lock = threading.Lock()
        mode = os.fstat(fd).st_mode
        self._socket = socket.socket(fileno=os.dup(fd)) if stat.S_ISSOCK(mode) else None
        self._must_ask = False
        if stat.S_ISFIFO(mode) or os.isatty(fd):
            try:
                anew = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            except OSError:  # it is another user's, or there is no /proc
                self._must_ask = True
                return
            os.dup2(anew, fd)
            os.close(anew)
            with contextlib.suppress(OSError):  # more than the operator allows, or no pipe
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def write(self, text: str) -> int:
        """Write whole lines, or drop them."""
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            self._rest = self._put(self._rest)
            rest = data if self._rest else self._put(data)
            if rest == data:
                self._drop(data.count(b"\n"))
                return len(text)
            self._rest = rest  # the end of a line that has begun
            has_untold, self._has_untold = self._has_untold, False
        if has_untold:
            _log.warning("log lines were dropped: nobody read them", dropped_lines=self._num_dropped)
        return len(text)

    def flush(self) -> None:
        """Do nothing: what is written has been."""

    def _drop(self, num_lines: int) -> None:
        self._num_dropped += num_lines
        self._has_untold = True
        self.on_drop(num_lines)

    def _put(self, data: bytes) -> bytes:
        """Write as much as there is room for; return the rest."""
        try:
            while data:
                if self._socket is not None:
                    num_written = self._socket.send(data, socket.MSG_DONTWAIT)
                elif not self._must_ask:
                    num_written = os.write(self._fd, data)
                elif select.select([], [self._fd], [], 0)[1]:
                    num_written = os.write(self._fd, data[: select.PIPE_BUF])
                else:
                    break
                data = data[num_written:]
        except OSError:  # no room, or nobody there
            pass
        return data


_stderr: _Stderr | None = None


def drop_unread_lines() -> None:
    """From now on let this process drop what it writes to stderr where nobody reads it; before `configure_logs`."""
    global _stderr  # noqa: PLW0603 - there is one standard error
    _stderr = _Stderr(2)


def count_dropped_lines(count: Callable[[int], object]) -> None:
    """Have `count` called with the number of lines that were just dropped, on any thread."""
    if _stderr is not None:
        _stderr.on_drop = count


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
    is_coloured = sys.stderr.isatty()
    console = structlog.dev.ConsoleRenderer(
        colors=is_coloured,
        pad_event_to=0,
        sort_keys=False,
        # Where rich is installed the default shows every local variable: pictures and keys among them.
        exception_formatter=structlog.dev.plain_traceback,
    )
    renderers: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json)]
        if log_format == "json"
        else [console if is_coloured else _PlainLines(console)]
    )
    # Our own lines are written directly: the standard library looks for the caller of each and takes it twice as long.
    stream = _stderr or sys.stderr
    structlog.configure(
        processors=[*shared, *renderers],
        logger_factory=partial(_Lines, stream=stream),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(cast("TextIO", stream))
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


class _PlainLines:
    """Writes lines as structlog's `ConsoleRenderer` does without colours, in a fifth of the time.

    That was a quarter of what the API costs a request. What has a traceback is left to it.
    """

    def __init__(self, console: structlog.dev.ConsoleRenderer) -> None:
        self._console = console

    def __call__(self, logger: Any, method: str, event: EventDict) -> str:
        if not _TRACES.isdisjoint(event):
            return self._console(logger, method, event)
        head = f"{event.pop('timestamp')} [{event.pop('level'):<9}] {event.pop('event')} [{event.pop('logger')}]"
        facts = [
            f"{key}={value}"
            if type(value) is int or (type(value) is str and not _needs_quotes(value))
            else f"{key}={value!r}"
            for key, value in event.items()
        ]
        return " ".join([head, *facts]).rstrip(" ")


_TRACES = frozenset({"stack", "exception", "exc_info", "logger_name"})
_needs_quotes = re.compile(r"""[ \t=\r\n"']""").search


def _mask_line(_logger: object, _method: str, line: Any) -> str:
    return masked(str(line))


class _Lines:
    """Writes lines of one logger; the name is one of their facts."""

    def __init__(self, name: str, stream: TextIO | _Stderr) -> None:
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
def request_context(request_id: str, trace_id: str | None) -> Iterator[None]:
    """Put both ids on every line logged inside, across awaits and `asyncio.to_thread`; a request may have no trace."""
    ids = {"request_id": request_id} if trace_id is None else {"request_id": request_id, "trace_id": trace_id}
    before = structlog.contextvars.bind_contextvars(**ids)
    try:
        yield
    finally:
        structlog.contextvars.reset_contextvars(**before)
