"""Detectors decode all canvases of a run at once, and answer each of them as if it had been alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetface.domain import Batch, Detections, Tensor
from jetface.errors import InferenceError
from jetface.geometry.boxes import MAX_CANDIDATES, box_areas, suppress_overlaps
from jetface.heads.canvases import STRIDES_PX, DetectorItem, passing
from jetface.heads.scrfd import Scrfd, ScrfdLayout, ScrfdLevel
from jetface.registry import InputSpec, ModelSpec

SPEC = ModelSpec.model_construct(
    name="tiny", license="none", source="a test", task="detection", family="scrfd", embedding_length=None,
    input=InputSpec(height_px=0, width_px=0, mean=127.5, std=128.0),
)  # fmt: skip

NUM_ANCHORS = 2

THRESHOLDS = (0.0, 0.3, 0.7, 1.0)


class Reused:
    """A backend that answers each run with the next rows of what it was given, in memory that it uses again."""

    def __init__(self, outputs: Sequence[Tensor], max_batch_size: int) -> None:
        self.outputs = outputs
        self.max_batch_size = max_batch_size
        self.buffers = [np.empty((max_batch_size, *output.shape[1:]), np.float32) for output in outputs]
        self.start = 0

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Overwrite the last answer."""
        for output, buffer in zip(self.outputs, self.buffers, strict=True):
            buffer[: len(batch)] = output[self.start : self.start + len(batch)]
        self.start += len(batch)
        return tuple(buffer[: len(batch)] for buffer in self.buffers)

    def close(self) -> None:
        """Overwrite the last answer too."""
        for buffer in self.buffers:
            buffer.fill(np.nan)


def draw_outputs(seed: int, num_items: int, canvas_hw: tuple[int, int], num_passing: float) -> list[Tensor]:
    """Scores, boxes and landmarks of each stride; scores of few values, so that equal ones are common."""
    rng = np.random.default_rng(seed)
    cells = [(canvas_hw[0] // stride) * (canvas_hw[1] // stride) * NUM_ANCHORS for stride in STRIDES_PX]
    high = rng.integers(0, 11, num_items * sum(cells)) * (rng.random(num_items * sum(cells)) < num_passing)
    scores = np.split((high / 10).astype(np.float32).reshape(num_items, -1, 1), np.cumsum(cells)[:-1], axis=1)
    boxes, landmarks = (
        [rng.uniform(-1, 4, (num_items, count, width)).astype(np.float32) for count in cells] for width in (4, 10)
    )
    return [np.ascontiguousarray(output) for output in (*scores, *boxes, *landmarks)]


def by_definition(outputs: Sequence[Tensor], canvas_hw: tuple[int, int], threshold: float) -> Detections:
    """Decode one canvas, rows of which `outputs` are: anchor by anchor, level by level."""
    boxes, scores, landmarks = [], [], []
    for level, stride_px in enumerate(STRIDES_PX):
        of_anchors, distances, offsets = outputs[level][:, 0], outputs[level + 3], outputs[level + 6]
        passed = [anchor for anchor, score in enumerate(of_anchors) if score >= np.float32(threshold)]
        passed = sorted(passed, key=lambda anchor: -of_anchors[anchor])[:MAX_CANDIDATES]
        for anchor in passed:
            row, column = divmod(anchor // NUM_ANCHORS, canvas_hw[1] // stride_px)
            center = np.array([column, row], np.float32) * stride_px
            low_high = center - distances[anchor, :2] * stride_px, center + distances[anchor, 2:] * stride_px
            boxes.append(np.concatenate(low_high))
            scores.append(of_anchors[anchor])
            landmarks.append(center + offsets[anchor].reshape(5, 2) * stride_px)
    if not boxes:
        return Detections.empty()
    found = Detections(np.array(boxes), np.array(scores), np.array(landmarks))
    found = found.take(box_areas(found.boxes) > 0)
    return found.take(np.argsort(-found.scores, kind="stable"))


def check(outputs: Sequence[Tensor], canvas_hw: tuple[int, int], thresholds: Sequence[float], batch: int) -> None:
    """Hold what a detector says against the definition, canvas by canvas: values, order and types."""
    head = Scrfd(
        SPEC,
        ScrfdLayout(
            tuple(ScrfdLevel(stride, at, at + 3, at + 6) for at, stride in enumerate(STRIDES_PX)),
            NUM_ANCHORS, is_batched=True,
        ),
    )  # fmt: skip
    items = [DetectorItem(np.zeros((*canvas_hw, 3), np.uint8), threshold) for threshold in thresholds]
    backends = [Reused(outputs, batch) for _ in range(2)]
    candidates, found = head.candidates(backends[0], items), head.run(backends[1], items)
    for backend in backends:
        backend.close()
    assert len(candidates) == len(found) == len(items)
    for index, threshold in enumerate(thresholds):
        wanted = by_definition([output[index] for output in outputs], canvas_hw, threshold)
        assert_same(candidates[index], wanted)
        assert_same(found[index], wanted.take(suppress_overlaps(wanted.boxes, wanted.scores)))


def assert_same(found: Detections, wanted: Detections) -> None:
    """Every bit agrees."""
    for name in ("boxes", "scores", "landmarks"):
        ours = getattr(found, name)
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, getattr(wanted, name))


@given(
    seed=st.integers(0, 2**32 - 1),
    canvas_hw=st.sampled_from([(32, 32), (96, 64), (64, 160)]),
    thresholds=st.lists(st.sampled_from(THRESHOLDS), min_size=1, max_size=6),
    num_passing=st.sampled_from([0.0, 0.01, 0.1, 1.0]),
    batch=st.integers(1, 6),
)
def test_each_canvas_is_decoded_by_the_definition(
    seed: int, canvas_hw: tuple[int, int], thresholds: list[float], num_passing: float, batch: int
) -> None:
    """Whatever it shares its run with, and although the backend uses its memory again."""
    check(draw_outputs(seed, len(thresholds), canvas_hw, num_passing), canvas_hw, thresholds, batch)


def test_the_most_that_a_level_may_have_is_counted_by_canvas() -> None:
    """A canvas where all 6272 anchors of a level pass leaves its neighbours theirs; of equal scores the first stay."""
    thresholds = (0.0, 0.7, 0.2)
    check(draw_outputs(0, 3, (448, 448), 1.0), (448, 448), thresholds, 3)
    scores = draw_outputs(0, 3, (448, 448), 1.0)[0]
    passed = passing(scores, thresholds)
    assert passed is not None
    assert np.bincount(passed.items).tolist()[0] == MAX_CANDIDATES
    assert len(passed.rows) < 3 * MAX_CANDIDATES


def test_a_score_reaches_a_threshold_that_float32_cannot_tell_from_it() -> None:
    """0.7 is less in float32 than in float64, whether its canvas is alone, with its like, or with others."""
    scores = np.full((2, 4), 0.7, np.float32)
    for thresholds in ([0.7, 0.7], [0.7, 0.1], [0.7, 0.9]):
        passed = passing(scores, thresholds)
        assert passed is not None
        assert (passed.items == 0).sum() == 4
    assert passing(scores, [0.71, 0.72]) is None


def test_minus_zero_is_a_threshold_of_zero() -> None:
    scores = np.array([[0.9, 0.0]], np.float32)
    passed = passing(scores, [-0.0])
    assert passed is not None
    assert passed.rows.tolist() == [0, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("item", [0, 2])
def test_one_score_that_is_not_finite_fails_the_run(value: float, item: int) -> None:
    """Wherever it is, and although no other one passes."""
    scores = np.zeros((3, 700, 1), np.float32)
    scores[item, 650] = value
    with pytest.raises(InferenceError, match="scores are not finite"):
        passing(scores, [0.5, 0.6, 0.5])
