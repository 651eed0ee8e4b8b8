"""The index of FAISS: what it finds is what the exact one finds, and changes are seen at once."""

from __future__ import annotations

import numpy as np
import pytest

from jetface.gallery.faiss_index import FaissIndex
from tests.support.gallery_faces import LENGTH, vectors_of
from tests.support.gallery_indexes import answers_beside, crowd_around, persons_of

LEAST = 640
"""FAISS says more than it should of codes that are learnt from fewer."""
PERSONS = 300
VECTORS = vectors_of(PERSONS, 4)
IDS = np.arange(1, 3 * PERSONS + 1)
OWNERS = np.repeat(np.arange(PERSONS), 3)


def filled(at_once: int = 200, **options: int) -> FaissIndex:
    """Return an index of three faces of each person; the fourth is there to be looked for."""
    index = FaissIndex(LENGTH, least_faces=LEAST, **options)
    vectors = VECTORS[:, :3].reshape(-1, LENGTH)
    for start in range(0, len(IDS), at_once):
        part = slice(start, start + at_once)
        index.add(IDS[part], OWNERS[part], vectors[part])
    return index


@pytest.mark.parametrize("at_once", [1, 200, 900])
def test_the_right_person_is_found_whenever_codes_begin(at_once: int) -> None:
    index = filled(at_once)
    assert len(index) == 900
    assert index.num_bytes == 900 * (LENGTH // 4 + 16)
    assert persons_of(index, VECTORS[:, 3]) == list(range(PERSONS))


def test_scores_are_sorted_and_as_near_as_it_says() -> None:
    index = filled()
    exact = VECTORS[:, 3] @ VECTORS[:, :3].reshape(-1, LENGTH).T
    for row, found in zip(exact, index.nearest(VECTORS[:, 3], 64), strict=True):
        assert len(found.ids) == 64
        assert (np.diff(found.scores) <= 0).all()
        assert np.abs(found.scores - row[found.ids - 1]).max() < index.error
        assert row.argmax() + 1 in found.ids


@pytest.mark.parametrize("most_removed", [0, 10, 4096])
def test_what_is_removed_is_not_found_from_then_on(most_removed: int) -> None:
    """Whether or not its codes are taken out."""
    index = filled(most_removed=most_removed)
    query = VECTORS[7:8, 3]
    index.remove(np.array([22, 23, 99_999]))
    index.remove(np.array([22]))
    assert len(index) == 898
    (found,) = index.nearest(query, 900)
    assert set(found.ids.tolist()) == set(IDS.tolist()) - {22, 23}
    index.remove_person(7)
    index.remove_person(8)
    assert len(index) == 894
    assert 7 not in index.nearest(query, 64)[0].persons
    index.add(np.array([2000]), np.array([7]), VECTORS[7, :1])
    assert persons_of(index, query) == [7]
    assert persons_of(index, VECTORS[9:, 3]) == list(range(9, PERSONS))
    for person in range(PERSONS):
        index.remove_person(person)
    assert len(index) == 0
    assert [len(found.ids) for found in index.nearest(query, 5)] == [0]
    assert len(index.best_of_persons(query[0], 5).ids) == 0
    index.add(np.array([3000]), np.array([5]), VECTORS[5, :1])
    assert persons_of(index, query) == [5]


def test_a_person_joins_another() -> None:
    index = filled()
    index.move_person(7, 8)
    assert persons_of(index, VECTORS[7:9, 3]) == [8, 8]
    index.remove_person(8)
    assert len(index) == 894


def test_the_best_of_each_person_is_found_among_large_persons() -> None:
    """One person's faces, more than are looked at first, are nearer than any of the others'."""
    index = filled()
    index.add(np.arange(10_000, 15_000), np.zeros(5000, np.int64), crowd_around(VECTORS[0, 0]))
    assert set(index.nearest(VECTORS[:1, 0], 64)[0].persons.tolist()) == {0}
    found = index.best_of_persons(VECTORS[0, 0], 20)
    assert len(set(found.persons.tolist())) == 20
    assert found.persons[0] == 0


def test_few_faces_and_odd_lengths_are_searched_exactly() -> None:
    index = FaissIndex(5, least_faces=16)
    vectors = np.eye(5, dtype=np.float32)
    for number in range(20):
        index.add(np.array([number]), np.array([number]), vectors[number % 5][None])
    index.remove(np.array([0]))
    index.remove_person(5)
    index.move_person(10, 11)
    assert set(index.nearest(vectors[:1], 2)[0].ids.tolist()) == {10, 15}
    assert index.best_of_persons(vectors[0], 1).persons.tolist() in ([11], [15])
    assert (len(index), index.num_bytes) == (18, 20 * 25)
    assert [len(found.ids) for found in FaissIndex(LENGTH).nearest(VECTORS[:2, 0], 5)] == [0, 0]


def test_one_thread_searches_while_another_writes() -> None:
    """From before there are codes until long after, with codes taken out between."""
    index = FaissIndex(LENGTH, least_faces=LEAST, most_removed=50)
    index.add(IDS[:300], OWNERS[:300], VECTORS[:100, :3].reshape(-1, LENGTH))

    def write() -> None:
        for person in range(100, PERSONS):
            index.add(IDS[person == OWNERS], OWNERS[person == OWNERS], VECTORS[person, :3])
            if person % 2:
                index.remove_person(person - 60 if person >= 160 else person)

    answers = answers_beside(index, VECTORS[:20, 3], write)
    assert answers
    assert [each for each in answers if each != list(range(20))] == []
    assert persons_of(index, VECTORS[298:, 3]) == [298, 299]
