"""`jetface models convert`: a table to judge by, then a file, or nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jetface.cli.main import main
from jetface.graphs.prepare import prepare_graph
from jetface.registry import default_registry_dir, read_registry
from tests.support.drawn import PEOPLE, draw_portrait, encode
from tests.support.fragile_onnx import offset_model, overflowing_model
from tests.support.tiny_onnx import arcface_model
from tests.support.weights import add_recognizer

pytestmark = pytest.mark.weights  # the starter models


def run(*arguments: str) -> Result:
    """Run `jetface models convert`."""
    return CliRunner().invoke(main, ["models", "convert", *arguments])


def files_of(models_dir: Path) -> set[str]:
    return {path.name for path in models_dir.iterdir()}


def test_a_detector_is_judged_by_drawn_faces_and_written_with_its_verdict(models_dir: Path) -> None:
    result = run("starter_det")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["starter_det,", "judged", "by", "faces", "drawn", "by", "code:"]
    assert lines[2] == ["found", "by", "both", "by", "one", "only", "worst", "IoU", "MB"]
    (cast,) = (line for line in lines if line[:1] == ["fp16"])
    assert cast[1:3] == ["12", "0"]
    assert 0.98 <= float(cast[3]) < 1
    assert cast[5:] == ["within", "the", "limits"]
    out = models_dir / "starter_det.fp16.onnx"
    assert lines[-1] == [str(out)]
    verdict = json.loads(out.with_suffix(".json").read_bytes())
    assert verdict["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert (verdict["precision"], verdict["judged_by"]) == ("fp16", "faces drawn by code")
    assert verdict["agreement"]["found_by_both"] == 12
    assert verdict["limits"] == {"least_iou": 0.98}
    spec = read_registry([default_registry_dir()])["starter_det"]
    assert prepare_graph(out, spec).is_batch_free


def test_a_recognizer_is_judged_by_the_faces_in_a_folder(models_dir: Path, tmp_path: Path) -> None:
    """What is no picture is named, and left out."""
    add_recognizer(models_dir, arcface_model())
    folder = tmp_path / "people"
    (folder / "one").mkdir(parents=True)
    (folder / "one" / "first.png").write_bytes(encode(draw_portrait(PEOPLE[0])))
    (folder / "second.png").write_bytes(encode(draw_portrait(PEOPLE[1])))
    (folder / "third.jpg").write_bytes(b"no picture")
    out = tmp_path / "half.onnx"
    result = run("mine", "--precision", "fp16", "--pictures", str(folder), "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "mean cosine" in result.stdout
    (cast,) = (line.split() for line in result.stdout.splitlines() if line.startswith("fp16"))
    assert cast[1] == "2"
    assert result.stderr.count("third.jpg is left out") == 1
    assert json.loads(out.with_suffix(".json").read_bytes())["judged_by"] == f"the faces in {folder}"


def test_a_detector_is_judged_by_the_pictures_in_a_folder(models_dir: Path, tmp_path: Path) -> None:
    """They are read as often as they are needed; what is no picture is named once."""
    folder = tmp_path / "people"
    folder.mkdir()
    (folder / "first.jpg").write_bytes(b"no picture")
    (folder / "second.png").write_bytes(encode(draw_portrait(PEOPLE[1])))
    result = run("starter_det", "--pictures", str(folder))
    assert result.exit_code == 0, result.output
    assert result.stderr.count("first.jpg is left out") == 1
    assert "starter_det.fp16.onnx" in files_of(models_dir)


def test_nothing_is_written_when_limits_are_missed(models_dir: Path) -> None:
    add_recognizer(models_dir, overflowing_model())
    before = files_of(models_dir)
    result = run("mine")
    assert result.exit_code == 1
    assert result.stderr == "Error: mine is not converted: its answers are not finite: values overflow half precision\n"
    table = [line for line in result.stdout.splitlines() if line.startswith("fp16")]
    assert [line.split("  ")[0] for line in table] == ["fp16", "fp16, sums in fp32"]
    assert files_of(models_dir) == before


def test_sums_kept_in_fp32_are_to_be_noted_in_the_entry(models_dir: Path) -> None:
    add_recognizer(models_dir, offset_model(60000))
    result = run("mine")
    assert result.exit_code == 0, result.output
    assert "`fp32_sums = true`" in result.stdout
    assert json.loads((models_dir / "mine.fp16.json").read_bytes())["refused"].keys() == {"fp16"}
    entry = models_dir / "mine.toml"
    entry.write_text(f"fp32_sums = true\n{entry.read_text()}")
    again = run("mine")
    assert again.exit_code == 0, again.output
    assert "fp32_sums" not in again.stdout


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["nobody"], 2, "there is no model nobody"),
        (["glintr100"], 1, "glintr100"),
        (["mine", "--precision", "int8"], 2, "int8"),
        (["mine", "--pictures", "nowhere"], 2, "nowhere"),
        (["mine", "--out", "{models_dir}/mine.onnx"], 2, "holds the weights themselves"),
        (["mine", "--out", "{models_dir}/none/mine.onnx"], 1, "cannot be written"),
        (["mine", "--pictures", "{models_dir}"], 1, "there was no face"),
    ],
)
def test_mistakes_end_in_one_line(models_dir: Path, arguments: list[str], exit_code: int, said: str) -> None:
    add_recognizer(models_dir, arcface_model())
    before = files_of(models_dir)
    result = run(*(argument.format(models_dir=models_dir) for argument in arguments))
    assert result.exit_code == exit_code
    assert said in result.stderr.splitlines()[-1]
    assert isinstance(result.exception, SystemExit)
    assert files_of(models_dir) == before


def test_models_of_other_tasks_are_left_alone(
    models_dir: Path, shared_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_MIRROR", str(shared_models))
    result = run("genderage_v1")
    assert result.exit_code == 1
    assert "only detectors and recognizers are converted" in result.stderr
    assert not files_of(models_dir)
