"""`jetface bulk`: the faces of millions of pictures into a folder of Parquet files, on many machines, by Ray Data.

Chunks of pictures go to actors that hold a service each, and a file comes from each chunk. It appears whole, under a
name made of the chunk's paths: a chunk that is done twice, because a machine was lost, is there once. What is there
already is what a later run leaves out.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import fsspec
import pyarrow as pa
from tqdm import tqdm

from jetface.atomic import whole_file
from jetface.cli.embed import Embedder, Summary, in_process
from jetface.cli.face_table import paths_in, rows_of, write_part
from jetface.cli.pictures import Wish, each_in_order, readable_name, tell_skipped, wish_options
from jetface.cli.quiet import configure_quiet_logs
from jetface.cli.sources import Source, find
from jetface.domain import PictureResult
from jetface.settings import Settings, read_settings

# It would report to its makers.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray.data  # reads the variable

PICTURES_AT_ONCE = 16
"""Pictures of an actor that are read and in work at the same time."""

ACTOR_CPUS = 0.5
"""What Ray counts for an actor. With 1 those of a full cluster leave no room to start a lost one again elsewhere."""

_QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What each actor is to do."""

    settings: Settings
    out: str
    wish: Wish


class Actor:
    """One service without HTTP, and an event loop of its own for it."""

    def __init__(self, work: Work) -> None:
        """Open the service, on this actor's machine."""
        self._work = work
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._embedder = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    async def _open(self) -> Embedder:
        self._stack = AsyncExitStack()
        return await self._stack.enter_async_context(in_process(self._work.settings, self._work.wish))

    def __call__(self, chunk: pa.Table) -> pa.Table:
        """Write the file of a chunk; return how many pictures, failures and faces it holds."""
        most = self._work.settings.max_body_bytes
        addresses = [os.fsdecode(address) for address in chunk["address"].to_pylist()]
        sources = [Source(address, readable_name(address), most) for address in addresses]
        results = asyncio.run_coroutine_threadsafe(self._embed(sources), self._loop).result()
        _write(self._work.out, addresses, rows_of(results, self._embedder.model))
        num_failed = sum(result.error is not None for _, result in results)
        num_faces = sum(len(result.faces) for _, result in results)
        return pa.table({"pictures": [len(results)], "failed": [num_failed], "faces": [num_faces]})

    async def _embed(self, sources: Sequence[Source]) -> list[tuple[str, PictureResult]]:
        results = each_in_order(sources, self._embedder.embed, PICTURES_AT_ONCE)
        return [(source.name, result) async for source, result in results]


def run(
    work: Work,
    sources: Sequence[Source],
    *,
    address: str | None,
    num_actors: int | None,
    chunk: int,
    max_errors: int | None,
) -> Summary:
    """Bring the folder of Parquet files up to the sources.

    Args:
        work: What is wanted of each picture, and where the files go.
        sources: The pictures.
        address: Of a Ray cluster; None starts Ray on this machine, for this process alone.
        num_actors: Services at once; None for one a machine, or one a GPU.
        chunk: Pictures a file.
        max_errors: The run ends when more pictures have failed; None never.

    Raises:
        click.ClickException: What is at the destination cannot be read, or Ray cannot be had.
    """
    there = looked_at(work.out)
    todo = [source.address for source in sources if readable_name(source.address) not in there]
    summary = Summary(num_before=len(sources) - len(todo))
    if not todo:
        return summary
    with tqdm(total=len(sources), initial=summary.num_before, unit="picture", file=sys.stderr) as progress:
        for each in results(work, todo, address, num_actors, chunk):
            summary.num_pictures += each["pictures"]
            summary.num_failed += each["failed"]
            summary.num_faces += each["faces"]
            progress.update(each["pictures"])
            progress.set_postfix(faces=summary.num_faces, failed=summary.num_failed)
            if max_errors is not None and summary.num_failed > max_errors:
                break
    return summary


def results(
    work: Work, addresses: Sequence[str], address: str | None, num_actors: int | None, chunk: int
) -> Iterator[dict[str, int]]:
    """Yield what came of each chunk, in the order in which they are done; arguments are those of `run`."""
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **_QUIET)
        else:
            ray.init(address=address, **_QUIET)
    except Exception as cause:
        # Ray raises these of its own, RuntimeError, and plain Exception where a busy machine starts it too slowly.
        raise click.ClickException(f"Ray cannot be had: {cause}") from cause
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        num_gpus = int(ray.cluster_resources().get("GPU", 0))
        machines = sum(node["Alive"] for node in ray.nodes())
        most = num_actors or num_gpus or machines
        names = list(map(os.fsencode, addresses))  # any name that a file can have
        blocks = [pa.table({"address": names[begin : begin + chunk]}) for begin in range(0, len(names), chunk)]
        done = ray.data.from_arrow(blocks).map_batches(
            Actor,
            fn_constructor_args=(work,),
            batch_format="pyarrow",
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
            num_cpus=ACTOR_CPUS,
            num_gpus=1 if num_gpus else 0,
        )
        yield from done.iter_rows()
    finally:
        ray.shutdown()


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
                return set(paths_in(file))
        except (KeyError, OSError, pa.ArrowException) as cause:
            raise click.ClickException(f"{name} was not written by `jetface bulk`: {cause}") from cause

    with ThreadPoolExecutor(16) as pool:
        return set().union(*pool.map(paths, files.glob(f"{folder}/*.parquet")))


def _write(out: str, addresses: Sequence[str], table: pa.Table) -> None:
    name = f"{hashlib.sha256(os.fsencode(chr(0).join(addresses))).hexdigest()[:32]}.parquet"
    files, folder = fsspec.core.url_to_fs(out)
    files.makedirs(folder, exist_ok=True)
    if "file" in files.protocol:
        with whole_file(Path(folder, name)) as file:
            write_part(file, table)
    else:
        # A store shows a file when it is closed, and not before.
        with files.open(f"{folder}/{name}", "wb") as file:
            write_part(file, table)


@click.command()
@click.argument("source")
@click.option("--out", required=True, metavar="DEST", help="Folder of Parquet files: a path, or a URL such as s3://...")
@click.option("--address", help="A Ray cluster, such as 10.0.0.1:6379 or auto; else this machine alone.")
@wish_options
@click.option("--column", default="path", show_default=True, help="Of a list, where its paths and URLs stand.")
@click.option("--actors", type=click.IntRange(1), help="Services at once; default: one a machine, or one a GPU.")
@click.option("--chunk", type=click.IntRange(1), default=256, show_default=True, help="Pictures a file.")
@click.option("--max-errors", type=click.IntRange(0), help="Stop when more pictures than this have failed.")
@click.option("--strict", is_flag=True, help="Exit code 1, too, when files of the folder were skipped.")
def bulk(
    *,
    source: str,
    out: str,
    address: str | None,
    column: str,
    actors: int | None,
    chunk: int,
    max_errors: int | None,
    strict: bool,
    **wish: Any,
) -> None:
    """Find and embed the faces of millions of pictures on Ray Data.

    SOURCE is what `jetface embed` takes. Each picture becomes one row a face, or one row without a face, or with its
    error. A second run adds what is not in DEST yet, after whatever ended the first. Exit code 1 when a picture failed.
    """
    settings = read_settings()
    configure_quiet_logs(settings)
    skipped: Counter[str] = Counter()
    sources = find(source, settings, column=column, skipped=skipped)
    work = Work(settings=settings, out=out, wish=Wish(**wish))
    summary = run(work, sources, address=address, num_actors=actors, chunk=chunk, max_errors=max_errors)
    before = f", {summary.num_before} more were there" if summary.num_before else ""
    click.echo(f"{out}: {summary.num_faces} faces in {summary.num_pictures} pictures{before}")
    tell_skipped(skipped, strict=strict and not summary.num_failed)
    if max_errors is not None and summary.num_failed > max_errors:
        raise click.ClickException(f"stopped: {summary.num_failed} pictures failed, and --max-errors is {max_errors}")
    summary.check()
