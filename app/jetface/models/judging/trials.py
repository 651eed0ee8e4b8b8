"""What a model is run on to be judged, and what its answers are held to: a trial for each task that is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jetface.backends.protocol import Backend
from jetface.domain import Crop, Detections, Image
from jetface.errors import ModelContractError
from jetface.geometry.alignment import align
from jetface.geometry.boxes import suppress_overlaps
from jetface.geometry.letterbox import Letterbox
from jetface.models.families.canvases import CanvasHead, DetectorItem
from jetface.models.families.looks import LooksHead
from jetface.models.judging.agreement import (
    DETECTIONS,
    FP16_EMBEDDINGS,
    SCORE_MARGIN,
    DetectionAgreement,
    EmbeddingAgreement,
    compare_detections,
    compare_embeddings,
)
from jetface.specs import ModelSpec

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
