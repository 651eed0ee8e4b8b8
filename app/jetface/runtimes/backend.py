"""What every backend is: a graph on one device, its batches and the sizes it is prepared for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import structlog
from numpy.typing import DTypeLike, NDArray

from jetface.device.faults import recognize
from jetface.domain import Batch, Tensor
from jetface.errors import DeviceMemoryError, InferenceError

_log = structlog.get_logger(__name__)


class Backend(Protocol):
    """A loaded graph on one device. Not thread-safe: one thread owns it from the first run to `close`."""

    @property
    def max_batch_size(self) -> int:
        """Most items one run takes, at least 1."""
        ...

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Run the graph once.

        Args:
            batch: (N, C, H, W) float32, or (N, H, W, 3) uint8 BGR where the graph was prepared to take pixels; or a
                sequence of its N items, all of one shape and type. 1 <= N <= `max_batch_size`. It is read until the
                run ends, and left as it was.

        Returns:
            The graph's outputs in the graph's order, float32. They are valid until this backend's next run, or its
            `close`: they may be views of memory that it writes to again. Who keeps them longer copies them.

        Raises:
            InferenceError: The run failed, or the graph takes no such batch; the backend stays usable unless it says
                otherwise.
        """
        ...

    def close(self) -> None:
        """Free the device's memory. A second call does nothing; `run` after it raises InferenceError."""
        ...


_RETRY_AFTER_S = 1.0


def layout_of(batch: Batch) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape that a batch has as one array, and its type.

    Raises:
        InferenceError: It has no item, or items of different shapes or types.
    """
    if isinstance(batch, np.ndarray):
        return batch.shape, batch.dtype
    if not batch:
        raise InferenceError("A run takes at least one item.")
    shape, dtype = batch[0].shape, batch[0].dtype
    for item in batch:
        if item.shape != shape or item.dtype != dtype:
            raise InferenceError("The items of a batch are not all of one shape and type.")
    return (len(batch), *shape), dtype


def stacked(batch: Batch) -> NDArray[Any]:
    """Return a batch as one array: itself where it is one; a single item as a view.

    Raises:
        InferenceError: As `layout_of`.
    """
    if isinstance(batch, np.ndarray):
        return batch
    layout_of(batch)
    return np.ascontiguousarray(batch[0])[None] if len(batch) == 1 else np.stack(batch)


def run_within_memory(
    run: Callable[[Batch], tuple[Tensor, ...]], batch: Batch, *, reopen: Callable[[], None]
) -> tuple[Tensor, ...]:
    """Run a batch; where the device's memory does not suffice, once more in two halves, a single item as it is.

    Args:
        run: Runs a batch or a part of it; its answers are valid until its next run.
        batch: One item at least.
        reopen: Gives back what the model holds on the device, so that the next run starts anew.

    Raises:
        DeviceMemoryError: It did not suffice for the halves either; the model is reopened.
        InferenceError: A run failed otherwise.
    """
    try:
        return run(batch)
    except InferenceError as error:
        if not _is_of_memory(error):
            raise
        _log.warning("device is out of memory: batch is run in halves", num_items=len(batch), reason=_words(error))
    reopen()
    middle = (len(batch) + 1) // 2
    try:
        parts = [[np.array(output) for output in run(part)] for part in (batch[:middle], batch[middle:]) if len(part)]
    except InferenceError as error:
        reopen()
        if not _is_of_memory(error):
            raise
        _log.error("device is out of memory: model is reopened", num_items=len(batch), reason=_words(error))
        raise DeviceMemoryError(
            "The device's memory does not suffice for the run.", retry_after_s=_RETRY_AFTER_S
        ) from error
    return tuple(np.concatenate(outputs) for outputs in zip(*parts, strict=True))


def _is_of_memory(error: InferenceError) -> bool:
    fault = recognize(_words(error))
    return fault is not None and fault.is_memory


def _words(error: InferenceError) -> str:
    return f"{error} {error.__cause__ or ''}".strip()


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
