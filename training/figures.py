"""Arithmetic of the figures, on arrays alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.graphs import Faces, Floats, iou

MATCH_IOU = 0.5


@dataclass(frozen=True, slots=True)
class RecognitionFigures:
    """How well embeddings tell people apart.

    Attributes:
        verification: Share of pairs judged right at the best threshold, same and different pairs weighing the same.
        tar: Share of same pairs above the similarity that one in a thousand different pairs exceeds.
        rank_1: Share of pictures whose most similar person is right, each person known by one picture.
        num_people: People judged.
        num_pictures: Their pictures.
    """

    verification: float
    tar: float
    rank_1: float
    num_people: int
    num_pictures: int


def judge_embeddings(embeddings: Floats, people: NDArray[np.str_]) -> RecognitionFigures:
    """Compare all pictures with all.

    Args:
        embeddings: (N, length), unit length.
        people: (N,) names; the first picture of each is the known one for rank-1.
    """
    similarity = embeddings @ embeddings.T
    upper = np.triu_indices(len(people), 1)
    is_same = (people[:, None] == people[None])[upper]
    same, different = np.sort(similarity[upper][is_same]), np.sort(similarity[upper][~is_same])
    thresholds = np.linspace(0, 0.7, 701)
    accepted = 1 - np.searchsorted(same, thresholds, "right") / len(same)
    refused = np.searchsorted(different, thresholds, "right") / len(different)
    false_accept = different[int(np.ceil(len(different) * 0.999)) - 1]
    _, known = np.unique(people, return_index=True)
    probes = np.setdiff1d(np.arange(len(people)), known)
    nearest = people[known[similarity[probes][:, known].argmax(1)]]
    return RecognitionFigures(
        verification=float(((accepted + refused) / 2).max()),
        tar=float((same > false_accept).mean()),
        rank_1=float((nearest == people[probes]).mean()),
        num_people=len(known),
        num_pictures=len(people),
    )


@dataclass(frozen=True, slots=True)
class Agreement:
    """Boxes of one picture against reference boxes.

    Attributes:
        num_wanted: Reference faces that should be found.
        num_found: Those that some box overlaps by an IoU of at least 0.5.
        num_boxes: Boxes answered.
        num_extra: Those that overlap no reference face so.
    """

    num_wanted: int
    num_found: int
    num_boxes: int
    num_extra: int

    def __add__(self, other: "Agreement") -> "Agreement":
        """Add the counts of two pictures."""
        return Agreement(
            self.num_wanted + other.num_wanted,
            self.num_found + other.num_found,
            self.num_boxes + other.num_boxes,
            self.num_extra + other.num_extra,
        )


def compare_boxes(boxes: Floats, reference: Floats, is_wanted: NDArray[np.bool_]) -> Agreement:
    """Match boxes (N, 4) with reference boxes (M, 4), of which those with `is_wanted` (M,) should be found."""
    overlaps = iou(reference, boxes) >= MATCH_IOU
    is_found = overlaps.any(1)
    return Agreement(int(is_wanted.sum()), int((is_found & is_wanted).sum()), len(boxes), int((~overlaps.any(0)).sum()))


def landmark_error(found: Faces, reference: Faces, which: int) -> float | None:
    """Mean distance of the five landmarks over the box width of one reference face; None where it is not found."""
    if not len(found.boxes):
        return None
    overlaps = iou(reference.boxes[which : which + 1], found.boxes)[0]
    best = int(overlaps.argmax())
    if overlaps[best] < MATCH_IOU:
        return None
    distance = np.linalg.norm(found.landmarks[best] - reference.landmarks[which], axis=1).mean()
    return float(distance / (reference.boxes[which, 2] - reference.boxes[which, 0]))
