"""`jetface models quantize`: a table to judge by, then a graph that serves, or nothing."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from math import inf
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from jetface.cli.main import main
from jetface.domain import ExtractOptions
from jetface.errors import BackendUnavailableError, ModelFileError
from jetface.graphs.parts import take_apart
from jetface.graphs.prepare import prepare_graph
from jetface.graphs.rewrite import EVERYWHERE
from jetface.imaging.sources import EncodedPicture
from jetface.judging.drawings import draw_pictures
from jetface.registry import default_registry_dir, read_registry, read_spec
from jetface.runtimes.engine_kit import profiles_for
from jetface.runtimes.onnx import open_onnx_backends
from jetface.runtimes.tensorrt_build import build_engine
from jetface.service import build_service, open_service
from jetface.settings import Settings
from tests.support.drawn import PEOPLE, draw_portrait, encode
from tests.support.recipes import recipe_of
from tests.support.rtx_toolkit import rtx_toolkit
from tests.support.tiny_onnx import arcface_model
from tests.support.weights import add_recognizer

pytestmark = pytest.mark.weights  # the starter models

HAS_RTX = importlib.util.find_spec("tensorrt_rtx_bindings") is not None


def run(*arguments: str) -> Result:
    """Run `jetface models quantize`."""
    return CliRunner().invoke(main, ["models", "quantize", *arguments])


@pytest.fixture
def models_dir(models_dir: Path) -> Path:
    """Return a folder with a recognizer of a few nodes in it."""
    add_recognizer(models_dir, arcface_model())
    return models_dir


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Return a folder for each of three people, two pictures in it."""
    folder = tmp_path / "people"
    for number, looks in enumerate(PEOPLE[:3]):
        (folder / str(number)).mkdir(parents=True)
        for copy in ("a", "b"):
            (folder / str(number) / f"{copy}.png").write_bytes(encode(draw_portrait(looks)))
    return folder


async def test_a_recognizer_is_written_with_its_verdict_and_serves(models_dir: Path, people: Path) -> None:
    result = run("mine", "--pictures", str(people), "--least-cosine", "0.9")
    assert result.exit_code == 0, result.output
    assert "rank-1" in result.stdout
    out = models_dir / "mine.int8.onnx"
    verdict = json.loads(out.with_suffix(".json").read_bytes())
    assert verdict["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert verdict["agreement"]["num_compared"] == 6
    assert verdict["agreement"]["fp32"]["rank_1"] == 1
    assert verdict["agreement"]["tar_loss_points"] is None  # of so few pairs
    graph = prepare_graph(out, read_spec(models_dir / "mine.toml"))
    assert graph.is_batch_free
    assert "QuantizeLinear" in {node.op_type for node in take_apart(out.read_bytes()).nodes}
    settings = Settings(models_dir=models_dir, rec_model="mine", backend="onnxruntime", rec_precision="int8")
    async with open_service(settings) as service:
        model = await service.store.get("mine")
        assert model.backend == "onnxruntime-cpu-int8"


async def test_a_real_detector_finds_as_many_faces(
    models_dir: Path, shared_models: Path, shared_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_MIRROR", str(shared_models))
    folder = tmp_path / "some"
    folder.mkdir()
    for name in ("t1.jpg", "ifrest_Stallone.jpg"):
        (folder / name).symlink_to(shared_images / name)
    result = run("det_500m", "--pictures", str(folder), "--least-iou", "0.85")
    assert result.exit_code == 0, result.output
    monkeypatch.setenv("DET_PRECISION", "int8")
    monkeypatch.setenv("BACKEND", "onnxruntime")
    async with open_service(Settings(models_dir=models_dir, det_model="det_500m", rec_model="mine")) as service:
        pictures = [EncodedPicture((folder / name).read_bytes()) for name in ("t1.jpg", "ifrest_Stallone.jpg")]
        found = await service.extractor.extract(pictures, ExtractOptions(score_threshold=0.6), deadline=inf)
        assert (await service.store.get("det_500m")).backend == "onnxruntime-cpu-int8"
    assert [len(each.faces) for each in found] == [6, 1]


def test_nothing_is_written_when_a_limit_is_missed(models_dir: Path, people: Path) -> None:
    before = {path.name for path in models_dir.iterdir()}
    result = run("mine", "--pictures", str(people), "--least-cosine", "1")
    assert result.exit_code == 1
    assert "Error: mine is not quantized: embeddings have a mean cosine of" in result.stderr
    assert {path.name for path in models_dir.iterdir()} == before


def test_operators_that_hurt_stay_in_fp32(models_dir: Path, people: Path) -> None:
    """The limit is what keeping the worse of two operators gives."""
    low = run("mine", "--pictures", str(people), "--least-cosine", "0")
    reached = json.loads((models_dir / "mine.int8.json").read_bytes())["agreement"]["mean_cosine"]
    assert "0 of 2 convolutions" in low.stdout
    result = run("mine", "--pictures", str(people), "--least-cosine", str(reached + 1e-7))
    assert result.exit_code == 0, result.output
    assert "1 of 2 convolutions" in result.stdout
    verdict = json.loads((models_dir / "mine.int8.json").read_bytes())
    assert verdict["agreement"]["mean_cosine"] > reached
    assert len(verdict["kept_in_fp32"]) == 1


def test_pictures_without_a_face_calibrate_nothing(models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    result = run("mine", "--pictures", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert "no picture shows a face" in result.stderr
    assert not (models_dir / "mine.int8.onnx").exists()


def test_int8_without_a_quantized_graph_stops_the_start_and_names_the_command(models_dir: Path) -> None:
    settings = Settings(models_dir=models_dir, rec_model="mine", backend="onnxruntime", rec_precision="int8")
    with pytest.raises(ModelFileError, match="`jetface models quantize mine --pictures FOLDER`"):
        build_service(settings)


def test_fp16_without_engines_stops_the_start(models_dir: Path) -> None:
    settings = Settings(models_dir=models_dir, rec_model="mine", backend="onnxruntime", rec_precision="fp16")
    with pytest.raises(BackendUnavailableError, match="REC_PRECISION=fp16 cannot be had"):
        build_service(settings)


@pytest.mark.skipif(not HAS_RTX, reason="tensorrt_rtx_bindings is not installed: x86-64 Linux only")
def test_a_real_recognizer_keeps_its_embeddings_and_is_built_by_tensorrt(
    models_dir: Path, shared_models: Path, shared_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_MIRROR", str(shared_models))
    folder = tmp_path / "some"
    for person in sorted(path for path in shared_faces.iterdir() if path.is_dir())[:12]:
        (folder / person.name).mkdir(parents=True)
        for picture in sorted(person.iterdir())[:2]:
            (folder / person.name / picture.name).symlink_to(picture)
    result = run("w600k_mbf_dequantized", "--pictures", str(folder))
    assert result.exit_code == 0, result.output
    out = models_dir / "w600k_mbf_dequantized.int8.onnx"
    verdict = json.loads(out.with_suffix(".json").read_bytes())
    assert verdict["agreement"]["mean_cosine"] >= 0.985
    spec = read_registry([default_registry_dir()])["w600k_mbf_dequantized"]
    graph = prepare_graph(out, spec, rewrites=EVERYWHERE, pixels=True, precision="fp16")
    assert isinstance(graph.model, bytes)
    # What is not quantized is computed in halves; an engine is held to the same graph with FP32 in their place.
    full = prepare_graph(out, spec, rewrites=EVERYWHERE, pixels=True).model
    crops = np.stack(draw_pictures().crops)
    answers, expected = (
        open_onnx_backends(model, max_batch_size=len(crops))[0].run(crops)[0] for model in (graph.model, full)
    )
    assert (answers @ expected.T).diagonal().min() > 0.99
    file = tmp_path / "engine.onnx"
    file.write_bytes(graph.model)
    recipe = recipe_of(profiles_for([(112, 112, 3)], (1, 2)), precision="int8", optimization_level=0)
    assert build_engine(rtx_toolkit(), recipe, file, lambda _: None).plan
