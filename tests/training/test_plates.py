"""The shipped plate detector, the reader beside it, and the parts of the recipe that place plates."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("PIL", reason="training/requirements.txt is not installed")

from training.evaluate_plates import judge_finder, judge_reader
from training.plate_graphs import PlateFinder, PlateReader
from training.plates import PlatePicture, read_labels, read_plates, read_texts

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "starter_plate.onnx"
ENTRY = ROOT / "models" / "starter_plate.toml"
THRESHOLD = 0.4


@pytest.fixture(scope="module")
def finder() -> PlateFinder:
    return PlateFinder(MODEL)


@pytest.fixture(scope="module")
def pictures(shared: Path) -> list[PlatePicture]:
    return list(read_plates(shared / "plates" / "plates_romania_mit.tar", "valid"))


class TestFile:
    def test_the_entry_names_the_file_and_the_threshold_judged_here(self) -> None:
        tomllib = pytest.importorskip("tomllib", reason="it came with Python 3.11")
        entry = tomllib.loads(ENTRY.read_text())
        assert entry["sha256"] == hashlib.sha256(MODEL.read_bytes()).hexdigest()
        assert entry["score_threshold"] == THRESHOLD

    def test_it_is_at_most_one_and_a_half_megabytes(self) -> None:
        assert MODEL.stat().st_size <= 1_500_000

    def test_it_has_a_free_batch_fixed_outputs_and_no_suppression_inside(self) -> None:
        model = onnx.load(MODEL)
        shapes = [
            [d.dim_param or d.dim_value for d in tensor.type.tensor_type.shape.dim]
            for tensor in (*model.graph.input, *model.graph.output)
        ]
        assert shapes == [["batch", 3, 640, 640], ["batch", 5, 8400]]
        assert "NonMaxSuppression" not in {node.op_type for node in model.graph.node}
        assert not model.metadata_props

    def test_a_batch_answers_as_its_pictures_do(self, finder: PlateFinder) -> None:
        blob = np.random.default_rng(0).uniform(0, 1, (2, 3, 640, 640)).astype(np.float32)
        together = np.asarray(finder.session.run(None, {finder.input.name: blob})[0])
        for row, picture in enumerate(blob):
            alone = np.asarray(finder.session.run(None, {finder.input.name: picture[None]})[0])
            np.testing.assert_allclose(together[row], alone[0], rtol=1e-3, atol=1e-2)


class TestFigures:
    """What docs/models/plates.md claims, on all pictures for judging."""

    def test_plates_never_trained_on_are_found(self, finder: PlateFinder, pictures: list[PlatePicture]) -> None:
        total = judge_finder(finder, pictures, THRESHOLD)
        assert total.num_wanted == 131
        assert total.num_found >= 0.92 * total.num_wanted
        assert total.num_extra <= 0.05 * total.num_boxes

    def test_the_reader_reads_what_a_person_can_read(self, pictures: list[PlatePicture], shared: Path) -> None:
        reading = judge_reader(PlateReader(shared / "models" / "plate_ocr_cct_xs.onnx"), pictures, None, THRESHOLD)
        assert reading.num_readable == 119
        assert reading.num_exact >= 0.85 * reading.num_readable

    def test_every_picture_for_judging_has_a_text_for_each_plate(self, shared: Path) -> None:
        labels = read_labels(shared / "plates" / "plates_romania_mit.tar", "valid")
        assert {name: len(rows) for name, rows in labels.items()} == {n: len(t) for n, t in read_texts().items()}


class TestScenes:
    """Where drawn plates stand on a canvas."""

    def test_a_mapping_takes_the_unit_square_to_the_quadrilateral_and_back(self) -> None:
        torch = pytest.importorskip("torch")
        from training.plate_scenes import apply, from_unit_square, inverse, place_quads, rectangles  # noqa: PLC0415

        sides = torch.tensor([80.0]), torch.tensor([20.0])
        quads = place_quads(torch.tensor([[100.0, 50.0]]), *sides, torch.tensor([[0.4, 0.1, 0.2]]))
        square = rectangles(torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
        mapping = from_unit_square(quads)
        assert torch.allclose(apply(mapping, square), quads, atol=1e-3)
        assert torch.allclose(apply(inverse(mapping), quads), square, atol=1e-4)

    def test_what_overlaps_something_kept_before_is_left_out(self) -> None:
        torch = pytest.importorskip("torch")
        from training.plate_scenes import keep_apart  # noqa: PLC0415

        boxes = torch.tensor([[[0, 0, 10, 10], [5, 5, 15, 15], [12, 12, 20, 20], [50, 50, 60, 60]]]).float()
        kept = keep_apart(boxes, torch.tensor([[True, True, True, False]]))
        assert kept.tolist() == [[True, False, True, False]]

    def test_a_thin_far_plate_has_cells_that_answer_for_it_and_an_unclear_one_is_not_judged(self) -> None:
        torch = pytest.importorskip("torch")
        from training.plate_detector import cell_centers, to_boxes  # noqa: PLC0415
        from training.plate_targets import assign  # noqa: PLC0415

        centers, strides = cell_centers(64, 64, torch.device("cpu"))
        distances = torch.ones(1, 4, len(centers))
        found = to_boxes(distances, centers, strides).transpose(1, 2)
        plates = torch.tensor([[[16.0, 22.0, 32.0, 26.0], [40.0, 40.0, 60.0, 60.0]]])  # the first lies between rows
        there = torch.tensor([[True, False]])
        scores = torch.full((1, len(centers)), 0.01)
        targets = assign(scores, found, plates, there, ~there, centers, strides, 3)
        chosen = targets.scores[0] > 0
        assert 1 <= int(chosen.sum()) <= 3
        assert (targets.boxes[0, chosen] == plates[0, 0]).all()
        inside = (centers > 44).all(1) & (centers < 56).all(1)
        assert not targets.counts[0, inside].any()
        assert targets.counts[0, ~inside & (centers < 36).all(1)].all()


class TestStudents:
    """What training begins with."""

    def test_every_box_of_an_untaught_detector_is_open_so_that_it_can_learn(self) -> None:
        torch = pytest.importorskip("torch")
        from training.config import DetectorShape  # noqa: PLC0415
        from training.detector import DetectorStudent  # noqa: PLC0415
        from training.plate_detector import PlateDetector  # noqa: PLC0415

        torch.manual_seed(0)
        shape = DetectorShape(
            stem_widths=[8, 8], widths=[16, 16, 16], depths=[0, 1, 1, 1], neck_width=16, head_width=16, head_depth=1
        )
        blob = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            distances = [boxes for _, boxes, _ in DetectorStudent(shape).eval().maps(blob)]
            distances.append(PlateDetector(shape).eval().cells(blob)[:, 1:])
        assert all((d > 0).all() for d in distances)
