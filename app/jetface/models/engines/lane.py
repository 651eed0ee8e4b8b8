"""An engine as a lane of a batcher: opened, warmed and closed on the one thread that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jetface.backends.buckets import warm
from jetface.backends.engines.kit import EngineKit
from jetface.backends.protocol import Backend
from jetface.batching.batcher import Batcher
from jetface.batching.lane import Lane
from jetface.batching.observer import MetricsObserver
from jetface.errors import InferenceError
from jetface.metrics import Metrics
from jetface.models.engines.recipe import EngineRecipe
from jetface.models.families.table import FAMILIES, probe_item
from jetface.models.items import ItemMemory
from jetface.models.lanes import Head
from jetface.models.loaded import LoadedModel
from jetface.models.loading import item_key, started_in_time, watch_model


class EngineLane:
    """Runs one model's engine. All calls come from the lane's thread."""

    def __init__(self, recipe: EngineRecipe, kit: EngineKit, plan: bytes, items: ItemMemory) -> None:
        """Create a lane.

        Args:
            recipe: The model's.
            kit: Opens the plan.
            plan: Let go of once it is open.
            items: Where the model's items are made.
        """
        self._recipe = recipe
        self._items = items
        self._kit = kit
        self._plan: bytes | None = plan
        self._backend: Backend | None = None
        self._head: Head[Any, Any] | None = None

    @property
    def probe_item(self) -> Any:
        """An item the engine can run."""
        return probe_item(self._recipe.spec, self._canvas_hw)

    def lane(self) -> Lane[Any, Any]:
        """Return what a batcher takes."""
        return Lane(run=self._run, close=self._close, start=self._start, takes_ahead=True)

    async def serve(
        self, backend: str, metrics: Metrics, *, max_waiting: int, timeout_s: float
    ) -> LoadedModel[Any, Any]:
        """Open the engine and return a model that this lane alone serves.

        Args:
            backend: What an operator sees.
            metrics: Where it is shown what the model does.
            max_waiting: Most items in its queue.
            timeout_s: Longest time it may take to open and warm.
        """
        recipe, name = self._recipe, self._recipe.spec.name
        batcher: Batcher[Any, Any] = Batcher(
            name,
            [self.lane()],
            max_batch=recipe.max_batch_size,
            max_waiting=max_waiting,
            key=item_key,
            observer=MetricsObserver(metrics, name),
            probe_items=[self.probe_item],
        )
        try:
            await started_in_time(batcher, timeout_s)
        except BaseException:
            self._items.close()
            raise
        watch_model(metrics, name, batcher, self._items)
        return LoadedModel(
            spec=recipe.spec, backend=backend, batcher=batcher, input_hw=recipe.graph.input_hw,
            sha256=recipe.graph.source_sha256, is_batch_free=recipe.graph.is_batch_free, items=self._items,
        )  # fmt: skip

    @property
    def _canvas_hw(self) -> tuple[int, int] | None:
        return self._recipe.canvases_hw[0] if self._recipe.canvases_hw else None

    def _start(self) -> None:
        recipe, plan = self._recipe, self._plan or b""
        self._backend = self._kit.open(plan, max_batch_size=recipe.max_batch_size, dla_core=recipe.request.dla_core)
        # The device has its own copy now.
        self._plan = None
        takes_pixels = recipe.graph.takes_pixels
        warm(self._backend, recipe.item_shapes, np.uint8 if takes_pixels else np.float32)
        if recipe.spec.task == "detection" and takes_pixels:
            self._items.pin(recipe.spec.name, self._backend, recipe.item_shapes)
        probe = FAMILIES[recipe.spec.family]
        self._head = probe(recipe.spec, self._backend, self._canvas_hw, takes_pixels=takes_pixels).head

    def _run(self, items: Sequence[Any]) -> Sequence[Any]:
        if self._head is None or self._backend is None:
            raise InferenceError("The engine is not open.")
        return self._head.run(self._backend, items)

    def _close(self) -> None:
        if self._backend is not None:
            self._backend.close()
