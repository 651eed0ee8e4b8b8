"""`jetface serve`: the service under uvicorn, in one process or in several; what `entrypoint.sh` becomes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
import structlog
from dotenv import dotenv_values

from jetface.cli.doctor import check_start
from jetface.device.checks import STARTUP_FAILURE
from jetface.logs import configure_logs, drop_unread_lines
from jetface.server.drain import SERVER_GRACE_S
from jetface.settings import PREFIX, Settings, read_settings, remarks

if TYPE_CHECKING:
    from jetface.server.workers import Worker

PROTOCOL = "jetface.server.protocol:BoundedProtocol"
LOOP = "jetface.server.protocol:ServingLoop"

WORKER_COMMAND = (sys.executable, "-m", "jetface.cli", "serve", "--worker")
"""Starts a worker; its post is the last word. A process of its own, never a fork: CUDA does not survive one."""

_LAST_CALL_S = SERVER_GRACE_S + 0.5
"""Longest time from the end of the drain to the end of the process, whatever hangs meanwhile."""

_FAREWELL_S = 0.2
"""Longest time for requests to come on connections that were accepted before the end."""

_log = structlog.get_logger("jetface.serve")


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """Return what uvicorn is configured with, beside the application.

    The access log is ours, with the request id. Whom a proxy speaks for is believed of those that are trusted, and
    logged; nothing else depends on it.
    """
    return {
        "loop": LOOP,
        "http": PROTOCOL,
        "ws": "none",
        "log_config": None,
        "timeout_graceful_shutdown": SERVER_GRACE_S,
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": settings.keep_alive_s,
        "proxy_headers": bool(settings.forwarded_allow_ips),
        "forwarded_allow_ips": ",".join(settings.forwarded_allow_ips) or "127.0.0.1",
    }


@click.command()
@click.option("--host", help="Address to listen on: HOST.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on: PORT.")
@click.option(
    "--models-dir", type=click.Path(file_okay=False), help="Folder of weights and prepared graphs: MODELS_DIR."
)
@click.option(
    "--env-file",
    type=click.Path(exists=True, dir_okay=False),
    help="File of variables, a NAME=VALUE a line; the environment wins over it, options over both.",
)
@click.option("--dry-run", is_flag=True, help="Say whether it would start, and where it would listen; start nothing.")
@click.option("--worker", "post", metavar="POST", hidden=True, help="Be a worker of a service.")
def serve(
    *, host: str | None, port: int | None, models_dir: str | None, env_file: str | None, dry_run: bool, post: str | None
) -> None:
    """Serve over HTTP until SIGTERM or Ctrl+C; SIGHUP restarts several WORKERS one by one.

    Exit code 0 after a stop, 3 where the service cannot start, or would not.
    """
    from jetface.server.workers import Post, Supervisor, Worker  # noqa: PLC0415 - not for other commands

    _into_environment(env_file, {"HOST": host, "PORT": port, "MODELS_DIR": models_dir})
    settings = read_settings()
    if dry_run:
        check_start(settings)
        click.echo(f"would listen on {_where(settings)}, WORKERS={settings.workers}")
        return
    # The first two stop a process that touches a terminal it has not; the others, with which some daemons are told to
    # open their logs anew, end one that does not know them, and what it answers with it.
    for number in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    drop_unread_lines()
    configure_logs(settings.log_level, settings.log_format)
    if post is not None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # meant for the parent, where a whole group gets it
        worker = Worker(Post.parse(post))
        _run(settings, worker.listeners, worker)
    for remark in remarks(settings, os.environ):
        _log.warning(remark)
    check_start(settings, builds=False)  # it is built below, once
    try:
        listeners = _listen(settings)
    except OSError as cause:
        sys.stderr.write(f"Error: {_where(settings)} cannot be listened on: {cause.strerror or cause}\n")
        raise SystemExit(STARTUP_FAILURE) from cause
    _log.info("listening", at=_where(settings), workers=settings.workers)
    if settings.uds is None:
        _log.info(f"Open {_page(settings)}")
    if settings.workers == 1:
        _run(settings, listeners, None)
    supervisor = Supervisor(
        settings.workers,
        WORKER_COMMAND,
        listeners,
        grace_s=settings.shutdown_grace_s,
        timeout_s=settings.worker_timeout_s,
    )
    _end(supervisor.run(), settings.uds)


def _into_environment(env_file: str | None, options: Mapping[str, object]) -> None:
    """Set variables to what a file and options say: settings are read from there, and workers inherit them."""
    for name, value in (dotenv_values(env_file, interpolate=False) if env_file else {}).items():
        if value and not os.environ.get(name):
            os.environ[name] = value
    for name, option in options.items():
        if option is not None:
            os.environ[PREFIX + name] = str(option)


def _run(settings: Settings, listeners: Sequence[socket.socket], worker: Worker | None) -> NoReturn:
    """Serve in this process, and end it."""
    import uvicorn  # noqa: PLC0415 - not for a dry run, nor for the parent of several workers

    from jetface.main import create_app  # noqa: PLC0415 - as above

    end = partial(_end, uds=None if worker else settings.uds)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            # What was imported and built until now stays for good. Python's collector would go through all of it again
            # and again, when many connections come above all: 0.1 s of CPU in which nobody is served.
            gc.collect()
            gc.freeze()
            await super().startup(sockets)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # What hangs from here on is nobody's answer: a download, a load, a look-up.
            last_call = threading.Timer(_LAST_CALL_S, end, [0])
            last_call.daemon = True
            last_call.start()
            # Who was accepted just now is told that the service ends, and not cut off.
            for listener in self.servers:
                listener.close()
            ends_at = time.monotonic() + _FAREWELL_S
            while self.server_state.connections and time.monotonic() < ends_at:  # noqa: ASYNC110 - uvicorn tells nobody
                await asyncio.sleep(0.02)
            await super().shutdown(sockets)

    factory = partial(create_app, settings, worker=worker)
    server = Server(uvicorn.Config(factory, factory=True, **uvicorn_options(settings)))
    if worker is not None:
        worker.server = server
    code: Any = 0
    try:
        server.run(list(listeners))
    except SystemExit as cause:
        code = cause.code
    except KeyboardInterrupt:
        pass  # uvicorn raises once more the signal that stopped it
    except BaseException as cause:  # noqa: BLE001 - whatever it is, threads of loads must not keep the process
        _log.critical("the server failed", exc_info=cause)
        code = 1
    end(code if isinstance(code, int) else 1)


def _end(code: int, uds: Path | None) -> NoReturn:
    """End the process without waiting for its threads: a load or a download may go on for as long as it likes."""
    if uds is not None:
        uds.unlink(missing_ok=True)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _where(settings: Settings) -> str:
    if settings.uds is not None:
        return f"unix:{settings.uds}"
    return (
        f"http://[{settings.host}]:{settings.port}"
        if ":" in settings.host
        else f"http://{settings.host}:{settings.port}"
    )


def _page(settings: Settings) -> str:
    """Return what a browser on this machine opens."""
    here = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(settings.host, settings.host)  # noqa: S104 - compared
    return f"http://{f'[{here}]' if ':' in here else here}:{settings.port}{settings.root_path}/"


def _listen(settings: Settings) -> list[socket.socket]:
    """Bind what the service listens on; its processes listen on it together."""
    return bind_path(settings.uds) if settings.uds is not None else bind_address(settings.host, settings.port)


def bind_address(host: str, port: int) -> list[socket.socket]:
    """Bind a socket to each address of a host; `::` is one socket for both IPv6 and IPv4.

    Raises:
        OSError: None of them is an address of this machine, or one is in use.
    """
    if host == "::" and socket.has_dualstack_ipv6():
        return [_bound(socket.AF_INET6, ("::", port), is_dual=True)]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = dict.fromkeys((family, address) for family, _, _, _, address in found)
    bound, causes = [], []
    for family, address in addresses:
        try:
            bound.append(_bound(family, address, is_dual=False))
        except OSError as cause:  # noqa: PERF203 - one or two addresses
            causes.append(cause)
    # localhost is ::1 too, on machines that have it.
    absent = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
    fatal = next((cause for cause in causes if not bound or cause.errno not in absent), None)
    if fatal is not None:
        for listener in bound:
            listener.close()
        raise fatal
    return bound


def _bound(family: int, address: Any, *, is_dual: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A connection that lingers after the last service is no other service.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not is_dual))
        listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener


def bind_path(path: Path) -> list[socket.socket]:
    """Bind a Unix socket, in place of one that a killed service left. Everybody who may enter its folder may connect.

    Raises:
        OSError: Another service listens there, something else is there, or the path cannot be used.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
                    path.unlink()
        listener.bind(str(path))
        path.chmod(0o666)
    except BaseException:
        listener.close()
        raise
    return [listener]
