"""Tables of faces: their columns, the files they are in, and how a run is taken up where another was ended.

A run writes Parquet files of some pictures each, every one of which appears whole or not at all: what they hold need
not be looked at again. `bulk` leaves it at that. `embed` makes one file of them in the end, in the format that its
ending says, which appears whole, too.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple
from zipfile import BadZipFile

import click
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from jetface.atomic import remove_parts, whole_file
from jetface.domain import Face, PictureResult

_METADATA = b"jetface"
_COMPRESSION = "zstd"
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Model:
    """Whose embeddings a table holds: those of another cannot be compared with them."""

    name: str
    embedding_length: int


def schema_of(embedding_length: int) -> pa.Schema:
    """Return the columns: one row a face, in source pixels.

    While a run goes on, and in what `bulk` writes, a picture without a face, or with an error, has one row without a
    `face_index`.
    """
    return pa.schema(
        [
            ("path", pa.string()),
            ("face_index", pa.int32()),
            ("box", pa.list_(pa.float32(), 4)),
            ("score", pa.float32()),
            ("landmarks", pa.list_(pa.list_(pa.float32(), 2), 5)),
            ("landmarks_from", pa.string()),
            ("visible", pa.float32()),
            ("norm", pa.float32()),
            ("quality", pa.float32()),
            ("embedding", pa.list_(pa.float32(), embedding_length)),
            ("model", pa.string()),
            ("error", pa.string()),
        ]
    )


def _of_any_length(kind: pa.DataType) -> pa.DataType:
    return pa.list_(_of_any_length(kind.value_type)) if pa.types.is_fixed_size_list(kind) else kind


def rows_of(results: Sequence[tuple[str, PictureResult]], model: Model) -> pa.Table:
    """Return the rows of pictures, each with its path.

    Their lists are of any length: pyarrow before 26, the last for Python 3.10, reads no file that has lists of a fixed
    length and nulls among them.
    """
    fixed = schema_of(model.embedding_length)
    about = {_METADATA: orjson.dumps({"embedding_length": model.embedding_length})}
    schema = pa.schema([field.with_type(_of_any_length(field.type)) for field in fixed], about)
    faces: list[tuple[str, int, Face]] = []
    others: list[tuple[str, str | None]] = []
    order: list[int] = []
    for path, result in results:
        if result.faces:
            order += range(len(faces), len(faces) + len(result.faces))
            faces += [(path, index, face) for index, face in enumerate(result.faces)]
        else:
            order.append(-1 - len(others))
            others.append((path, None if result.error is None else result.error.message))
    embeddings = [face.embedding for _, _, face in faces if face.embedding is not None]
    columns = {
        "path": [path for path, _, _ in faces],
        "face_index": [index for _, index, _ in faces],
        "box": _fixed([face.box for _, _, face in faces], 4),
        "score": [face.score for _, _, face in faces],
        "landmarks": pa.FixedSizeListArray.from_arrays(_fixed([face.landmarks for _, _, face in faces], 2), 5),
        "landmarks_from": [face.landmarks_from for _, _, face in faces],
        "visible": [face.visible for _, _, face in faces],
        "norm": [embedding.norm for embedding in embeddings],
        "quality": [None if face.quality is None else face.quality.score for _, _, face in faces],
        "embedding": _fixed([embedding.vector for embedding in embeddings], model.embedding_length),
        "model": [model.name] * len(faces),
        "error": pa.nulls(len(faces), pa.string()),
    }
    found = pa.table(columns, schema=fixed).cast(schema)
    empty = {name: pa.nulls(len(others), schema.field(name).type) for name in schema.names}
    said = {"path": [path for path, _ in others], "error": [error for _, error in others]}
    rest = pa.table({**empty, **said, "model": [model.name] * len(others)}, schema=schema)
    return pa.concat_tables([found, rest]).take(
        [number if number >= 0 else len(faces) - 1 - number for number in order]
    )


def _fixed(rows: Sequence[NDArray[np.float32]], length: int) -> pa.Array:
    """Return arrays of any shape as one column of lists of `length` numbers."""
    values = np.concatenate([row.astype(np.float32, copy=False).ravel() for row in rows]) if rows else np.empty(0)
    return pa.FixedSizeListArray.from_arrays(pa.array(values, pa.float32()), length)


def vectors_of(table: pa.Table) -> NDArray[np.float32]:
    """Return the embeddings of a table in which every row has one, (N, L)."""
    return _numbers(table["embedding"])


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Return a column of lists without nulls as an array, a row a row of it."""
    shape = [len(column)]
    values: pa.Array = column.combine_chunks()
    while pa.types.is_fixed_size_list(values.type):
        shape.append(values.type.list_size)
        values = values.flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(shape)


def write_part(file: IO[bytes], rows: pa.Table) -> None:
    """Write the file of some pictures."""
    pq.write_table(rows, file, compression=_COMPRESSION)


def paths_in(file: IO[bytes] | Path) -> dict[str, bool]:
    """Return the pictures of such a file, and of each whether it failed.

    Raises:
        KeyError, OSError, pyarrow.ArrowException: It is no such file.
    """
    rows = pq.read_table(file, columns=["path", "error"])
    return dict(zip(rows["path"].to_pylist(), pc.is_valid(rows["error"]).to_pylist(), strict=True))


class Format(NamedTuple):
    """How a table of faces is a file."""

    write: Callable[[IO[bytes], pa.Schema, Iterator[pa.Table]], None]
    """Writes tables of such a schema, one after the other, into an empty file."""
    read: Callable[[Path, pa.Schema], Iterator[pa.Table]]
    """Yields them; what is no such file raises ValueError, KeyError or another kind of these."""


def _write_parquet(file: IO[bytes], schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
    with pq.ParquetWriter(file, schema, compression=_COMPRESSION) as writer:
        for table in tables:
            writer.write_table(table.cast(schema))


def _read_parquet(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        if file.schema_arrow.names != schema.names:
            raise ValueError("it has other columns")
        for number in range(file.num_row_groups):
            yield file.read_row_group(number)


def _records(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield rows with arrays for lists, whose numbers are then written as the short ones that they are."""
    lists = {name for name in table.column_names if pa.types.is_fixed_size_list(table.schema.field(name).type)}
    columns = [_numbers(table[name]) if name in lists else table[name].to_pylist() for name in table.column_names]
    floats = {name for name in table.column_names if pa.types.is_float32(table.schema.field(name).type)}
    for row in zip(*columns, strict=True):
        yield {
            name: np.float32(value) if name in floats and value is not None else value
            for name, value in zip(table.column_names, row, strict=True)
        }


def _tables(records: Iterator[Any], schema: pa.Schema) -> Iterator[pa.Table]:
    while some := list(itertools.islice(records, _ROWS_AT_ONCE)):
        if not isinstance(some[0], dict) or some[0].keys() != set(schema.names):
            raise ValueError("it has other columns")
        yield pa.Table.from_pylist(some, schema=schema)


def _write_jsonl(file: IO[bytes], schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
    del schema
    for record in itertools.chain.from_iterable(map(_records, tables)):
        file.write(orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))


def _read_jsonl(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    with path.open("rb") as file:
        yield from _tables(map(orjson.loads, file), schema)


def _write_csv(file: IO[bytes], schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(schema.names)
    for record in itertools.chain.from_iterable(map(_records, tables)):
        writer.writerow(_cell(value) for value in record.values())
    text.detach()  # else it closes the file


def _cell(value: Any) -> Any:
    """Return what CSV holds: lists as JSON has them, which pgvector reads as they are."""
    if isinstance(value, np.ndarray | np.float32):
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    return value


def _read_csv(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    texts = {name for name in schema.names if pa.types.is_string(schema.field(name).type)}

    def values(row: Mapping[str, str]) -> dict[str, Any]:
        return {name: (cell if name in texts else orjson.loads(cell)) if cell else None for name, cell in row.items()}

    with path.open(encoding="utf-8", newline="") as file:
        yield from _tables(map(values, csv.DictReader(file)), schema)


def _write_npz(file: IO[bytes], schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
    """Write an array a column; of text those of Unicode, which `numpy.load` reads without pickles."""
    table = pa.concat_tables([schema.empty_table(), *tables])
    arrays: dict[str, Any] = {}
    for name in schema.names:
        kind = schema.field(name).type
        if pa.types.is_fixed_size_list(kind):
            arrays[name] = _numbers(table[name])
        elif pa.types.is_string(kind):
            arrays[name] = np.array([value or "" for value in table[name].to_pylist()], np.str_)
        else:
            arrays[name] = table[name].to_numpy()
    np.savez(file, **arrays)


def _read_npz(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    with np.load(path, allow_pickle=False) as arrays:
        columns = {}
        for name in schema.names:
            values, kind = arrays[name], schema.field(name).type
            if pa.types.is_fixed_size_list(kind):
                column = pa.array(values.ravel(), pa.float32())
                for size in reversed(values.shape[1:]):
                    column = pa.FixedSizeListArray.from_arrays(column, size)
            else:
                column = pa.array(values, kind, from_pandas=True)
            columns[name] = column
    yield pa.table(columns, schema=schema)


FORMATS: Mapping[str, Format] = {
    ".parquet": Format(_write_parquet, _read_parquet),
    ".csv": Format(_write_csv, _read_csv),
    ".jsonl": Format(_write_jsonl, _read_jsonl),
    ".npz": Format(_write_npz, _read_npz),
}
"""By the ending of the file."""


class FaceTable:
    """The one file and its parts. One run at a time, which `open_table` sees to."""

    def __init__(self, out: Path, parts_dir: Path, model: Model) -> None:
        """Read what is there; `open_table` makes these."""
        self._out = out
        self._format = FORMATS[out.suffix]
        self._parts_dir = parts_dir
        self._model = model
        schema = schema_of(model.embedding_length)
        self._schema = pa.schema([field for field in schema if field.name != "error"])
        self._holder: dict[str, Path] = {}
        """Of each picture the file whose rows count: the latest that has it."""
        self._failed: set[str] = set()
        self._without_faces: set[str] = set()
        if out.exists():
            self._take_over_file()
        self._parts = sorted(parts_dir.glob("*.parquet"))
        for part in self._parts:
            self._take_over_part(part)
        last = int(self._parts[-1].stem) if self._parts else 0
        self._numbers = itertools.count(last + 1)
        self._written_s = {path: path.stat().st_mtime for path in {*self._holder.values()}}

    def has(self, path: str, changed_s: float = 0.0) -> bool:
        """Tell whether a picture need not be looked at again: it is there, has not failed, and was not changed since.

        Args:
            path: What the picture is called.
            changed_s: When it was last written, seconds since 1970.
        """
        holder = self._holder.get(path)
        return holder is not None and path not in self._failed and changed_s <= self._written_s[holder]

    def add(self, results: Sequence[tuple[str, PictureResult]]) -> None:
        """Write a part; when this returns it survives whatever comes. Of what failed nothing is kept but that."""
        results = [(path, result) for path, result in results if result.error is None or path in self._holder]
        if not results:
            return
        part = self._parts_dir / f"{next(self._numbers):08d}.parquet"
        with _writing(part), whole_file(part) as file:
            write_part(file, rows_of(results, self._model))
        self._parts.append(part)
        self._written_s[part] = part.stat().st_mtime
        self._take_over_part(part)

    def finish(self) -> int:
        """Make one file of the file and its parts, and return its number of faces."""
        if not self._parts and self._out.exists():
            return sum(table.num_rows for table in self._format.read(self._out, self._schema))
        num_faces = 0

        def tables() -> Iterator[pa.Table]:
            nonlocal num_faces
            for table in self._faces():
                num_faces += table.num_rows
                yield table

        about = {
            "model": self._model.name,
            "embedding_length": self._model.embedding_length,
            "without_faces": sorted(self._without_faces),
        }
        with _writing(self._out), whole_file(self._out) as file:
            # Some rows at a time, but for NumPy's format: the file may be larger than memory.
            self._format.write(file, self._schema.with_metadata({_METADATA: orjson.dumps(about)}), tables())
        for part in self._parts:
            part.unlink()
        self._parts.clear()
        return num_faces

    def _faces(self) -> Iterator[pa.Table]:
        """Yield the rows that count."""
        if self._out.exists():
            for table in self._format.read(self._out, self._schema):
                yield self._of(table, self._out)
        for part in self._parts:
            yield self._of(pq.read_table(part), part)

    def _of(self, table: pa.Table, holder: Path) -> pa.Table:
        is_held = [self._holder.get(path) == holder for path in table["path"].to_pylist()]
        counts = pc.and_(pa.array(is_held, pa.bool_()), pc.is_valid(table["face_index"]))
        return table.filter(counts).select(self._schema.names).cast(self._schema)

    def _take_over_file(self) -> None:
        try:
            if self._out.suffix == ".parquet":
                about = orjson.loads((pq.read_schema(self._out).metadata or {})[_METADATA])
                self._check(Model(about["model"], about["embedding_length"]), self._out)
                self._without_faces = set(about["without_faces"])
            for table in self._format.read(self._out, self._schema):
                for name in set(table["model"].to_pylist()) - {self._model.name}:
                    self._check(Model(name, table.schema.field("embedding").type.list_size), self._out)
                self._holder.update(dict.fromkeys(table["path"].to_pylist(), self._out))
        except (KeyError, OSError, ValueError, BadZipFile, csv.Error, pa.ArrowException) as cause:
            raise click.ClickException(
                f"{self._out} was not written by `jetface embed`: choose another --out"
            ) from cause
        self._holder.update(dict.fromkeys(self._without_faces, self._out))

    def _take_over_part(self, part: Path) -> None:
        try:
            rows = pq.read_table(part, columns=["path", "face_index", "model", "error"])
            length = orjson.loads((pq.read_schema(part).metadata or {})[_METADATA])["embedding_length"]
        except (KeyError, OSError, ValueError, pa.ArrowException) as cause:
            raise click.ClickException(f"{part} was not written by `jetface embed`: choose another --out") from cause
        for name in set(rows["model"].to_pylist()):
            self._check(Model(name, length), part)
        for row in rows.to_pylist():
            path = row["path"]
            self._holder[path] = part
            (self._failed.add if row["error"] is not None else self._failed.discard)(path)
            is_empty = row["face_index"] is None and row["error"] is None
            (self._without_faces.add if is_empty else self._without_faces.discard)(path)

    def _check(self, model: Model, path: Path) -> None:
        if model != self._model:
            raise click.ClickException(
                f"{path} holds embeddings of {model.name} ({model.embedding_length} numbers); "
                f"those of {self._model.name} ({self._model.embedding_length}) cannot be compared: choose another --out"
            )


@contextlib.contextmanager
def open_table(out: Path, model: Model) -> Iterator[FaceTable]:
    """Open a table for one run; its parts' folder goes when nothing is left in it.

    Raises:
        click.ClickException: Another run is at it; what is there was not written by it, or with another model; it has
            another ending than `FORMATS`; or it cannot be written.
    """
    if out.suffix not in FORMATS:
        raise click.ClickException(f"{out}: the ending says the format; it is one of {', '.join(FORMATS)}")
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
