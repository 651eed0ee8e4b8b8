"""Which waiting items run together, and in what turn: pure, no clock, no thread, no model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Queued(Protocol):
    """What the queue must know of an entry. Entries are told apart by identity (hashable, `eq=False`)."""

    @property
    def group(self) -> Hashable:
        """Whose it is; groups take turns. One group is one request."""
        ...

    @property
    def key(self) -> Hashable:
        """What it may run with: only entries of equal keys share a batch. Must not change while it waits."""
        ...


Entry = TypeVar("Entry", bound=Queued)


def share_of(num_waiting: int, num_free_lanes: int, max_batch: int) -> int:
    """How many entries one lane takes, so that lanes which are free together share what waits.

    Args:
        num_waiting: Entries in the queue, >= 1.
        num_free_lanes: Lanes that could run now, the asking one included, >= 1.
        max_batch: Most items of a run, >= 1.

    Returns:
        A number in [1, max_batch].
    """
    return min(max_batch, -(-num_waiting // num_free_lanes))


class FairQueue(Generic[Entry]):
    """Waiting entries; groups take turns, and so do the keys of a group.

    A batch is led by the group whose turn it is, with the key whose turn it is in that group; free places go round
    among all groups that wait with this key. Only the leader gives up its turn: a group that rides along with others'
    batches would otherwise never get to lead with its own other key. Hence the bounds that the tests hold it to:

    - first in, first out within a group and key;
    - with G groups waiting and K keys in an entry's group, its key leads within G * K calls of `take`.

    Every operation costs O(1) an entry; nothing scans the queue. Not thread-safe.
    """

    def __init__(self) -> None:
        # An OrderedDict is an ordered set here: its ends and its middle can be removed in O(1), unlike a deque's.
        self._groups: OrderedDict[Hashable, OrderedDict[Hashable, OrderedDict[Entry, None]]] = OrderedDict()
        self._groups_by_key: dict[Hashable, OrderedDict[Hashable, None]] = {}
        self._num_entries = 0

    def __len__(self) -> int:
        """Number of entries that wait."""
        return self._num_entries

    def add(self, entry: Entry) -> None:
        """Append `entry` to its group; a group that did not wait gets the last turn."""
        group, key = entry.group, entry.key
        keys = self._groups.get(group)
        if keys is None:
            keys = self._groups[group] = OrderedDict()
        entries = keys.get(key)
        if entries is None:
            entries = keys[key] = OrderedDict()
            groups = self._groups_by_key.get(key)
            if groups is None:
                groups = self._groups_by_key[key] = OrderedDict()
            groups[group] = None
        entries[entry] = None
        self._num_entries += 1

    def discard(self, entry: Entry) -> bool:
        """Take `entry` out of the queue wherever it stands; False when it does not wait."""
        keys = self._groups.get(entry.group)
        entries = keys.get(entry.key) if keys is not None else None
        if keys is None or entries is None or entry not in entries:
            return False
        del entries[entry]
        self._num_entries -= 1
        if not entries:
            self._forget(entry.group, entry.key)
        return True

    def take(self, limit: int) -> list[Entry]:
        """Remove and return what runs next.

        Args:
            limit: Most entries, >= 1.

        Returns:
            1 to `limit` entries of one key; empty only when nothing waits.
        """
        if not self._groups:
            return []
        leader, keys = next(iter(self._groups.items()))
        key = next(iter(keys))
        self._groups.move_to_end(leader)
        batch = [self._pop(leader, key)]
        while len(batch) < limit and key in self._groups_by_key:
            batch.append(self._pop(next(iter(self._groups_by_key[key])), key))
        return batch

    def count_next(self, limit: int) -> int:
        """Return how many entries `take(limit)` would."""
        if not self._groups:
            return 0
        key = next(iter(next(iter(self._groups.values()))))
        count = 0
        for group in self._groups_by_key[key]:
            count += len(self._groups[group][key])
            if count >= limit:
                return limit
        return count

    def entries(self) -> list[Entry]:
        """Return everything that waits, group by group; the queue keeps it."""
        return [entry for keys in self._groups.values() for waiting in keys.values() for entry in waiting]

    def _pop(self, group: Hashable, key: Hashable) -> Entry:
        keys = self._groups[group]
        entries = keys[key]
        entry, _ = entries.popitem(last=False)
        self._num_entries -= 1
        if entries:
            keys.move_to_end(key)
            self._groups_by_key[key].move_to_end(group)
        else:
            self._forget(group, key)
        return entry

    def _forget(self, group: Hashable, key: Hashable) -> None:
        """Drop a group's key that no entry waits with any more."""
        groups = self._groups_by_key[key]
        del groups[group]
        if not groups:
            del self._groups_by_key[key]
        keys = self._groups[group]
        del keys[key]
        if not keys:
            del self._groups[group]
