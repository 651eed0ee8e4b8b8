"""The index in a GPU's memory: what it finds is what float arithmetic finds, whatever is added and removed between.

The graph is the real one, on the CPU; what stands in for a GPU's memory is full of what is no number before it is
written to.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetface.errors import StorageError
from jetface.gallery.cuda_index import CudaIndex, Scanner
from jetface.runtimes.onnx_cuda import CudaSetup
from tests.support.fake_cuda import FakeCuda
from tests.support.gallery_faces import LENGTH, vectors_of
from tests.support.gallery_indexes import answers_beside, crowd_around, persons_of

PERSONS = 1200
VECTORS = vectors_of(PERSONS, 4)
IDS = np.arange(1, 3 * PERSONS + 1)
OWNERS = np.repeat(np.arange(PERSONS), 3)


@pytest.fixture(scope="module")
def scanner() -> Scanner:
    return Scanner(CudaSetup(cuda=FakeCuda(is_eager=True), device="cpu"))


def filled(scanner: Scanner, at_once: int = 700) -> CudaIndex:
    """Return an index of three faces of each person in three blocks; the fourth is there to be looked for."""
    index = CudaIndex(LENGTH, scanner=scanner, first_rows=1024)
    vectors = VECTORS[:, :3].reshape(-1, LENGTH)
    for start in range(0, len(IDS), at_once):
        part = slice(start, start + at_once)
        index.add(IDS[part], OWNERS[part], vectors[part])
    return index


@pytest.mark.parametrize("at_once", [350, 4000])
def test_the_nearest_are_those_of_float_arithmetic(scanner: Scanner, at_once: int) -> None:
    index = filled(scanner, at_once)
    assert (len(index), index.num_bytes) == (3600, 3600 * (2 * LENGTH + 1))
    exact = VECTORS[:, 3] @ VECTORS[:, :3].reshape(-1, LENGTH).T
    found = index.nearest(VECTORS[:, 3], 64)
    for row, each in zip(exact, found, strict=True):
        assert len(each.ids) == 64
        assert row.argmax() + 1 in each.ids
        assert (np.diff(each.scores) <= 0).all()
        assert np.abs(each.scores - row[each.ids - 1]).max() < index.error
        assert np.delete(row, each.ids - 1).max() <= each.scores[-1] + index.error
    (alone,) = index.nearest(VECTORS[7:8, 3], 64)
    np.testing.assert_array_equal(alone.ids, found[7].ids)


@pytest.mark.parametrize("count", [1, 1500, 3600, 9000])
def test_as_many_are_found_as_are_wanted(scanner: Scanner, count: int) -> None:
    (found,) = filled(scanner).nearest(VECTORS[:1, 3], count)
    assert len(set(found.ids.tolist())) == min(count, 3600)


def test_an_empty_index_finds_nothing(scanner: Scanner) -> None:
    index = CudaIndex(LENGTH, scanner=scanner, first_rows=1024)
    assert [len(found.ids) for found in index.nearest(VECTORS[:2, 0], 5)] == [0, 0]
    assert len(index.best_of_persons(VECTORS[0, 0], 5).ids) == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "person"]), st.integers(0, 19)), max_size=40))
def test_it_holds_what_a_plain_dictionary_holds(scanner: Scanner, steps: list[tuple[str, int]]) -> None:
    index, kept = CudaIndex(LENGTH, scanner=scanner, first_rows=1024), dict[int, int]()
    for step, number in steps:
        if step == "add" and number not in kept:
            index.add(np.array([number]), np.array([number % 4]), VECTORS[number, :1])
            kept[number] = number % 4
        elif step == "remove":
            index.remove(np.array([number, 99_999]))
            kept.pop(number, None)
        elif step == "person":
            index.remove_person(number % 4)
            kept = {face: person for face, person in kept.items() if person != number % 4}
    (found,) = index.nearest(VECTORS[:1, 3], 64)
    assert dict(zip(found.ids.tolist(), found.persons.tolist(), strict=True)) == kept
    assert len(index) == len(kept)


def test_rows_of_removed_faces_are_cleared_and_used_again(scanner: Scanner) -> None:
    index = filled(scanner)
    num_bytes = index.num_bytes
    index.remove(IDS[1000:1100])
    memory = scanner.setup.cuda
    assert isinstance(memory, FakeCuda)
    block = index._blocks[0]  # what is in the device's memory is nowhere else to be seen
    rows = np.frombuffer(memory.window(block.rows.address, 1024 * LENGTH * 2), np.float16).reshape(-1, LENGTH)
    assert not rows[1000:].any()
    assert rows[:1000].all(axis=1).any()
    index.add(np.arange(9000, 9100), np.full(100, 5), VECTORS[:100, 3])
    assert (len(index), index.num_bytes) == (3600, num_bytes)
    assert index.nearest(VECTORS[7:8, 3], 1)[0].ids.tolist() == [9007]


def test_a_person_joins_another(scanner: Scanner) -> None:
    index = filled(scanner)
    index.move_person(7, 8)
    assert persons_of(index, VECTORS[7:9, 3]) == [8, 8]
    index.remove_person(8)
    assert len(index) == 3594


def test_the_best_of_each_person_is_found_among_large_persons(scanner: Scanner) -> None:
    """One person's faces, more than are looked at first, are nearer than any of the others'."""
    index = filled(scanner)
    index.add(np.arange(10_000, 15_000), np.zeros(5000, np.int64), crowd_around(VECTORS[0, 0]))
    assert set(index.nearest(VECTORS[:1, 0], 64)[0].persons.tolist()) == {0}
    found = index.best_of_persons(VECTORS[0, 0], 20)
    assert len(set(found.persons.tolist())) == 20
    assert found.persons[0] == 0


def test_collections_share_the_graph_whatever_their_lengths(scanner: Scanner) -> None:
    short = CudaIndex(5, scanner=scanner, first_rows=1024)
    short.add(np.arange(5), np.arange(5), np.eye(5, dtype=np.float32))
    index = filled(scanner)
    assert short.nearest(np.eye(5, dtype=np.float32)[3:4], 1)[0].ids.tolist() == [3]
    assert persons_of(index, VECTORS[:3, 3]) == [0, 1, 2]


@pytest.mark.parametrize("mallocs_left", [0, 1])
def test_what_has_no_room_on_the_device_is_found_all_the_same(mallocs_left: int) -> None:
    cuda = FakeCuda(is_eager=True)
    index = filled(Scanner(CudaSetup(cuda=cuda, device="cpu")))
    num_bytes = index.num_bytes
    cuda.mallocs_left = mallocs_left
    index.add(np.arange(9000, 9999), np.arange(2000, 2999), VECTORS[:999, 3])
    assert (len(index), index.num_bytes) == (4599, num_bytes + 999 * (LENGTH + 20))
    found = index.nearest(VECTORS[:1, 3], 4599)[0]
    assert len(set(found.ids.tolist())) == 4599
    assert found.persons[:2].tolist() == [2000, 0]
    exact = np.concatenate([VECTORS[:, :3].reshape(-1, LENGTH), VECTORS[:999, 3]]) @ VECTORS[0, 3]
    places = np.where(found.ids < 9000, found.ids - 1, found.ids - 9000 + 3600)
    assert np.abs(found.scores - exact[places]).max() < index.error
    index.move_person(2000, 0)
    index.remove(np.array([9001]))
    index.remove_person(2002)
    assert persons_of(index, VECTORS[:4, 3]) == [0, 1, 2, 2003]
    assert len(index) == 4597


def test_memory_goes_with_the_collection() -> None:
    cuda = FakeCuda(is_eager=True)
    index = filled(Scanner(CudaSetup(cuda=cuda, device="cpu")))
    assert cuda.held["device"] == 6
    del index
    assert cuda.held["device"] == 0
    cuda.failing = {"host_alloc"}
    with pytest.raises(StorageError, match="no room for the gallery"):
        Scanner(CudaSetup(cuda=cuda, device="cpu"))


def test_one_thread_searches_while_another_writes(scanner: Scanner) -> None:
    """From the first block until long after there are more, with faces removed and rows used again between."""
    index = CudaIndex(LENGTH, scanner=scanner, first_rows=1024)
    index.add(IDS[:300], OWNERS[:300], VECTORS[:100, :3].reshape(-1, LENGTH))

    def write() -> None:
        for person in range(100, PERSONS):
            index.add(IDS[person == OWNERS], OWNERS[person == OWNERS], VECTORS[person, :3])
            if person % 4 == 0:
                index.remove_person(person - 60 if person >= 160 else person)

    answers = answers_beside(index, VECTORS[:20, 3], write)
    assert answers
    assert [each for each in answers if each != list(range(20))] == []
    assert persons_of(index, VECTORS[1197:, 3]) == [1197, 1198, 1199]
