"""Whether two ways to run a model agree: a reference in FP32 and another, on the same pictures.

Pure: numbers in, verdict out. Limits are for pictures that show faces. A `fault` is one sentence about the first limit
that is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jetface.domain import Crop, Detections, Image
from jetface.errors import ModelContractError
from jetface.geometry.alignment import align
from jetface.geometry.boxes import iou_matrix, suppress_overlaps
from jetface.geometry.letterbox import Letterbox
from jetface.heads.canvases import CanvasHead, DetectorItem, LooksHead
from jetface.registry import ModelSpec
from jetface.runtimes.backend import Backend

SAME_FACE_IOU = 0.5
"""Two boxes that overlap at least this much are one face. Source: WIDER Face's evaluation."""

SCORE_MARGIN = 0.05
"""What rounding may change a score by, and more: see `compare_detections`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingLimits:
    """What embeddings have to reach."""

    least_mean_cosine: float
    least_worst_cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionLimits:
    """What detections have to reach; besides, neither side may have found a face that the other has not."""

    least_iou: float


FP16_EMBEDDINGS = EmbeddingLimits(least_mean_cosine=0.9995, least_worst_cosine=0.999)
"""For a graph in FP16 against itself in FP32. Source: docs/adr/0009-fp16-graphs.md. Identities start to be confused
orders of magnitude below: the cosine of two portraits of one person is 0.5 to 0.9."""

ENGINE_EMBEDDINGS = EmbeddingLimits(least_mean_cosine=0.999, least_worst_cosine=0.999)
"""For an engine against ONNX Runtime in FP32: it may round as FP16 does, and reorders sums besides."""

INT8_ENGINE_EMBEDDINGS = EmbeddingLimits(least_mean_cosine=0.99, least_worst_cosine=0.97)
"""For an engine of a quantized graph against that graph on ONNX Runtime: a sum that is rounded otherwise moves a value
by a whole step. Source: docs/adr/0030-int8-graphs.md."""

INT8_ENGINE_DETECTIONS = DetectionLimits(least_iou=0.9)
"""As `INT8_ENGINE_EMBEDDINGS`."""

DETECTIONS = DetectionLimits(least_iou=0.98)
"""For both. A box of 100x100 px may be moved by half a pixel along both axes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingAgreement:
    """How near embeddings are to those of the reference."""

    num_compared: int
    mean_cosine: float
    """In [-1, 1]; -1 where there is nothing to compare."""
    worst_cosine: float
    """As `mean_cosine`. An embedding that is zero or not finite counts as -1."""

    def fault(self, limits: EmbeddingLimits) -> str | None:
        """Return what is wrong, None where nothing is."""
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

    def fault(self, limits: DetectionLimits) -> str | None:
        """Return what is wrong, None where nothing is."""
        if self.only_one:
            return f"{self.only_one} faces are found by one side only, {self.found_by_both} by both"
        if not self.found_by_both:
            return "there was no face to compare boxes of"
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

SCORE_THRESHOLD = 0.5
"""Least score of a face that counts, where the registry entry names none."""

Pictures: TypeAlias = Callable[[], Iterable[Image]]
"""Yields the same pictures at each call: they need not all be in memory at once."""

Run: TypeAlias = Callable[[list[Any]], Any]
"""Runs a model on items: its head's `run`, or for a detector `candidates`."""

Agreement: TypeAlias = EmbeddingAgreement | DetectionAgreement


class Trial(Protocol):
    """Judges one way to run a model by another."""

    def answers(self, run: Run) -> Any:
        """Run a model on every picture.

        Raises:
            InferenceError: A run failed, or its answer is not finite.
        """
        ...

    def compare(self, reference: Any, other: Any) -> tuple[Agreement, str | None]:
        """Return how near what `answers` returned is to that of the reference, and the limit that is missed."""
        ...


@dataclass(frozen=True, slots=True)
class DetectionTrial:
    """Pictures to find faces in."""

    pictures: Pictures
    input_hw: tuple[int, int] | None
    """Height and width the graph is fixed to."""
    score_threshold: float

    def answers(self, run: Run) -> list[Detections]:
        """Detect on every picture, with a threshold lower by `SCORE_MARGIN`; boxes are in pixels of the canvas."""
        threshold = max(0.0, self.score_threshold - SCORE_MARGIN)
        return [_detect(run, picture, self.input_hw, threshold)[0] for picture in self.pictures()]

    def compare(self, reference: list[Detections], other: list[Detections]) -> tuple[DetectionAgreement, str | None]:
        """Compare box by box."""
        agreement = compare_detections(reference, other, score_threshold=self.score_threshold)
        return agreement, agreement.fault(DETECTIONS)


@dataclass(frozen=True, slots=True)
class RecognitionTrial:
    """Crops to embed."""

    crops: Pictures
    embedding_length: int

    def answers(self, run: Run) -> NDArray[np.float32]:
        """Embed every crop, one at a time: (N, L) unit rows."""
        rows = [run([crop])[0].vector for crop in self.crops()]
        return np.array(rows, np.float32).reshape(len(rows), self.embedding_length)

    def compare(
        self, reference: NDArray[np.float32], other: NDArray[np.float32]
    ) -> tuple[EmbeddingAgreement, str | None]:
        """Compare row by row."""
        agreement = compare_embeddings(reference, other)
        return agreement, agreement.fault(FP16_EMBEDDINGS)


def candidates(head: object, backend: Backend, items: Sequence[DetectorItem]) -> list[Detections]:
    """Run a detector's head, as `FAMILIES` gives it, and return what its anchors say before overlaps are suppressed.

    Raises:
        TypeError: It is no detector's.
        InferenceError: The run failed, or its answer is not finite.
    """
    detector = head.detector if isinstance(head, LooksHead) else head
    if not isinstance(detector, CanvasHead):
        raise TypeError(f"{type(detector).__name__} finds no faces on canvases")
    return detector.candidates(backend, items)


def trial_of(spec: ModelSpec, pictures: Pictures, input_hw: tuple[int, int] | None) -> Trial:
    """Return how a model is judged.

    Args:
        spec: Its registry entry.
        pictures: For a detector any pictures that show faces, for a recognizer crops.
        input_hw: Height and width its graph is fixed to, None where it takes any canvas.

    Raises:
        ModelContractError: Models of its task are not judged.
    """
    if spec.task == "detection":
        return DetectionTrial(pictures, input_hw, score_threshold(spec))
    if spec.task == "recognition" and spec.embedding_length is not None:
        return RecognitionTrial(pictures, spec.embedding_length)
    raise ModelContractError(
        f"Model {spec.name} does {spec.task}: only detectors and recognizers are converted; the others cost little."
    )


def score_threshold(spec: ModelSpec) -> float:
    """Return the least score of a face that counts."""
    return SCORE_THRESHOLD if spec.score_threshold is None else spec.score_threshold


def _detect(
    run: Run, picture: Image, input_hw: tuple[int, int] | None, threshold: float
) -> tuple[Detections, Letterbox]:
    """Return what is found in a picture, in pixels of its canvas, and how it lies on that."""
    letterbox = Letterbox.fit((picture.shape[0], picture.shape[1]), input_hw or CANVAS_HW, rectangular=input_hw is None)
    return run([DetectorItem(letterbox.apply(picture), threshold)])[0], letterbox


def find_crops(run: Run, spec: ModelSpec, pictures: Pictures, input_hw: tuple[int, int] | None) -> Iterator[Crop]:
    """Yield every face that a detector finds, aligned.

    Args:
        run: By `candidates`; overlaps are suppressed here.
        spec: Its registry entry.
        pictures: Where to look.
        input_hw: Height and width its graph is fixed to, None where it takes any canvas.
    """
    for picture in pictures():
        faces, letterbox = _detect(run, picture, input_hw, score_threshold(spec))
        for landmarks in faces.landmarks[suppress_overlaps(faces.boxes, faces.scores)]:
            yield align(picture, letterbox.to_image(landmarks))


def largest_crop(run: Run, spec: ModelSpec, picture: Image, input_hw: tuple[int, int] | None) -> Crop | None:
    """Return the largest face of a picture, aligned, None where there is none; arguments are those of `find_crops`."""
    faces, letterbox = _detect(run, picture, input_hw, score_threshold(spec))
    if not len(faces):
        return None
    sides = faces.boxes[:, 2:] - faces.boxes[:, :2]
    # Of boxes that overlap the best score counts, which comes first.
    kept = suppress_overlaps(faces.boxes, faces.scores)
    largest = kept[int(np.argmax(sides[kept].prod(axis=1)))]
    return align(picture, letterbox.to_image(faces.landmarks[largest]))
