"""A backend that keeps no more than it promises: what it answered is gone at its next run."""

from __future__ import annotations

import numpy as np

from jetface.domain import Batch, Tensor
from jetface.runtimes.backend import Backend


class Forgetful:
    """Implements `Backend` over another one: spoils each answer when the next is asked for, and the last at `close`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._last: tuple[Tensor, ...] = ()

    @property
    def max_batch_size(self) -> int:
        """That of the other."""
        return self._backend.max_batch_size

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Run the other, and spoil what it answered last."""
        self._spoil()
        self._last = tuple(output.copy() for output in self._backend.run(batch))
        return self._last

    def close(self) -> None:
        """Close the other, and spoil what it answered last."""
        self._spoil()
        self._backend.close()

    def _spoil(self) -> None:
        for output in self._last:
            output.fill(np.nan)
