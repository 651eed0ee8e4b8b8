"""What every backend is: a graph on one device, behind three members."""

from __future__ import annotations

from typing import Protocol

from jetface.domain import Batch, Tensor


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
