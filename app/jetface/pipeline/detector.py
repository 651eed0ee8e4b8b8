"""A picture to detections: canvases, the detector's queue, a small second look merged in, back to source pixels."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jetface.domain import Detections, Image, Rotations
from jetface.errors import ModelError
from jetface.geometry.boxes import FINER_LOOK_SHARE, are_seen, merge_looks
from jetface.geometry.letterbox import Letterbox, to_source
from jetface.heads.canvases import DetectorItem
from jetface.models.loaded import LoadedModel
from jetface.models.store import ModelStore
from jetface.pipeline.pictures import WorkPool

SURE_SCORE = 0.8
"""Least score of a face that says that a picture stands upright. Measured on 800 portraits: turned by 90, 180 or 270
degrees none has one, upright 84 in 100 have (docs/adr/0018-turned-pictures.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorOptions:
    """How pictures are put before the detector."""

    canvases_hw: Sequence[tuple[int, int]] = ((640, 640),)
    """Height and width of the canvases each picture is looked at, multiples of 32, the full one first."""
    fill: int = 0
    """What a canvas shows around its picture, [0, 255]."""
    max_upscale: float = math.inf
    """Most by which a picture is enlarged, at least 1; canvases of a graph of fixed size are filled."""
    rectangular: bool = True
    """Pad by a margin instead of to the full canvas: less to compute, more shapes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DetectorOutcome:
    """What the detector said of one picture."""

    detections: Detections
    """In pixels of the picture that was handed in, best score first."""
    scale: float
    """Factor by which the picture was resized for the full canvas."""
    rotation: int
    """Degrees clockwise by which it was turned before: 0, 90, 180, 270."""
    has_turned: bool
    """Whether other turns than 0 were looked at."""
    queued_s: float
    took_s: float
    """Wall seconds without the queue."""


class Canvases:
    """One picture on the canvases of one model: told by `draw`, which is called once, on any thread."""

    def __init__(self, model: LoadedModel[Any, Any], options: DetectorOptions, *, rotation: int = 0) -> None:
        self.took_s = 0.0
        """Seconds it took to draw them."""
        self.letterboxes: list[Letterbox] = []
        self.images: list[Image] = []
        self.model = model
        self._options = options
        self._rotation = rotation

    def draw(self, image: Image) -> None:
        """Place the picture on each canvas; a graph of fixed size is looked at once, at that size."""
        started = time.perf_counter()
        model, options, rotation = self.model, self._options, self._rotation
        image_hw = (image.shape[0], image.shape[1])
        if model.input_hw is not None:
            self.letterboxes = [Letterbox.fit(image_hw, model.input_hw, rectangular=False, rotation=rotation)]
        else:
            self.letterboxes = [
                Letterbox.fit(
                    image_hw,
                    canvas_hw,
                    rectangular=options.rectangular,
                    rotation=rotation,
                    max_upscale=options.max_upscale,
                )
                for canvas_hw in options.canvases_hw
            ]
        # Drawn where the model reads them: on a GPU a canvas is copied by nobody else after this.
        self.images = [
            box.apply(image, into=model.items.new_item(box.canvas_shape), fill=options.fill) for box in self.letterboxes
        ]
        self.took_s = time.perf_counter() - started


class Detector:
    """The detection stage. Stateless but for the model it uses; any number of calls at once."""

    def __init__(self, store: ModelStore, model_name: str | None, options: DetectorOptions, pool: WorkPool) -> None:
        self._model_name = model_name
        self._store = store
        self._options = options
        self._pool = pool

    @property
    def model_name(self) -> str:
        """Registry name of its model.

        Raises:
            ModelError: None is configured.
        """
        if self._model_name is None:
            raise ModelError("No detector is configured: DET_MODEL is none.")
        return self._model_name

    def canvases(self) -> Canvases | None:
        """Return what draws a picture for `detect`, on the thread that decodes it; None until the model is loaded."""
        model = self._store.serving(self.model_name)
        return None if model is None else Canvases(model, self._options)

    async def detect(
        self,
        image: Image,
        canvases: Canvases | None,
        *,
        score_threshold: float,
        rotations: Rotations = "none",
        group: Hashable,
        deadline: float,
    ) -> DetectorOutcome:
        """Find the faces of one picture.

        Args:
            image: The picture, any size from 1x1.
            canvases: What it was drawn on as it is; None draws it now.
            score_threshold: Least score, [0, 1].
            rotations: With `auto`, a picture without a face of `SURE_SCORE` is looked at in its other three quarter
                turns, too, one after the other; the turn with the best face is taken, and of equal ones the first.
            group: The request this picture belongs to; requests take turns in the queue.
            deadline: `loop.time()` after which the answer is of no use.

        Raises:
            NotLoaded: The detector is not loaded.
            CapacityError: Queue full, deadline passed, shutting down.
            InferenceError: The run failed.
        """
        first = await self._look(image, canvases, 0, score_threshold, group, deadline)
        if rotations == "none" or _best_score(first) >= SURE_SCORE:
            return first
        outcomes = [first]
        outcomes += [
            await self._look(image, None, rotation, score_threshold, group, deadline) for rotation in (90, 180, 270)
        ]
        return replace(
            max(outcomes, key=_best_score),
            has_turned=True,
            queued_s=sum(outcome.queued_s for outcome in outcomes),
            took_s=sum(outcome.took_s for outcome in outcomes),
        )

    async def _look(
        self,
        image: Image,
        canvases: Canvases | None,
        rotation: int,
        score_threshold: float,
        group: Hashable,
        deadline: float,
    ) -> DetectorOutcome:
        """Find the faces of a picture in one of its turns."""
        model = self._store.at_once(self.model_name)
        started = time.perf_counter()
        with model.users:
            if canvases is None or canvases.model is not model:
                canvases = Canvases(model, self._options, rotation=rotation)
                await self._pool.run(canvases.draw, image)
            # Each look but the last is asked for more than is wanted: what `merge_looks` decides needs it.
            thresholds = [np.float32(score_threshold)]
            while len(thresholds) < len(canvases.images):
                thresholds.insert(0, FINER_LOOK_SHARE * thresholds[0])
            item = tuple(
                DetectorItem(canvas=canvas, score_threshold=float(threshold))
                for canvas, threshold in zip(canvases.images, thresholds, strict=True)
            )
            # They are the item's: pinned memory comes back for others with its run, not with the end of the request.
            canvases.images = []
            outcome = await model.batcher.submit([item], group=group, deadline=deadline)
        (found_by_look,) = outcome.results
        looks = [to_source(found, box) for found, box in zip(found_by_look, canvases.letterboxes, strict=True)]
        merged = looks[0]
        for look in looks[1:]:
            merged = merge_looks(merged, look)
        if len(looks) > 1:
            num_wanted = int(np.count_nonzero(merged.scores >= thresholds[-1]))
            merged = merged.take(slice(num_wanted))
        # Anchors at the edge may say of the padding, at thresholds near 0, that there is a face.
        is_seen = are_seen(merged.boxes, (image.shape[0], image.shape[1]))
        if not is_seen.all():
            merged = merged.take(is_seen)
        return DetectorOutcome(
            detections=merged,
            scale=canvases.letterboxes[0].scale,
            rotation=rotation,
            has_turned=False,
            queued_s=outcome.queued_s,
            took_s=time.perf_counter() - started - outcome.queued_s,
        )


def _best_score(outcome: DetectorOutcome) -> float:
    """Return the score of the best face; 0 where there is none."""
    return float(outcome.detections.scores[0]) if len(outcome.detections) else 0.0
