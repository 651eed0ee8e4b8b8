"""`jetface models add`: a model of one's own, from its file alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import helper, numpy_helper

from jetface.cli.main import main
from jetface.models.weights import WeightsFolder
from jetface.registry import default_registry_dir, read_registry, read_spec
from tests.support.tiny_onnx import arcface_model, model, scrfd_model, yunet_model
from tests.support.tiny_yolo import yolo_model
from tests.unit.graphs.test_parts import split


def add(file: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["models", "add", str(file), *arguments])


@pytest.fixture
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty MODELS_DIR, which need not be there."""
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def recognizer(tmp_path: Path) -> Path:
    path = tmp_path / "mine.onnx"
    path.write_bytes(arcface_model())
    return path


def test_the_entry_says_what_the_graph_says(models_dir: Path, recognizer: Path) -> None:
    """And the file lies beside it; nothing but its family need be named."""
    result = add(recognizer, "--family", "arcface")
    assert result.exit_code == 0, result.stderr
    assert "REC_MODEL=mine" in result.stdout
    spec = read_spec(models_dir / "mine.toml")
    assert (spec.name, spec.task, spec.embedding_length, spec.non_commercial) == ("mine", "recognition", 4, False)
    assert (spec.input.height_px, spec.input.width_px, spec.input.mean, spec.input.std) == (112, 112, 127.5, 127.5)
    assert WeightsFolder(folder=models_dir).locate(spec).read_bytes() == recognizer.read_bytes()
    assert "embedding [1, 4]" in (models_dir / "mine.toml").read_text()
    assert "mine" in read_registry([default_registry_dir(), models_dir])


def test_a_batch_that_was_fixed_at_export_is_freed(models_dir: Path, recognizer: Path) -> None:
    """A run of one picture fails before, so nothing is known of the answer but what is declared."""
    graph = onnx.load_model(recognizer)
    for end in (*graph.graph.input, *graph.graph.output):
        end.type.tensor_type.shape.dim[0].dim_value = 4
    recognizer.write_bytes(graph.SerializeToString())
    result = add(recognizer, "--family", "arcface")
    assert result.exit_code == 0, result.stderr
    assert read_spec(models_dir / "mine.toml").embedding_length == 4


def test_what_is_said_counts(models_dir: Path, recognizer: Path) -> None:
    """In words that TOML would take for others, too."""
    options = ("--name", "my-model", "--license", 'Mine, "all" of it\n\x7f', "--non-commercial", "--source", "C:\\me")
    scale = ("--mean", "0", "--std", "255", "--channel-order", "bgr", "--match-threshold", "0.4")
    assert add(recognizer, "--family", "arcface", *options, *scale).exit_code == 0
    spec = read_spec(models_dir / "my-model.toml")
    assert (spec.license, spec.source, spec.non_commercial) == ('Mine, "all" of it\n\x7f', "C:\\me", True)
    assert (spec.input.mean, spec.input.std, spec.input.channel_order, spec.match_threshold) == (0, 255, "bgr", 0.4)
    assert spec.file_name == "my-model.onnx"


@pytest.mark.parametrize(
    ("serialized", "family", "size_px"),
    [(scrfd_model(), "scrfd", 0), (scrfd_model(canvas_hw=(64, 64)), "scrfd", 64), (yunet_model(), "yunet", 64)],
)
def test_a_detector_is_added_at_its_size(
    models_dir: Path, tmp_path: Path, serialized: bytes, family: str, size_px: int
) -> None:
    (tmp_path / "mine.onnx").write_bytes(serialized)
    assert add(tmp_path / "mine.onnx", "--family", family).exit_code == 0
    assert read_spec(models_dir / "mine.toml").input.height_px == size_px


def test_a_detector_of_plates_is_added_whatever_its_export(models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(yolo_model("end to end", (64, 96), num_classes=1))
    result = add(tmp_path / "mine.onnx", "--family", "yolo", "--score-threshold", "0.4")
    assert result.exit_code == 0, result.stderr
    assert "PLATE_DET_MODEL=mine" in result.stdout
    spec = read_spec(models_dir / "mine.toml")
    assert (spec.task, spec.input.height_px, spec.input.width_px, spec.input.std) == ("plate_detection", 64, 96, 255)


def test_a_reader_of_plates_is_added_with_its_alphabet(models_dir: Path, shared_models: Path) -> None:
    file = shared_models / "plate_ocr_cct_xs.onnx"
    options = ("--family", "plate_ocr", "--name", "mine", "--box-enlargement", "1.12")
    refused = add(file, *options)
    assert refused.exit_code == 1
    assert "--alphabet: the characters of a slot" in refused.stderr
    added = add(file, *options, "--alphabet", "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_")
    assert added.exit_code == 0, added.stderr
    spec = read_spec(models_dir / "mine.toml")
    assert (spec.slots, spec.pad, spec.box_enlargement) == (9, "_", 1.12)


def test_weights_beside_the_file_come_along(models_dir: Path, tmp_path: Path) -> None:
    """Named with their checksum in the entry: a byte that changes is found."""
    path = split(tmp_path / "export")
    assert add(path, "--family", "arcface").exit_code == 0
    spec = read_spec(models_dir / "mine.toml")
    data = models_dir / "mine.onnx.data"
    assert [(part.file, part.sha256) for part in spec.data] == [
        ("mine.onnx.data", hashlib.sha256(data.read_bytes()).hexdigest())
    ]
    assert WeightsFolder(folder=models_dir).find(spec)
    data.write_bytes(b"\1" + data.read_bytes()[1:])
    assert WeightsFolder(folder=models_dir).find(spec) is None


def test_a_file_that_lies_there_stays(models_dir: Path) -> None:
    """By its own name, whatever the model is called."""
    models_dir.mkdir()
    (models_dir / "weights.v2.onnx").write_bytes(arcface_model())
    assert add(models_dir / "weights.v2.onnx", "--family", "arcface", "--name", "mine").exit_code == 0
    assert read_spec(models_dir / "mine.toml").file_name == "weights.v2.onnx"
    assert sorted(path.name for path in models_dir.glob("*.onnx")) == ["weights.v2.onnx"]


class TestFaults:
    """All told at once, nothing written."""

    def check(self, models_dir: Path, result: Result, *said: str) -> None:
        assert result.exit_code == 1
        for words in said:
            assert words in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1 + len(said)
        assert not list(models_dir.glob("*.toml"))

    def test_what_is_missing(self, models_dir: Path, recognizer: Path) -> None:
        path = recognizer.rename(recognizer.with_name("my model.onnx"))
        self.check(models_dir, add(path), "--name: 'my model' is no name", "--family: which kind")
        self.check(
            models_dir, add(path, "--family", "minifasnet"),
            "--name: 'my model'", "--box-enlargement: how many", "should answer a picture with [1, 3]; found [1, 4]",
        )  # fmt: skip

    def test_what_is_not_as_the_family_has_it(self, models_dir: Path, recognizer: Path) -> None:
        self.check(models_dir, add(recognizer, "--family", "scrfd"), "6 or 9 outputs")
        self.check(models_dir, add(recognizer, "--family", "sface", "--mean", "5"), "family sface wants mean = 0")
        value = [helper.make_tensor_value_info(name, 1, ["N", 3, 112, 112]) for name in "abc"]
        recognizer.write_bytes(model([helper.make_node("Add", ["a", "b"], ["c"])], {}, value[:2], value[2:]))
        self.check(
            models_dir, add(recognizer, "--family", "arcface", "--name", "det_500m"), "already", "one input; found"
        )

    def test_files_that_cannot_be_used(self, models_dir: Path, tmp_path: Path) -> None:
        (tmp_path / "junk.onnx").write_bytes(b"junk")
        self.check(models_dir, add(tmp_path / "junk.onnx", "--family", "arcface"), "junk.onnx: it is not an ONNX file")
        path = split(tmp_path / "export")
        models_dir.mkdir()
        (models_dir / "mine.onnx.data").write_bytes(b"another's")
        self.check(models_dir, add(path, "--family", "arcface"), "mine.onnx.data: another file of that name")
        path.with_name("mine.onnx.data").unlink()
        self.check(models_dir, add(path, "--family", "arcface"), "'mine.onnx.data', which is not there")

    def test_a_graph_that_cannot_be_run(self, models_dir: Path, recognizer: Path) -> None:
        """Why is said, not what its outputs might have been; so of one that runs, and answers with no number."""
        graph = onnx.load_model(recognizer)
        graph.opset_import[0].version = 99
        recognizer.write_bytes(graph.SerializeToString())
        self.check(models_dir, add(recognizer, "--family", "arcface"), "its operators are of opset 99")
        for divisor, said in ((0.0, "numbers that are not finite"), (np.inf, "zero or not finite")):
            graph = onnx.load_model_from_string(arcface_model())
            (output,) = (node for node in graph.graph.node if "embedding" in node.output)
            output.output[0] = "before"
            graph.graph.initializer.append(numpy_helper.from_array(np.float32(divisor), "divisor"))
            graph.graph.node.append(helper.make_node("Div", ["before", "divisor"], ["embedding"]))
            recognizer.write_bytes(graph.SerializeToString())
            self.check(models_dir, add(recognizer, "--family", "arcface"), said)

    def test_a_name_that_no_file_can_have(self, models_dir: Path, recognizer: Path) -> None:
        self.check(models_dir, add(recognizer, "--family", "arcface", "--name", "x" * 300), "is no name")

    def test_weights_in_a_folder_below(self, models_dir: Path, tmp_path: Path) -> None:
        path = split(tmp_path / "export")
        (path.parent / "sub").mkdir()
        path.with_name("mine.onnx.data").rename(path.parent / "sub" / "mine.data")
        built = onnx.load_model(path, load_external_data=False)
        for tensor in built.graph.initializer:
            tensor.external_data[0].value = "sub/mine.data"
        path.write_bytes(built.SerializeToString())
        self.check(models_dir, add(path, "--family", "arcface"), "sub/mine.data: weights in a folder below")
