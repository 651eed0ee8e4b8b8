"""The gallery's search on the GPU against that on one core: the same file, the same queries, in turns.

    OPENBLAS_NUM_THREADS=1 python -m tests.device.gallery [--faces 100000 ...]

*alone* and *of 16* are milliseconds a query of the whole search, the ranking by stored vectors included. Answers have
to be the same.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from jetface.gallery.cuda_index import CudaIndex, Scanner
from jetface.gallery.index import ExactIndex, Index
from jetface.gallery.records import Match, Query
from jetface.gallery.search import Asked, Searcher
from jetface.gallery.store import FILE_NAME, Store
from tests.bench.gallery import SIZES, faces, fill
from tests.device.gpu import DeviceName, describe, open_setup
from tests.device.report import Report
from tests.device.timing import take_turns
from tests.support.gallery_faces import LENGTH

_AT_ONCE = 16
_NUM_COMPARED = 128
_PAYS_FROM = 100_000


@click.command()
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda")
@click.option("--faces", "sizes", type=int, multiple=True, default=SIZES)
@click.option("--seconds", default=4.0, help="For each number of queries.")
def main(device: DeviceName, sizes: tuple[int, ...], seconds: float) -> None:
    """Compare indexes; ends with 1 where answers differ or the GPU takes longer."""
    setup = open_setup(device)
    report = Report("The gallery's search", describe(setup.cuda))
    scanner = Scanner(setup)
    for count in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, FILE_NAME)
            fill(path, count)
            compare(report, path, count, {"exact": ExactIndex, "cuda": partial(CudaIndex, scanner=scanner)}, seconds)
    report.show()
    sys.exit(device == "cuda" and not report.is_met)


def compare(report: Report, path: Path, count: int, makers: dict[str, Callable[[int], Index]], seconds: float) -> None:
    """Measure each index on a file of `count` faces."""
    indexes = {name: make(LENGTH) for name, make in makers.items()}
    for name, index in indexes.items():
        started = time.perf_counter()
        with Store(path, is_writer=False) as store:
            for rows in store.rows():
                index.add(rows.ids, rows.persons, rows.vectors)
        report.add(f"{count:,} faces, {name}: start", time.perf_counter() - started, "s")
    _, looked_for = next(faces(count, 0))
    queries = [Query(vector=vector, top_k=5, threshold=0.3) for vector in looked_for[:_NUM_COMPARED]]
    searcher = Searcher(path)
    searcher.start()

    def found(name: str, at_once: list[Query]) -> list[list[Match]]:
        return [answer.matches for answer in searcher.run([Asked(indexes[name], query) for query in at_once])]

    answers = {
        name: [each for at in range(0, len(queries), _AT_ONCE) for each in found(name, queries[at : at + _AT_ONCE])]
        for name in indexes
    }
    same = np.mean([ours == exact for ours, exact in zip(answers["cuda"], answers["exact"], strict=True)])
    report.add(f"{count:,} faces: answers that are the same", float(same), least=1)
    for what, num_queries in (("alone", 1), (f"of {_AT_ONCE}", _AT_ONCE)):
        times_ms = take_turns({name: partial(found, name, queries[:num_queries]) for name in indexes}, seconds=seconds)
        for name, time_ms in times_ms.items():
            report.add(f"{count:,} faces, {name}: {what}", time_ms / num_queries, "ms")
        most = 1.0 if count >= _PAYS_FROM else None
        report.add(f"{count:,} faces, {what}: cuda over exact", times_ms["cuda"] / times_ms["exact"], most=most)
    searcher.close()
    new = iter(range(10 * count, 20 * count))
    times_ms = take_turns(
        {name: partial(_add_one, index, new, looked_for[:1]) for name, index in indexes.items()}, seconds=seconds / 8
    )
    for name, time_ms in times_ms.items():
        report.add(f"{count:,} faces, {name}: one face added", time_ms, "ms")


def _add_one(index: Index, new: Iterator[int], vectors: NDArray[np.float32]) -> None:
    number = np.array([next(new)])
    index.add(number, number, vectors)


if __name__ == "__main__":
    main()
