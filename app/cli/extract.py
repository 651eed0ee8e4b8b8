"""`jetface extract`: the service's pipeline on files and folders, without HTTP."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson
from tqdm import tqdm

from app.domain import ExtractOptions, Face, PictureResult
from app.errors import ImageDecodeError
from app.logs import configure_logs
from app.settings import Settings, read_settings

if TYPE_CHECKING:
    from app.main import Service

PICTURE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"})
"""What is taken from a folder; a file named on the command line is always tried."""

PICTURES_AT_ONCE = 8
"""Pictures read and in work at the same time: bounds memory, keeps every core busy."""

_PATIENCE_S = 86_400.0
"""Nobody waits behind a command line; a day lets a first download and a slow disk finish."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A file to look at, and its name below the folder it was found in."""

    path: Path
    relative: Path


def find_pictures(paths: Sequence[Path]) -> list[Picture]:
    """List the files of `paths`; folders are searched recursively, in order of name, hidden ones left out."""
    pictures: list[Picture] = []
    for path in paths:
        if not path.is_dir():
            pictures.append(Picture(path, Path(path.name)))
            continue
        for found in sorted(path.rglob("*")):
            relative = found.relative_to(path)
            if found.suffix.lower() in PICTURE_SUFFIXES and not any(part.startswith(".") for part in relative.parts):
                pictures.append(Picture(found, relative))
    return pictures


def describe(picture: Picture, result: PictureResult) -> dict[str, Any]:
    """Return one line of `--json`: all that is known of a picture, in source pixels and milliseconds."""
    answer: dict[str, Any] = {"path": str(picture.path), "took_ms": round(result.took_s * 1e3, 3)}
    if result.error is not None:
        return {**answer, "error": {"code": result.error.code, "message": result.error.message}}
    return {**answer, "image_hw": result.image_hw, "faces": [_describe_face(face) for face in result.faces]}


def _describe_face(face: Face) -> dict[str, Any]:
    described: dict[str, Any] = {"box": face.box, "score": face.score, "landmarks": face.landmarks}
    if face.embedding is not None:
        described |= {"norm": face.embedding.norm, "embedding": face.embedding.vector}
    return described


def tabulate(picture: Picture, result: PictureResult) -> Iterator[str]:
    """Yield the lines people read: one for the picture, one for each face."""
    if result.error is not None:
        yield f"{picture.path}: failed: {result.error.message}"
        return
    count = len(result.faces)
    yield f"{picture.path}: {count} face{'' if count == 1 else 's'}, {result.took_s * 1e3:.0f} ms"
    for number, face in enumerate(result.faces, start=1):
        x1, y1, x2, y2 = face.box.round().astype(int).tolist()
        norm = "" if face.embedding is None else f"  norm {face.embedding.norm:.1f}"
        yield f"  {number:>3}  score {face.score:.3f}  box {x1},{y1} {x2},{y2}{norm}"


@click.command()
def extract() -> None:
    """Find and recognize the faces of pictures."""
