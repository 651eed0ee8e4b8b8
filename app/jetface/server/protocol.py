"""One HTTP connection, within limits that uvicorn's own protocol does not have.

uvicorn with httptools keeps whatever comes as headers and waits for them for ever: a client without a key can fill the
memory with one endless header, or every file descriptor with connections that say nothing. Both end here, before a
request exists that the application could refuse. So does the acceptance of more connections than there are descriptors.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, ClassVar, NoReturn, cast

import httptools
import structlog
from typing_extensions import Self
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from jetface.errors import HeadTooLongError, MalformedRequestError, QueueFullError, RequestTimeoutError, ServiceError
from jetface.logs import Seldom
from jetface.metrics import Metrics
from jetface.server.context import PROBES, new_id
from jetface.server.encoding import JSON_TYPE, envelope, status_of, to_json


class Pieces:
    """A body's bytes until they are read, in place of the bytearray that uvicorn keeps them in.

    Has what uvicorn asks of that: it grows by a piece, has a length, and becomes bytes. A photograph mostly comes in
    one piece or two; copies of it would hold the interpreter's lock for longer than most that the event loop does.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._pieces: list[bytes] = []
        self._num_bytes = 0

    def __iadd__(self, piece: bytes) -> Self:
        """Keep one more."""
        self._pieces.append(piece)
        self._num_bytes += len(piece)
        return self

    def __len__(self) -> int:
        """Count the bytes of all."""
        return self._num_bytes

    def __bytes__(self) -> bytes:
        """Return all of them; a piece that is alone is not copied."""
        return b"".join(self._pieces)


_CONTINUE = b"HTTP/1.1 100 "
_LONG_BYTES = 2**16
"""A body this long is not copied to save a system call."""


class HeadWithBody(asyncio.Transport):
    """A transport that keeps the head of an answer until its body comes: one system call and mostly one packet.

    uvicorn writes them one after the other, and each system call of the event loop lets go of the interpreter's lock,
    which it then has to wait for. Has what uvicorn asks of a transport while it answers; one object a connection.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        """Write to `transport`."""
        super().__init__()
        self._transport = transport
        self._head: bytes | None = None
        self._is_head_written = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep a head; write everything else, behind the head that was kept."""
        if self._is_head_written:
            self._transport.write(data)
        elif self._head is not None and len(data) < _LONG_BYTES:
            self._transport.write(self._head + data)
            self._head, self._is_head_written = None, True
        elif self._head is not None:
            self._write_head()
            self._transport.write(data)
        elif data[: len(_CONTINUE)] == _CONTINUE:
            self._transport.write(data)
        else:
            self._head = bytes(data)

    def flush(self) -> None:
        """End an answer: one without a body is written now, and a head comes next."""
        self._write_head()
        self._is_head_written = False

    def close(self) -> None:
        """Close when all is written."""
        self._write_head()
        self._transport.close()

    def is_closing(self) -> bool:
        """Tell whether it is closed or about to be."""
        return self._transport.is_closing()

    def _write_head(self) -> None:
        if self._head is not None:
            self._transport.write(self._head)
            self._head, self._is_head_written = None, True


_log = structlog.get_logger("jetface.api")

MAX_HEAD_BYTES = 2**16
"""Longest URL and headers of a request, trailers included."""

HEAD_TIMEOUT_S = 10.0
"""Longest time the headers of a request may take from its first byte on; those of the first, from the connection on.

Between two requests a connection may be silent for uvicorn's `timeout_keep_alive`.
"""

MAX_PIPELINED = 16
"""Most requests that may wait behind the one being answered on a connection."""

FREE_CHUNKS = 2**11
LEAST_CHUNK_BYTES = 2**8
"""Most chunks of a body of unknown length, and how many bytes allow one more: each costs the event loop 1 us or two,
however short it is."""

SEND_STALL_S = 30.0
"""Longest time a client may leave a large answer untouched, or nearly so."""

MIN_SENT_BYTES = 2**15
"""Least of a large answer that a client reads in that time: 1 KiB a second, as bodies have to come."""

ACCEPTED_AT_ONCE = 16
"""Most connections accepted before others are served again: each costs a tenth of a millisecond, first bytes too."""

_OFFERS = frozenset({b"upgrade", b"connection", b"http2-settings"})
"""Headers by which a client offers another protocol. A connection whose offer is not taken is kept, as by default."""

CONNECTIONS_KEY = "jetface.connections"
"""Where the lifespan leaves its `Connections`: a connection is handed the lifespan's state, and no more of ours."""


WHEN_GONE = "jetface.when_gone"
"""Name of the extension, in ASGI's sense, by which a request learns that its client has gone.

Its `call` takes a function to be called then, or None: a task that waited for the message that says so would cost more.
"""


READ_AHEAD_BYTES = 2**18
"""Most of a body that is kept unread before the client has to wait: as much as asyncio reads at once anyway.

uvicorn's own limit, a quarter of this, stops and starts the reading within most photographs.
"""


class ServingLoop(asyncio.SelectorEventLoop):
    """asyncio's event loop, but new connections do not keep all others waiting.

    asyncio accepts as many at once as may wait in the kernel: 2,048. Were they fewer there, the kernel would let go of
    those that come in a burst, and their clients would try again a second later.
    """

    def _start_serving(
        self,
        protocol_factory: Any,
        sock: Any,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        *rest: Any,
    ) -> None:
        """Begin to accept. Where a version of Python has no such method, nothing but the haste changes."""
        at_once = min(backlog, ACCEPTED_AT_ONCE)
        super()._start_serving(protocol_factory, sock, sslcontext, server, at_once, *rest)  # type: ignore[misc]


class Connections:
    """The open connections of a process, fewer than it has descriptors for. Belongs to the event loop.

    When there is room for no more, the one whose client has been silent for the longest time makes way, of those that
    owe us the next request or the rest of one: a new one is heard, however many say nothing. Only where all of them are
    waiting for us, it is refused.
    """

    def __init__(self, most: int = 4096, metrics: Metrics | None = None) -> None:
        """Make room.

        Args:
            most: Most connections, >= 1.
            metrics: Where connections and what is refused on them are counted.
        """
        self.most = most
        self.refuse: Callable[[bytes, Sequence[tuple[bytes, bytes]]], bytes | None] | None = None
        """Answers a POST as soon as its headers are there, of its URL and headers; None: as any other."""
        self.metrics = metrics
        self._seldom = Seldom()
        self._silent: dict[BoundedProtocol, None] = {}
        """In order of when they last said something."""
        self._beginning: deque[Callable[[], object]] = deque()
        """First requests: the one that began in this turn of the event loop, and those that wait; one a connection."""
        self.num_open = 0
        if metrics is not None:
            metrics.watch(metrics.connections, lambda: self.num_open)
            metrics.connections_limit.set(most)

    def has_room(self) -> bool:
        """Count a connection that has been accepted; False: it has to go at once."""
        self.num_open += 1
        if self.num_open <= self.most:
            return True
        if not self._silent:
            if num_refused := self._seldom.count():
                _log.warning("connections are refused: all are in use", refused=num_refused, most_connections=self.most)
            return False
        oldest = next(iter(self._silent))
        del self._silent[oldest]
        oldest.transport.abort()
        if self.metrics is not None:
            self.metrics.connections_evicted.inc()
        if num_evicted := self._seldom.count():
            _log.warning("silent connections make way for new ones", closed=num_evicted, most_connections=self.most)
        return True

    def begin(self, start: Callable[[], object]) -> None:
        """Start the first request of a connection: one in each turn of the event loop, and others wait for theirs.

        A start costs more than a connection. Where hundreds come at once, those behind them are accepted and heard
        before all of them have begun: a probe among them is answered, and who goes meanwhile costs no more.
        """
        self._beginning.append(start)
        if len(self._beginning) == 1:
            self._begin_first()

    def _begin_first(self) -> None:
        asyncio.get_running_loop().call_soon(self._begin_next)
        self._beginning[0]()

    def _begin_next(self) -> None:
        self._beginning.popleft()
        if self._beginning:
            self._begin_first()

    def leave(self, connection: BoundedProtocol) -> None:
        """Count a connection that has been closed."""
        self.num_open -= 1
        self._silent.pop(connection, None)

    def heard(self, connection: BoundedProtocol, *, all_of_it: bool = False) -> None:
        """Note that a client has said something, or `all_of_it`: it waits for us now."""
        self._silent.pop(connection, None)
        if not all_of_it:
            self._silent[connection] = None


class _Answered:
    """What uvicorn asks of a request that has been answered."""

    response_complete = True
    message_event = asyncio.Event()


_ANSWERED: Any = _Answered()


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits to the length of a request's head, its time, what waits, and unread answers.

    Belongs to the event loop, one object per connection.
    """

    head_timeout_s: ClassVar[float] = HEAD_TIMEOUT_S
    send_stall_s: ClassVar[float] = SEND_STALL_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what uvicorn hands to its protocols."""
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._unparsed_bytes = 0
        self._refusal: ServiceError | None = None
        self._num_chunks = self._num_body_bytes = 0
        self._last_words: ServiceError | None = None
        """What follows the answers of the requests before it; nothing is read any more."""
        self._is_upgrade = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._is_between_requests = False
        self._is_new = True
        self._connections: Connections = self.app_state.get(CONNECTIONS_KEY) or Connections()
        self._when_gone: Callable[[], object] | None = None
        self._extensions: dict[str, dict[object, object]] = {WHEN_GONE: {"call": self.call_when_gone}}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Start the clock for the first request, if there is room."""
        super().connection_made(transport)
        self._answers = HeadWithBody(transport)
        if self._connections.has_room():
            self._await_head()
        else:
            self._refuse(QueueFullError("Too many connections are open.", retry_after_s=1))

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks, and tell the request that is being answered."""
        self._stop(self._head_timer)
        self._stop(self._send_timer)
        self._connections.leave(self)
        super().connection_lost(exc)
        self._extensions.clear()
        if self._when_gone is not None:
            self._when_gone()

    def call_when_gone(self, callback: Callable[[], object] | None) -> None:
        """Call a function when the client has gone, in place of the one before; None: no more."""
        self._when_gone = callback

    def data_received(self, data: bytes) -> None:
        """Parse; a header that has not ended yet is counted too, before the parser keeps more of it."""
        if self._last_words is not None:
            return
        self._unparsed_bytes += len(data)
        was_between_requests = self._is_between_requests
        if was_between_requests:
            self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            (num_read,) = upgrade.args
            self._stay(data[num_read:])
        except httptools.HttpParserError:
            self.send_400_response("")
        if was_between_requests and self._is_between_requests and self.timeout_keep_alive_task is None:
            self._await_head()  # some of it has come
        if self._unparsed_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(_head_too_long())

    def on_message_begin(self) -> None:
        """Count anew."""
        self._head_bytes = self._num_chunks = self._num_body_bytes = 0
        super().on_message_begin()
        self.scope["extensions"] = self._extensions

    def on_url(self, url: bytes) -> None:
        """Count; may come in pieces."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count; trailers come here too."""
        self._count(len(name) + len(value) + len(": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the clock: from here on the request has its deadline."""
        self._is_upgrade = self.parser.should_upgrade()
        if self._is_upgrade:
            return  # it begins once more, see `_stay`
        self._unparsed_bytes = 0
        self._stop(self._head_timer)
        self._is_between_requests = False
        if len(self.pipeline) >= MAX_PIPELINED:
            self._give_up(MalformedRequestError("Too many requests came before the first was answered."))
        num_hosts = [name for name, _ in self.headers].count(b"host")
        if num_hosts > 1 or (num_hosts == 0 and self.parser.get_http_version() == "1.1"):
            # Two servers that each take another of them for the right one serve a request twice over.
            self._give_up(MalformedRequestError("A request of HTTP/1.1 has one Host header."))
        if not self._refuse_at_once():
            super().on_headers_complete()
            self.cycle.transport = self._answers

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Serve a request: at once, but the first of a connection in its turn, if it is no probe."""
        start = partial(super()._start_asgi_task, cycle, app)
        is_first, self._is_new = self._is_new, False
        if is_first and not cycle.scope["path"].startswith(PROBES):
            self._connections.begin(lambda: None if cycle.disconnected else start())
        else:
            start()

    def _refuse_at_once(self) -> bool:
        """Answer a request that is refused anyway; what its body holds is read past."""
        refuse, before = self._connections.refuse, cast(Any, self.cycle)
        if (
            refuse is None
            or self.parser.get_method() != b"POST"
            or not (before is None or before.response_complete)
            or not self.parser.should_keep_alive()
            or self.parser.get_http_version() != "1.1"
        ):
            return False
        answer = refuse(self.url, self.headers)
        if answer is None:
            return False
        date = b"".join(b"%s: %s\r\n" % header for header in self.server_state.default_headers)
        self.transport.write(STATUS_LINE[HTTPStatus.TOO_MANY_REQUESTS] + date + answer)
        self.cycle = _ANSWERED
        self.on_response_complete()
        return True

    def on_body(self, body: bytes) -> None:
        """Bytes of a body are counted where it is read."""
        self._unparsed_bytes = 0
        self._num_body_bytes += len(body)
        if self.cycle.response_complete:
            return
        if not self.cycle.body:
            self.cycle.body = Pieces()  # type: ignore[assignment] # has what uvicorn asks of its bytearray
        self.cycle.body += body
        if len(self.cycle.body) > READ_AHEAD_BYTES:
            self.flow.pause_reading()
        self.cycle.message_event.set()
        self._connections.heard(self)

    def on_chunk_header(self) -> None:
        """Count: a body in chunks of a byte costs a thousand times what it has."""
        self._num_chunks += 1
        if self._num_chunks > FREE_CHUNKS + self._num_body_bytes // LEAST_CHUNK_BYTES:
            self._give_up(MalformedRequestError("The chunks of the body are too short."))

    def on_message_complete(self) -> None:
        """What follows is another request."""
        if self._is_upgrade:
            return
        self._unparsed_bytes = 0
        super().on_message_complete()
        self._connections.heard(self, all_of_it=not self.cycle.response_complete)
        if self.cycle.response_complete and not self.transport.is_closing():
            # It was answered before its body was there, and what came of that may have stopped the clock.
            self._stop(self._head_timer)
            if self.timeout_keep_alive_task is None:
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )
            self._is_between_requests = True

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it is there already; uvicorn has a clock for that."""
        self._answers.flush()
        was_last = not self.pipeline
        super().on_response_complete()
        if was_last and self._last_words is not None and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._write_refusal(self._last_words)
            return
        if self.cycle.response_complete and not self.transport.is_closing():
            self._connections.heard(self)
            self._is_between_requests = True

    def pause_writing(self) -> None:
        """Watch that the client goes on reading."""
        super().pause_writing()
        self._watch_sending(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Little is left unread."""
        self._stop(self._send_timer)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or too much of it, as every other error: with the envelope."""
        del msg
        self._refuse(self._refusal or MalformedRequestError("This is not a request of HTTP/1.1."))

    def _stay(self, rest: bytes) -> None:
        """Take a request that would change to another protocol as the HTTP/1.1 that it is, body included.

        Clients that offer HTTP/2 with each request, as Java's does, send its body as HTTP/1.1. The parser takes what
        comes after such a head for the other protocol, so the head is parsed again without the offer.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(MalformedRequestError("This is no proxy."))
            return
        version = self.parser.get_http_version().encode("ascii")
        kept = [(name, value) for name, value in self.headers if name not in _OFFERS]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self.headers):
            kept.append((b"connection", b"close"))
        lines = [b"%s %s HTTP/%s" % (method, self.url, version), *(b"%s: %s" % header for header in kept), b"", b""]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self._unparsed_bytes = 0
        self.data_received(b"\r\n".join(lines) + rest)

    def _count(self, num_bytes: int) -> None:
        self._head_bytes += num_bytes
        if self._head_bytes > MAX_HEAD_BYTES:
            self._give_up(_head_too_long())

    def _give_up(self, error: ServiceError) -> NoReturn:
        """Stop the parser from within: it calls this an invalid request, and `send_400_response` comes next."""
        self._refusal = error
        raise error

    def _await_head(self) -> None:
        self._is_between_requests = False
        self._connections.heard(self)
        self._stop(self._head_timer)
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._end_waiting)

    def _end_waiting(self) -> None:
        if self._unparsed_bytes and not self.transport.is_closing():
            self._refuse(RequestTimeoutError("The headers did not arrive in time."))
        else:
            self.transport.close()

    def _watch_sending(self, num_unread: int) -> None:
        self._stop(self._send_timer)
        self._send_timer = self.loop.call_later(self.send_stall_s, self._end_stall, num_unread)

    def _end_stall(self, num_unread: int) -> None:
        now_unread = self.transport.get_write_buffer_size()
        if now_unread <= num_unread - MIN_SENT_BYTES:
            self._watch_sending(now_unread)
        else:
            self.transport.abort()

    def _refuse(self, error: ServiceError) -> None:
        """Answer without a request, and close: behind the answers of the whole requests that came before."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            self._write_refusal(error)
        elif not cycle.more_body:
            self._last_words = error
        elif self.pipeline:  # its own body is what is wrong, and it has not begun
            self.pipeline.popleft()
            self._last_words = error
        elif cycle.response_started:
            self.transport.close()
        else:
            self._write_refusal(error)

    def _write_refusal(self, error: ServiceError) -> None:
        if self._connections.metrics is not None:
            self._connections.metrics.refusals.labels(error.code).inc()
        request_id = new_id()
        if not isinstance(error, QueueFullError):
            _log.info("request refused", code=error.code, reason=error.message, request_id=request_id)
        body = to_json(envelope(error, request_id))
        head = (
            f"content-type: {JSON_TYPE}\r\ncontent-length: {len(body)}\r\n"
            f"x-request-id: {request_id}\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[status_of(type(error))] + head.encode() + body)
        self.transport.close()

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def _head_too_long() -> HeadTooLongError:
    return HeadTooLongError("The URL and headers are too long.", max_head_bytes=MAX_HEAD_BYTES)
