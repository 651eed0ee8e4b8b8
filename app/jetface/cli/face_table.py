"""A Parquet file of faces that grows part by part and is whole at any time.

What a run finds goes to numbered parts in a folder beside the file, each of which appears whole or not at all; in the
end file and parts become the new file, which appears whole, too. Whoever is killed loses what was not yet a part.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from jetface.atomic import remove_parts, whole_file
from jetface.domain import Face

_METADATA = b"jetface"
_COMPRESSION = "zstd"


@dataclass(frozen=True, slots=True)
class Model:
    """Whose embeddings a table holds: those of another cannot be compared with them."""

    name: str
    embedding_length: int


@dataclass(frozen=True, slots=True)
class FacesOfPicture:
    """What one picture adds to a table."""

    path: str
    """Below the folder looked at, with slashes."""
    faces: tuple[Face, ...]


def schema_of(embedding_length: int) -> pa.Schema:
    """Return the columns: one row a face, source pixels; a picture without faces has no row."""
    point = pa.list_(pa.float32(), 2)
    return pa.schema(
        [
            ("path", pa.string()),
            ("face_index", pa.int32()),
            ("box", pa.list_(pa.float32(), 4)),
            ("score", pa.float32()),
            ("landmarks", pa.list_(point, 5)),
            ("norm", pa.float32()),
            ("embedding", pa.list_(pa.float32(), embedding_length)),
            ("model", pa.string()),
        ]
    )


class FaceTable:
    """The file and its parts. One run at a time, which `open_table` sees to."""

    def __init__(self, out: Path, parts_dir: Path, model: Model) -> None:
        """Read what is there; `open_table` makes these."""
        self._out = out
        self._parts_dir = parts_dir
        self._model = model
        self._schema = schema_of(model.embedding_length)
        self._looked_at: set[str] = set()
        self._without_faces: set[str] = set()
        self._parts: list[Path] = []
        if out.exists():
            self._take_over(out)
        for part in sorted(parts_dir.glob("*.parquet")):
            # A run that was killed between writing the file and removing the parts: they are in it already.
            if out.exists() and self._is_taken_over(part):
                part.unlink()
            else:
                self._take_over(part)
                self._parts.append(part)
        last = int(self._parts[-1].stem) if self._parts else 0
        self._numbers = itertools.count(last + 1)

    @property
    def looked_at(self) -> frozenset[str]:
        """Paths of the pictures that need not be looked at again."""
        return frozenset(self._looked_at)

    def add(self, pictures: Sequence[FacesOfPicture]) -> None:
        """Write a part; when this returns it survives whatever comes."""
        if not pictures:
            return
        without_faces = {picture.path for picture in pictures if not picture.faces}
        part = self._parts_dir / f"{next(self._numbers):08d}.parquet"
        with _writing(part), whole_file(part) as file:
            pq.write_table(
                self._rows(pictures).replace_schema_metadata(self._metadata(without_faces)),
                file,
                compression=_COMPRESSION,
            )
        self._parts.append(part)
        self._looked_at |= {picture.path for picture in pictures}
        self._without_faces |= without_faces

    def finish(self) -> int:
        """Make one file of the file and its parts, and return its number of faces."""
        if not self._parts and self._out.exists():
            return int(pq.read_metadata(self._out).num_rows)
        sources = [self._out, *self._parts] if self._out.exists() else self._parts
        num_faces = 0
        with _writing(self._out), whole_file(self._out) as file:
            schema = self._schema.with_metadata(self._metadata(self._without_faces))
            with pq.ParquetWriter(file, schema, compression=_COMPRESSION) as writer:
                # A row group at a time: the file may be larger than memory.
                for group in itertools.chain.from_iterable(map(_row_groups, sources)):
                    writer.write_table(group.cast(schema))
                    num_faces += group.num_rows
        for part in self._parts:
            part.unlink()
        self._parts.clear()
        return num_faces

    def _take_over(self, path: Path) -> None:
        model, without_faces = _read_metadata(path)
        if model != self._model:
            raise click.ClickException(
                f"{path} holds embeddings of {model.name} ({model.embedding_length} numbers); "
                f"those of {self._model.name} ({self._model.embedding_length}) cannot be compared: choose another --out"
            )
        self._looked_at |= _paths_in(path) | without_faces
        self._without_faces |= without_faces

    def _is_taken_over(self, part: Path) -> bool:
        _, without_faces = _read_metadata(part)
        return _paths_in(part) | without_faces <= self._looked_at

    def _rows(self, pictures: Sequence[FacesOfPicture]) -> pa.Table:
        rows = [(picture.path, index, face) for picture in pictures for index, face in enumerate(picture.faces)]
        known = [face.embedding for _, _, face in rows if face.embedding is not None]
        length = self._model.embedding_length
        columns = [
            pa.array([path for path, _, _ in rows], pa.string()),
            pa.array([index for _, index, _ in rows], pa.int32()),
            _fixed([face.box for _, _, face in rows], 4),
            pa.array([face.score for _, _, face in rows], pa.float32()),
            pa.FixedSizeListArray.from_arrays(_fixed([face.landmarks for _, _, face in rows], 2), 5),
            pa.array([embedding.norm for embedding in known], pa.float32()),
            _fixed([embedding.vector for embedding in known], length),
            pa.array([self._model.name] * len(rows), pa.string()),
        ]
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _metadata(self, without_faces: set[str]) -> dict[bytes, bytes]:
        about = {
            "model": self._model.name,
            "embedding_length": self._model.embedding_length,
            "without_faces": sorted(without_faces),
        }
        return {_METADATA: orjson.dumps(about)}


@contextlib.contextmanager
def open_table(out: Path, model: Model) -> Iterator[FaceTable]:
    """Open a table for one run; its parts' folder goes when nothing is left in it.

    Raises:
        click.ClickException: Another run is at it; what is there was not written by it, or with another model; or it
            cannot be written.
    """
    parts_dir = out.with_name(f"{out.name}.parts")
    with _writing(out):
        parts_dir.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(parts_dir / "lock", timeout=0):
            remove_parts(out)
            yield FaceTable(out, parts_dir, model)
            if not any(parts_dir.glob("*.parquet")):
                shutil.rmtree(parts_dir, ignore_errors=True)
    except Timeout:
        raise click.ClickException(f"another run is writing {out}") from None


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say in one line what keeps `path` from being written."""
    try:
        yield
    except OSError as cause:
        raise click.ClickException(f"{path} cannot be written: {cause.strerror or cause}") from cause


def _fixed(rows: Sequence[np.ndarray], length: int) -> pa.Array:
    """Return arrays of any shape as one column of lists of `length` numbers."""
    values = np.concatenate([row.astype(np.float32, copy=False).ravel() for row in rows]) if rows else np.empty(0)
    return pa.FixedSizeListArray.from_arrays(pa.array(values, pa.float32()), length)


def _row_groups(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number)


def _paths_in(path: Path) -> set[str]:
    return set(pq.read_table(path, columns=["path"])["path"].to_pylist())


def _read_metadata(path: Path) -> tuple[Model, set[str]]:
    try:
        about = orjson.loads((pq.read_schema(path).metadata or {})[_METADATA])
    except (pa.ArrowInvalid, KeyError, orjson.JSONDecodeError) as cause:
        raise click.ClickException(f"{path} was not written by `jetface embed`: choose another --out") from cause
    return Model(about["model"], about["embedding_length"]), set(about["without_faces"])
