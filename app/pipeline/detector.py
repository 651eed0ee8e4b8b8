"""A picture to detections: canvases, the detector's queue, a small second look merged in, back to source pixels."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from app.domain import Detections, Image
from app.geometry.boxes import merge_looks
from app.geometry.letterbox import Letterbox, scaled_canvas, to_source
from app.models.families.canvases import DetectorItem
from app.models.loaded import LoadedModel
from app.models.store import ModelStore
from app.pipeline.pool import WorkPool

_SMALL_IMAGE_BYTES = 3 * 640 * 640
"""A picture whose canvases are drawn (0.1 ms) in less time than a hop to another thread and back takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorOptions:
    """How pictures are put before the detector."""

    max_hw: tuple[int, int] = (640, 640)
    """Largest canvas, multiples of 32."""
    scales: Sequence[float] = (1.0,)
    """Canvases each picture is looked at, as fractions of `max_hw`, the full one first."""
    rectangular: bool = True
    """Pad by a margin instead of to the full canvas: less to compute, more shapes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DetectorOutcome:
    """What the detector said of one picture."""

    detections: Detections
    """In pixels of the picture that was handed in, best score first."""
    scale: float
    """Factor by which the picture was resized for the full canvas."""
    load_s: float
    """Seconds the call waited for the model to be loaded."""
    queued_s: float
    took_s: float
    """Wall seconds without the load and the queue."""


class Detector:
    """The detection stage. Stateless but for the model it uses; any number of calls at once."""

    def __init__(self, store: ModelStore, model_name: str, options: DetectorOptions, pool: WorkPool) -> None:
        self.model_name = model_name
        self._store = store
        self._options = options
        self._pool = pool

    @property
    def max_hw(self) -> tuple[int, int]:
        """Height and width of the largest canvas."""
        return self._options.max_hw

    async def detect(
        self, image: Image, *, score_threshold: float, group: Hashable, deadline: float
    ) -> DetectorOutcome:
        """Find the faces of one picture.

        Args:
            image: The picture, any size from 1x1.
            score_threshold: Least score, [0, 1].
            group: The request this picture belongs to; requests take turns in the queue.
            deadline: `loop.time()` after which the answer is of no use.

        Raises:
            ModelError: The detector cannot be loaded.
            CapacityError: Queue full, deadline passed, shutting down.
            InferenceError: The run failed.
        """
        model, load_s = await self._store.get_timed(self.model_name)
        started = time.perf_counter()
        if image.size <= _SMALL_IMAGE_BYTES:
            letterboxes, canvases = self._draw_canvases(image, model)
        else:
            letterboxes, canvases = await self._pool.run(self._draw_canvases, image, model)
        item = tuple(DetectorItem(canvas=canvas, score_threshold=score_threshold) for canvas in canvases)
        outcome = await model.batcher.submit([item], group=group, deadline=deadline)
        (found_by_look,) = outcome.results
        looks = [to_source(found, box) for found, box in zip(found_by_look, letterboxes, strict=True)]
        merged = looks[0]
        for look in looks[1:]:
            merged = merge_looks(merged, look)
        return DetectorOutcome(
            detections=merged,
            scale=letterboxes[0].scale,
            load_s=load_s,
            queued_s=outcome.queued_s,
            took_s=time.perf_counter() - started - outcome.queued_s,
        )

    def _draw_canvases(self, image: Image, model: LoadedModel[Any, Any]) -> tuple[list[Letterbox], list[Image]]:
        """Place the picture on each canvas; a graph of fixed size is looked at once, at that size."""
        options = self._options
        image_hw = (image.shape[0], image.shape[1])
        if model.input_hw is not None:
            letterboxes = [Letterbox.fit(image_hw, model.input_hw, rectangular=False)]
        else:
            letterboxes = [
                Letterbox.fit(image_hw, scaled_canvas(options.max_hw, scale), rectangular=options.rectangular)
                for scale in options.scales
            ]
        # Drawn where the model reads them: on a GPU a canvas is copied by nobody else after this.
        canvases = [letterbox.apply(image, into=model.new_item(letterbox.canvas_shape)) for letterbox in letterboxes]
        return letterboxes, canvases
