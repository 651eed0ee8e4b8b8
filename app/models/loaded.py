"""A model that serves: its registry entry, its backend and the queue in front of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from app.batching.batcher import Batcher
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
    cpu_nodes: tuple[str, ...] = ()
    """Nodes that run on the CPU although a GPU was asked for, `operator name`."""

    async def close(self, *, grace_s: float) -> None:
        """Run what waits for at most `grace_s`, then free the backend."""
        await self.batcher.close(grace_s=grace_s)
