"""The search as a batcher runs it: a scan of an index for several queries, then a look at the stored vectors."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from jetface.domain import Vector
from jetface.gallery.index import Candidates, Index
from jetface.gallery.records import Match, Query
from jetface.gallery.store import Store

RANKED_AGAIN = 64
"""Faces of which the stored vectors are compared: on vectors with the covariance of real embeddings a byte a number
has the right face among the first of them always."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A query and where to look."""

    index: Index
    query: Query


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Who was found, and how long that took of the batch's seconds, shared evenly."""

    matches: list[Match]
    scan_s: float
    rank_s: float


class Searcher:
    """Runs batches of queries of one index each, on one thread: that of a lane."""

    def __init__(self, path: Path) -> None:
        """Search what the file at `path` holds; it is opened by `start`."""
        self._path = path
        self._store: Store | None = None

    def start(self) -> None:
        """Open the file."""
        self._store = Store(self._path, is_writer=False)

    def close(self) -> None:
        """Close the file."""
        if self._store is not None:
            self._store.close()

    def run(self, asked: Sequence[Asked]) -> list[Answer]:
        """Search for all queries of a batch; they are of one index."""
        if self._store is None:  # pragma: no cover - a lane is started before it runs
            raise RuntimeError("not started")
        started = time.perf_counter()
        index = asked[0].index
        queries = np.stack([each.query.vector for each in asked])
        wanted = [max(RANKED_AGAIN, 2 * each.query.top_k) for each in asked]
        nearest = index.nearest(queries, max(wanted))
        scan_s = time.perf_counter() - started
        ranked = rank(self._store.vectors, queries, nearest)
        for number, (each, found) in enumerate(zip(asked, ranked, strict=True)):
            if _may_miss_persons(each.query, nearest[number], found, index):
                begun = time.perf_counter()
                persons = index.best_of_persons(queries[number], max(RANKED_AGAIN, 2 * each.query.top_k))
                scan_s += time.perf_counter() - begun
                (ranked[number],) = rank(self._store.vectors, queries[number : number + 1], [persons])
        kept = [found[: each.query.top_k + 1] for each, found in zip(asked, ranked, strict=True)]
        people = self._store.people_of([face.id for found in kept for face in found])
        matches = [[_match(face, people[face.id]) for face in found if face.id in people] for found in kept]
        share = 1 / len(asked)
        rank_s = time.perf_counter() - started - scan_s
        return [Answer(found, scan_s * share, rank_s * share) for found in matches]


@dataclass(frozen=True, slots=True)
class Ranked:
    """The most alike face of a person, by stored vectors."""

    id: int
    person: int
    similarity: float


def rank(
    vectors_of: Callable[[list[int]], tuple[Mapping[int, int], NDArray[np.float32]]],
    queries: NDArray[np.float32],
    nearest: Sequence[Candidates],
) -> list[list[Ranked]]:
    """Return each person's most alike face of those that an index found, for each query, most alike first.

    Args:
        vectors_of: Returns the stored vectors of those faces that are still there, and the row of each.
        queries: (B, length) of unit length.
        nearest: What the index found for each.
    """
    ids = np.unique(np.concatenate([found.ids for found in nearest]))
    places, vectors = vectors_of(ids.tolist())
    return [_ranked_persons(query, found, places, vectors) for query, found in zip(queries, nearest, strict=True)]


def _ranked_persons(
    query: Vector, found: Candidates, places: Mapping[int, int], vectors: NDArray[np.float32]
) -> list[Ranked]:
    # What was deleted since the scan is not there any more.
    there = [
        (face, person)
        for face, person in zip(found.ids.tolist(), found.persons.tolist(), strict=True)
        if face in places
    ]
    if not there:
        return []
    rows = vectors[[places[face] for face, _ in there]]
    similarities = (rows @ query) / np.linalg.norm(rows, axis=1)
    best: dict[int, Ranked] = {}
    for number in np.argsort(-similarities, kind="stable").tolist():
        face, person = there[number]
        best.setdefault(person, Ranked(face, person, min(1.0, float(similarities[number]))))
    return list(best.values())


def _may_miss_persons(query: Query, nearest: Candidates, found: Sequence[Ranked], index: Index) -> bool:
    """Tell whether persons with many faces may have crowded out others that are wanted."""
    if len(nearest.ids) >= len(index) or len(found) > query.top_k:
        return False
    is_next_missing = len(found) < 2
    return is_next_missing or float(nearest.scores[-1]) >= query.threshold - index.error


def _match(face: Ranked, person: tuple[str, str, str, str]) -> Match:
    person_id, name, metadata, face_id = person
    return Match(
        person_id=person_id,
        name=name,
        metadata=orjson.loads(metadata),
        face_id=face_id,
        similarity=face.similarity,
    )
