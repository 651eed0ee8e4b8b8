"""Downloads of weights: bounded, verified, one process at a time, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import ssl
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import filelock
import httpx
import structlog
from tqdm import tqdm

from jetface.atomic import remove_parts, scratch_file, whole_file
from jetface.errors import ModelFileError
from jetface.registry import DownloadSpec, ModelSpec

_log = structlog.get_logger(__name__)

_STEP_PERCENT = 10


class DownloadProgress:
    """Tells of a download on stderr: a progress bar if that is a terminal, else a log line each 10 %."""

    def __init__(self, name: str, total_bytes: int, *, is_terminal: bool | None = None) -> None:
        """Start telling.

        Args:
            name: The model.
            total_bytes: Length of the download; 0 when the server does not say.
            is_terminal: Whether a person watches; None asks stderr.
        """
        self._name = name
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._told_percent = 0
        is_shown = sys.stderr.isatty() if is_terminal is None else is_terminal
        self._bar = (
            tqdm(desc=name, total=total_bytes or None, unit="B", unit_scale=True, unit_divisor=1024, file=sys.stderr)
            if is_shown
            else None
        )

    def advance(self, num_bytes: int) -> None:
        """Count bytes that have arrived."""
        self._done_bytes += num_bytes
        if self._bar is not None:
            self._bar.update(num_bytes)
            return
        percent = 100 * self._done_bytes // self._total_bytes if self._total_bytes else 0
        if percent >= self._told_percent + _STEP_PERCENT:
            self._told_percent = percent - percent % _STEP_PERCENT
            _log.info("downloading", model=self._name, percent=self._told_percent, total_bytes=self._total_bytes)

    def close(self) -> None:
        """Stop telling."""
        if self._bar is not None:
            self._bar.close()


_HASHED_BYTES = 2**20


class VerifiedFiles:
    """Remembers which files passed their checksum, by path, size and time of change. In memory only; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._verdicts: dict[tuple[str, int, int, str], bool] = {}

    def check(self, path: Path, spec: ModelSpec) -> bool:
        """Whether a file has the digest its entry demands; one that cannot be read has not."""
        try:
            stat = path.stat()
            key = (str(path.absolute()), stat.st_size, stat.st_mtime_ns, digest_words(spec))
            with self._lock:
                if key not in self._verdicts:
                    with path.open("rb") as file:
                        self._verdicts[key] = has_digest(file, spec)
                return self._verdicts[key]
        except OSError as cause:
            _log.error("file cannot be read", model=spec.name, file=str(path), reason=cause.strerror)
            return False


def has_digest(file: BinaryIO, spec: ModelSpec) -> bool:
    """Whether a file, read from its start, is the one an entry names."""
    if spec.sha256:
        return digest_of(file, "sha256") == spec.sha256
    return digest_of(file, "md5") == spec.md5


def digest_of(file: BinaryIO, algorithm: str) -> str:
    """Return the hexadecimal digest of a file, read from its start."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    file.seek(0)
    while chunk := file.read(_HASHED_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def digest_words(spec: ModelSpec) -> str:
    """Say which digest an entry demands: sha256, or md5 where the publisher gives no other."""
    return f"sha256 {spec.sha256}" if spec.sha256 else f"md5 {spec.md5}"


MAX_DOWNLOAD_BYTES = 2 * 2**30
"""Longest download, and largest file taken out of an archive. The largest official package has 0.4 GiB."""

MAX_REDIRECTS = 5

DEADLINE_S = 1800.0
"""Longest time a download may take, and longest wait for another process's: 0.4 GiB at 2 Mbit/s."""

_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_CHUNK_BYTES = 2**18

_STALL_S = 60.0
_STALL_BYTES = 2**16
"""A download that brings less than this in `_STALL_S` is given up, where a server drips."""

DAMAGED_SUFFIX = ".damaged"
"""What is added to the name of a file that fails its checksum."""

_PROXY_VARIABLES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetcher:
    """Downloads models into a folder. Thread-safe; processes that want the same file wait for each other."""

    max_bytes: int = MAX_DOWNLOAD_BYTES
    deadline_s: float = DEADLINE_S
    on_progress: Callable[[int, int], None] = lambda done_bytes, total_bytes: None  # noqa: ARG005 - called by position
    """Called as bytes arrive: how many have, and of how many; 0 when the server does not say."""

    def fetch(
        self, spec: ModelSpec, path: Path, *, mirror_url: str | None = None, siblings: Sequence[ModelSpec] = ()
    ) -> None:
        """Download a model to `path`, from the mirror, else from its official address. Blocks.

        Args:
            spec: The model; its digest is checked before the file appears.
            path: Where to put it; nothing is done when another process has put it there meanwhile.
            mirror_url: Address asked first.
            siblings: Models of the same archive, taken out of it on the way when they are not beside `path` yet.

        Raises:
            ModelFileError: It could not be had; one clause that says why.
        """
        deadline = time.monotonic() + self.deadline_s
        # Models of one archive share a lock: two of them must not download it twice.
        shared = PurePosixPath(spec.download.url).name if spec.download and spec.download.archive_member else path.name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_name(f".{shared}.lock"), spec, timeout_s=self.deadline_s) as is_alone:
                if path.is_file():
                    with path.open("rb") as file:
                        if has_digest(file, spec):
                            return
                    set_aside(path, spec)
                if is_alone:
                    remove_parts(path)
                    remove_parts(path.with_name(shared))
                self._fetch(spec, path, mirror_url, siblings, deadline)
        except filelock.Timeout as cause:
            raise ModelFileError("another process has been downloading it for too long") from cause
        except OSError as cause:
            raise ModelFileError(_folder_words(cause)) from cause

    def _fetch(
        self, spec: ModelSpec, path: Path, mirror_url: str | None, siblings: Sequence[ModelSpec], deadline: float
    ) -> None:
        reasons = []
        if mirror_url:
            try:
                return self._fetch_file(spec, path, mirror_url, deadline)
            except ModelFileError as error:
                _log.warning("mirror does not supply the model", model=spec.name, url=mirror_url, reason=error.message)
                reasons.append(f"from the mirror, {error.message}")
        if spec.download:
            try:
                if spec.download.archive_member:
                    return self._fetch_archive(spec.download, path, (spec, *siblings), deadline)
                return self._fetch_file(spec, path, spec.download.url, deadline)
            except ModelFileError as error:
                reasons.append(f"from its official address, {error.message}")
        raise ModelFileError("; ".join(reasons))

    def _fetch_file(self, spec: ModelSpec, path: Path, url: str, deadline: float) -> None:
        with whole_file(path) as file:
            self._copy_url(url, file, spec, deadline)
            if not has_digest(file, spec):
                raise ModelFileError("the file has another checksum")

    def _fetch_archive(self, download: DownloadSpec, path: Path, specs: Sequence[ModelSpec], deadline: float) -> None:
        """Download an archive and take the models out of it; the first of `specs` is the one that must be there."""
        with scratch_file(path.with_name(PurePosixPath(download.url).name)) as archive:
            self._copy_url(download.url, archive, specs[0], deadline)
            if download.archive_sha256 and digest_of(archive, "sha256") != download.archive_sha256:
                raise ModelFileError("the archive has another checksum")
            for spec in specs:
                target = path.with_name(spec.file_name)
                if spec is not specs[0] and (target.exists() or not spec.download):
                    continue
                with whole_file(target) as file:
                    self._copy_member(archive, spec, file)

    def _copy_member(self, archive: BinaryIO, spec: ModelSpec, file: BinaryIO) -> None:
        """Copy a model out of an archive. Members are found by base name: packages differ in having a top folder."""
        wanted = PurePosixPath((spec.download and spec.download.archive_member) or spec.file_name).name
        try:
            with zipfile.ZipFile(archive) as package:
                member = next(
                    (entry for entry in package.infolist() if PurePosixPath(entry.filename).name == wanted), None
                )
                if member is None:
                    raise ModelFileError(f"the archive holds no {wanted}")
                with package.open(member) as source:
                    copied = 0
                    while chunk := source.read(_CHUNK_BYTES):
                        copied += len(chunk)
                        if copied > self.max_bytes:
                            raise ModelFileError("the file in the archive is too large")
                        file.write(chunk)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as cause:
            raise ModelFileError("the archive cannot be read") from cause
        if not has_digest(file, spec):
            raise ModelFileError("the file in the archive has another checksum")

    def _copy_url(self, url: str, file: BinaryIO, spec: ModelSpec, deadline: float) -> None:
        _log.info("downloading model", model=spec.name, url=url, license=spec.license)
        try:
            with _open_client() as client, _open_url(client, url) as response:
                total = int(response.headers.get("content-length", 0))
                if total > self.max_bytes:
                    raise ModelFileError("the download is too large")
                with contextlib.closing(DownloadProgress(spec.name, total)) as progress:
                    copied = marked_bytes = 0
                    marked_at = time.monotonic()
                    for chunk in response.iter_raw(_CHUNK_BYTES):
                        copied += len(chunk)
                        if copied > self.max_bytes:
                            raise ModelFileError("the download is too large")
                        now = time.monotonic()
                        if now > deadline:
                            raise ModelFileError("the download took too long")
                        if now > marked_at + _STALL_S:
                            if copied < marked_bytes + _STALL_BYTES:
                                raise ModelFileError("the download stalled")
                            marked_at, marked_bytes = now, copied
                        file.write(chunk)
                        progress.advance(len(chunk))
                        self.on_progress(copied, total)
        except httpx.InvalidURL as cause:
            # Its text holds a piece of the address, which may be one of a password.
            del cause
            raise ModelFileError("the download failed: its address, or one it was redirected to, is no URL") from None
        except (httpx.HTTPError, ValueError) as cause:
            raise ModelFileError(f"the download failed: {_network_words(cause)}") from cause


@contextlib.contextmanager
def locked(path: Path, spec: ModelSpec, *, timeout_s: float) -> Iterator[bool]:
    """Hold a lock between processes for the block; yields whether it is held.

    A file system without locks is said and gone on with: two processes may then download the same, and each file still
    appears whole.

    Args:
        path: The lock's file; its folder must exist.
        spec: The model it is about, for the log.
        timeout_s: Longest wait for another process.

    Raises:
        filelock.Timeout: Another process holds it for longer.
        OSError: The file cannot be made.
    """
    lock = filelock.FileLock(path)
    is_alone = True
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if not timeout_s:
                raise
            _log.info("waiting for another process to download the model", model=spec.name)
            lock.acquire(timeout=timeout_s)
    except (OSError, NotImplementedError) as cause:
        if isinstance(cause, filelock.Timeout) or (isinstance(cause, OSError) and cause.errno not in _NO_LOCKS):
            raise
        _log.warning(
            "the file system has no locks: another process may download the model too", model=spec.name,
            reason=str(cause), cure="Keep MODELS_DIR on a file system with locks: for NFS, one mounted without nolock.",
        )  # fmt: skip
        is_alone = False
    try:
        yield is_alone
    finally:
        if is_alone:
            lock.release()


_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""How a file system says that it knows no `flock`."""


def set_aside(path: Path, spec: ModelSpec) -> None:
    """Give a file that fails its checksum another name, in place of an earlier one that did. The lock must be held.

    Raises:
        OSError: The folder cannot be written.
    """
    aside = path.with_name(path.name + DAMAGED_SUFFIX)
    path.replace(aside)
    _log.error(
        "weights file is damaged, or another one than the registry entry means, and is put aside",
        model=spec.name, file=str(path), put_aside_as=aside.name, digest=digest_words(spec),
    )  # fmt: skip


def _open_client() -> httpx.Client:
    """Open a client by the environment's certificates and proxies.

    Raises:
        ModelFileError: One of them cannot be used; says which, and what mends it.
    """
    try:
        return httpx.Client(timeout=_TIMEOUT)
    except ImportError as cause:
        named = " or ".join(_set_variables(_PROXY_VARIABLES, "socks")) or "ALL_PROXY"
        raise ModelFileError(
            f"the proxy in {named} speaks SOCKS, which needs a package that is not installed: `pip install socksio`, "
            "or set an http:// proxy"
        ) from cause
    except OSError as cause:
        # Of all files only these are read for it.
        named = " or ".join(_set_variables(("SSL_CERT_FILE", "SSL_CERT_DIR"))) or "the certificates of certifi"
        raise ModelFileError(
            f"{named} cannot be used: {_words(cause)}. Let it name a file of certificates, or unset it"
        ) from cause
    except (httpx.InvalidURL, ValueError):
        # Without the cause: its text holds a piece of the address, which may be one of a password.
        names = [name for name in _set_variables(_PROXY_VARIABLES) if not _is_proxy(_value_of(name))] or ["NO_PROXY"]
        cure = (
            "it is a comma list of hosts, .domains and addresses; one of IPv6 stands without brackets"
            if names == ["NO_PROXY"]
            else "it is http://HOST:PORT, a password in it percent-encoded"
        )
        raise ModelFileError(f"{' and '.join(names)} cannot be understood: {cure}") from None


def _value_of(variable: str) -> str:
    return os.environ.get(variable.lower()) or os.environ.get(variable) or ""


def _set_variables(names: Sequence[str], scheme: str = "") -> list[str]:
    """Return which of some variables are set, in capitals or not, and begin with a scheme."""
    return [name for name in names if _value_of(name) and _value_of(name).lower().startswith(scheme)]


def _is_proxy(value: str) -> bool:
    try:
        httpx.Proxy(value if "://" in value else f"http://{value}")
    except (httpx.InvalidURL, ValueError):
        return False
    return True


_CAUSES: Sequence[tuple[type[BaseException], str]] = (
    (
        ssl.SSLCertVerificationError,
        "the certificate of {whom} is not trusted ({why}): let SSL_CERT_FILE name that of who signed it",
    ),
    (ssl.SSLError, "{whom} speaks no TLS that we do ({why}): see that the address and port are right"),
    (
        socket.gaierror,
        "the name {whom} cannot be looked up ({why}): is there a network? Behind a proxy set HTTPS_PROXY",
    ),
    (
        ConnectionRefusedError,
        "{whom} refuses the connection: see that the address and port are right, and that it runs",
    ),
    (
        httpx.TimeoutException,
        "{whom} did not answer in time: a firewall may be in between; behind a proxy set HTTPS_PROXY",
    ),
    (httpx.ProxyError, "the proxy refuses ({why}): see that its address and password are right"),
    (httpx.UnsupportedProtocol, "its address is not http:// or https://"),
    (httpx.ConnectError, "{whom} cannot be reached ({why}): see that there is a network, and no firewall in between"),
    (httpx.HTTPError, "{whom} broke it off ({why}); it is tried again with the next request"),
)
"""Looked for in order in an error and what it was raised from."""


def _network_words(error: BaseException) -> str:
    """Say in a clause why a server did not answer, and what mends it."""
    host = "the server"
    if isinstance(error, httpx.RequestError):
        with contextlib.suppress(RuntimeError):  # it knows of no request
            host = error.request.url.host
    proxies = _set_variables(_PROXY_VARIABLES)
    whom = f"{host} or its proxy ({', '.join(proxies)})" if proxies else host
    for kind, words in _CAUSES:
        for cause in _chain(error):
            if isinstance(cause, kind):
                why = (
                    getattr(cause, "verify_message", "")
                    or getattr(cause, "strerror", "")
                    or str(cause)
                    or kind.__name__
                )
                return words.format(whom=whom, why=why)
    return str(error) or type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__ or error


def _folder_words(cause: OSError) -> str:
    """Say in a clause why MODELS_DIR does not take a file, and what mends it."""
    if cause.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "the disk is full"
    words = f"MODELS_DIR cannot be written: {_words(cause)}"
    if cause.errno == errno.EROFS:
        return f"{words}. Mount it without :ro, or set MODELS_DIR to another folder"
    if cause.errno in {errno.EACCES, errno.EPERM}:
        return f"{words}. Give the folder to user {os.getuid()}, as who the service runs: chown -R {os.getuid()} FOLDER"
    return words


def _words(cause: OSError) -> str:
    """Return what the system says of an error, without the file's path."""
    return cause.strerror or (cause.args[0] if cause.args else type(cause).__name__)


_STATUS_CURES = {
    401: ": put user and password into its address, http://USER:PASSWORD@HOST",
    403: ": it does not let us have the file",
    404: ": it has no such file",
    407: ": the proxy wants user and password, http://USER:PASSWORD@HOST:PORT",
}


@contextlib.contextmanager
def _open_url(client: httpx.Client, url: str) -> Iterator[httpx.Response]:
    """Open a URL, following redirects; one that began with https never leaves it."""
    request = client.build_request("GET", url, headers={"accept-encoding": "identity"})
    for _ in range(MAX_REDIRECTS + 1):
        response = client.send(request, stream=True)
        with contextlib.closing(response):
            if response.next_request is None:
                if response.status_code != httpx.codes.OK:
                    raise ModelFileError(
                        f"the server answered {response.status_code}{_STATUS_CURES.get(response.status_code, '')}"
                    )
                yield response
                return
            if request.url.scheme == "https" != response.next_request.url.scheme:
                raise ModelFileError("the server redirects to an address without TLS")
            request = response.next_request
    raise ModelFileError("the server redirects without end")
