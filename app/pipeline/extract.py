"""What happens to the pictures of one request, in order: decode, detect, select, align, recognize."""

from __future__ import annotations

import itertools
import time
from collections.abc import Hashable, Sequence
from dataclasses import replace

import cv2
import numpy as np

from app.domain import Crop, Detections, ExtractOptions, Face, Image, KnownFaces, PictureResult
from app.errors import ModelError
from app.geometry.alignment import CROP_SIDE_PX
from app.imaging.loader import PictureLoader
from app.imaging.sources import PictureSource
from app.metrics import Metrics
from app.pipeline.detector import Detector
from app.pipeline.known import KNOWN_BOX_THRESHOLD, at_boxes, at_landmarks
from app.pipeline.pictures import Clock, each_picture
from app.pipeline.pool import WorkPool
from app.pipeline.recognizer import Recognizer, align_faces
from app.pipeline.selection import select_faces

CROPS_AT_ONCE = 64
"""Faces of one picture aligned and queued at once; bounds what a crowd holds in memory (37 kB a crop)."""


class Extractor:
    """The service's work, without HTTP: pictures in, faces out.

    A picture that cannot be read fails its own slot. What is wrong with the service (no model, no capacity, a failed
    run) fails the request: its callers should try again, not store a hole.
    """

    def __init__(
        self,
        loader: PictureLoader,
        detector: Detector,
        recognizer: Recognizer | None,
        pool: WorkPool,
        metrics: Metrics,
        *,
        max_faces: int = 1024,
    ) -> None:
        self._loader = loader
        self._detector = detector
        self._recognizer = recognizer
        self._pool = pool
        self._metrics = metrics
        self._max_faces = max_faces
        self._groups = itertools.count()

    async def extract(
        self, sources: Sequence[PictureSource], options: ExtractOptions, *, deadline: float
    ) -> list[PictureResult]:
        """Find the faces of each picture and embed them if asked.

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
        self._require_recognizer(wanted=options.with_embedding)
        group = next(self._groups)

        async def work(index: int, source: PictureSource, clock: Clock) -> PictureResult:
            return await self._extract_one(index, source, options, clock, group=group, deadline=deadline)

        return await each_picture(sources, work, self._metrics)

    async def embed_crops(self, sources: Sequence[PictureSource], *, deadline: float) -> list[PictureResult]:
        """Embed pictures that are aligned crops already; one of another size than 112x112 is resized.

        Args, results and errors are those of `extract`; each picture yields one face whose box is the whole crop.
        """
        self._require_recognizer(wanted=True)
        group = next(self._groups)

        async def work(index: int, source: PictureSource, clock: Clock) -> PictureResult:
            async with self._loader.load(source, deadline=deadline) as picture:
                clock.add(decode_s=clock.took_s)
                crop = await self._pool.run(_resize_to_crop, picture.pixels)
                image_hw = picture.source_hw
            side = float(CROP_SIDE_PX)
            whole = Detections(
                np.array([[0, 0, side, side]], np.float32), np.ones(1, np.float32), np.zeros((1, 5, 2), np.float32)
            )
            faces = await self._recognize(index, whole, [crop], clock, group=group, deadline=deadline)
            return PictureResult(image_index=index, faces=tuple(faces), image_hw=image_hw)

        return await each_picture(sources, work, self._metrics)

    async def recognize(
        self, sources: Sequence[PictureSource], known: Sequence[KnownFaces], *, deadline: float
    ) -> list[PictureResult]:
        """Embed faces whose place is known: as many faces a picture as were given, in that order.

        Landmarks are taken as they are. A box gets the landmarks of the detected face it overlaps most; where the
        detector sees none there, those of an upright face.

        Args:
            sources: The pictures of one request.
            known: The faces of each picture, source pixels.
            deadline: As for `extract`, as are results and errors.
        """
        self._require_recognizer(wanted=True)
        group = next(self._groups)

        async def work(index: int, source: PictureSource, clock: Clock) -> PictureResult:
            async with self._loader.load(source, deadline=deadline) as picture:
                clock.add(decode_s=clock.took_s)
                faces = known[index]
                if faces.landmarks is not None:
                    placed = at_landmarks(faces.landmarks)
                else:
                    boxes = np.empty((0, 4), np.float32) if faces.boxes is None else faces.boxes
                    outcome = await self._detector.detect(
                        picture.pixels, score_threshold=KNOWN_BOX_THRESHOLD, group=group, deadline=deadline
                    )
                    clock.add(detect_s=outcome.took_s, queue_s=outcome.queued_s)
                    placed = at_boxes(boxes, outcome.detections)
                found = await self._align_and_recognize(
                    index, picture.pixels, placed, clock, with_embedding=True, group=group, deadline=deadline
                )
                image_hw = picture.source_hw
            return PictureResult(
                image_index=index, faces=tuple(replace(face, crop=None) for face in found), image_hw=image_hw
            )

        return await each_picture(sources, work, self._metrics)

    async def _extract_one(
        self,
        index: int,
        source: PictureSource,
        options: ExtractOptions,
        clock: Clock,
        *,
        group: Hashable,
        deadline: float,
    ) -> PictureResult:
        async with self._loader.load(source, deadline=deadline) as picture:
            clock.add(decode_s=clock.took_s)
            outcome = await self._detector.detect(
                picture.pixels, score_threshold=options.score_threshold, group=group, deadline=deadline
            )
            clock.add(detect_s=outcome.took_s, queue_s=outcome.queued_s)
            kept = select_faces(outcome.detections, options, max_faces=self._max_faces)
            if options.with_embedding or options.with_crop:
                faces = await self._align_and_recognize(
                    index,
                    picture.pixels,
                    kept,
                    clock,
                    with_embedding=options.with_embedding,
                    group=group,
                    deadline=deadline,
                )
                if not options.with_crop:
                    faces = [replace(face, crop=None) for face in faces]
            else:
                faces = _faces(index, kept)
            image_hw = picture.source_hw
        return PictureResult(
            image_index=index, faces=tuple(faces), image_hw=image_hw, detection_scale=outcome.scale * picture.scale
        )

    async def _align_and_recognize(
        self,
        index: int,
        pixels: Image,
        faces: Detections,
        clock: Clock,
        *,
        with_embedding: bool,
        group: Hashable,
        deadline: float,
    ) -> list[Face]:
        """Cut the crops of one picture and embed them if asked, a bounded number at once."""
        done: list[Face] = []
        for start in range(0, len(faces), CROPS_AT_ONCE):
            part = faces.take(slice(start, start + CROPS_AT_ONCE))
            started = time.perf_counter()
            crops = await align_faces(self._pool, pixels, part.landmarks)
            clock.add(align_s=time.perf_counter() - started)
            if with_embedding:
                done += await self._recognize(index, part, crops, clock, group=group, deadline=deadline)
            else:
                done += _faces(index, part, crops)
        return done

    async def _recognize(
        self, index: int, faces: Detections, crops: list[Crop], clock: Clock, *, group: Hashable, deadline: float
    ) -> list[Face]:
        if self._recognizer is None:  # pragma: no cover - _require_recognizer has refused the request
            raise ModelError("No recognizer is configured.")
        outcome = await self._recognizer.embed(crops, group=group, deadline=deadline)
        clock.add(recognize_s=outcome.took_s, queue_s=outcome.queued_s)
        return [
            replace(face, embedding=embedding)
            for face, embedding in zip(_faces(index, faces, crops), outcome.embeddings, strict=True)
        ]

    def _require_recognizer(self, *, wanted: bool) -> None:
        if wanted and self._recognizer is None:
            raise ModelError("No recognizer is configured; ask for detection only.")


def _faces(index: int, detections: Detections, crops: Sequence[Crop | None] | None = None) -> list[Face]:
    """Turn rows of arrays into faces that carry the picture they came from."""
    rows = zip(
        detections.boxes,
        detections.scores.tolist(),
        detections.landmarks,
        [None] * len(detections) if crops is None else crops,
        strict=True,
    )
    return [
        Face(image_index=index, box=box, score=score, landmarks=landmarks, crop=crop)
        for box, score, landmarks, crop in rows
    ]


def _resize_to_crop(image: Image) -> Crop:
    """Resize a whole picture to the crop's size; one that has it already is returned as it is."""
    if image.shape[:2] == (CROP_SIDE_PX, CROP_SIDE_PX):
        return image
    shrinks = image.shape[0] > CROP_SIDE_PX or image.shape[1] > CROP_SIDE_PX
    resized = cv2.resize(
        image, (CROP_SIDE_PX, CROP_SIDE_PX), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return np.ascontiguousarray(resized, np.uint8)
