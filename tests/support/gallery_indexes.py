"""What the tests of every index of a gallery ask of it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from jetface.gallery.index import Index


def persons_of(index: Index, queries: NDArray[np.float32]) -> list[int]:
    """Return the person of the nearest face to each query."""
    return [int(found.persons[0]) for found in index.nearest(queries, 64)]


def crowd_around(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 5,000 unit vectors near one: more faces of a person than an index looks at first."""
    noise = np.random.default_rng(1).standard_normal((5000, len(vector))).astype(np.float32)
    crowd = vector + 0.01 * noise
    near: NDArray[np.float32] = crowd / np.linalg.norm(crowd, axis=1, keepdims=True)
    return near


def answers_beside(index: Index, queries: NDArray[np.float32], write: Callable[[], None]) -> list[list[int]]:
    """Let one thread search while this one writes; return `persons_of` of each search."""
    is_over = threading.Event()
    answers: list[list[int]] = []

    def search() -> None:
        while not is_over.is_set():
            answers.append(persons_of(index, queries))

    thread = threading.Thread(target=search)
    thread.start()
    try:
        write()
    finally:
        is_over.set()
        thread.join()
    return answers
