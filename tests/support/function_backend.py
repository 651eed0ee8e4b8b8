"""A backend whose graph is a function, and what backends of tests read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetface.domain import Batch, Tensor


class FunctionBackend:
    """Implements `Backend`; remembers the batches it was given."""

    def __init__(self, graph: Callable[[Any], tuple[Tensor, ...]], max_batch_size: int = 4) -> None:
        self.graph = graph
        self.max_batch_size = max_batch_size
        self.batches: list[Batch] = []

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Call the function."""
        assert len(batch) <= self.max_batch_size
        self.batches.append(batch)
        return self.graph(batch)

    def close(self) -> None:
        """Nothing to free."""


def array_of(batch: Batch) -> NDArray[Any]:
    """Return a batch that has to be one array, and no sequence of pictures."""
    assert isinstance(batch, np.ndarray)
    return batch
