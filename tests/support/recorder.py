"""An observer of a batcher that remembers what it was told."""

from __future__ import annotations

from collections.abc import Sequence

from jetface.batching.observer import DropReason


class Recorder:
    """An observer that adds up."""

    def __init__(self) -> None:
        self.num_waited = 0
        self.batch_sizes: list[int] = []
        self.num_failed = 0
        self.drops: dict[str, int] = {}

    def waited(self, seconds: Sequence[float]) -> None:
        """Count the waits."""
        assert min(seconds) >= 0
        self.num_waited += len(seconds)

    def ran(self, num_items: int, seconds: float) -> None:
        """Keep the size."""
        assert seconds >= 0
        self.batch_sizes.append(num_items)

    def failed(self) -> None:
        """Count one failure."""
        self.num_failed += 1

    def dropped(self, reason: DropReason, num_items: int) -> None:
        """Add the items to their reason."""
        self.drops[reason] = self.drops.get(reason, 0) + num_items
