"""The `yunet` family: canvases to faces by YuNet of OpenCV's zoo, exports of 2023 and later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from jetface.domain import Detections, Tensor
from jetface.errors import InferenceError, ModelContractError
from jetface.geometry.anchors import anchor_centers, decode_centered_boxes, decode_landmarks
from jetface.heads.canvases import STRIDES_PX, Candidates, CanvasHead, passing
from jetface.heads.family import Family
from jetface.registry import InputSpec, ModelSpec

_SCORE, _BOX, _LANDMARKS = 1, 4, 10

_KINDS = (_SCORE, _SCORE, _BOX, _LANDMARKS)
"""Last axes of the outputs of one stride."""


@dataclass(frozen=True, slots=True)
class YunetLevel:
    """Where in a graph's outputs one stride is found."""

    stride_px: int
    scores: tuple[int, int]
    """Positions of the outputs `cls` and `obj`. Which is which does not matter: their product counts."""
    boxes: int
    landmarks: int


def read_levels(outputs: Sequence[NDArray[np.float32]], canvas_hw: tuple[int, int]) -> tuple[YunetLevel, ...]:
    """Find out what each output is, from a run of one canvas: by shapes, not by names or order.

    Args:
        outputs: All outputs of a run with one canvas, (1, anchors, C).
        canvas_hw: Height and width of that canvas, multiples of 32, larger than one cell of 32.

    Raises:
        ModelContractError: These are not the outputs of YuNet; the message says what was found.
    """
    shapes = [output.shape for output in outputs]
    levels = []
    for stride_px in STRIDES_PX:
        num_anchors = (canvas_hw[0] // stride_px) * (canvas_hw[1] // stride_px)
        of_stride = {
            kind: [position for position, shape in enumerate(shapes) if shape == (1, num_anchors, kind)]
            for kind in _KINDS
        }
        if [len(of_stride[kind]) for kind in _KINDS] != [2, 2, 1, 1]:
            found = ", ".join(str(list(shape)) for shape in shapes)
            raise ModelContractError(
                "YuNet has, for each stride of 8, 16, 32, outputs [N, anchors, C] with C 1 twice, 4 and 10; "
                f"found outputs {found} for a canvas of {canvas_hw}."
            )
        first, second = of_stride[_SCORE]
        levels.append(YunetLevel(stride_px, (first, second), of_stride[_BOX][0], of_stride[_LANDMARKS][0]))
    return tuple(levels)


class Yunet(CanvasHead):
    """Runs a YuNet graph on canvases.

    Landmarks need no reordering: OpenCV's "right eye" is the person's, the left one in the picture.

    Source: `FaceDetectorYN` of OpenCV 5. Differences: boxes that overlap by more than IoU 0.4 are one face, as with our
    other detectors, where OpenCV's default is 0.3, of boxes cut to whole pixels.
    """

    def __init__(self, spec: ModelSpec, levels: tuple[YunetLevel, ...], *, takes_pixels: bool = False) -> None:
        """Create a detector.

        Args:
            spec: Its registry entry.
            levels: What `read_levels` says of its graph.
            takes_pixels: The graph normalises pixels itself.
        """
        super().__init__(spec, is_batched=True, takes_pixels=takes_pixels)
        self.levels = levels

    @classmethod
    def learn(
        cls, spec: ModelSpec, outputs: Sequence[Tensor], canvas_hw: tuple[int, int], *, takes_pixels: bool
    ) -> Self:
        """Create a detector for a graph with these outputs; args and errors are those of `read_levels`."""
        return cls(spec, read_levels(outputs, canvas_hw), takes_pixels=takes_pixels)

    def decode(
        self, outputs: Sequence[Tensor], canvas_hw: tuple[int, ...], thresholds: Sequence[float]
    ) -> list[Candidates]:
        """Score by the geometric mean of `cls` and `obj`; what passes is placed around its cell."""
        found = (self._decode_level(level, outputs, canvas_hw, thresholds) for level in self.levels)
        return [level for level in found if level is not None]

    def _decode_level(
        self, level: YunetLevel, outputs: Sequence[Tensor], canvas_hw: tuple[int, ...], thresholds: Sequence[float]
    ) -> Candidates | None:
        stride_px = level.stride_px
        of_canvas = (len(thresholds), (canvas_hw[0] // stride_px) * (canvas_hw[1] // stride_px))
        if any(outputs[position].shape[:2] != of_canvas for position in (*level.scores, level.boxes, level.landmarks)):
            raise InferenceError("The detector's outputs are not those of this canvas.")
        one, other = (outputs[position][..., 0] for position in level.scores)
        # Clipped as OpenCV does: rounding of a quantised sigmoid may leave [0, 1].
        passed = passing(np.sqrt(np.clip(one, 0, 1) * np.clip(other, 0, 1)), thresholds)
        if passed is None:
            return None
        centers = anchor_centers(passed.anchors, width_px=canvas_hw[1], stride_px=stride_px, num_anchors=1)
        boxes = decode_centered_boxes(centers, passed.of(outputs[level.boxes]), stride_px=stride_px)
        landmarks = decode_landmarks(centers, passed.of(outputs[level.landmarks]), stride_px=stride_px)
        return Candidates(passed.items, Detections(boxes, passed.scores, landmarks))


FAMILY = Family(
    task="detection",
    head=Yunet,
    usual_input=InputSpec(height_px=0, width_px=0, mean=0, std=1, channel_order="bgr"),
    is_input_fixed=True,
    takes=frozenset({"score_threshold"}),
    variable="DET_MODEL",
)
"""Its graphs scale pixels themselves. Source: `FaceDetectorYN` of OpenCV 5."""
