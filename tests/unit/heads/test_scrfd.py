"""The scrfd family reads every export of SCRFD alike, and refuses what is none."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from jetface.domain import Batch, Detections, Tensor
from jetface.errors import InferenceError, ModelContractError
from jetface.heads.canvases import DetectorItem
from jetface.heads.scrfd import Scrfd, place_landmarks, read_layout
from jetface.registry import InputSpec, ModelSpec
from tests.support.function_backend import array_of

STRIDES = (8, 16, 32)

SPEC = ModelSpec.model_construct(
    name="tiny", license="none", source="a test", task="detection", family="scrfd", embedding_length=None,
    input=InputSpec(height_px=0, width_px=0, mean=127.5, std=128.0),
)  # fmt: skip


class TinyScrfd:
    """A backend that answers as SCRFD does: a canvas's marked pixels (blue above 0) are faces 64 px wide.

    A pixel `(row, column)` of a canvas marks the cell of stride 16 it lies in; its blue over 255 is the score.
    """

    def __init__(
        self, *, is_batched: bool, with_landmarks: bool = True, num_anchors: int = 2, max_batch_size: int = 4,
        order: list[int] | None = None,
    ) -> None:  # fmt: skip
        self.is_batched = is_batched
        self.with_landmarks = with_landmarks
        self.num_anchors = num_anchors
        self.max_batch_size = max_batch_size
        self.order = order
        self.batches: list[Batch] = []

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Answer with scores, boxes and landmarks of each stride, in `order`."""
        assert len(batch) <= (self.max_batch_size if self.is_batched else 1)
        self.batches.append(batch)
        blobs = array_of(batch)
        blue = blobs[:, 2] * (128 / 255) + 0.5
        outputs: list[np.ndarray] = []
        for kind, stride in itertools.product((1, 4, 10)[: 3 if self.with_landmarks else 2], STRIDES):
            cells = (blobs.shape[2] // stride) * (blobs.shape[3] // stride)
            out = np.full((len(batch), cells, self.num_anchors, kind), 0.0 if kind == 1 else 32 / stride, np.float32)
            if kind == 1 and stride == 16:
                marks = blue.reshape(len(batch), blobs.shape[2] // 16, 16, blobs.shape[3] // 16, 16)
                out[..., 0, 0] = marks.max(axis=(2, 4)).reshape(len(batch), cells)
            out = out.reshape(len(batch), -1, kind)
            outputs.append(out if self.is_batched else out[0])
        return tuple(outputs[index] for index in self.order or range(len(outputs)))

    def close(self) -> None:
        """Nothing to free."""


def canvas(*marks: tuple[int, int, int], canvas_hw: tuple[int, int] = (96, 160)) -> np.ndarray:
    """A black canvas with `(row, column, blue)` pixels."""
    image = np.zeros((*canvas_hw, 3), np.uint8)
    for row, column, blue in marks:
        image[row, column, 0] = blue
    return image


def assert_equal(a: Detections, b: Detections) -> None:
    """Every array agrees."""
    for name in ("boxes", "scores", "landmarks"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-6)


ORDERS = [None, [8, 7, 6, 5, 4, 3, 2, 1, 0], [0, 3, 6, 1, 4, 7, 2, 5, 8]]


@pytest.mark.parametrize("is_batched", [False, True], ids=["2d", "3d"])
@pytest.mark.parametrize("order", ORDERS, ids=["by-kind", "reversed", "by-stride"])
@pytest.mark.parametrize("num_anchors", [1, 2])
def test_every_export_gives_the_same_faces(is_batched: bool, order: list[int] | None, num_anchors: int) -> None:
    """Rank, order of outputs and number of anchors change nothing."""
    backend = TinyScrfd(is_batched=is_batched, order=order, num_anchors=num_anchors)
    detector = Scrfd.probe(SPEC, backend, (96, 160))
    assert detector.layout.num_anchors == num_anchors
    (found,) = detector.run(backend, [DetectorItem(canvas((17, 33, 204), (64, 144, 255)), 0.5)])
    np.testing.assert_allclose(found.scores, [1.0, 0.8], atol=1e-6)
    np.testing.assert_allclose(found.boxes, [[112, 32, 176, 96], [0, -16, 64, 48]])
    np.testing.assert_allclose(found.landmarks[1], np.tile([64, 48], (5, 1)))


def test_a_graph_without_landmarks_serves_with_guessed_ones() -> None:
    """Six outputs: boxes and scores as ever, landmarks where an upright face has them, within the box."""
    backend = TinyScrfd(is_batched=True, with_landmarks=False)
    detector = Scrfd.probe(SPEC, backend, (64, 64))
    (found,) = detector.run(backend, [DetectorItem(canvas((40, 40, 255)), 0.5)])
    np.testing.assert_allclose(found.boxes, [[0, 0, 64, 64]])
    np.testing.assert_allclose(found.landmarks, place_landmarks(found.boxes))
    left_eye, right_eye, nose, left_mouth, right_mouth = found.landmarks[0]
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < nose[0] < right_mouth[0]
    assert left_eye[1] < nose[1] < left_mouth[1]
    assert ((found.landmarks > 0) & (found.landmarks < 64)).all()


def test_batches_equal_single_runs() -> None:
    """Four canvases at once and one by one give the same; order and thresholds are each item's own."""
    items = [DetectorItem(canvas((16 * index, 48, 100 + 30 * index)), 0.1 * index) for index in range(5)]
    together, alone = TinyScrfd(is_batched=True), TinyScrfd(is_batched=False)
    batched = Scrfd.probe(SPEC, together, (96, 160)).run(together, items)
    single = Scrfd.probe(SPEC, alone, (96, 160)).run(alone, items)
    assert [len(batch) for batch in together.batches[1:]] == [4, 1]
    assert [len(batch) for batch in alone.batches[1:]] == [1] * 5
    for a, b in zip(batched, single, strict=True):
        assert len(a) >= 1
        assert_equal(a, b)


def test_canvases_of_different_sizes_are_run_apart() -> None:
    """Neighbours of one size share a run; answers keep the order."""
    backend = TinyScrfd(is_batched=True)
    detector = Scrfd.probe(SPEC, backend, (64, 64))
    sizes = [(64, 64), (64, 64), (32, 64), (64, 64)]
    found = detector.run(backend, [DetectorItem(canvas((20, 20, 255), canvas_hw=size), 0.5) for size in sizes])
    assert [array_of(batch).shape[2:] for batch in backend.batches[1:]] == [(64, 64), (32, 64), (64, 64)]
    assert [len(faces) for faces in found] == [1, 1, 1, 1]
    assert detector.run(backend, []) == []


def test_the_threshold_is_reached_by_an_equal_score() -> None:
    """A score of exactly the threshold passes, as in insightface; one above it passes, one below does not."""
    backend = TinyScrfd(is_batched=True)
    detector = Scrfd.probe(SPEC, backend, (96, 160))
    marked = canvas((0, 0, 255))
    (found,) = detector.run(backend, [DetectorItem(marked, 1.0)])
    assert len(found) == 1
    (everything,) = detector.run(backend, [DetectorItem(marked, 0.0)])
    assert len(everything) > 1
    assert (np.diff(everything.scores) <= 0).all()


def test_a_threshold_of_zero_is_bounded() -> None:
    """All anchors of a large canvas pass it; the time it takes stays bounded, and the best one is kept."""
    backend = TinyScrfd(is_batched=True)
    detector = Scrfd.probe(SPEC, backend, (64, 64))
    (found,) = detector.run(backend, [DetectorItem(canvas((320, 320, 255), canvas_hw=(1280, 1280)), 0.0)])
    assert found.scores[0] == pytest.approx(1)


class Altered:
    """A backend that changes the answer of another one."""

    def __init__(self, backend: TinyScrfd, position: int, value: float) -> None:
        self.backend = backend
        self.position = position
        self.value = value
        self.max_batch_size = backend.max_batch_size

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Overwrite one output with one value."""
        outputs = self.backend.run(batch)
        outputs[self.position][...] = self.value
        return outputs

    def close(self) -> None:
        """Nothing to free."""


@pytest.mark.parametrize(("position", "what"), [(0, "scores"), (4, "boxes"), (7, "boxes")])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_an_error(position: int, what: str, value: float) -> None:
    """An overflow is not an empty picture."""
    backend = TinyScrfd(is_batched=True)
    detector = Scrfd.probe(SPEC, backend, (64, 64))
    with pytest.raises(InferenceError, match=f"{what} are not finite"):
        detector.run(Altered(backend, position, value), [DetectorItem(canvas((20, 20, 255)), 0.5)])


def test_boxes_without_area_are_no_faces() -> None:
    """Edges in the wrong order are dropped."""
    backend = TinyScrfd(is_batched=True)
    detector = Scrfd.probe(SPEC, backend, (64, 64))
    (found,) = detector.run(Altered(backend, 4, -3.0), [DetectorItem(canvas((20, 20, 255)), 0.5)])
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)


def test_outputs_of_another_canvas_are_an_error() -> None:
    """A graph whose answer does not grow with the canvas is caught."""
    backend = TinyScrfd(is_batched=True)
    detector = Scrfd.probe(SPEC, backend, (64, 64))

    class Stuck(TinyScrfd):
        def run(self, batch: Batch) -> tuple[Tensor, ...]:
            return super().run(array_of(batch)[:, :, :64, :64].copy())

    with pytest.raises(InferenceError, match="not those of this canvas"):
        detector.run(Stuck(is_batched=True), [DetectorItem(canvas((0, 0, 255)), 0.5)])


def outputs_of(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Arrays of zeros."""
    return [np.zeros(shape, np.float32) for shape in shapes]


GOOD = [(128, 1), (32, 1), (8, 1), (128, 4), (32, 4), (8, 4), (128, 10), (32, 10), (8, 10)]


@pytest.mark.parametrize(
    "shapes",
    [
        [],
        GOOD[:8],
        GOOD[:3],
        [*GOOD[:6], *GOOD[6:8]],
        [*GOOD, (2, 1)],
        [(128, 2), *GOOD[1:]],
        [(128,), *GOOD[1:]],
        [(1, 128, 1), *GOOD[1:]],
        [(2, *shape) for shape in GOOD],
        [(64, 1), *GOOD[1:]],
        [(shape[0] + 1, shape[1]) for shape in GOOD],
        [(0, shape[1]) for shape in GOOD],
        [(1, 512)],
    ],
    ids=[
        "none", "eight", "scores-only", "two-landmark-levels", "ten", "two-classes", "rank-1", "mixed-ranks",
        "two-rows",
        "uneven-anchors", "odd-counts", "no-anchors", "embedding",
    ],
)  # fmt: skip
def test_other_graphs_are_refused(shapes: list[tuple[int, ...]]) -> None:
    """The message says what was found."""
    with pytest.raises(ModelContractError, match="found outputs"):
        read_layout(outputs_of(*shapes), (64, 64))


def test_a_graph_without_sigmoid_is_refused() -> None:
    """Scores outside [0, 1] would make every threshold mean something else."""
    outputs = outputs_of(*GOOD)
    outputs[0][5] = -4.5
    with pytest.raises(ModelContractError, match="sigmoid"):
        read_layout(outputs, (64, 64))
    outputs[0][5] = np.nan
    with pytest.raises(ModelContractError, match="sigmoid"):
        read_layout(outputs, (64, 64))
