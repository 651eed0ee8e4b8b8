"""The queue's promises, searched for counter-examples."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetface.batching.queue import FairQueue, share_of


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """An entry with a number that tells when it came."""

    number: int
    group: str
    key: int


def add_all(queue: FairQueue[Item], places: list[tuple[str, int]], start: int = 0) -> list[Item]:
    """Add an item for each group and key; return them in order."""
    items = [Item(start + number, group, key) for number, (group, key) in enumerate(places)]
    for item in items:
        queue.add(item)
    return items


places_lists = st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 3)), max_size=60)
limits = st.integers(1, 9)


@given(places=places_lists, limit=limits)
def test_batches_hold_one_key_and_at_most_the_limit_and_everything_is_taken_once(
    places: list[tuple[str, int]], limit: int
) -> None:
    """Whatever waits: no batch is too long, none mixes keys, and all of it is run, once."""
    queue: FairQueue[Item] = FairQueue()
    items = add_all(queue, places)
    taken: list[Item] = []
    while queue.num_entries:
        batch = queue.take(limit)
        assert 1 <= len(batch) <= limit
        assert len({item.key for item in batch}) == 1
        taken += batch
        assert queue.num_entries == len(items) - len(taken)
    assert sorted(item.number for item in taken) == list(range(len(items)))
    assert queue.take(limit) == []


@given(places=places_lists, limit=limits)
def test_first_in_first_out_within_a_group_and_key(places: list[tuple[str, int]], limit: int) -> None:
    """A request's items of one key run in the order in which they came."""
    queue: FairQueue[Item] = FairQueue()
    add_all(queue, places)
    last: dict[tuple[str, int], int] = {}
    while queue.num_entries:
        for item in queue.take(limit):
            assert last.get((item.group, item.key), -1) < item.number
            last[item.group, item.key] = item.number


@given(places=places_lists, limit=limits)
def test_a_batch_is_as_full_as_the_key_allows(places: list[tuple[str, int]], limit: int) -> None:
    """No place stays empty while an item of the same key waits."""
    queue: FairQueue[Item] = FairQueue()
    waiting = set(add_all(queue, places))
    while queue.num_entries:
        batch = queue.take(limit)
        assert len(batch) == min(limit, sum(item.key == batch[0].key for item in waiting))
        waiting -= set(batch)


@given(before=places_lists, newcomers=st.lists(places_lists, min_size=1, max_size=30), limit=limits)
def test_no_group_starves(before: list[tuple[str, int]], newcomers: list[list[tuple[str, int]]], limit: int) -> None:
    """An item at the head of its group and key is bypassed by a bounded number of batches, whoever comes meanwhile."""
    queue: FairQueue[Item] = FairQueue()
    add_all(queue, before)
    victim = Item(-1, "victim", 0)
    queue.add(victim)
    num_groups = len({group for places in (before, *newcomers) for group, _ in places}) + 1
    for round_number in range(num_groups):
        if victim in queue.take(limit):
            return
        if round_number < len(newcomers):
            add_all(queue, newcomers[round_number])
    pytest.fail("bypassed by more batches than there are groups")


@given(places=places_lists, newcomers=st.lists(places_lists, min_size=1, max_size=40), limit=limits)
def test_no_key_of_a_group_starves(
    places: list[tuple[str, int]], newcomers: list[list[tuple[str, int]]], limit: int
) -> None:
    """A request's rare key has its turn within groups times keys batches, though its common key is always asked for."""
    queue: FairQueue[Item] = FairQueue()
    add_all(queue, places)
    rare = Item(-1, "a", 99)
    queue.add(rare)
    for round_number in range(5 * 5):
        if rare in queue.take(limit):
            return
        add_all(queue, [("a", 0), *newcomers[round_number % len(newcomers)]])
    pytest.fail("bypassed by more batches than groups times keys")


@given(places=places_lists, limit=limits, data=st.data())
def test_discarded_items_never_run_and_the_others_all_do(
    places: list[tuple[str, int]], limit: int, data: st.DataObject
) -> None:
    """Withdrawing any items, at any time, takes out those and no others."""
    queue: FairQueue[Item] = FairQueue()
    items = add_all(queue, places)
    taken: set[Item] = set()
    gone: set[Item] = set()
    while queue.num_entries:
        for item in data.draw(st.lists(st.sampled_from(items), max_size=5)):
            is_waiting = item not in taken and item not in gone
            assert queue.discard(item) is is_waiting
            if is_waiting:
                gone.add(item)
        batch = queue.take(limit)
        assert not gone & set(batch)
        taken |= set(batch)
        assert queue.num_entries == len(items) - len(taken) - len(gone) == len(queue.entries())
    assert taken | gone == set(items)


def test_a_crowd_takes_turns_with_the_others() -> None:
    """A request with 100 faces gives way to one with a single face after one item each."""
    queue: FairQueue[Item] = FairQueue()
    add_all(queue, [("crowd", 0)] * 100)
    add_all(queue, [("single", 0)], start=100)
    queue.take(1)
    assert [item.group for item in queue.take(1)] == ["single"]


@pytest.mark.parametrize(
    ("num_waiting", "num_free_lanes", "max_batch", "expected"),
    [(1, 4, 8, 1), (4, 2, 8, 2), (5, 2, 8, 3), (99, 2, 8, 8)],
)
def test_lanes_free_together_share_what_waits(
    num_waiting: int, num_free_lanes: int, max_batch: int, expected: int
) -> None:
    """Four items on two idle cores are two runs of two, not one of four."""
    assert share_of(num_waiting, num_free_lanes, max_batch) == expected
