"""Checksums of weights files."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import BinaryIO

import structlog

from jetface.specs import ModelSpec

_log = structlog.get_logger(__name__)

_CHUNK_BYTES = 2**20


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
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def digest_words(spec: ModelSpec) -> str:
    """Say which digest an entry demands: sha256, or md5 where the publisher gives no other."""
    return f"sha256 {spec.sha256}" if spec.sha256 else f"md5 {spec.md5}"
