"""The index: exact at the top, whatever is added and removed between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from jetface.gallery.index import BLOCK_ROWS, ExactIndex

LENGTH = 64


def unit(count: int, seed: int = 0, length: int = LENGTH) -> NDArray[np.float32]:
    """Return rows as recognizers make them: a few directions carry most of what differs."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((count, length)) * np.linspace(2, 0.1, length)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def filled(vectors: NDArray[np.float32], persons: NDArray[np.int64] | None = None) -> ExactIndex:
    index = ExactIndex(vectors.shape[1])
    ids = np.arange(1, len(vectors) + 1)
    index.add(ids, ids if persons is None else persons, vectors)
    return index


def test_an_empty_index_finds_nothing() -> None:
    (found,) = ExactIndex(LENGTH).nearest(unit(1), 5)
    assert len(found.ids) == 0
    assert len(ExactIndex(LENGTH).best_of_persons(unit(1)[0], 5).ids) == 0


def test_the_nearest_are_those_of_float_arithmetic() -> None:
    vectors, queries = unit(5000), unit(20, seed=1)
    exact = queries @ vectors.T
    for row, found in zip(exact, filled(vectors).nearest(queries, 64), strict=True):
        assert row.argmax() + 1 in found.ids
        assert len(found.ids) == 64
        assert np.abs(found.scores - row[found.ids - 1]).max() < 0.01
        assert (np.diff(found.scores) <= 0).all()
        # What was left out is no better than what was kept, but for the rounding to a byte.
        assert np.delete(row, found.ids - 1).max() <= found.scores[-1] + 0.01


def test_several_queries_find_what_each_finds_alone() -> None:
    index, queries = filled(unit(3000)), unit(7, seed=2)
    together = index.nearest(queries, 10)
    for query, found in zip(queries, together, strict=True):
        (alone,) = index.nearest(query[None], 10)
        np.testing.assert_array_equal(alone.ids, found.ids)


def test_faces_beyond_one_block_are_found() -> None:
    vectors = unit(BLOCK_ROWS + 100, length=16)
    index = filled(vectors)
    for place in (0, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 99):
        (found,) = index.nearest(vectors[place : place + 1], 3)
        assert place + 1 in found.ids


def test_what_is_removed_is_not_found_and_its_rows_are_used_again() -> None:
    vectors = unit(100)
    index = filled(vectors)
    num_bytes = index.num_bytes
    index.remove(np.array([5, 6, 999]))
    assert len(index) == 98
    (found,) = index.nearest(vectors[4:5], 100)
    assert set(found.ids.tolist()) == set(range(1, 101)) - {5, 6}
    index.add(np.array([200, 201]), np.array([1, 1]), unit(2, seed=3))
    assert index.num_bytes == num_bytes
    (found,) = index.nearest(unit(2, seed=3)[:1], 1)
    assert found.ids.tolist() == [200]


def test_a_person_is_removed_or_joined_whole() -> None:
    vectors = unit(30)
    index = filled(vectors, np.arange(30) % 3)
    index.remove_person(1)
    assert len(index) == 20
    index.move_person(2, 0)
    (found,) = index.nearest(vectors[:1], 64)
    assert set(found.persons.tolist()) == {0}


def test_the_best_face_of_each_person_is_found_among_large_persons() -> None:
    vectors = unit(3000)
    persons = np.arange(3000) % 10
    query = unit(1, seed=4)[0]
    found = filled(vectors, persons).best_of_persons(query, 4)
    exact = np.array([(vectors[persons == person] @ query).max() for person in range(10)])
    assert found.persons.tolist() == np.argsort(-exact)[:4].tolist()
    assert len(set(found.persons.tolist())) == 4


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "person"]), st.integers(0, 19)), max_size=40))
def test_it_holds_what_a_plain_dictionary_holds(steps: list[tuple[str, int]]) -> None:
    vectors = unit(20)
    index, kept = ExactIndex(LENGTH), dict[int, int]()
    for step, number in steps:
        if step == "add" and number not in kept:
            index.add(np.array([number]), np.array([number % 4]), vectors[number : number + 1])
            kept[number] = number % 4
        elif step == "remove":
            index.remove(np.array([number]))
            kept.pop(number, None)
        elif step == "person":
            index.remove_person(number % 4)
            kept = {face: person for face, person in kept.items() if person != number % 4}
    (found,) = index.nearest(vectors[:1], 64)
    assert dict(zip(found.ids.tolist(), found.persons.tolist(), strict=True)) == kept
    assert len(index) == len(kept)


@pytest.mark.parametrize("value", [0.0, 1e-30])
def test_a_vector_without_length_harms_no_other(value: float) -> None:
    index = filled(unit(10))
    index.add(np.array([99]), np.array([99]), np.full((1, LENGTH), value, np.float32))
    (found,) = index.nearest(unit(10)[:1], 1)
    assert found.ids.tolist() == [1]
