"""Checks of where the service works: folders it writes, disk, memory, the port it listens on."""

from __future__ import annotations

import errno
import http.client
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jetface.device.findings import Finding, Severity

_GIBIBYTE = 2**30

_ASK_TIMEOUT_S = 2.0
_LONGEST_ANSWER_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the service works, and what it needs there."""

    models_dir: Path
    engine_dir: Path | None
    """None: engines are not kept."""
    host: str
    port: int
    uds: Path | None = None
    """The Unix socket that is listened on instead."""
    is_starting: bool
    """Whether the service is about to start: the port must be free then; otherwise the service itself may hold it."""
    free_memory_bytes: float
    """Infinite where it is not known."""
    floor_memory_bytes: int
    """The setting `MIN_FREE_MEMORY_BYTES`."""
    need_disk_bytes: int = _GIBIBYTE
    """Weights of the largest pair, their prepared graphs, and a file that is written beside the one it replaces."""
    temporary_dir: Path = field(default_factory=lambda: Path(os.environ.get("TMPDIR") or "/tmp"))  # noqa: S108 - looked at
    """Where Python makes temporary files first."""
    need_temporary_bytes: int = 16 * 2**20
    """A build's job, and the profile of a run by which an old ONNX Runtime tells what it leaves to the CPU."""
    build_memory_bytes: int = 4 * _GIBIBYTE
    """What the build of the largest engine takes, about: it has not been measured on a Jetson."""


def check_folders(place: Place, *, builds_engines: bool) -> Iterator[Finding]:
    """Look for folders that cannot be written, and for too little room in them."""
    named = {"MODELS_DIR": place.models_dir}
    if builds_engines and place.engine_dir is not None:
        named["TRT_ENGINE_CACHE_PATH"] = place.engine_dir
    for variable, folder in named.items():
        there = _nearest(folder)
        if there is None or not _is_writable(there):
            yield Finding(
                name="folder-read-only",
                severity=Severity.WARNING,
                what=f"{variable}={folder} cannot be written.",
                why="Nothing is kept there: weights are not downloaded, graphs and engines are made at each start.",
                cure=f"On the host, for the folder that is mounted there: sudo chown -R {os.getuid()} FOLDER, or "
                f"mount it without :ro; or set {variable} to another.",
            )
            continue
        free_bytes = shutil.disk_usage(there).free
        if free_bytes < place.need_disk_bytes:
            yield Finding(
                name="disk-full",
                severity=Severity.WARNING,
                what=f"{_gibibytes(free_bytes)} are free in {variable}={folder}.",
                why=f"Weights, prepared graphs and engines take up to {_gibibytes(place.need_disk_bytes)}.",
                cure="Free some: docker image prune; or set the variable to a folder on another disk.",
            )


def check_temporary(place: Place) -> Iterator[Finding]:
    """Look for a folder of temporary files that is full, or cannot be written."""
    folder = place.temporary_dir
    if not folder.is_dir() or not _is_writable(folder):
        what = f"{folder}, where temporary files go, cannot be written."
    elif (free_bytes := shutil.disk_usage(folder).free) < place.need_temporary_bytes:
        what = f"{free_bytes / 2**20:.1f} MiB are free in {folder}, where temporary files go."
    else:
        return
    yield Finding(
        name="tmp-full",
        severity=Severity.WARNING,
        what=what,
        why="No engine can be built without: ONNX Runtime serves on.",
        cure=f"Start the container anew, which empties its {folder}, or give it more in the compose file: tmpfs: "
        f'["{folder}:size=512m"]. TMPDIR names another folder.',
    )


def check_memory(place: Place, *, builds_engines: bool) -> Iterator[Finding]:
    """Look for too little free memory to load models, or to build engines."""
    free_bytes = place.free_memory_bytes
    cure = "End what else runs, raise the container's memory limit, or name smaller models in DET_MODEL and REC_MODEL."
    if free_bytes < place.floor_memory_bytes:
        yield Finding(
            name="memory-low",
            severity=Severity.WARNING,
            what=f"{_gibibytes(free_bytes)} of memory are free.",
            why="Below MIN_FREE_MEMORY_BYTES no model is loaded: requests get 503 memory_pressure.",
            cure=cure,
        )
    elif builds_engines and free_bytes < place.build_memory_bytes:
        yield Finding(
            name="memory-low-for-builds",
            severity=Severity.WARNING,
            what=f"{_gibibytes(free_bytes)} of memory are free.",
            why=f"To build an engine may take about {_gibibytes(place.build_memory_bytes)}: it is refused, or fails.",
            cure=cure,
        )


def check_port(place: Place) -> Iterator[Finding]:
    """Try to listen where the service would."""
    if place.uds is not None:
        yield from _check_path(place, place.uds)
        return
    try:
        addresses = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        yield _cannot_listen(place, error.strerror or str(error))
        return
    family, kind, protocol, _, address = addresses[0]
    try:
        with socket.socket(family, kind, protocol) as listener:
            # As the server does: a connection that lingers after the last service is no other service.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if place.host == "::":
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(address)
    except OSError as error:
        yield _port_taken(place) if error.errno == errno.EADDRINUSE else _cannot_listen(place, error.strerror)


def _check_path(place: Place, path: Path) -> Iterator[Finding]:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(str(path))
        reason: str | None = "a service answers there" if place.is_starting else None
    except (FileNotFoundError, ConnectionRefusedError):  # a socket that nobody listens on is replaced
        reason = None
        if path.exists() and not path.is_socket():
            reason = "it is not a socket"
        elif not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            reason = "its folder is not there, or cannot be written"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason is not None:
        yield Finding(
            name="address-unusable",
            severity=Severity.STOP,
            what=f"UDS={path} cannot be listened on: {reason}.",
            why="The service cannot start.",
            cure="Set UDS to a path of at most 107 bytes in a folder that it may write; end the service that is there.",
        )


def _port_taken(place: Place) -> Finding:
    return Finding(
        name="port-in-use",
        severity=Severity.NOTE if not place.is_starting and _is_ours(place) else Severity.STOP,
        what=f"Port {place.port} of {place.host} is in use.",
        why="The service cannot listen on it, unless it is the service that does.",
        cure=f"sudo ss -ltnp 'sport = :{place.port}' says by whom; end it, or set PORT to another.",
    )


def _is_ours(place: Place) -> bool:
    """Ask whoever listens whether it is the service."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(place.host, place.host)  # noqa: S104 - listened on
    connection = http.client.HTTPConnection(host, place.port, timeout=_ASK_TIMEOUT_S)
    try:
        connection.request("GET", "/health/live")
        answer = json.loads(connection.getresponse().read(_LONGEST_ANSWER_BYTES))
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return isinstance(answer, dict) and answer.get("status") in {"alive", "failed"}


def _cannot_listen(place: Place, reason: str | None) -> Finding:
    return Finding(
        name="address-unusable",
        severity=Severity.STOP,
        what=f"{place.host} port {place.port} cannot be listened on: {reason}.",
        why="The service cannot start.",
        cure="Set HOST to 0.0.0.0, 127.0.0.1 or an address of this machine, and PORT to 1024 or above.",
    )


def _nearest(folder: Path) -> Path | None:
    """Return the folder, or what it would be made in; None when something else is in its place."""
    for candidate in (folder.absolute(), *folder.absolute().parents):
        if candidate.is_dir():
            return candidate
        if candidate.exists():
            return None
    return None


def _is_writable(folder: Path) -> bool:
    """Try it: permissions do not tell of a file system that is mounted read-only."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _gibibytes(count: float) -> str:
    return f"{count / _GIBIBYTE:.1f} GiB"
