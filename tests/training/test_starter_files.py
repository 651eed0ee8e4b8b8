"""The shipped starter models: the files themselves, and the figures that a CPU takes in seconds."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tomli

from training.figures import Agreement, compare_boxes, judge_embeddings, landmark_error
from training.graphs import Detector, Recognizer, align

pytest.importorskip("PIL", reason="training/requirements.txt is not installed")

from training.judging import CANVAS_PX, central_face, golden_pictures, judged_faces, read_picture

MODELS = Path(__file__).parents[2] / "models"
NAMES = ("starter_rec", "starter_det")


@pytest.fixture(scope="module")
def detector() -> Detector:
    """The shipped detector."""
    return Detector(MODELS / "starter_det.onnx")


class TestFiles:
    """What lies in models/."""

    @pytest.mark.parametrize("name", NAMES)
    def test_the_registry_entry_names_its_file(self, name: str) -> None:
        """The TOML holds the sha256 of the ONNX beside it."""
        entry = tomli.loads((MODELS / f"{name}.toml").read_text())
        assert entry["name"] == name
        assert entry["sha256"] == hashlib.sha256((MODELS / f"{name}.onnx").read_bytes()).hexdigest()

    def test_both_are_small(self) -> None:
        """Together at most 5 MB, so that a clone stays light."""
        assert sum((MODELS / f"{name}.onnx").stat().st_size for name in NAMES) <= 5_000_000

    @pytest.mark.parametrize("name", NAMES)
    def test_no_training_leftovers(self, name: str) -> None:
        """No doc strings, no metadata, no paths; the batch is free."""
        model = onnx.load(MODELS / f"{name}.onnx")
        assert not model.metadata_props
        parts: list[Any] = [model, model.graph, *model.graph.node, *model.graph.initializer]
        assert not any(part.doc_string for part in parts)
        assert b"/home" not in model.SerializeToString()
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"

    @pytest.mark.parametrize(("batch", "height", "width"), [(1, 640, 640), (3, 64, 96)])
    def test_the_detector_takes_any_canvas(self, detector: Detector, batch: int, height: int, width: int) -> None:
        """Nine outputs (N, anchors, 1 | 4 | 10), scores, boxes, landmarks, each at strides 8, 16, 32."""
        outputs = detector.session.run(None, {detector.input_name: np.zeros((batch, 3, height, width), np.float32)})
        anchors = [height // stride * (width // stride) * 2 for stride in (8, 16, 32)]
        assert [o.shape for o in outputs] == [(batch, a, channels) for channels in (1, 4, 10) for a in anchors]

    def test_a_batch_answers_as_its_pictures_do(self, detector: Detector) -> None:
        """Neighbours in a batch do not mix."""
        blob = np.random.default_rng(0).normal(0, 0.5, (2, 3, 96, 64)).astype(np.float32)
        together = detector.session.run(None, {detector.input_name: blob})
        alone = [detector.session.run(None, {detector.input_name: blob[i : i + 1]}) for i in range(2)]
        for index, output in enumerate(together):
            np.testing.assert_allclose(output, np.concatenate([a[index] for a in alone]), rtol=1e-3, atol=1e-4)


class TestFigures:
    """What the model cards claim, on part of the pictures; training/README.md has the whole."""

    def test_faces_of_unseen_people_are_found_and_named(self, detector: Detector, shared: Path) -> None:
        """End to end on every second person of faces/: all found, landmarks near the teacher's, rank-1 >= 0.97."""
        reference = Detector(shared / "models" / "det_500m.onnx")
        people, crops, errors = [], [], []
        for index, (person, image) in enumerate(judged_faces(shared)):
            if index // 4 % 2:
                continue
            found = detector.detect(image, CANVAS_PX, 0.5)
            assert len(found.boxes), f"{person}: no face found"
            people.append(person)
            crops.append(align(image, found.landmarks[central_face(found)]))
            if index % 16 == 0:
                wanted = reference.detect(image, CANVAS_PX, 0.5)
                errors.append(landmark_error(found, wanted, central_face(wanted)))
        figures = judge_embeddings(Recognizer(MODELS / "starter_rec.onnx").embed(np.array(crops)), np.array(people))
        assert figures.num_people == 100
        assert figures.rank_1 >= 0.97
        assert np.mean([error for error in errors if error is not None]) <= 0.03

    def test_close_faces_are_found_at_640(self, detector: Detector, shared: Path) -> None:
        """Faces that fill the canvas, which the teachers miss there."""
        for path in sorted((shared / "images" / "tight_crops").iterdir()):
            assert len(detector.detect(read_picture(path), CANVAS_PX, 0.5).boxes) == 1, path.name

    def test_crowds_agree_with_the_reference(self, detector: Detector, shared: Path) -> None:
        """At threshold 0.5: golden faces >= 24 px wide and >= 0.6 found >= 93 %, extra boxes <= 5 %."""
        total = Agreement(0, 0, 0, 0)
        for picture in golden_pictures(shared):
            is_wanted = (picture.boxes[:, 2] - picture.boxes[:, 0] >= 24) & (picture.scores >= 0.6)
            boxes = detector.detect(picture.image, CANVAS_PX, 0.5).boxes
            total += compare_boxes(boxes, picture.boxes, is_wanted)
        assert total.num_found >= 0.93 * total.num_wanted
        assert total.num_extra <= 0.05 * total.num_boxes
