"""What `jetface bulk` does: chunks of paths to actors that hold a service each, and a Parquet file from each chunk.

A chunk's file appears whole, under a name made of its paths: a chunk that is done twice, because a machine was lost, is
there once. What is there already is what a later run leaves out.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from jetface.atomic import whole_file
from jetface.cli.pictures import PICTURE_SUFFIXES, TIFF_SUFFIXES, find_pictures, readable_name
from jetface.domain import ExtractOptions, PictureResult
from jetface.errors import ImageDecodeError
from jetface.imaging.sources import EncodedPicture
from jetface.service import Service, open_service
from jetface.settings import Settings

# It would report to its makers.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray.data  # reads the variable

PICTURES_AT_ONCE = 16
"""Pictures of an actor that are read and in work at the same time."""

ACTOR_CPUS = 0.5
"""What Ray counts for an actor. With 1 those of a full cluster leave no room to start a lost one again elsewhere."""

_PATIENCE_S = 3600.0
_QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}
_LISTS = {".csv", ".parquet", ".txt"}

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("face_index", pa.int32()),
        ("box", pa.list_(pa.float32())),
        ("score", pa.float32()),
        ("landmarks", pa.list_(pa.float32())),
        ("norm", pa.float32()),
        ("quality", pa.float32()),
        ("embedding", pa.list_(pa.float32())),
        ("model", pa.string()),
        ("error", pa.string()),
    ]
)
"""One row a face: box `x1, y1, x2, y2` and landmarks `x, y` five times, source pixels. A picture without a face, or
with an error, has one row without a `face_index`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What each actor is to do."""

    settings: Settings
    out: str
    threshold: float | None
    limit_faces: int


@dataclass(slots=True, kw_only=True)
class Summary:
    """What a run has done."""

    num_before: int
    """Pictures that were there."""
    num_pictures: int = 0
    """Looked at now; those that failed included."""
    num_failed: int = 0
    num_faces: int = 0


class Embedder:
    """An actor: one service without HTTP, and an event loop of its own for it."""

    def __init__(self, work: Work) -> None:
        """Open the service, on this actor's machine."""
        self._work = work
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._service = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    async def _open(self) -> Service:
        self._stack = AsyncExitStack()
        return await self._stack.enter_async_context(open_service(self._work.settings))

    def __call__(self, chunk: pa.Table) -> pa.Table:
        """Write the file of a chunk; return how many pictures, failures and faces it holds."""
        paths = chunk["path"].to_pylist()
        results = asyncio.run_coroutine_threadsafe(self._extract(paths), self._loop).result()
        table = self._rows(paths, results)
        _write(self._work.out, paths, table)
        num_failed = sum(result.error is not None for result in results)
        num_faces = sum(len(result.faces) for result in results)
        return pa.table({"pictures": [len(paths)], "failed": [num_failed], "faces": [num_faces]})

    async def _extract(self, paths: Sequence[str]) -> list[PictureResult]:
        service, places = self._service, asyncio.Semaphore(PICTURES_AT_ONCE)
        options = ExtractOptions(
            score_threshold=service.score_threshold if self._work.threshold is None else self._work.threshold,
            limit_faces=self._work.limit_faces,
            with_quality=True,
        )

        async def extract(path: str) -> PictureResult:
            async with places:
                try:
                    data = await asyncio.to_thread(_read, path, self._work.settings.max_body_bytes)
                except Exception as cause:  # noqa: BLE001 - each kind of store has its own; the picture fails, and no other
                    error = ImageDecodeError(f"The file cannot be read: {type(cause).__name__}: {cause}")
                    return PictureResult(image_index=0, error=error)
                deadline = asyncio.get_running_loop().time() + _PATIENCE_S
                (result,) = await service.extractor.extract([EncodedPicture(data)], options, deadline=deadline)
                return result

        return list(await asyncio.gather(*map(extract, paths)))

    def _rows(self, paths: Sequence[str], results: Sequence[PictureResult]) -> pa.Table:
        names = self._service.chosen.names
        model = next((name for name in names if self._service.store.spec(name).embedding_length is not None), None)
        rows: list[dict[str, Any]] = []
        for path, result in zip(paths, results, strict=True):
            about = {"path": path, "model": model}
            if not result.faces:
                rows.append({**about, "error": None if result.error is None else result.error.message})
            for index, face in enumerate(result.faces):
                row: dict[str, Any] = {**about, "face_index": index, "score": face.score}
                row |= {"box": np.ravel(face.box), "landmarks": np.ravel(face.landmarks)}
                if face.quality is not None:
                    row["quality"] = face.quality.score
                if face.embedding is not None:
                    row |= {"norm": face.embedding.norm, "embedding": face.embedding.vector}
                rows.append(row)
        return pa.Table.from_pylist(rows, schema=SCHEMA)


def run(
    work: Work,
    source: str,
    *,
    column: str,
    address: str | None,
    num_actors: int | None,
    chunk: int,
    max_errors: int | None,
) -> Summary:
    """Bring the folder of Parquet files up to the source.

    Args:
        work: What is wanted of each picture, and where the files go.
        source: A folder, a glob or a list, on any file system that fsspec knows.
        column: Of a list, where its paths stand.
        address: Of a Ray cluster; None starts Ray on this machine, for this process alone.
        num_actors: Services at once; None for one a machine, or one a GPU.
        chunk: Pictures a file.
        max_errors: The run ends when more pictures have failed; None never.

    Raises:
        click.ClickException: The source or what is at the destination cannot be read, or Ray cannot be had.
    """
    paths = find(source, column, accept_tiff=work.settings.accept_tiff)
    there = looked_at(work.out)
    todo = [path for path in paths if path not in there]
    summary = Summary(num_before=len(paths) - len(todo))
    if not todo:
        return summary
    with tqdm(total=len(paths), initial=summary.num_before, unit="picture", file=sys.stderr) as progress:
        for each in _results(work, todo, address, num_actors, chunk):
            summary.num_pictures += each["pictures"]
            summary.num_failed += each["failed"]
            summary.num_faces += each["faces"]
            progress.update(each["pictures"])
            progress.set_postfix(faces=summary.num_faces, failed=summary.num_failed)
            if max_errors is not None and summary.num_failed > max_errors:
                break
    return summary


def _results(
    work: Work, paths: Sequence[str], address: str | None, num_actors: int | None, chunk: int
) -> Iterator[dict[str, int]]:
    """Yield what came of each chunk, in the order in which they are done."""
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **_QUIET)
        else:
            ray.init(address=address, **_QUIET)
    except (ConnectionError, RuntimeError, ValueError) as cause:
        raise click.ClickException(f"Ray cannot be had: {cause}") from cause
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        num_gpus = int(ray.cluster_resources().get("GPU", 0))
        machines = sum(node["Alive"] for node in ray.nodes())
        most = num_actors or num_gpus or machines
        blocks = [pa.table({"path": paths[begin : begin + chunk]}) for begin in range(0, len(paths), chunk)]
        done = ray.data.from_arrow(blocks).map_batches(
            Embedder,
            fn_constructor_args=(work,),
            batch_format="pyarrow",
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
            num_cpus=ACTOR_CPUS,
            num_gpus=1 if num_gpus else 0,
            ray_remote_args_fn=_spread,
        )
        yield from done.iter_rows()
    finally:
        ray.shutdown()


def _spread() -> dict[str, str]:
    """Put actors on as many machines as there are."""
    return {"scheduling_strategy": "SPREAD"}


def find(source: str, column: str, *, accept_tiff: bool = False) -> list[str]:
    """Return the paths of a source's pictures, sorted, each once.

    Raises:
        click.ClickException: It is not there, or no list, or empty.
    """
    try:
        if Path(source).suffix in _LISTS:
            found = _listed(source, column)
        elif "://" not in source and Path(source).is_dir():
            pictures = find_pictures([Path(source)], accept_tiff=accept_tiff)
            found = [readable_name(picture.path.absolute()) for picture in pictures]
        else:
            found = _stored(source, PICTURE_SUFFIXES | (TIFF_SUFFIXES if accept_tiff else frozenset()))
    except (OSError, ImportError, KeyError, ValueError, pa.ArrowException) as cause:
        raise click.ClickException(f"{source} cannot be read: {cause}") from cause
    if not found:
        raise click.ClickException(f"{source}: no pictures")
    return sorted(set(found))


def _listed(source: str, column: str) -> list[str]:
    with fsspec.open(source, "rb") as file:
        if source.endswith(".txt"):
            return [line for line in file.read().decode().splitlines() if line]
        if source.endswith(".csv"):
            from pyarrow import csv  # noqa: PLC0415 - a module of its own, which not everyone needs

            table = csv.read_csv(file)
        else:
            table = pq.read_table(file, columns=[column])
    return [str(path) for path in table[column].to_pylist() if path]


def _stored(source: str, suffixes: frozenset[str]) -> list[str]:
    files, path = fsspec.core.url_to_fs(source)
    found = files.glob(path) if any(sign in path for sign in "*?[") else files.find(path)
    pictures = [name for name in found if Path(name).suffix.lower() in suffixes]
    return [files.unstrip_protocol(name).removeprefix("file://") for name in pictures]


def looked_at(out: str) -> set[str]:
    """Return the paths of the pictures that the files of a folder hold.

    Raises:
        click.ClickException: One of them is no such file.
    """
    files, folder = fsspec.core.url_to_fs(out)
    if not files.exists(folder):
        return set()

    def paths(name: str) -> set[str]:
        try:
            with files.open(name, "rb") as file:
                return set(pq.read_table(file, columns=["path"])["path"].to_pylist())
        except (KeyError, OSError, pa.ArrowException) as cause:
            raise click.ClickException(f"{name} was not written by `jetface bulk`: {cause}") from cause

    with ThreadPoolExecutor(16) as pool:
        return set().union(*pool.map(paths, files.glob(f"{folder}/*.parquet")))


def _read(path: str, most_bytes: int) -> bytes:
    with fsspec.open(path, "rb") as file:
        data: bytes = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"longer than MAX_BODY_BYTES, {most_bytes}")
    return data


def _write(out: str, paths: Sequence[str], table: pa.Table) -> None:
    name = f"{hashlib.sha256(chr(0).join(paths).encode()).hexdigest()[:32]}.parquet"
    files, folder = fsspec.core.url_to_fs(out)
    files.makedirs(folder, exist_ok=True)
    write = partial(pq.write_table, table, compression="zstd")
    if files.protocol == "file" or "file" in files.protocol:
        with whole_file(Path(folder, name)) as file:
            write(file)
    else:
        # A store shows a file when it is closed, and not before.
        with files.open(f"{folder}/{name}", "wb") as file:
            write(file)
