"""The faces of a collection as codes of FAISS: half a byte for two numbers, and a scan of all of them in registers.

A code tells how alike faces are to a tenth or so, which is enough to find those whose stored vectors are looked at.
Codes are learnt from the first faces, so until there are that many they are searched exactly.
"""

from __future__ import annotations

import threading
import time

import faiss
import numpy as np
import structlog
from numpy.typing import NDArray

from jetface.gallery.index import NO_FACE, Candidates, ExactIndex, Vectors, best_by_nearest

LEAST_FACES = 100_000
"""Below, an exact search takes about 10 ms."""
MOST_REMOVED = 4096
"""Codes of removed faces that may stay: each search finds so many more and leaves them out, which costs next to
nothing. To take them out moves all codes, a second for a million."""
_LEARNT_FROM = 20_000
_NUMBERS_A_CODE = 2
_BITS_A_CODE = 4
_log = structlog.get_logger("jetface.gallery")


class FaissIndex:
    """See `jetface.gallery.index.Index`."""

    error = 0.25

    def __init__(self, length: int, *, least_faces: int = LEAST_FACES, most_removed: int = MOST_REMOVED) -> None:
        """Begin empty.

        Args:
            length: Numbers of a vector; an odd one is searched exactly for ever.
            least_faces: With how many codes begin, >= 16.
            most_removed: Codes of removed faces that may stay.
        """
        self.length = length
        self._least_faces = least_faces if length % _NUMBERS_A_CODE == 0 else np.inf
        self._most_removed = most_removed
        self._few = ExactIndex(length)
        """Has the faces while there are no codes."""
        self._codes: faiss.IndexPQFastScan | None = None
        self._ids = np.empty(0, np.int64)
        self._persons = np.empty(0, np.int64)
        """Of each code; as long as the codes, and some more."""
        self._num_removed = 0
        # FAISS does not bear that codes are added while they are searched.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of faces."""
        return len(self._few) if self._codes is None else self._codes.ntotal - self._num_removed

    @property
    def num_bytes(self) -> int:
        """Memory of the codes."""
        return self._few.num_bytes if self._codes is None else self._codes.ntotal * (self.length // 4 + 16)

    def add(self, ids: NDArray[np.int64], persons: NDArray[np.int64], vectors: Vectors) -> None:
        """See `Index.add`."""
        if self._codes is not None:
            with self._lock:
                self._append(self._codes, ids, persons, vectors)
            return
        self._few.add(ids, persons, vectors)
        if len(self._few) >= self._least_faces:
            self._learn()

    def _learn(self) -> None:
        """Make codes of all faces; they are searched exactly until that is done."""
        started = time.perf_counter()
        faiss.omp_set_num_threads(1)
        ids, persons, vectors = self._few.faces()
        codes = faiss.IndexPQFastScan(
            self.length, self.length // _NUMBERS_A_CODE, _BITS_A_CODE, faiss.METRIC_INNER_PRODUCT
        )
        codes.train(vectors[:: -(-len(vectors) // _LEARNT_FROM)])
        self._append(codes, ids, persons, vectors)
        self._codes = codes
        self._few = ExactIndex(self.length)  # last: who searches takes this one before it looks for codes
        _log.info("index of FAISS learnt", faces=len(ids), took_s=round(time.perf_counter() - started, 3))

    def _append(
        self, codes: faiss.IndexPQFastScan, ids: NDArray[np.int64], persons: NDArray[np.int64], vectors: Vectors
    ) -> None:
        faiss.omp_set_num_threads(1)
        start, end = codes.ntotal, codes.ntotal + len(ids)
        if end > len(self._ids):
            room = np.full(max(end, 2 * start) - len(self._ids), NO_FACE, np.int64)
            self._ids, self._persons = np.concatenate([self._ids, room]), np.concatenate([self._persons, room])
        self._ids[start:end] = ids
        self._persons[start:end] = persons
        codes.add(np.ascontiguousarray(vectors, np.float32))

    def remove(self, ids: NDArray[np.int64]) -> None:
        """See `Index.remove`."""
        if self._codes is None:
            self._few.remove(ids)
        else:
            self._remove_at(self._codes, np.isin(self._ids, ids) & (self._ids != NO_FACE))

    def remove_person(self, person: int) -> None:
        """See `Index.remove_person`."""
        if self._codes is None:
            self._few.remove_person(person)
        else:
            self._remove_at(self._codes, self._persons == person)

    def _remove_at(self, codes: faiss.IndexPQFastScan, is_removed: NDArray[np.bool_]) -> None:
        with self._lock:
            self._ids[is_removed] = NO_FACE
            self._persons[is_removed] = NO_FACE
            self._num_removed += int(np.count_nonzero(is_removed))
            if self._num_removed > self._most_removed:
                is_gone = self._ids[: codes.ntotal] == NO_FACE
                codes.remove_ids(faiss.IDSelectorBatch(np.flatnonzero(is_gone)))
                self._ids, self._persons = self._ids[: len(is_gone)][~is_gone], self._persons[: len(is_gone)][~is_gone]
                self._num_removed = 0

    def move_person(self, person: int, to: int) -> None:
        """See `Index.move_person`."""
        if self._codes is None:
            self._few.move_person(person, to)
        else:
            self._persons[self._persons == person] = to

    def nearest(self, queries: NDArray[np.float32], count: int) -> list[Candidates]:
        """See `Index.nearest`."""
        few = self._few
        if self._codes is None:
            return few.nearest(queries, count)
        with self._lock:
            # A thread of its own has that number for itself; more of them would wait for work by turning idle.
            faiss.omp_set_num_threads(1)
            num_wanted = min(count + self._num_removed, self._codes.ntotal)
            if not num_wanted:
                return few.nearest(queries, count)
            scores, places = self._codes.search(np.ascontiguousarray(queries), num_wanted)
            ids, persons = self._ids[places], self._persons[places]
        found = []
        for row in range(len(queries)):
            at = np.flatnonzero(ids[row] != NO_FACE)[:count]
            found.append(Candidates(ids[row, at], persons[row, at], scores[row, at]))
        return found

    def best_of_persons(self, query: NDArray[np.float32], count: int) -> Candidates:
        """See `Index.best_of_persons`."""
        few = self._few
        if self._codes is None:
            return few.best_of_persons(query, count)
        return best_by_nearest(self, query, count)
