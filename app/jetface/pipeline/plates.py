"""Pictures to licence plates: decode, detect, cut out, read."""

from __future__ import annotations

import time
from collections.abc import Sequence

import cv2
import numpy as np
import structlog

from jetface.domain import Boxes, Detections, Image, PictureResult, Plate, PlateOptions, PlateText
from jetface.geometry.boxes import largest_first
from jetface.imaging.loader import LoadedPicture, PictureLoader
from jetface.imaging.sources import PictureSource
from jetface.metrics import Metrics
from jetface.models.store import ModelStore
from jetface.pipeline.detector import Detector
from jetface.pipeline.pictures import PictureJob, WorkPool, each_picture_when_loaded
from jetface.pipeline.recall import ResultCache

_log = structlog.get_logger(__name__)

PLATES_ARE_OFF = (
    "Reading plates is off: the operator turns it on with PLATE_DET_MODEL=starter_plate and "
    "PLATE_OCR_MODEL=plate_ocr_cct_xs, or other models of these tasks."
)
"""What a caller is told where no models for it are named."""

PLATES_AT_ONCE = 64
"""Plates of one picture cut out and queued at once; bounds what a car park holds in memory (25 kB each)."""


def select_plates(found: Detections, options: PlateOptions, *, max_plates: int) -> Detections:
    """Keep the plates a request asked for, at most `max_plates`; args are as those of `select_faces`."""
    boxes = found.boxes
    kept = np.flatnonzero(boxes[:, 2] - boxes[:, 0] >= options.min_width_px)[:max_plates]
    if options.limit > 0:
        kept = kept[largest_first(boxes[kept])[: options.limit]]
    return found.take(kept)


def cut_plates(image: Image, boxes: Boxes, *, enlargement: float, output_hw: tuple[int, int]) -> list[Image]:
    """Cut plates out of a picture, and resize them without keeping their proportions.

    Args:
        image: (H, W, 3) uint8.
        boxes: (N, 4) float32, its pixels; each overlaps the picture.
        enlargement: How many times as wide and high as a box its cut is; what is outside of the picture is left off.
        output_hw: Height and width of the cuts, pixels.

    Returns:
        N arrays (*output_hw, 3) uint8.
    """
    height, width = image.shape[:2]
    margins = (boxes[:, 2:] - boxes[:, :2]) * np.float32((enlargement - 1) / 2)
    corners = np.rint(np.concatenate([boxes[:, :2] - margins, boxes[:, 2:] + margins], axis=1)).astype(int)
    cuts: list[Image] = []
    for x1, y1, x2, y2 in corners.tolist():
        left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
        cut = image[top : max(y2, top + 1), left : max(x2, left + 1)]
        cuts.append(np.asarray(cv2.resize(cut, output_hw[::-1], interpolation=cv2.INTER_LINEAR), np.uint8))
    return cuts


class PlateFinder:
    """Pictures in, plates out; fails as `Extractor` does. Stateless but for the models it uses."""

    def __init__(
        self,
        loader: PictureLoader,
        detector: Detector,
        reader_name: str,
        pool: WorkPool,
        metrics: Metrics,
        *,
        store: ModelStore,
        cache: ResultCache | None = None,
        max_plates: int = 1024,
    ) -> None:
        self._loader = loader
        self._detector = detector
        self._reader_name = reader_name
        self._pool = pool
        self._metrics = metrics
        self._store = store
        self._cache = cache
        self._max_plates = max_plates

    async def find(
        self, sources: Sequence[PictureSource], options: PlateOptions, *, deadline: float, whose: str | None = None
    ) -> list[PictureResult]:
        """Find the plates of each picture and read them.

        Args:
            sources: The pictures of one request.
            options: Which plates are wanted.
            deadline: `loop.time()` after which the answer is of no use.
            whose: Whose answers may be given again from memory; None: nobody's.

        Returns:
            One result a picture, in order; `error` is set where a picture could not be read.

        Raises:
            ModelError: A model cannot be loaded.
            CapacityError: Queue full, deadline passed, shutting down.
            InferenceError: A run failed.
        """

        async def work(job: PictureJob) -> PictureResult:
            started = time.perf_counter()
            canvases = self._detector.canvases()
            draw = None if canvases is None else canvases.draw
            async with self._loader.load(job.source, deadline=job.deadline, on_decoded=draw) as picture:
                drawn_s = canvases.took_s if canvases else 0.0
                job.add(decode=time.perf_counter() - started - drawn_s)
                threshold = options.score_threshold
                outcome = await self._detector.detect(
                    picture.pixels,
                    canvases,
                    score_threshold=self._usual_threshold if threshold is None else threshold,
                    group=job.group,
                    deadline=job.deadline,
                )
                job.add(detect=drawn_s + outcome.took_s, queue=outcome.queued_s)
                found = select_plates(outcome.detections, options, max_plates=self._max_plates)
                texts = await self._read(job, picture, found.boxes)
            plates = [
                Plate(box=box, score=score, reading=text)
                for box, score, text in zip(found.boxes, found.scores.tolist(), texts, strict=True)
            ]
            # Never what they say: a plate is a person's.
            _log.debug("plates read", picture=job.index, found=len(outcome.detections), read=len(plates))
            return job.result(plates=plates, image_hw=picture.source_hw, detection_scale=outcome.scale)

        models = (self._detector.model_name, self._reader_name)
        return await each_picture_when_loaded(
            sources, work, models, store=self._store, deadline=deadline, metrics=self._metrics,
            recall=self._cache.asked(whose, lambda _: options) if self._cache else None,
        )  # fmt: skip

    @property
    def _usual_threshold(self) -> float:
        return self._store.spec(self._detector.model_name).least_score

    async def _read(self, job: PictureJob, picture: LoadedPicture, boxes: Boxes) -> list[PlateText]:
        texts: list[PlateText] = []
        for start in range(0, len(boxes), PLATES_AT_ONCE):
            model = self._store.at_once(self._reader_name)
            spec = model.spec
            started = time.perf_counter()
            with model.users:
                cuts = await self._pool.run(
                    cut_plates,
                    picture.pixels,
                    boxes[start : start + PLATES_AT_ONCE],
                    enlargement=spec.box_enlargement or 1.0,
                    output_hw=(spec.input.height_px, spec.input.width_px),
                )
                job.add(align=time.perf_counter() - started)
                outcome = await model.batcher.submit(cuts, group=job.group, deadline=job.deadline)
            job.add(recognize=outcome.ran_s, queue=outcome.queued_s)
            texts += outcome.results
        return texts
