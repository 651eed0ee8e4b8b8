"""Downloads of weights: bounded, verified, one process at a time, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import filelock
import httpx
import structlog

from app.atomic import remove_parts, scratch_file, whole_file
from app.errors import ModelFileError
from app.models.weights.digests import digest_of, has_digest
from app.models.weights.progress import DownloadProgress
from app.specs import DownloadSpec, ModelSpec

_log = structlog.get_logger(__name__)

MAX_DOWNLOAD_BYTES = 2 * 2**30
"""Longest download, and largest file taken out of an archive. The largest official package has 0.4 GiB."""

MAX_REDIRECTS = 5

DEADLINE_S = 1800.0
"""Longest time a download may take, and longest wait for another process's: 0.4 GiB at 2 Mbit/s."""

_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_CHUNK_BYTES = 2**18


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetcher:
    """Downloads models into a folder. Thread-safe; processes that want the same file wait for each other."""

    max_bytes: int = MAX_DOWNLOAD_BYTES
    deadline_s: float = DEADLINE_S

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
            with self._locked(path.with_name(f".{shared}.lock"), spec):
                if path.is_file():
                    with path.open("rb") as file:
                        if has_digest(file, spec):
                            return
                remove_parts(path)
                remove_parts(path.with_name(shared))
                self._fetch(spec, path, mirror_url, siblings, deadline)
        except filelock.Timeout as cause:
            raise ModelFileError("another process has been downloading it for too long") from cause
        except OSError as cause:
            is_full = cause.errno in {errno.ENOSPC, errno.EDQUOT}
            reason = "the disk is full" if is_full else "MODELS_DIR cannot be written"
            raise ModelFileError(reason) from cause

    @contextlib.contextmanager
    def _locked(self, path: Path, spec: ModelSpec) -> Iterator[None]:
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            _log.info("waiting for another process to download the model", model=spec.name)
            lock.acquire(timeout=self.deadline_s)
        try:
            yield
        finally:
            lock.release()

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
            with httpx.Client(timeout=_TIMEOUT) as client, _open_url(client, url) as response:
                total = int(response.headers.get("content-length", 0))
                if total > self.max_bytes:
                    raise ModelFileError("the download is too large")
                with contextlib.closing(DownloadProgress(spec.name, total)) as progress:
                    copied = 0
                    for chunk in response.iter_raw(_CHUNK_BYTES):
                        copied += len(chunk)
                        if copied > self.max_bytes:
                            raise ModelFileError("the download is too large")
                        if time.monotonic() > deadline:
                            raise ModelFileError("the download took too long")
                        file.write(chunk)
                        progress.advance(len(chunk))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as cause:
            raise ModelFileError("the download failed") from cause


@contextlib.contextmanager
def _open_url(client: httpx.Client, url: str) -> Iterator[httpx.Response]:
    """Open a URL, following redirects; one that began with https never leaves it."""
    request = client.build_request("GET", url, headers={"accept-encoding": "identity"})
    for _ in range(MAX_REDIRECTS + 1):
        response = client.send(request, stream=True)
        with contextlib.closing(response):
            if response.next_request is None:
                if response.status_code != httpx.codes.OK:
                    raise ModelFileError(f"the server answered {response.status_code}")
                yield response
                return
            if request.url.scheme == "https" != response.next_request.url.scheme:
                raise ModelFileError("the server redirects to an address without TLS")
            request = response.next_request
    raise ModelFileError("the server redirects without end")
