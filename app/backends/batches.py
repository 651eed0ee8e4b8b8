"""Batches as they are handed to a backend: one array, or its items one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain import Batch
from app.errors import InferenceError


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
