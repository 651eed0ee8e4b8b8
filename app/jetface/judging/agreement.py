"""Whether two ways to run a model agree: a reference in FP32 and another, on the same pictures.

Pure: numbers in, verdict out. Limits are for pictures that show faces. A `fault` is one sentence about the first limit
that is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from jetface.domain import Crop, Detections, Image
from jetface.geometry.alignment import align
from jetface.geometry.boxes import iou_matrix, suppress_overlaps
from jetface.geometry.letterbox import Letterbox
from jetface.graphs.pixels import to_batch
from jetface.heads.canvases import CanvasHead, DetectorItem, LooksHead
from jetface.heads.families import FAMILIES
from jetface.registry import ModelSpec
from jetface.runtimes.backend import Backend

SAME_FACE_IOU = 0.5
"""Two boxes that overlap at least this much are one face. Source: WIDER Face's evaluation."""

SCORE_MARGIN = 0.05
"""What rounding may change a score by, and more: see `compare_detections`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What answers have to reach; besides, no face may be found by one side alone."""

    least_mean_cosine: float
    """Of embeddings."""
    least_worst_cosine: float
    """Of embeddings."""
    least_iou: float
    """Of boxes."""


FP16 = Limits(least_mean_cosine=0.9995, least_worst_cosine=0.999, least_iou=0.98)
"""For a graph in FP16 against itself in FP32. Source: docs/adr/0009-fp16-graphs.md. Identities start to be confused
orders of magnitude below: the cosine of two portraits of one person is 0.5 to 0.9. A box of 100x100 px may be moved by
half a pixel along both axes."""

ENGINE = Limits(least_mean_cosine=0.999, least_worst_cosine=0.999, least_iou=0.98)
"""For an engine against ONNX Runtime in FP32: it may round as FP16 does, and reorders sums besides."""

INT8_ENGINE = Limits(least_mean_cosine=0.99, least_worst_cosine=0.97, least_iou=0.9)
"""For an engine of a quantized graph against that graph on ONNX Runtime: a sum that is rounded otherwise moves a value
by a whole step. Source: docs/adr/0030-int8-graphs.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingAgreement:
    """How near embeddings are to those of the reference."""

    num_compared: int
    mean_cosine: float
    """In [-1, 1]; -1 where there is nothing to compare."""
    worst_cosine: float
    """As `mean_cosine`. An embedding that is zero or not finite counts as -1."""

    @property
    def nearness(self) -> float:
        """More where answers are nearer."""
        return self.mean_cosine

    def __str__(self) -> str:
        """Say what was measured, for people."""
        return f"cosine {self.mean_cosine:.5f} mean, {self.worst_cosine:.5f} worst over {self.num_compared} crops"

    def fault(self, limits: Limits) -> str | None:
        """Return the first limit that is missed, one clause; None where none is."""
        if not self.num_compared:
            return "there was no face to compare embeddings of"
        if self.worst_cosine < limits.least_worst_cosine:
            return f"an embedding has a cosine of {self.worst_cosine:.5f}, less than {limits.least_worst_cosine}"
        if self.mean_cosine < limits.least_mean_cosine:
            return f"embeddings have a mean cosine of {self.mean_cosine:.5f}, less than {limits.least_mean_cosine}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionAgreement:
    """How near faces are to those of the reference."""

    found_by_both: int
    only_one: int
    """Faces that one side found and the other did not."""
    worst_iou: float
    """Least overlap of the two boxes of one face, [0, 1]; 0 where there is none to compare."""
    mean_iou: float
    """Of all faces, [0, 1]; one that a single side found counts as 0."""

    @property
    def nearness(self) -> float:
        """More where answers are nearer."""
        return self.mean_iou

    def __str__(self) -> str:
        """Say what was measured, for people."""
        both, alone = self.found_by_both, self.only_one
        return f"{both} boxes found by both, {alone} by one only, worst IoU {self.worst_iou:.4f}"

    def fault(self, limits: Limits) -> str | None:
        """Return the first limit that is missed, one clause; None where none is."""
        if self.only_one:
            return f"{self.only_one} boxes are found by one side only, {self.found_by_both} by both"
        if not self.found_by_both:
            return "there was nothing to compare boxes of"
        if self.worst_iou < limits.least_iou:
            return f"two boxes of one face overlap at IoU {self.worst_iou:.4f}, less than {limits.least_iou}"
        return None


def compare_embeddings(reference: NDArray[np.float32], other: NDArray[np.float32]) -> EmbeddingAgreement:
    """Compare embeddings row by row.

    Args:
        reference: (N, L), of any length.
        other: (N, L) of the same crops in the same order. What is not finite is told, not refused.

    Raises:
        ValueError: The shapes differ.
    """
    if reference.shape != other.shape:
        raise ValueError(f"embeddings {list(other.shape)} cannot be compared with {list(reference.shape)}")
    if not len(reference):
        return EmbeddingAgreement(num_compared=0, mean_cosine=-1.0, worst_cosine=-1.0)
    first, second = reference.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        cosines = np.einsum("nl,nl->n", first, second) / lengths
    cosines = np.clip(np.nan_to_num(cosines, nan=-1.0), -1.0, 1.0)
    return EmbeddingAgreement(
        num_compared=len(cosines), mean_cosine=float(cosines.mean()), worst_cosine=float(cosines.min())
    )


def compare_detections(
    reference: Sequence[Detections], other: Sequence[Detections], *, score_threshold: float = 0.0
) -> DetectionAgreement:
    """Compare the faces found in the same pictures.

    Overlaps are suppressed here; what suppressed them already compares too, but more strictly than is meant: where two
    anchors see one face with nearly the same score, rounding decides whose box is kept. Given the boxes of all anchors,
    a face is held against those whose score is no more than `SCORE_MARGIN` below the one that was kept.

    A score at the threshold may fall to either side of it by rounding alone. So detect with a threshold lower by
    `SCORE_MARGIN` than the one that is meant, and say that one here: a face that only one side has counts when its
    score reaches `score_threshold`, and a pair of boxes when one of its scores does.

    Args:
        reference: What was found in each picture, best before overlaps were suppressed.
        other: What the other side found in the same pictures, in the same order and pixels.
        score_threshold: The threshold that is meant, [0, 1].

    Raises:
        ValueError: Not the same number of pictures.
    """
    found_by_both, only_one = 0, 0
    ious: list[float] = []
    for ours, theirs in zip(reference, other, strict=True):
        first, second = _suppressed(ours), _suppressed(theirs)
        pairs = _pairs(iou_matrix(first.boxes, second.boxes))
        for row, column in pairs:
            if max(first.scores[row], second.scores[column]) >= score_threshold:
                found_by_both += 1
                ious.append(_nearest(first.boxes[row], theirs, second.scores[column]))
                ious.append(_nearest(second.boxes[column], ours, first.scores[row]))
        for side, faces in enumerate((first, second)):
            alone = np.ones(len(faces), bool)
            alone[[pair[side] for pair in pairs]] = False
            only_one += int((faces.scores[alone] >= score_threshold).sum())
    return DetectionAgreement(
        found_by_both=found_by_both,
        only_one=only_one,
        worst_iou=min(ious, default=0.0),
        # Each face that both have found was looked at from either side.
        mean_iou=sum(ious) / 2 / max(1, found_by_both + only_one),
    )


def _suppressed(faces: Detections) -> Detections:
    return faces.take(suppress_overlaps(faces.boxes, faces.scores))


def _nearest(box: NDArray[np.float32], candidates: Detections, kept_score: float) -> float:
    """Return how much a box overlaps the nearest of those that might have been kept in place of the one that was."""
    rivals = candidates.boxes[candidates.scores >= kept_score - SCORE_MARGIN]
    return float(iou_matrix(box[None], rivals).max())


def _pairs(overlaps: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Pair rows with columns, largest overlap first, each at most once, none that overlap less than one face would."""
    left = overlaps.copy()
    pairs = []
    while left.size and left.max() >= SAME_FACE_IOU:
        row, column = (int(index) for index in np.unravel_index(left.argmax(), left.shape))
        pairs.append((row, column))
        left[row], left[:, column] = -1.0, -1.0
    return pairs


CANVAS_HW = (640, 640)
"""What pictures are fitted into for a detector that takes any canvas."""

Pictures: TypeAlias = Callable[[], Iterable[Image]]
"""Yields the same pictures at each call: they need not all be in memory at once."""

Agreement: TypeAlias = EmbeddingAgreement | DetectionAgreement


@dataclass(frozen=True, slots=True)
class Trial:
    """Pictures that two ways to run a model are compared on."""

    spec: ModelSpec
    pictures: Pictures
    """For a detector any that show faces, else crops, which are resized to what the model takes."""
    canvases_hw: Sequence[tuple[int, int]] = ()
    """Heights and widths a detector is run at; empty: as small as each picture allows, `CANVAS_HW` at most."""

    @property
    def score_threshold(self) -> float:
        """Least score of a face that counts."""
        return self.spec.least_score

    def answers(self, backend: Backend, *, takes_pixels: bool = False) -> Any:
        """Run a model on every picture.

        Args:
            backend: Owned by the calling thread.
            takes_pixels: Whether its graph normalises pixels itself.

        Returns:
            (N, L) unit rows, one that is zero or not finite as it is; of a detector what its anchors say of each
            picture before overlaps are suppressed, above a threshold lower by `SCORE_MARGIN`, in pixels of the canvas.

        Raises:
            InferenceError: A run failed, or a detector's answer is not finite.
            ModelContractError: The outputs are not those of the model's family.
        """
        if not self.spec.is_detector:
            return self._rows(backend, takes_pixels=takes_pixels)
        threshold = max(0.0, self.score_threshold - SCORE_MARGIN)
        found: list[Detections] = []
        for canvas_hw in self.canvases_hw or (None,):
            head = FAMILIES[self.spec.family].probe(self.spec, backend, canvas_hw, takes_pixels=takes_pixels).head
            for chunk in _chunks(self.pictures(), backend.max_batch_size if canvas_hw else 1):
                items = [DetectorItem(self.canvas_of(image, canvas_hw), threshold) for image in chunk]
                found += _detector(head).candidates(backend, items)
        return found

    def canvas_of(self, picture: Image, canvas_hw: tuple[int, int] | None) -> Image:
        """Return a picture on its canvas; None: on one as small as it allows."""
        return letterbox_of(picture, canvas_hw).apply(picture, fill=FAMILIES[self.spec.family].canvas_fill)

    def compare(self, reference: Any, other: Any) -> Agreement:
        """Return how near what `answers` returned is to what it returned of the reference."""
        if self.spec.is_detector:
            return compare_detections(reference, other, score_threshold=self.score_threshold)
        return compare_embeddings(reference, other)

    def _rows(self, backend: Backend, *, takes_pixels: bool) -> NDArray[np.float32]:
        size = (self.spec.input.width_px, self.spec.input.height_px)
        rows: list[NDArray[np.float32]] = []
        for chunk in _chunks(self.pictures(), backend.max_batch_size):
            crops = [np.asarray(cv2.resize(crop, size), np.uint8) for crop in chunk]
            (output, *_) = backend.run(to_batch(crops, self.spec.input, takes_pixels=takes_pixels))
            # The next run may write where this one's answer lies.
            rows.append(output.reshape(len(chunk), -1).copy())
        answers = np.concatenate(rows) if rows else np.zeros((0, self.spec.embedding_length or 1), np.float32)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            unit: NDArray[np.float32] = answers / np.linalg.norm(answers, axis=1, keepdims=True)
        return unit


def letterbox_of(picture: Image, canvas_hw: tuple[int, int] | None) -> Letterbox:
    """Return how a picture lies on its canvas; None: on one as small as it allows, `CANVAS_HW` at most."""
    return Letterbox.fit((picture.shape[0], picture.shape[1]), canvas_hw or CANVAS_HW, rectangular=canvas_hw is None)


def faces_in(trial: Trial, backend: Backend) -> Iterator[list[Crop]]:
    """Yield for each picture the faces that a detector finds, aligned, the largest first.

    Args:
        trial: At one canvas at most.
        backend: Of blobs; owned by the calling thread.
    """
    canvas_hw = next(iter(trial.canvases_hw), None)
    for picture, found in zip(trial.pictures(), trial.answers(backend), strict=True):
        # Of boxes that overlap the best score counts, which comes first.
        faces = _suppressed(found)
        faces = faces.take(np.flatnonzero(faces.scores >= trial.score_threshold))
        areas = (faces.boxes[:, 2:] - faces.boxes[:, :2]).prod(axis=1)
        letterbox = letterbox_of(picture, canvas_hw)
        yield [align(picture, letterbox.to_image(faces.landmarks[row])) for row in np.argsort(-areas, kind="stable")]


def _detector(head: object) -> CanvasHead:
    detector = head.detector if isinstance(head, LooksHead) else head
    if not isinstance(detector, CanvasHead):
        raise TypeError(f"{type(detector).__name__} finds no faces on canvases")
    return detector


def _chunks(pictures: Iterable[Image], most: int) -> Iterator[list[Image]]:
    left = iter(pictures)
    while chunk := list(islice(left, most)):
        yield chunk
