"""What happens to the pictures of one request, in order: decode, detect, select, describe."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import replace

import cv2
import numpy as np
import structlog

from jetface.domain import Crop, Detections, ExtractOptions, Image, KnownFaces, PictureResult, Rotations
from jetface.geometry.alignment import CROP_SIDE_PX
from jetface.imaging.loader import LoadedPicture, PictureLoader
from jetface.imaging.sources import PictureSource
from jetface.metrics import Metrics
from jetface.models.store import ModelStore, NotLoaded
from jetface.pipeline.describer import EMBEDDING_ONLY, Describer
from jetface.pipeline.detector import Canvases, Detector, DetectorOutcome
from jetface.pipeline.known import KNOWN_BOX_THRESHOLD, at_boxes, at_landmarks, check_known, check_placed
from jetface.pipeline.pictures import PictureJob, Work, each_picture
from jetface.pipeline.pool import WorkPool
from jetface.pipeline.selection import select_faces

_log = structlog.get_logger(__name__)


class Extractor:
    """The service's work, without HTTP: pictures in, faces out.

    A picture that cannot be read fails its own slot. What is wrong with the service (no model, no capacity, a failed
    run) fails the request: its callers should try again, not store a hole.
    """

    def __init__(
        self,
        loader: PictureLoader,
        detector: Detector,
        describer: Describer,
        pool: WorkPool,
        metrics: Metrics,
        *,
        store: ModelStore,
        max_faces: int = 1024,
    ) -> None:
        self._loader = loader
        self._detector = detector
        self._describer = describer
        self._pool = pool
        self._metrics = metrics
        self._store = store
        self._max_faces = max_faces
        self._told: set[str] = set()

    async def extract(
        self, sources: Sequence[PictureSource], options: ExtractOptions, *, deadline: float
    ) -> list[PictureResult]:
        """Find the faces of each picture, and tell of them what is asked.

        Args:
            sources: The pictures of one request.
            options: What is wanted of them.
            deadline: `loop.time()` after which the answer is of no use.

        Returns:
            One result a picture, in order; `error` is set where a picture could not be read.

        Raises:
            ModelError: A model that is needed cannot be loaded, or none is configured.
            CapacityError: Queue full, deadline passed, shutting down.
            InferenceError: A run failed.
        """
        self._describer.check(options)

        async def work(job: PictureJob) -> PictureResult:
            canvases = self._detector.canvases()
            async with self._load(job, canvases) as picture:
                found = await self._detect(job, picture, canvases, options.score_threshold, options.rotations)
                kept = await self._select(job, picture, found.detections, options)
                faces = await self._describer.describe(job, picture, kept, options)
            rotation = None if options.rotations == "none" else found.rotation
            return job.result(faces=faces, image_hw=picture.source_hw, detection_scale=found.scale, rotation=rotation)

        wanted = [self._detector.model_name, *self._describer.models(options)]
        return await self._each(sources, work, wanted, deadline)

    async def embed_crops(
        self, sources: Sequence[PictureSource], options: ExtractOptions = EMBEDDING_ONLY, *, deadline: float
    ) -> list[PictureResult]:
        """Tell what is asked of pictures that are aligned crops already; one of another size than 112x112 is resized.

        Args, results and errors are those of `extract`; each picture yields one face whose box is the whole crop. There
        is nothing around it, so liveness and quality stay unknown.
        """
        self._describer.check(options)

        async def work(job: PictureJob) -> PictureResult:
            async with self._loader.load(job.source, deadline=job.deadline) as picture:
                job.add(decode_s=job.took_s)
                crop = await self._pool.run(_resize_to_crop, picture.pixels)
            faces = await self._describer.describe_crop(job, crop, options)
            return job.result(faces=faces, image_hw=picture.source_hw)

        return await self._each(sources, work, self._describer.models(options), deadline)

    async def recognize(
        self, sources: Sequence[PictureSource], known: Sequence[KnownFaces], *, deadline: float
    ) -> list[PictureResult]:
        """Embed faces whose place is known: as many faces a picture as were given, in that order.

        Landmarks are taken as they are. A box gets the landmarks of the detected face in it; where the detector sees
        none there, or several, those of an upright face. A picture fails whose landmarks or boxes can be no face's.

        Args:
            sources: The pictures of one request.
            known: The faces of each picture, source pixels.
            deadline: As for `extract`, as are results and errors.
        """
        self._describer.check(EMBEDDING_ONLY)

        async def work(job: PictureJob) -> PictureResult:
            faces = known[job.index]
            rotation = None
            canvases = self._detector.canvases() if faces.landmarks is None else None
            async with self._load(job, canvases) as picture:
                check_known(faces, picture.source_hw, picture=job.index)
                if faces.landmarks is not None:
                    job.add(decode_s=job.took_s)
                    placed = at_landmarks(faces.landmarks)
                else:
                    boxes = np.empty((0, 4), np.float32) if faces.boxes is None else faces.boxes
                    found = await self._detect(job, picture, canvases, KNOWN_BOX_THRESHOLD, faces.rotations)
                    placed = at_boxes(boxes, found.detections)
                    rotation = None if faces.rotations == "none" else found.rotation
                    check_placed(placed, picture.source_hw, picture=job.index)
                    if (placed.scores == 0).any():
                        self._tell_guessed("no face, or more than one, was detected in a given box")
                described = await self._describer.describe(job, picture, placed, EMBEDDING_ONLY)
            return job.result(faces=described, image_hw=picture.source_hw, rotation=rotation)

        return await self._each(sources, work, self._describer.models(EMBEDDING_ONLY), deadline)

    async def _each(
        self, sources: Sequence[PictureSource], work: Work, models: Sequence[str], deadline: float
    ) -> list[PictureResult]:
        """Work on each picture. One that needs a model which is not loaded is begun anew when it is.

        Until then nothing is held of it but the request's body: pixels and places are for those whose models are there.
        Where one of `models`, which it may need, is being loaded already, it is not begun before.
        """

        async def work_when_loaded(job: PictureJob) -> PictureResult:
            with ExitStack() as held:
                for name in filter(self._store.is_loading, models):
                    await self._wait_for(name, job, held)
                while True:
                    try:
                        return await work(job)
                    except NotLoaded as missing:  # noqa: PERF203 - once a model
                        await self._wait_for(missing.name, job, held)

        return await each_picture(sources, work_when_loaded, deadline=deadline, metrics=self._metrics)

    async def _wait_for(self, name: str, job: PictureJob, held: ExitStack) -> None:
        started = time.perf_counter()
        model = await self._store.get(name, deadline=job.deadline)
        # It does not go again while the next one loads.
        held.enter_context(model.users)
        job.begin_anew(load_s=time.perf_counter() - started)

    def _load(self, job: PictureJob, canvases: Canvases | None) -> AbstractAsyncContextManager[LoadedPicture]:
        # Drawn where it is decoded: a hop to a thread and back costs as much as the drawing.
        draw = None if canvases is None else canvases.draw
        return self._loader.load(job.source, deadline=job.deadline, on_decoded=draw)

    async def _select(
        self, job: PictureJob, picture: LoadedPicture, found: Detections, options: ExtractOptions
    ) -> Detections:
        """Keep the faces that are wanted; `limit_faces` counts those that are good enough."""
        if options.min_quality > 0:
            wide_enough = select_faces(found, replace(options, limit_faces=0), max_faces=self._max_faces)
            found = await self._describer.drop_poor(job, picture, wide_enough, least=options.min_quality)
        return select_faces(found, options, max_faces=self._max_faces)

    async def _detect(
        self,
        job: PictureJob,
        picture: LoadedPicture,
        canvases: Canvases | None,
        score_threshold: float,
        rotations: Rotations,
    ) -> DetectorOutcome:
        """Return the faces in source pixels; how they stand is noted with the picture."""
        drawn_s = canvases.took_s if canvases else 0.0
        job.add(decode_s=job.took_s - drawn_s)
        outcome = await self._detector.detect(
            picture.pixels,
            canvases,
            score_threshold=score_threshold,
            rotations=rotations,
            group=job.group,
            deadline=job.deadline,
        )
        if outcome.has_turned:
            self._metrics.turned_pictures.labels(str(outcome.rotation)).inc()
            _log.debug("looked at other quarter turns", picture=job.index, rotation=outcome.rotation)
        picture.rotation = outcome.rotation
        job.add(detect_s=drawn_s + outcome.took_s, queue_s=outcome.queued_s)
        if outcome.detections.landmarks_from is not None:
            self._tell_guessed("the detector has no landmarks")
        return outcome

    def _tell_guessed(self, why: str) -> None:
        """Log, once for each reason, that faces are aligned by landmarks which nobody saw."""
        if why not in self._told:
            self._told.add(why)
            _log.warning("landmarks guessed from boxes", model=self._detector.model_name, reason=why)


def _resize_to_crop(image: Image) -> Crop:
    """Resize a whole picture to the crop's size; one that has it already is returned as it is."""
    if image.shape[:2] == (CROP_SIDE_PX, CROP_SIDE_PX):
        return image
    shrinks = image.shape[0] > CROP_SIDE_PX or image.shape[1] > CROP_SIDE_PX
    resized = cv2.resize(
        image, (CROP_SIDE_PX, CROP_SIDE_PX), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return np.ascontiguousarray(resized, np.uint8)
