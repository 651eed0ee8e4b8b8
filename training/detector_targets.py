"""What the detector should answer at every anchor, from teachers that look twice.

The teachers miss faces that fill a 640 canvas and find them on the same canvas at half the size. So each canvas is
shown to them twice, and what they find large at half the size is carried over to the student's stride 32.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from training.detector import NUM_ANCHORS
from training.teacher import Teacher

SEEN_FROM = 0.1
"""Lowest score at which a teacher is taken to see a face, so that its distances mean something."""


class LevelTarget(NamedTuple):
    """Targets at one stride.

    Attributes:
        scores: (N, 2, h, w) in [0, 1].
        boxes: (N, 2, 4, h, w) distances in strides: left, top, right, bottom.
        landmarks: (N, 2, 10, h, w) offsets in strides.
    """

    scores: Tensor
    boxes: Tensor
    landmarks: Tensor

    @staticmethod
    def of(scores: Tensor, boxes: Tensor, landmarks: Tensor) -> "LevelTarget":
        """From a teacher's maps with both anchors among the channels; score logits."""
        shape = (len(scores), NUM_ANCHORS, -1, *scores.shape[2:])
        return LevelTarget(scores.float().sigmoid(), boxes.float().reshape(shape), landmarks.float().reshape(shape))

    def larger_than(self, side: float) -> "LevelTarget":
        """Silence the anchors whose box has a mean side below this, in strides."""
        mean_side = self.boxes.sum(2) / 2
        return LevelTarget(self.scores * (mean_side > side), self.boxes, self.landmarks)

    def or_better(self, other: "LevelTarget") -> "LevelTarget":
        """At each anchor, the answer with the higher score."""
        better = other.scores > self.scores
        return LevelTarget(
            torch.where(better, other.scores, self.scores),
            torch.where(better[:, :, None], other.boxes, self.boxes),
            torch.where(better[:, :, None], other.landmarks, self.landmarks),
        )

    def doubled(self) -> "LevelTarget":
        """Carry the answer to a grid twice as fine, distances in the finer grid's strides.

        Cell (i, j) lands on cell (2i, 2j), whose anchor is at the same place. A cell between two that see a face gets
        their average: the mean of two boxes seen from two anchors is the mean box seen from the mean anchor. A cell
        with a neighbour that sees none gets score 0, since that neighbour's distances mean nothing.
        """
        seen = _between((self.scores > SEEN_FROM).float()[:, :, None])[:, :, 0] > 0.99
        scores = _between(self.scores[:, :, None])[:, :, 0] * seen
        return LevelTarget(scores, _between(self.boxes) * 2, _between(self.landmarks) * 2)


def _between(values: Tensor) -> Tensor:
    """(N, A, C, h, w) to (N, A, C, 2h, 2w): linear between the cells, the last ones repeated."""
    batch, anchors, channels, height, width = values.shape
    flat = values.reshape(batch, anchors * channels, height, width)
    fine = functional.interpolate(flat, (2 * height - 1, 2 * width - 1), mode="bilinear", align_corners=True)
    return functional.pad(fine, (0, 1, 0, 1), mode="replicate").reshape(batch, anchors, channels, 2 * height, 2 * width)


def ask(teacher: Teacher, blob: Tensor) -> list[LevelTarget]:
    """The teacher's answer at strides 8, 16, 32."""
    maps = teacher(blob)
    return [LevelTarget.of(*maps[level::3]) for level in range(3)]


def blend(first: list[LevelTarget], second: list[LevelTarget], second_weight: float) -> list[LevelTarget]:
    """Average the scores of two teachers; distances come from the one whose weighted score is higher."""
    blended = []
    for a, b in zip(first, second, strict=True):
        best = LevelTarget(a.scores * (1 - second_weight), a.boxes, a.landmarks).or_better(
            LevelTarget(b.scores * second_weight, b.boxes, b.landmarks)
        )
        scores = torch.lerp(a.scores, b.scores, second_weight)
        blended.append(LevelTarget(scores, best.boxes, best.landmarks))
    return blended


@torch.no_grad()
def make_targets(
    first: Teacher, second: Teacher, blob: Tensor, second_weight: float, large_from_px: float
) -> list[LevelTarget]:
    """Targets for a batch of canvases.

    Args:
        first: The teacher to follow most closely.
        second: Another teacher.
        blob: (N, 3, S, S), S a multiple of 64, RGB, (x - 127.5) / 128.
        second_weight: Share of the second teacher in the scores.
        large_from_px: Box side above which the half-size look counts.

    Returns:
        One target for each of the strides 8, 16, 32.
    """
    half = functional.avg_pool2d(blob, 2)
    full_look = blend(ask(first, blob), ask(second, blob), second_weight)
    half_look = blend(ask(first, half), ask(second, half), second_weight)
    # At half the size, stride 16 has the anchors of stride 32 at full size, and stride 32 those of stride 64.
    large = half_look[1].or_better(half_look[2].doubled()).larger_than(large_from_px / 32)
    return [full_look[0], full_look[1], full_look[2].or_better(large)]
