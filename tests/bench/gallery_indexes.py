"""Indexes of FAISS for the gallery: milliseconds of CPU a query, and how often they find what an exact search finds.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m tests.bench.gallery_indexes [FACES]

Vectors and queries are those of `tests.bench.gallery`; what an index finds first of 64, ranked again by the vectors
themselves, is compared with the exact first. *hard*: queries with more noise, whose own person is alike to 0.33.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from tests.bench.gallery import FACES_EACH, faces
from tests.support.gallery_faces import LENGTH

_RANKED_AGAIN = 64
_NUM_QUERIES = 512
_NUM_LEARNT_FROM = 40_000
_IP = faiss.METRIC_INNER_PRODUCT


def _ivf(num_lists: int) -> Any:
    kinds: Any = faiss
    index = kinds.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(LENGTH), LENGTH, num_lists, faiss.ScalarQuantizer.QT_8bit, _IP, False
    )
    index.set_direct_map_type(kinds.DirectMap.Hashtable)
    return index


INDEXES: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "PQ, 2 numbers in 4 bits": (lambda: faiss.IndexPQFastScan(LENGTH, LENGTH // 2, 4, _IP), (0,)),
    "PQ, 4 numbers in 4 bits": (lambda: faiss.IndexPQFastScan(LENGTH, LENGTH // 4, 4, _IP), (0,)),
    "RaBitQ, a bit a number": (lambda: faiss.IndexRaBitQFastScan(LENGTH, _IP), (0,)),
    "a byte a number": (lambda: faiss.IndexScalarQuantizer(LENGTH, faiss.ScalarQuantizer.QT_8bit, _IP), (0,)),
    "IVF of 1,024, a byte a number": (lambda: _ivf(1024), (32, 64, 128)),
    "IVF of 4,096, a byte a number": (lambda: _ivf(4096), (64, 128, 256)),
}
"""How each is made, and of how many lists it looks at."""


def main(count: int) -> None:
    """Print the table."""
    faiss.omp_set_num_threads(1)
    vectors = np.empty((count, LENGTH), np.float16)
    looked_for: NDArray[np.float32] = np.empty((0, LENGTH), np.float32)
    start = 0
    for rows, others in faces(count, 0):
        vectors[start : start + len(rows)] = rows
        start += len(rows)
        looked_for = looked_for if len(looked_for) else others[:_NUM_QUERIES]
    noise = np.random.default_rng(1).standard_normal(looked_for.shape).astype(np.float32) * np.linspace(
        2, 0.2, LENGTH, dtype=np.float32
    )
    hard = looked_for + 1.65 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    queries = {"plain": looked_for, "hard": hard / np.linalg.norm(hard, axis=1, keepdims=True)}
    exact = {name: _exact(vectors, each) for name, each in queries.items()}
    own = np.arange(_NUM_QUERIES)
    said = ", ".join(
        f"{name}: similarity {similarity.mean():.2f}, the right person {np.mean(first // FACES_EACH == own):.3f}"
        for name, (first, similarity) in exact.items()
    )
    print(f"{count:,} faces; exact, {said}")  # noqa: T201 - a program
    print("| index | alone, ms | of 16, ms | as exact | hard, as exact | learnt in, s | added in, s |")  # noqa: T201
    print("|---|---|---|---|---|---|---|")  # noqa: T201
    for name, (make, lists) in INDEXES.items():
        index = make()
        learnt_s = _cpu_s(index.train, vectors[:: -(-count // _NUM_LEARNT_FROM)].astype(np.float32))
        added_s = _cpu_s(_fill, index, vectors)
        for num_lists in lists:
            if num_lists:
                index.nprobe = num_lists
            alone = min(_cpu_s(index.search, looked_for[at : at + 1], _RANKED_AGAIN) for at in range(32))
            of_16 = min(_cpu_s(index.search, looked_for[at : at + 16], _RANKED_AGAIN) for at in range(0, 128, 16))
            shares = [
                np.mean(_found(index, vectors, each) // FACES_EACH == exact[kind][0] // FACES_EACH)
                for kind, each in queries.items()
            ]
            what = f"{name}, {num_lists} looked at" if num_lists else name
            print(  # noqa: T201
                f"| {what} | {alone * 1e3:.2f} | {of_16 / 16 * 1e3:.2f} | {shares[0]:.3f} | {shares[1]:.3f} "
                f"| {learnt_s:.1f} | {added_s:.1f} |", flush=True,
            )  # fmt: skip


def _fill(index: Any, vectors: NDArray[np.float16]) -> None:
    for start in range(0, len(vectors), 20_000):
        index.add(vectors[start : start + 20_000].astype(np.float32))


def _exact(vectors: NDArray[np.float16], queries: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the most alike face of each query, and how alike it is."""
    best, first = np.full(len(queries), -1, np.float32), np.zeros(len(queries), np.int64)
    for start in range(0, len(vectors), 20_000):
        scores = queries @ vectors[start : start + 20_000].astype(np.float32).T
        at, most = scores.argmax(1), scores.max(1)
        first[most > best] = start + at[most > best]
        best = np.maximum(best, most)
    return first, best


def _found(index: Any, vectors: NDArray[np.float16], queries: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return what comes first for each query once it is ranked again."""
    _, found = index.search(queries, _RANKED_AGAIN)
    scores = np.einsum("qkd,qd->qk", vectors[found].astype(np.float32), queries)
    first: NDArray[np.int64] = found[np.arange(len(queries)), np.where(found < 0, -2, scores).argmax(1)]
    return first


def _cpu_s(work: Callable[..., object], *args: object) -> float:
    started = time.process_time()
    work(*args)
    return time.process_time() - started


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500_000)
