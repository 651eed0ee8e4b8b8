"""What the building process does, told step by step."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import structlog.testing

from jetface.engines.build import run_job
from jetface.engines.check import compare
from jetface.engines.child import EngineChild
from jetface.engines.job import Accepted, EngineJob, EngineSource, Rejected, Step
from jetface.errors import EngineBuildError
from jetface.graphs.prepare import prepare_graph
from jetface.heads.families import read_known
from jetface.judging.agreement import ENGINE
from jetface.models.precision import Precisions
from jetface.registry import ModelSpec, default_registry_dir, read_registry
from jetface.runtimes.onnx import open_onnx_backends
from tests.support import rtx_kit, stand_in_kit
from tests.support.engine_jobs import jobs_of, stored, tiny_job
from tests.support.forgetful import Forgetful
from tests.support.shared import REPOSITORY
from tests.support.stand_in_kit import StandInEngine
from tests.support.tiny_onnx import arcface_model, scrfd_model, scrfd_spec

HAS_RTX = importlib.util.find_spec("tensorrt_rtx_bindings") is not None


def reports_of(job: EngineJob, fallback: Path) -> list[Step | Accepted | Rejected]:
    reports: list[Step | Accepted | Rejected] = []
    with structlog.testing.capture_logs():
        run_job(job, fallback, reports.append)
    return reports


def test_a_plan_that_cannot_be_kept_is_left_beside_the_job(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, keeps=False)
    end = reports_of(job, tmp_path / "left.plan")[-1]
    assert isinstance(end, Accepted)
    assert not end.is_kept
    assert len((tmp_path / "left.plan").read_bytes()) == end.record.plan_bytes


def test_a_plan_that_can_be_written_nowhere_is_no_engine(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, keeps=False)
    end = reports_of(job, tmp_path / "nowhere" / "left.plan")[-1]
    assert isinstance(end, Rejected)
    assert "written nowhere" in end.reason


def test_where_onnxruntime_may_not_be_imported_the_toolkit_is_its_own_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells what FP16 costs, though not what the toolkit has wrong in both."""
    log = tmp_path / "builds.log"
    monkeypatch.setenv("STAND_IN_LOG", str(log))
    job = tiny_job(tmp_path, precisions=Precisions(), reference="toolkit")
    end = reports_of(job, tmp_path / "left.plan")[-1]
    assert isinstance(end, Accepted)
    assert end.record.verdict.endswith("by an engine of the same toolkit in FP32")
    assert len(log.read_text().splitlines()) == 2


@pytest.mark.parametrize("locked", [(), ("prepared",)], ids=["weights' folder", "weights' folder is read-only"])
def test_the_graph_that_judges_is_kept_and_takes_no_room_beside_the_job(
    tmp_path: Path, locked: tuple[str, ...]
) -> None:
    """That of glintr100 would fill the container's /tmp. A file in the folder's place keeps root out, too."""
    for name in locked:
        (tmp_path / name).touch()
    job = tiny_job(tmp_path, precisions=Precisions(), reference="toolkit")
    # No folder: whatever was written there would fail.
    assert isinstance(reports_of(job, tmp_path / "no folder" / "left.plan")[-1], Accepted)
    kept = tmp_path / "engines" / "prepared" if locked else tmp_path / "prepared"
    assert len(list(kept.glob("*.onnx"))) == 2
    assert job.graph.parent == kept


def test_a_graph_that_can_be_written_nowhere_says_what_to_do(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, precisions=Precisions(), reference="toolkit", keeps=False)
    for name in ("prepared", "engines"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        (tmp_path / name).touch()
    graph = tmp_path / "graph.onnx"
    graph.write_bytes(arcface_model())
    job = replace(job, graph=graph)
    end = reports_of(job, tmp_path / "full" / "left.plan")[-1]
    assert isinstance(end, Rejected)
    assert "can be written nowhere" in end.reason
    assert "Let MODELS_DIR or TRT_ENGINE_CACHE_PATH be written, or make /tmp larger." in end.reason


def test_an_engine_is_opened_for_the_accelerator_it_was_built_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = stand_in_kit.make_kit()
    monkeypatch.setattr(stand_in_kit, "make_kit", lambda: kit)
    job = tiny_job(tmp_path, dla_core=1, reference="toolkit", keeps=False)
    assert isinstance(reports_of(job, tmp_path / "left.plan")[-1], Accepted)
    # The one that judges runs on the GPU.
    assert kit.dla_cores == [1, -1]


def test_nothing_but_the_check_needs_onnxruntime(tmp_path: Path) -> None:
    """On some devices it must not be imported by the process that serves."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "import jetface.main, jetface.engines.takeover, jetface.cli.engine\n"
        "from tests.support.engine_jobs import tiny_job\n"
        "tiny_job(Path(sys.argv[1]))\n"
        "assert 'onnxruntime' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=REPOSITORY, check=False)
    assert done.returncode == 0


def test_what_is_kept_already_is_not_built_again(tmp_path: Path) -> None:
    job = tiny_job(tmp_path)
    assert len(reports_of(job, tmp_path)) == 7
    assert [type(report) for report in reports_of(job, tmp_path)] == [Step, Accepted]


def test_weights_that_changed_meanwhile_cannot_be_checked_against(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, keeps=False)
    end = reports_of(replace(job, weights=tmp_path / "gone.onnx"), tmp_path)[-1]
    assert isinstance(end, Rejected)
    assert "check could not be run" in end.reason


def test_detectors_are_compared_at_every_canvas(shared_models: Path, tmp_path: Path) -> None:
    """A real one: on drawn faces it finds some, which made-up weights do not."""
    spec: ModelSpec = read_registry([default_registry_dir()])["det_500m"]
    weights = shared_models / spec.file_name
    job = jobs_of(tmp_path, canvases_hw=((320, 320), (96, 96))).job(spec, weights)
    (engine,) = open_onnx_backends(job.graph, max_batch_size=2)
    (reference,) = open_onnx_backends(prepare_graph(weights, spec).model)
    good = compare(job, engine, reference)
    assert good.fault(ENGINE) is None
    assert not str(good).startswith("0 boxes")
    assert compare(job, StandInEngine(engine, is_wrong=True), reference).fault(ENGINE)


@pytest.mark.parametrize("name", ["starter_plate", "plate_ocr_cct_xs"])
def test_models_of_plates_are_compared_by_drawn_plates(shared_models: Path, tmp_path: Path, name: str) -> None:
    """On drawn faces a detector of plates finds nothing to compare."""
    folder = default_registry_dir()
    spec: ModelSpec = read_known([folder])[name]
    weights = (folder if name == "starter_plate" else shared_models) / spec.file_name
    job = jobs_of(tmp_path).job(spec, weights)
    (engine,) = open_onnx_backends(job.graph, max_batch_size=2)
    (reference,) = open_onnx_backends(prepare_graph(weights, spec).model)
    good = compare(job, engine, reference)
    assert good.fault(ENGINE) is None
    assert not str(good).startswith("0 ")


@pytest.mark.skipif(not HAS_RTX, reason="tensorrt_rtx_bindings is not installed: x86-64 Linux only")
@pytest.mark.parametrize("name", ["starter_plate", "plate_ocr_cct_xs"])
def test_engines_of_both_plate_models_are_built_for_real(shared_models: Path, tmp_path: Path, name: str) -> None:
    """TensorRT for RTX takes either graph in FP16, as uint8 pixels, at batches of 1 to 2; nothing can run it here."""
    folder = default_registry_dir()
    spec: ModelSpec = read_known([folder])[name]
    weights = (folder if name == "starter_plate" else shared_models) / spec.file_name
    kit = rtx_kit.make_kit()
    source = EngineSource(kit, rtx_kit.FACTORY)
    job = jobs_of(tmp_path, source=source, precisions=Precisions(), rec_batch_size=2).job(spec, weights)
    assert job.recipe.precision == "fp16"
    assert job.is_batch_free
    assert job.recipe.item_shapes == ((spec.input.height_px, spec.input.width_px, 3),)
    built = kit.build(job.recipe, job.graph, lambda _: None)
    assert len(built.plan) > 10_000


def test_recognizers_are_compared_by_what_they_said_of_every_crop(tmp_path: Path) -> None:
    """Also where the answer to one is gone when the next is asked for."""
    job = tiny_job(tmp_path)
    (engine,) = open_onnx_backends(job.graph, max_batch_size=2)
    (reference,) = open_onnx_backends(prepare_graph(job.weights, job.spec).model)
    assert compare(job, Forgetful(engine), Forgetful(reference)).fault(ENGINE) is None


def test_a_detector_gets_a_profile_for_each_canvas(tmp_path: Path) -> None:
    job = jobs_of(tmp_path).job(stored(tmp_path, scrfd_spec(), scrfd_model()))
    assert job.canvases_hw == ((96, 96), (32, 32))
    assert [profile.most for profile in job.recipe.profiles] == [(2, 96, 96, 3), (2, 32, 32, 3)]
    assert job.recipe.item_shapes == ((96, 96, 3), (32, 32, 3))


def test_a_graph_of_fixed_size_is_built_for_that(tmp_path: Path) -> None:
    job = jobs_of(tmp_path).job(stored(tmp_path, scrfd_spec(canvas_hw=(64, 64)), scrfd_model(canvas_hw=(64, 64))))
    assert job.canvases_hw == ((64, 64),)
    assert [profile.usual[1:] for profile in job.recipe.profiles] == [(64, 64, 3)]


@pytest.mark.skipif(not HAS_RTX, reason="tensorrt_rtx_bindings is not installed: x86-64 Linux only")
def test_an_engine_that_was_built_for_real_but_cannot_be_checked_does_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT for RTX builds here; without a GPU nothing can run what it built, and that is said."""
    monkeypatch.chdir(REPOSITORY)
    source = EngineSource(rtx_kit.make_kit(), rtx_kit.FACTORY)
    job = tiny_job(tmp_path, source=source, precisions=Precisions())
    steps: list[Step] = []
    with structlog.testing.capture_logs(), pytest.raises(EngineBuildError) as caught:
        EngineChild(job, steps.append).run()
    assert str(caught.value).startswith("The engine was built, but its check could not be run: ")
    assert "no GPU" in str(caught.value)
    assert steps[-1].state == "checking"
    assert not list((tmp_path / "engines").glob("*.plan"))
