"""The yunet family answers as OpenCV's `FaceDetectorYN` does on the same graph, and refuses what is none."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from jetface.domain import Blob, Tensor
from jetface.errors import InferenceError, ModelContractError
from jetface.geometry.boxes import iou_matrix
from jetface.graphs.prepare import prepare_graph
from jetface.heads.canvases import DetectorItem
from jetface.heads.families import FAMILIES
from jetface.heads.yunet import Yunet, read_levels
from jetface.registry import InputSpec, ModelSpec, default_registry_dir, read_registry
from jetface.runtimes.backend import Backend
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.function_backend import FunctionBackend
from tests.support.tiny_onnx import yunet_model

CANVAS_HW = (64, 96)
THRESHOLD = 0.45
SHIPPED = read_registry([default_registry_dir()])["yunet_2023mar"]


def spec_of(canvas_hw: tuple[int, int] = CANVAS_HW) -> ModelSpec:
    size = InputSpec(height_px=canvas_hw[0], width_px=canvas_hw[1], mean=0, std=1, channel_order="bgr")
    return SHIPPED.model_copy(update={"name": "tiny_yunet", "input": size})


def opened(model: bytes, folder: Path, spec: ModelSpec, *, max_batch_size: int = 1) -> Backend:
    path = folder / "yunet.onnx"
    path.write_bytes(model)
    graph = prepare_graph(path, spec)
    assert graph.is_batch_free
    assert graph.input_hw == (spec.input.height_px, spec.input.width_px)
    (backend,) = open_onnx_backends(graph.model, max_batch_size=max_batch_size)
    return backend


def random_canvas(seed: int, canvas_hw: tuple[int, int] = CANVAS_HW) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*canvas_hw, 3), np.uint8)


def opencv_rows(model: bytes, folder: Path, canvas: np.ndarray, threshold: float, overlap: float) -> np.ndarray:
    """What OpenCV finds: (N, 15) x, y, width, height, five points, score."""
    path = folder / "opencv.onnx"
    path.write_bytes(model)
    height, width = canvas.shape[:2]
    detector = cv2.FaceDetectorYN.create(str(path), "", (width, height), threshold, overlap, 5000)
    rows: np.ndarray | None = detector.detect(canvas)[1]
    return np.empty((0, 15), np.float32) if rows is None else rows


@pytest.mark.parametrize("seed", range(8))
def test_finds_what_opencv_finds(tmp_path: Path, seed: int) -> None:
    """Boxes, the order of the landmarks, scores, channel order and scale; suppression left out, as IoU 1 allows all."""
    model, spec, canvas = yunet_model(seed=seed), spec_of(), random_canvas(seed)
    wanted = opencv_rows(model, tmp_path, canvas, THRESHOLD, 1.0)
    backend = opened(model, tmp_path, spec)
    detector = Yunet.probe(spec, backend, CANVAS_HW)
    (found,) = detector.candidates(backend, [DetectorItem(canvas, THRESHOLD)])
    boxes = found.boxes
    assert len(wanted) == len(boxes) > 0
    ours = np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2], found.landmarks.reshape(-1, 10), found.scores])
    order = np.argsort(-ours[:, 14], kind="stable")
    np.testing.assert_allclose(ours[order], wanted[np.argsort(-wanted[:, 14], kind="stable")], rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("seed", range(4))
def test_suppression_keeps_the_best_of_what_overlaps(tmp_path: Path, seed: int) -> None:
    """All that `run` keeps is among what OpenCV decodes, no two of it are one face, and the best is kept."""
    model, spec, canvas = yunet_model(seed=seed), spec_of(), random_canvas(seed)
    backend = opened(model, tmp_path, spec)
    (found,) = Yunet.probe(spec, backend, CANVAS_HW).run(backend, [DetectorItem(canvas, THRESHOLD)])
    decoded = opencv_rows(model, tmp_path, canvas, THRESHOLD, 1.0)
    kept = opencv_rows(model, tmp_path, canvas, THRESHOLD, 0.4)
    assert 0 < len(found) < len(decoded)
    assert found.scores[0] == pytest.approx(decoded[:, 14].max(), rel=1e-5)
    assert (np.diff(found.scores) <= 0).all()
    overlaps = iou_matrix(found.boxes, found.boxes)
    np.fill_diagonal(overlaps, 0)
    assert overlaps.max() <= 0.4 + 1e-6
    # OpenCV suppresses boxes cut to whole pixels: it agrees but where that moves an overlap over the threshold.
    assert len(found) == pytest.approx(len(kept), abs=max(2, len(kept) // 4))


def test_several_canvases_share_a_run(tmp_path: Path) -> None:
    """The graph is exported for one picture; its batch is freed, and each is answered as if alone."""
    model, spec = yunet_model(), spec_of()
    backend = opened(model, tmp_path, spec, max_batch_size=4)
    detector = Yunet.probe(spec, backend, CANVAS_HW)
    items = [DetectorItem(random_canvas(seed), THRESHOLD) for seed in range(3)]
    for item, together in zip(items, detector.run(backend, items), strict=True):
        (alone,) = detector.run(backend, [item])
        np.testing.assert_allclose(together.boxes, alone.boxes, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(together.scores, alone.scores, rtol=1e-5)


def test_the_registry_opens_the_family(tmp_path: Path) -> None:
    spec = spec_of()
    backend = opened(yunet_model(), tmp_path, spec)
    probed = FAMILIES["yunet"].probe(spec, backend, CANVAS_HW)
    (((look),),) = ((probed.head.run(backend, [probed.probe_item])),)
    assert len(look) == 1


def test_the_shipped_entry_is_opencvs_file() -> None:
    """Raw BGR at 640x640, from a commit of the zoo, free for commercial use."""
    assert (SHIPPED.input.height_px, SHIPPED.input.width_px) == (640, 640)
    assert SHIPPED.input.channel_order == "bgr"
    assert SHIPPED.license == "MIT"
    assert not SHIPPED.non_commercial
    assert SHIPPED.download is not None
    assert SHIPPED.download.url.endswith(SHIPPED.file_name)


def answer(**shapes: tuple[int, ...]) -> list[Tensor]:
    """Outputs of a 64x96 canvas, some of other shapes."""
    cells = {8: 96, 16: 24, 32: 6}
    kinds = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
    names = {f"{kind}_{stride}": (1, cells[stride], columns) for kind, columns in kinds.items() for stride in cells}
    return [np.zeros(shape, np.float32) for shape in {**names, **shapes}.values()]


def test_outputs_are_told_apart_by_shape_in_any_order() -> None:
    outputs = answer()
    levels = read_levels(outputs, CANVAS_HW)
    assert [level.stride_px for level in levels] == [8, 16, 32]
    assert levels[0].scores == (0, 3)
    mirrored = read_levels(outputs[::-1], CANVAS_HW)
    assert [11 - level.boxes for level in mirrored] == [level.boxes for level in levels]


@pytest.mark.parametrize(
    "shapes",
    [{"cls_8": (1, 96, 2)}, {"bbox_16": (1, 23, 4)}, {"kps_32": (6, 10)}, {"obj_32": (2, 6, 1)}],
    ids=["columns", "anchors", "rank", "batch"],
)
def test_other_outputs_are_refused(shapes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ModelContractError, match=r"YuNet has, for each stride .* found outputs \["):
        read_levels(answer(**shapes), CANVAS_HW)


def test_another_family_is_refused_by_its_number_of_outputs(tmp_path: Path) -> None:
    path = tmp_path / "yunet.onnx"
    path.write_bytes(yunet_model())
    scrfd = SHIPPED.model_copy(update={"family": "scrfd", "input": spec_of().input})
    with pytest.raises(ModelContractError, match=r"should have 6 or 9 outputs"):
        prepare_graph(path, scrfd)


class TestSoundness:
    """What a graph may not answer."""

    def run(self, outputs: list[Tensor]) -> None:
        def graph(_batch: Blob) -> tuple[Tensor, ...]:
            return tuple(outputs)

        backend = FunctionBackend(graph)
        Yunet(spec_of(), read_levels(answer(), CANVAS_HW)).run(backend, [DetectorItem(random_canvas(0), 0.5)])

    def test_scores_are_finite(self) -> None:
        outputs = answer()
        outputs[0][:] = np.nan
        with pytest.raises(InferenceError, match="scores are not finite"):
            self.run(outputs)

    def test_boxes_are_finite(self) -> None:
        """A side is an exponential: it may overflow."""
        outputs = answer()
        outputs[0][:], outputs[3][:], outputs[6][:] = 1, 1, 1000
        with pytest.raises(InferenceError, match="boxes are not finite"):
            self.run(outputs)

    def test_outputs_are_those_of_the_canvas(self) -> None:
        with pytest.raises(InferenceError, match="not those of this canvas"):
            self.run(answer(cls_16=(1, 5, 1)))

    def test_scores_beyond_the_range_are_clipped(self) -> None:
        """As OpenCV does: 1.2 and 0.81 make 0.9."""
        outputs = answer()
        outputs[0][0, 7], outputs[3][0, 7] = 1.2, 0.81
        backend = FunctionBackend(lambda _batch: tuple(outputs))
        detector = Yunet(spec_of(), read_levels(answer(), CANVAS_HW))
        (found,) = detector.run(backend, [DetectorItem(random_canvas(0), 0.5)])
        np.testing.assert_allclose(found.scores, [0.9], rtol=1e-6)
        np.testing.assert_allclose(found.boxes, [[7 * 8 - 4, -4, 7 * 8 + 4, 4]])
