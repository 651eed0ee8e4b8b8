"""Batch sizes that a backend is prepared for, and what is kept for each of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike

from jetface.backends.protocol import Backend


def buckets_up_to(max_batch_size: int) -> tuple[int, ...]:
    """Return 1, 2, 4, 8, ... and the largest batch itself, ascending.

    Args:
        max_batch_size: At least 1.
    """
    powers = [1 << exponent for exponent in range(max_batch_size.bit_length()) if 1 << exponent < max_batch_size]
    return (*powers, max_batch_size)


def bucket_of(num_items: int, max_batch_size: int) -> int:
    """Return the smallest bucket that holds `num_items`, 1 to `max_batch_size` of them."""
    return min(1 << (num_items - 1).bit_length(), max_batch_size)


def most_kept(max_batch_size: int) -> int:
    """Return for how many shapes a backend keeps its buffers: every bucket of five item shapes, and 16 at least.

    A detector sees up to four canvas sizes, and one more when it is probed.
    """
    return max(16, 5 * len(buckets_up_to(max_batch_size)))


def warm(
    backend: Backend, item_shapes: Sequence[tuple[int, ...]], dtype: DTypeLike = np.float32, *, num_runs: int = 1
) -> None:
    """Run every bucket, the largest first: what it allocates then has room for all smaller ones.

    Args:
        backend: Owned by the calling thread for the duration of the call.
        item_shapes: Shapes of one item that will come, (C, H, W), the usual one first.
        dtype: Of the items.
        num_runs: Of each bucket: 2 where the first allocates and the second captures a CUDA graph.

    Raises:
        InferenceError: A run failed.
    """
    for shape in item_shapes:
        for bucket in reversed(buckets_up_to(backend.max_batch_size)):
            for _ in range(num_runs):
                backend.run(np.zeros((bucket, *shape), dtype))


@runtime_checkable
class SharesBuckets(Protocol):
    """A backend that may find no room for a bucket, and then pads its batches to a larger one."""

    @property
    def num_shared(self) -> int:
        """Shapes that share the buffers of a larger one."""
        ...


class Closable(Protocol):
    """Something that holds what must be given back."""

    def close(self) -> None:
        """Give it back; a second call does nothing."""
        ...


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value", bound=Closable)


class Kept(Generic[Key, Value]):
    """What was made for the keys that were used last; closes what it lets go of. One thread."""

    def __init__(self, most: int) -> None:
        """Keep at most `most` values, at least 1."""
        self._most = most
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        """Number of values kept."""
        return len(self._values)

    def __contains__(self, key: Key) -> bool:
        """Whether there is a value of `key`."""
        return key in self._values

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the value of `key`, made now where there is none; one that was long unused makes room for it."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        # Room first: on a full device the new value may only fit when the old one is gone.
        while len(self._values) >= self._most:
            self._values.popitem(last=False)[1].close()
        value = make()
        self._values[key] = value
        return value

    def drop(self, key: Key) -> None:
        """Close the value of `key`, where there is one."""
        value = self._values.pop(key, None)
        if value is not None:
            value.close()

    def close(self) -> None:
        """Close all values."""
        while self._values:
            self._values.popitem()[1].close()
