"""The gallery's search: milliseconds of CPU a query, seconds of a start, memory and disk, by the number of faces.

    OPENBLAS_NUM_THREADS=1 python -m tests.bench.gallery [--index faiss] [FACES ...]

*right*: how often the person comes first whose face is looked for, by a photograph that is not enrolled. On one core:
CPU time counts, so that other processes distort it less than they would the clock; a busy cache and a shared memory
still do. Vectors have the covariance of what recognizers make: a few directions carry most of it.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jetface.gallery.faiss_index import FaissIndex
from jetface.gallery.index import ExactIndex, Index
from jetface.gallery.records import Query
from jetface.gallery.search import Asked, Searcher
from jetface.gallery.store import FILE_NAME, Store
from tests.support.gallery_faces import LENGTH, PIN

SIZES = (10_000, 100_000, 1_000_000)
FACES_EACH = 4
NUM_QUERIES = 512
_NUM_TIMED = 48
_AT_ONCE = 20_000
_INDEXES: dict[str, Callable[[int], Index]] = {"exact": ExactIndex, "faiss": FaissIndex}


def faces(count: int, seed: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Yield vectors, some at a time: `FACES_EACH` of each person, one after the other; and one more of each."""
    random = np.random.default_rng(seed)
    spread = np.linspace(2, 0.2, LENGTH, dtype=np.float32)
    for start in range(0, count, _AT_ONCE):
        number = min(_AT_ONCE, count - start)
        persons = random.standard_normal((number // FACES_EACH, 1, LENGTH), np.float32)
        rows = persons + 0.8 * random.standard_normal((number // FACES_EACH, FACES_EACH + 1, LENGTH), np.float32)
        rows *= spread
        rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
        yield rows[:, 1:].reshape(-1, LENGTH), rows[:, 0]


def fill(path: Path, count: int) -> None:
    """Write a file as the service would; in long transactions, for a commit a person takes an hour."""
    with Store(path, is_writer=True) as store:
        collection, _ = store.create_collection("people", PIN, "{}")
        sql = store._sql  # what calls of a person each would write
        sql.execute("PRAGMA synchronous = OFF")
        face = 0
        for rows, _ in faces(count, 0):
            sql.execute("BEGIN")
            people = range(face // FACES_EACH, (face + len(rows)) // FACES_EACH)
            sql.executemany(
                "INSERT INTO persons(id, collection, key, name, metadata, created) VALUES(?, ?, ?, ?, '{}', 0)",
                ((person + 1, collection, f"person-{person}", f"Person {person}") for person in people),
            )
            sql.executemany(
                "INSERT INTO faces(collection, person, key, quality, created, vector) VALUES(?, ?, ?, 0.5, 0, ?)",
                (
                    (collection, (face + row) // FACES_EACH + 1, f"{face + row:036}", vector.tobytes())
                    for row, vector in enumerate(rows.astype("<f2"))
                ),
            )
            sql.execute("COMMIT")
            face += len(rows)
        store.erase()


def measure(path: Path, count: int, make_index: Callable[[int], Index]) -> str:
    """Return a row of the table."""
    before_mb = _resident_mb()
    started = time.process_time()
    index = make_index(LENGTH)
    with Store(path, is_writer=False) as store:
        for rows in store.rows():
            index.add(rows.ids, rows.persons, rows.vectors)
    start_s = time.process_time() - started
    index_mb = _resident_mb() - before_mb
    searcher = Searcher(path)
    searcher.start()
    _, looked_for = next(faces(count, 0))
    asked = [Asked(index, Query(vector=vector, top_k=5, threshold=0.3)) for vector in looked_for[:NUM_QUERIES]]
    alone_ms = min(_cpu_ms(searcher, [each]) for _ in range(3) for each in asked[:8])
    together_ms = min(_cpu_ms(searcher, asked[start : start + 16]) / 16 for start in range(0, _NUM_TIMED, 16))
    answers = [answer for start in range(0, len(asked), 16) for answer in searcher.run(asked[start : start + 16])]
    scan_share = sum(answer.scan_s for answer in answers) / sum(answer.scan_s + answer.rank_s for answer in answers)
    right = sum(answer.matches[0].person_id == f"person-{person}" for person, answer in enumerate(answers))
    searcher.close()
    disk_mb = path.stat().st_size / 1e6
    return (
        f"| {count:,} | {alone_ms:.2f} | {together_ms:.2f} | {scan_share:.0%} | {start_s:.2f} | {index_mb:.0f} "
        f"| {disk_mb:.0f} | {right}/{len(answers)} |"
    )


def _cpu_ms(searcher: Searcher, asked: list[Asked]) -> float:
    started = time.process_time()
    searcher.run(asked)
    return (time.process_time() - started) * 1e3


def _resident_mb() -> float:
    """Return anonymous memory, without the file that is mapped."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, metavar="FACES")
    parser.add_argument("--index", choices=_INDEXES, default="exact")
    wanted = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}, {os.environ.get('OPENBLAS_NUM_THREADS', 'any')} threads of OpenBLAS")  # noqa: T201 - a program
    print("| faces | alone, ms | of 16, ms | scan | start, s | index, MiB | disk, MB | right |")  # noqa: T201
    print("|---|---|---|---|---|---|---|---|")  # noqa: T201
    for count in wanted.sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / FILE_NAME
            fill(path, count)
            print(measure(path, count, _INDEXES[wanted.index]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
