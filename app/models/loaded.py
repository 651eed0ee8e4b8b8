"""A model that serves: its registry entry, its backend and the queue in front of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.batching.batcher import Batcher
from app.models.items import ItemMemory
from app.specs import ModelSpec

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel(Generic[Item, Result]):
    """What the store hands out. `batcher` takes items of many requests and settles each."""

    spec: ModelSpec
    backend: str
    """Name an operator sees: `onnxruntime-cpu`, `onnxruntime-cuda`, ..."""
    batcher: Batcher[Item, Result]
    input_hw: tuple[int, int] | None = None
    """Height and width the graph is fixed to; None when it takes any canvas."""
    is_batch_free: bool = True
    """Whether a run may take several items: each is answered as if alone."""
    cpu_nodes: tuple[str, ...] = ()
    """Nodes that run on the CPU although a GPU was asked for, `operator name`."""
    items: ItemMemory = field(default_factory=ItemMemory)
    """Where its items are made; whoever loads it has pinned memory there by then, or an engine that takes over will."""

    def new_item(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return an uint8 array for an item to be drawn in: pinned memory where a GPU reads it. Not cleared."""
        return self.items.new_item(shape)

    async def close(self, *, grace_s: float) -> None:
        """Run what waits for at most `grace_s`, then free the backend."""
        try:
            await self.batcher.close(grace_s=grace_s)
        finally:
            self.items.close()
