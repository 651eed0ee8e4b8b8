"""A real HTTP server on loopback that answers requests in order from a script, and remembers them."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import ormsgpack


@dataclass(frozen=True, slots=True)
class Scripted:
    """One answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    is_broken: bool = False
    """Close the connection in place of an answer."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request; names of headers are lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    port: int
    """The client's: tells connections apart."""

    def fields(self) -> Any:
        """Return the msgpack body's value."""
        return ormsgpack.unpackb(self.body)


@dataclass(slots=True)
class ScriptedServer:
    """A running script; when it has ended its last answer is repeated."""

    url: str
    script: list[Scripted]
    seen: list[Seen] = field(default_factory=list)


def envelope(status: int, code: str, *, retry_after: str | None = None, **details: object) -> Scripted:
    """Return an error as the service sends it."""
    body = {"error": {"code": code, "message": f"It is {code}.", "details": details}, "request_id": "r1"}
    headers = {"content-type": "application/json"} | ({"retry-after": retry_after} if retry_after else {})
    return Scripted(status, json.dumps(body).encode(), headers)


def packed(value: object, status: int = 200) -> Scripted:
    """Return a msgpack answer."""
    return Scripted(status, ormsgpack.packb(value), {"content-type": "application/x-msgpack"})


@contextlib.contextmanager
def scripted_server(script: Sequence[Scripted]) -> Iterator[ScriptedServer]:
    """Serve `script` on a free port of 127.0.0.1 for the duration of the block."""
    served = ScriptedServer("", list(script))
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            """Answer one request."""
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            with lock:
                answer = served.script[min(len(served.seen), len(served.script) - 1)]
                served.seen.append(Seen(self.command, self.path, headers, body, self.client_address[1]))
            time.sleep(answer.delay_s)
            if answer.is_broken:
                self.close_connection = True
                return
            with contextlib.suppress(ConnectionError):
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

        do_GET = do_POST  # noqa: N815 - the base class names it so

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
