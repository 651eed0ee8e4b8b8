"""What `embed` and `bulk` are pointed at: folders, globs, lists of paths and URLs, on any store that fsspec knows."""

from __future__ import annotations

import io
import os
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.request import urlopen

import click
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from jetface.cli.pictures import PICTURE_SUFFIXES, TIFF_SUFFIXES, find_pictures, readable_name
from jetface.settings import Settings

_PATIENCE_S = 60.0
"""Longest time that a web server may say nothing."""

_LISTS = {".csv", ".parquet", ".txt"}


@dataclass(frozen=True, slots=True)
class Source:
    """A picture somewhere."""

    address: str
    """A path or a URL."""
    name: str
    """What it is called in tables: its address, or its path below a folder."""
    most_bytes: int
    """A longer file is refused, before more of it is read."""

    def read(self) -> bytes:
        """Return its bytes.

        Raises:
            OSError: It cannot be read, or is too long.
        """
        try:
            with _open(self.address) as file:
                data = file.read(self.most_bytes + 1)
        except OSError:
            raise
        except Exception as cause:  # each kind of store has its own; the picture fails, and no other
            raise OSError(f"{type(cause).__name__}: {cause}") from cause
        if len(data) > self.most_bytes:
            raise OSError(f"longer than MAX_BODY_BYTES, {self.most_bytes}")
        return data

    def changed_s(self) -> float:
        """Return when a file here was last written, seconds since 1970; of what lies elsewhere nothing is asked."""
        try:
            return os.stat(self.address).st_mtime if _is_path(self.address) else 0.0  # noqa: PTH116 - a text
        except OSError:
            return 0.0


def find(source: str, settings: Settings, *, column: str = "path", skipped: Counter[str] | None = None) -> list[Source]:
    """Return a source's pictures in order of address, each once.

    Args:
        source: A folder, a glob, a list (.csv, .parquet, .txt), or one picture.
        settings: Say whether TIFF counts, and how long a file may be.
        column: Of a list, where its paths and URLs stand.
        skipped: Counts by reason what else lies in a folder here.

    Raises:
        click.ClickException: It is not there, or no list, or empty.
    """
    most = settings.max_body_bytes
    folder = Path(source)
    try:
        if _is_path(source) and folder.is_dir():
            pictures = find_pictures([folder], accept_tiff=settings.accept_tiff, skipped=skipped)
            if pictures:
                names = [readable_name(each.relative.as_posix()) for each in pictures]
                addresses = [str(each.path.absolute()) for each in pictures]
                return [Source(address, name, most) for address, name in zip(addresses, names, strict=True)]
            found = []
        elif Path(source).suffix in _LISTS:
            found = _listed(source, column)
        elif _is_path(source) and folder.is_file():  # its name may look like a glob
            found = [source]
        else:
            suffixes = PICTURE_SUFFIXES | TIFF_SUFFIXES if settings.accept_tiff else PICTURE_SUFFIXES
            found = _stored(source, suffixes)
    except (OSError, ImportError, KeyError, ValueError, pa.ArrowException) as cause:
        raise click.ClickException(f"{source} cannot be read: {cause}") from cause
    if not found:
        raise click.ClickException(f"{source}: no pictures")
    return [Source(address, readable_name(address), most) for address in sorted(set(found))]


def _open(address: str) -> AbstractContextManager[IO[bytes]]:
    if _is_path(address):
        return Path(address).open("rb")
    if address.startswith(("http://", "https://")) and "::" not in address:
        response: IO[bytes] = urlopen(address, timeout=_PATIENCE_S)  # noqa: S310 - of these two kinds
        return response
    opened: AbstractContextManager[IO[bytes]] = fsspec.open(address, "rb")
    return opened


def _is_path(address: str) -> bool:
    return "://" not in address and "::" not in address


def _listed(source: str, column: str) -> list[str]:
    with _open(source) as file:
        data = file.read()
    if source.endswith(".txt"):
        return [line for line in os.fsdecode(data).splitlines() if line.strip()]
    read = csv.read_csv if source.endswith(".csv") else pq.read_table
    return [str(path) for path in read(io.BytesIO(data))[column].to_pylist() if path]


def _stored(source: str, suffixes: frozenset[str]) -> list[str]:
    files, path = fsspec.core.url_to_fs(source)
    # Of an archive within a store: what comes behind is the archive's own address.
    _, chain, archive = source.partition("::")
    found = files.glob(path) if any(sign in path for sign in "*?[") else files.find(path)
    pictures = [name for name in found if Path(name).suffix.lower() in suffixes]
    return [files.unstrip_protocol(name).removeprefix("file://") + chain + archive for name in pictures]
