"""Batches as they are handed to a backend: one array, or its items one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from jetface.backends.faults import recognize
from jetface.domain import Batch, Tensor
from jetface.errors import DeviceMemoryError, InferenceError

_log = structlog.get_logger(__name__)

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
