"""A real HTTP server on loopback whose answers a test chooses."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server says to one path."""

    body: bytes = b""
    status: int = 200
    location: str | None = None
    """Where to redirect to."""
    claimed_length: int | None = None
    """Content-Length to claim, when it is not that of the body; -1 claims none."""
    pause_s: float = 0.0
    """Seconds between the two halves of the body."""
    gate: threading.Event | None = None
    """Ends the pause before its time."""


@dataclass(slots=True)
class FileServer:
    """Serves `answers` by path; anything else is 404."""

    url: str
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    """Paths asked for, in order."""


@contextlib.contextmanager
def file_server(answers: Mapping[str, Answer]) -> Iterator[FileServer]:
    """Serve `answers` on a free port of 127.0.0.1 for the duration of the block."""
    served = FileServer("", dict(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer one request."""
            served.requests.append(self.path)
            answer = served.answers.get(self.path, Answer(status=404))
            self.send_response(answer.status)
            length = len(answer.body) if answer.claimed_length is None else answer.claimed_length
            if length >= 0:
                self.send_header("Content-Length", str(length))
            if answer.location:
                self.send_header("Location", answer.location)
            self.end_headers()
            half = len(answer.body) // 2
            with contextlib.suppress(ConnectionError):
                self.wfile.write(answer.body[:half])
                self.wfile.flush()
                if answer.gate is None:
                    time.sleep(answer.pause_s)
                else:
                    answer.gate.wait(answer.pause_s)
                self.wfile.write(answer.body[half:])

        def do_POST(self) -> None:
            """Say that nothing is taken, once all of it is there: said ahead of the body, it would end in a reset."""
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_error(501)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
