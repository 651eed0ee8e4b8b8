"""What happens to the pictures of one request, in order: decode, detect, select, describe."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

import cv2
import numpy as np
import structlog
from numpy.typing import NDArray

from jetface.domain import (
    Boxes,
    Crop,
    Detections,
    ExtractOptions,
    Image,
    KnownFaces,
    Landmarks,
    PictureResult,
    Rotations,
)
from jetface.errors import RequestError
from jetface.geometry.alignment import CROP_SIDE_PX, landmarks_fault
from jetface.geometry.boxes import LEAST_SIDE_PX, box_areas, intersection_matrix, iou_matrix, largest_first
from jetface.heads.scrfd import place_landmarks
from jetface.imaging.loader import LoadedPicture, PictureLoader
from jetface.imaging.sources import PictureSource
from jetface.metrics import Metrics
from jetface.models.store import ModelStore
from jetface.pipeline.describer import EMBEDDING_ONLY, Describer
from jetface.pipeline.detector import Canvases, Detector, DetectorOutcome
from jetface.pipeline.pictures import PictureJob, Recall, Work, WorkPool, each_picture_when_loaded
from jetface.pipeline.recall import ResultCache


def select_faces(detections: Detections, options: ExtractOptions, *, max_faces: int) -> Detections:
    """Keep the faces a request asked for.

    Args:
        detections: Best score first, source pixels.
        options: `min_face_width_px` drops narrower boxes; `limit_faces` N > 0 keeps the N largest by area, largest
            first (as InsightFace-REST orders them); otherwise the order stays by score.
        max_faces: Upper bound whatever the request says; the best scores stay.

    Returns:
        The kept faces: a copy, a view, or `detections` itself where nothing is dropped.
    """
    if options.min_face_width_px <= 0 and options.limit_faces <= 0:
        return detections if len(detections) <= max_faces else detections.take(slice(max_faces))
    boxes = detections.boxes
    kept = np.flatnonzero(boxes[:, 2] - boxes[:, 0] >= options.min_face_width_px)[:max_faces]
    if options.limit_faces > 0:
        kept = kept[largest_first(boxes[kept])[: options.limit_faces]]
    return detections.take(kept)


KNOWN_BOX_THRESHOLD = 0.05
"""Detector score at which a face may be the one that the caller says is there. Half as low costs 3 to 13 ms of CPU a
portrait, this 1."""

_LIKELY_FACE = 0.3
"""Score from which a face counts beside others: half of what is asked where nobody says that there is one. A weaker one
is taken only where its box is the given one, or where there is no such face."""

_SURE_FACE = 0.6
"""Score from which a face in a loose box is preferred to weaker ones in it."""

_SAME_BOX_PX = 1.0
"""Farthest that corners lie apart of a detector's own box and what rounding or cutting made of it."""

_SAME_FACE_IOU = 0.3
"""Least overlap at which a detected face is taken for the one in a given box; other detectors draw other boxes."""

_WITHIN_SHARE = 0.9
"""Least part of a box that lies within another one that holds it."""


def check_known(faces: KnownFaces, image_hw: tuple[int, int], *, picture: int) -> None:
    """Refuse landmarks and boxes that cannot be a face's in this picture.

    Args:
        faces: As the caller gave them.
        image_hw: Height and width of the picture.
        picture: Its place in the request, for the message.

    Raises:
        RequestError: Says which face it is, and what is wrong with it.
    """
    for index, points in enumerate(() if faces.landmarks is None else faces.landmarks):
        _refuse(landmarks_fault(points, image_hw), f"landmarks.{picture}.{index}: the five points")
    for index, box in enumerate(() if faces.boxes is None else faces.boxes):
        _refuse(_box_fault(box, image_hw), f"boxes.{picture}.{index}: the box")


def at_landmarks(landmarks: Landmarks) -> Detections:
    """Return faces at (N, 5, 2) landmarks; their boxes are those of the points, their score is 1."""
    if len(landmarks) == 0:
        return Detections.empty()
    boxes = np.concatenate([landmarks.min(axis=1), landmarks.max(axis=1)], axis=1)
    return Detections(boxes, np.ones(len(boxes), np.float32), landmarks, np.full(len(boxes), "given"))


def at_boxes(boxes: Boxes, detected: Detections) -> Detections:
    """Give each box the landmarks of the detected face in it.

    That is the one whose box it is, to a pixel, whatever its score. Else, of those that score 0.3, the one it overlaps
    most, by an IoU of 0.3 or more; else, however loose the box, the only one that lies in it, or the only sure one of
    several; else, however tight it is, the only one that it lies in. Where it has nothing of such a face, the weaker
    one that it overlaps most, by as much.

    Args:
        boxes: (N, 4) float32, as the caller gave them.
        detected: What the detector found in the same picture, same pixels.

    Returns:
        N faces in the order of `boxes`, with the given boxes. Score and landmarks are those of the detected face, or
        0 and an upright face's, from the box, where there is none or more than one.
    """
    scores = np.zeros(len(boxes), np.float32)
    landmarks = place_landmarks(boxes)
    landmarks_from = np.full(len(boxes), "box", "<U8")
    if len(boxes) and len(detected):
        faces = _faces_in(boxes, detected)
        is_known = faces >= 0
        scores[is_known] = detected.scores[faces[is_known]]
        landmarks[is_known] = detected.landmarks[faces[is_known]]
        landmarks_from[is_known] = detected.origins()[faces[is_known]]
    return Detections(boxes, scores, landmarks, landmarks_from)


def check_placed(placed: Detections, image_hw: tuple[int, int], *, picture: int) -> None:
    """Refuse boxes in which no face was detected and no upright one can be; otherwise as `check_known`."""
    for index in np.flatnonzero(placed.scores == 0).tolist():
        fault = landmarks_fault(placed.landmarks[index], image_hw)
        _refuse(fault, f"boxes.{picture}.{index}: no face was detected there, and an upright one's landmarks")


def _faces_in(boxes: Boxes, detected: Detections) -> NDArray[np.intp]:
    """Return (N,) which detected face each box is of, -1 where there is none or more than one."""
    overlaps = iou_matrix(boxes, detected.boxes)
    shared = intersection_matrix(boxes, detected.boxes)
    is_likely = detected.scores >= _LIKELY_FACE
    holds = (shared >= _WITHIN_SHARE * box_areas(detected.boxes)) & is_likely
    is_held = (shared >= _WITHIN_SHARE * box_areas(boxes)[:, None]) & is_likely
    faces = np.full(len(boxes), -1, np.intp)
    for index, box in enumerate(boxes):
        is_own = np.abs(detected.boxes - box).max(axis=1) <= _SAME_BOX_PX
        is_same = overlaps[index] >= _SAME_FACE_IOU
        held = holds[index] if holds[index].any() else is_held[index]
        if is_own.any():
            meant = is_own
        elif (is_same & is_likely).any():
            meant = is_same & is_likely
        elif not held.any():
            meant = is_same
        elif np.count_nonzero(held) == 1:
            meant = held
        else:
            meant = held & (detected.scores >= _SURE_FACE)
            if np.count_nonzero(meant) > 1:
                continue
        if meant.any():
            faces[index] = np.where(meant, overlaps[index], -1).argmax()
    return faces


def _box_fault(box: NDArray[np.float32], image_hw: tuple[int, int]) -> str | None:
    """Say why a (4,) box cannot hold a face of a picture; None where it may."""
    height, width = image_hw
    x1, y1, x2, y2 = box.tolist()
    if not np.isfinite(box).all():
        return "is not all finite numbers"
    if x2 <= x1 or y2 <= y1:
        return "is empty: [x1, y1, x2, y2] with x2 > x1 and y2 > y1 is wanted, not a width and a height"
    if box.min() >= 0 and box.max() <= 1:
        return "lies between 0 and 1: pixels of the picture are wanted, not fractions of its sides"
    if min(x2 - x1, y2 - y1) < LEAST_SIDE_PX:
        return f"is less than {LEAST_SIDE_PX:.0f} pixels wide or high, where no face can be seen"
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        return f"lies outside the picture of {width}x{height} pixels"
    return None


def _refuse(fault: str | None, what: str) -> None:
    if fault is not None:
        raise RequestError(f"{what} {fault}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenModels:
    """Registry names of the models the settings chose."""

    detector: str | None
    recognizer: str | None
    attributes: Mapping[str, tuple[str, ...]]
    """By attribute; what several models say of one is merged."""
    plates: tuple[str, str] | None = None
    """What finds licence plates, and what reads them; None where nothing does."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, detector first."""
        of_attributes = (name for names in self.attributes.values() for name in names)
        of_faces = filter(None, (self.detector, self.recognizer))
        return (*of_faces, *of_attributes, *(self.plates or ()))


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
        cache: ResultCache | None = None,
        max_faces: int = 1024,
    ) -> None:
        self._loader = loader
        self._detector = detector
        self._describer = describer
        self._pool = pool
        self._metrics = metrics
        self._store = store
        self._cache = cache
        self._max_faces = max_faces
        self._told: set[str] = set()

    async def extract(
        self, sources: Sequence[PictureSource], options: ExtractOptions, *, deadline: float, whose: str | None = None
    ) -> list[PictureResult]:
        """Find the faces of each picture, and tell of them what is asked.

        Args:
            sources: The pictures of one request.
            options: What is wanted of them.
            deadline: `loop.time()` after which the answer is of no use.
            whose: Whose answers may be given again from memory; None: nobody's.

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
        return await self._each(sources, work, wanted, deadline, self._recall(whose, lambda _: ("faces", options)))

    async def embed_crops(
        self,
        sources: Sequence[PictureSource],
        options: ExtractOptions = EMBEDDING_ONLY,
        *,
        deadline: float,
        whose: str | None = None,
    ) -> list[PictureResult]:
        """Tell what is asked of pictures that are aligned crops already; one of another size than 112x112 is resized.

        Args, results and errors are those of `extract`; each picture yields one face whose box is the whole crop. There
        is nothing around it, so liveness and quality stay unknown.
        """
        self._describer.check(options)

        async def work(job: PictureJob) -> PictureResult:
            async with self._loader.load(job.source, deadline=job.deadline) as picture:
                job.add(decode=job.worked_s)
                crop = await self._pool.run(_resize_to_crop, picture.pixels)
            faces = await self._describer.describe_crop(job, crop, options)
            return job.result(faces=faces, image_hw=picture.source_hw)

        recall = self._recall(whose, lambda _: ("crops", options))
        return await self._each(sources, work, self._describer.models(options), deadline, recall)

    async def recognize(
        self,
        sources: Sequence[PictureSource],
        known: Sequence[KnownFaces],
        *,
        deadline: float,
        whose: str | None = None,
    ) -> list[PictureResult]:
        """Embed faces whose place is known: as many faces a picture as were given, in that order.

        Landmarks are taken as they are. A box gets the landmarks of the detected face in it; where the detector sees
        none there, or several, those of an upright face. A picture fails whose landmarks or boxes can be no face's.

        Args:
            sources: The pictures of one request.
            known: The faces of each picture, source pixels.
            deadline: As for `extract`, as are results and errors.
            whose: As for `extract`.
        """
        self._describer.check(EMBEDDING_ONLY)

        async def work(job: PictureJob) -> PictureResult:
            faces = known[job.index]
            rotation = None
            canvases = self._detector.canvases() if faces.landmarks is None else None
            async with self._load(job, canvases) as picture:
                check_known(faces, picture.source_hw, picture=job.index)
                if faces.landmarks is not None:
                    job.add(decode=job.worked_s)
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

        recall = self._recall(whose, lambda index: ("known", *_as_values(known[index])))
        return await self._each(sources, work, self._describer.models(EMBEDDING_ONLY), deadline, recall)

    async def _each(
        self,
        sources: Sequence[PictureSource],
        work: Work,
        models: Sequence[str],
        deadline: float,
        recall: Recall | None,
    ) -> list[PictureResult]:
        return await each_picture_when_loaded(
            sources, work, models, store=self._store, deadline=deadline, metrics=self._metrics, recall=recall
        )

    def _recall(self, whose: str | None, question: Callable[[int], Hashable]) -> Recall | None:
        return self._cache.asked(whose, question) if self._cache else None

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
        job.add(decode=job.worked_s - drawn_s)
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
        job.add(detect=drawn_s + outcome.took_s, queue=outcome.queued_s)
        if outcome.detections.landmarks_from is not None:
            self._tell_guessed("the detector has no landmarks")
        return outcome

    def _tell_guessed(self, why: str) -> None:
        """Log, once for each reason, that faces are aligned by landmarks which nobody saw."""
        if why not in self._told:
            self._told.add(why)
            _log.warning("landmarks guessed from boxes", model=self._detector.model_name, reason=why)


def _as_values(known: KnownFaces) -> tuple[Hashable, ...]:
    """Return what says which faces are meant, to be compared."""
    places = (known.landmarks, known.boxes)
    return (*(None if place is None else place.tobytes() for place in places), known.rotations)


def _resize_to_crop(image: Image) -> Crop:
    """Resize a whole picture to the crop's size; one that has it already is returned as it is."""
    if image.shape[:2] == (CROP_SIDE_PX, CROP_SIDE_PX):
        return image
    shrinks = image.shape[0] > CROP_SIDE_PX or image.shape[1] > CROP_SIDE_PX
    resized = cv2.resize(
        image, (CROP_SIDE_PX, CROP_SIDE_PX), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return np.ascontiguousarray(resized, np.uint8)
