"""The faces of a collection in memory: what an index does, and the exact one, a byte a number.

The scan multiplies every row with the query, a part that fits the core's cache at a time. What it finds is ranked
again by the vectors that were stored, so a byte a number costs no accuracy at the top; and a row that was written
while the scan passed it costs no more than a look at a vector that is not there any more. So nothing here is locked:
rows are written by one thread, never move, and are read by another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 2**16
"""Rows whose memory is asked for at once: 32 MiB at 512 numbers, of which the system gives what is written to."""
_CHUNK_ROWS = 1024
"""2 MiB as float32: on an EPYC 90 ns a row and query, where 8192 rows take 210."""
_FACES_OF_PERSONS = 4096
Vectors: TypeAlias = NDArray[np.float16] | NDArray[np.float32]
NO_FACE = -1
"""Id of a row that holds no face."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Faces that may be the nearest to a query, most alike first. Row i of every array is the same face."""

    ids: NDArray[np.int64]
    persons: NDArray[np.int64]
    scores: NDArray[np.float32]
    """Cosine similarity, as far as `Index.error` says."""


class _Block:
    """Rows of memory that never move."""

    def __init__(self, num_rows: int, length: int) -> None:
        self.rows = np.empty((num_rows, length), np.int8)
        self.scales = np.full(num_rows, np.nan, np.float32)
        """What a row's numbers are multiplied with; NaN where there is no face, so that it is like nothing."""
        self.ids = np.full(num_rows, NO_FACE, np.int64)
        self.persons = np.full(num_rows, NO_FACE, np.int64)


class Index(Protocol):
    """The faces of one collection. One thread writes, one searches; they may be two."""

    @property
    def error(self) -> float:
        """More than a score differs from the similarity by stored vectors."""
        ...

    def __len__(self) -> int:
        """Number of faces."""
        ...

    @property
    def num_bytes(self) -> int:
        """Memory of what is searched, as far as it is used."""
        ...

    def add(self, ids: NDArray[np.int64], persons: NDArray[np.int64], vectors: Vectors) -> None:
        """Add faces.

        Args:
            ids: (N,) of which none is there yet.
            persons: (N,) whose they are.
            vectors: (N, length) of about unit length.
        """
        ...

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Remove those faces that are there."""
        ...

    def remove_person(self, person: int) -> None:
        """Remove every face of a person."""
        ...

    def move_person(self, person: int, to: int) -> None:
        """Give all faces of a person to another."""
        ...

    def nearest(self, queries: NDArray[np.float32], count: int) -> list[Candidates]:
        """Return the `count` faces most like each query, or all there are.

        Args:
            queries: (B, length) of unit length.
            count: >= 1.
        """
        ...

    def best_of_persons(self, query: NDArray[np.float32], count: int) -> Candidates:
        """Return the most alike face of each of the `count` persons most like a query: the way for large persons.

        Args:
            query: (length,) of unit length.
            count: >= 1.
        """
        ...


class ExactIndex:
    """See `Index`. Looks at every face."""

    error = 0.02

    def __init__(self, length: int) -> None:
        """Begin empty.

        Args:
            length: Numbers of a vector.
        """
        self.length = length
        self._blocks: list[_Block] = []
        self._num_used = 0
        """Rows that were ever written to; those behind them are empty."""
        self._num_faces = 0
        self._float_rows = np.empty((_CHUNK_ROWS, length), np.float32)

    def __len__(self) -> int:
        """Number of faces."""
        return self._num_faces

    @property
    def num_bytes(self) -> int:
        """See `Index.num_bytes`: the rows that were written to."""
        return self._num_used * (self.length + 20)

    def add(self, ids: NDArray[np.int64], persons: NDArray[np.int64], vectors: Vectors) -> None:
        """See `Index.add`."""
        rows, scales = _quantized(vectors)
        places = self._free_places(len(ids))
        for number in np.unique(places // BLOCK_ROWS).tolist():
            while number >= len(self._blocks):
                self._blocks.append(_Block(BLOCK_ROWS, self.length))
            block = self._blocks[number]
            is_here = places // BLOCK_ROWS == number
            at = places[is_here] % BLOCK_ROWS
            block.rows[at] = rows[is_here]
            block.persons[at] = persons[is_here]
            block.ids[at] = ids[is_here]
            block.scales[at] = scales[is_here]  # last: from now on it is found
        self._num_used = max(self._num_used, int(places.max(initial=-1)) + 1)
        self._num_faces += len(ids)

    def _free_places(self, count: int) -> NDArray[np.int64]:
        """Return rows that hold no face: those of deleted ones first."""
        freed: list[NDArray[np.int64]] = []
        missing = count
        if self._num_used > self._num_faces:
            for number, block in enumerate(self._blocks):
                used = min(self._num_used - number * BLOCK_ROWS, BLOCK_ROWS)
                empty = np.flatnonzero(block.ids[:used] == NO_FACE)[:missing]
                freed.append(empty + number * BLOCK_ROWS)
                missing -= len(empty)
                if not missing:
                    break
        new = np.arange(self._num_used, self._num_used + missing)
        return np.concatenate([*freed, new])

    def remove(self, ids: NDArray[np.int64]) -> None:
        """See `Index.remove`."""
        for block in self._blocks:
            self._clear(block, np.flatnonzero(np.isin(block.ids, ids)))

    def remove_person(self, person: int) -> None:
        """See `Index.remove_person`."""
        for block in self._blocks:
            self._clear(block, np.flatnonzero(block.persons == person))

    def _clear(self, block: _Block, at: NDArray[np.intp]) -> None:
        block.scales[at] = np.nan  # first: it is not found any more
        block.ids[at] = NO_FACE
        block.persons[at] = NO_FACE
        block.rows[at] = 0
        self._num_faces -= len(at)

    def move_person(self, person: int, to: int) -> None:
        """See `Index.move_person`."""
        for block in self._blocks:
            block.persons[block.persons == person] = to

    def faces(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Return ids, persons and vectors, to a byte a number, of all faces."""
        is_face = [block.ids != NO_FACE for block in self._blocks]
        here = list(zip(self._blocks, is_face, strict=True))
        return (
            np.concatenate([block.ids[at] for block, at in here]),
            np.concatenate([block.persons[at] for block, at in here]),
            np.concatenate([block.rows[at] * block.scales[at, None] for block, at in here]),
        )

    def nearest(self, queries: NDArray[np.float32], count: int) -> list[Candidates]:
        """See `Index.nearest`."""
        found = [_Best(count) for _ in queries]
        floors = np.full(len(queries), -np.inf, np.float32)
        for block, scores in self._scores(queries):
            for column in np.flatnonzero(np.isneginf(floors)).tolist():
                floors[column] = _floor(scores[:, column], count)
            rows, columns = np.divmod(np.flatnonzero(scores >= floors), len(queries))
            for column in np.unique(columns).tolist():
                at = rows[columns == column]
                floors[column] = found[column].offer(block.ids[at], block.persons[at], scores[at, column])
        return [best.sorted() for best in found]

    def best_of_persons(self, query: NDArray[np.float32], count: int) -> Candidates:
        """See `Index.best_of_persons`."""
        ids, persons, scores = [], [], []
        for block, found in self._scores(query[None]):
            at = np.flatnonzero(~np.isnan(found[:, 0]))
            # Of each person the last of its faces in this order, which is the most alike.
            order = at[np.lexsort((found[at, 0], block.persons[at]))]
            is_last = np.append(np.diff(block.persons[order]) != 0, True)[: len(order)]
            order = order[is_last]
            ids.append(block.ids[order])
            persons.append(block.persons[order])
            scores.append(found[order, 0])
        if not ids:
            return _Best(count).sorted()
        return of_each_person(np.concatenate(ids), np.concatenate(persons), np.concatenate(scores), count)

    def _scores(self, queries: NDArray[np.float32]) -> Iterator[tuple[_Block, NDArray[np.float32]]]:
        """Yield each block with the similarity of its rows to each query, (rows, B), NaN where there is no face."""
        columns = np.ascontiguousarray(queries.T)
        num_used = self._num_used
        out = np.empty((min(num_used, BLOCK_ROWS), len(queries)), np.float32)
        for number, block in enumerate(self._blocks[: -(-num_used // BLOCK_ROWS)]):
            used = min(num_used - number * BLOCK_ROWS, BLOCK_ROWS)
            for start in range(0, used, _CHUNK_ROWS):
                end = min(start + _CHUNK_ROWS, used)
                part = self._float_rows[: end - start]
                np.copyto(part, block.rows[start:end])
                np.matmul(part, columns, out=out[start:end])
            scores = out[:used]
            scores *= block.scales[:used, None]
            yield block, scores


class _Best:
    """The best so far of one query."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._ids = np.empty(0, np.int64)
        self._persons = np.empty(0, np.int64)
        self._scores = np.empty(0, np.float32)

    def offer(self, ids: NDArray[np.int64], persons: NDArray[np.int64], scores: NDArray[np.float32]) -> float:
        """Take what is better; return the score that the next must have."""
        self._ids = np.concatenate([self._ids, ids])
        self._persons = np.concatenate([self._persons, persons])
        self._scores = np.concatenate([self._scores, scores])
        if len(self._scores) < self._count:
            return -np.inf
        kept = np.argpartition(-self._scores, self._count - 1)[: self._count]
        self._ids, self._persons, self._scores = self._ids[kept], self._persons[kept], self._scores[kept]
        return float(self._scores.min())

    def sorted(self) -> Candidates:
        """Return the best, most alike first."""
        order = np.argsort(-self._scores, kind="stable")
        return Candidates(self._ids[order], self._persons[order], self._scores[order])


def _floor(scores: NDArray[np.float32], count: int) -> float:
    """Return a score that at least `count` of some reach, the highest that a look at a part of them tells."""
    part = scores[: max(4096, 4 * count)]
    part = part[~np.isnan(part)]
    if len(part) < count:
        return -np.inf
    return float(np.partition(part, len(part) - count)[len(part) - count])


def of_each_person(
    ids: NDArray[np.int64], persons: NDArray[np.int64], scores: NDArray[np.float32], count: int
) -> Candidates:
    """Keep the most alike face of each person, and of the persons the `count` most alike."""
    order = np.argsort(-scores, kind="stable")
    _, first = np.unique(persons[order], return_index=True)
    kept = order[np.sort(first)[:count]]
    return Candidates(ids[kept], persons[kept], scores[kept])


def best_by_nearest(index: Index, query: NDArray[np.float32], count: int) -> Candidates:
    """Do what `Index.best_of_persons` says by looking for ever more faces."""
    num_wanted = _FACES_OF_PERSONS
    while True:
        (found,) = index.nearest(query[None], num_wanted)
        best = of_each_person(found.ids, found.persons, found.scores, count)
        if len(best.ids) == count or len(found.ids) < num_wanted:
            return best
        num_wanted *= 8


def _quantized(vectors: Vectors) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return (N, length) int8 rows and (N,) what to multiply them with: each row's largest number becomes 127."""
    numbers = vectors.astype(np.float32)
    largest = np.maximum(numbers.max(axis=1, initial=0), -numbers.min(axis=1, initial=0))
    largest[largest == 0] = 1
    numbers *= (np.float32(127) / largest)[:, None]
    np.rint(numbers, out=numbers)
    return numbers.astype(np.int8), largest / np.float32(127)
