"""`jetface engine`, from a terminal, with a toolkit that needs no GPU; and without any."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jetface.cli.main import main
from jetface.engines.job import EngineSource
from jetface.errors import BackendUnavailableError
from jetface.registry import ModelSpec
from tests.support import stand_in_kit
from tests.support.engine_jobs import tiny_recognizer
from tests.support.shared import REPOSITORY

NAME = "tiny_arcface"


def run(*arguments: str, device: str = "stand-in 1") -> Result:
    """Run `jetface engine` with the stand-in toolkit."""
    source = EngineSource(stand_in_kit.StandInKit(device), stand_in_kit.FACTORY)
    return CliRunner().invoke(main, ["engine", *arguments], obj=source)


def entry_of(spec: ModelSpec) -> str:
    side = "height_px = 112, width_px = 112"
    return (
        f'name = "{spec.name}"\ntask = "{spec.task}"\nfamily = "{spec.family}"\nlicense = "none"\nsource = "code"\n'
        f'sha256 = "{spec.sha256}"\nembedding_length = {spec.embedding_length}\n'
        f"input = {{{side}, mean = {spec.input.mean}, std = {spec.input.std}}}\n"
    )


@pytest.fixture
def plans_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where plans of a MODELS_DIR with one small model go."""
    (tmp_path / f"{NAME}.toml").write_text(entry_of(tiny_recognizer(tmp_path)))
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    monkeypatch.chdir(REPOSITORY)
    return tmp_path / "engines"


def test_an_image_for_engines_alone_builds_them_as_its_service_does(
    plans_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judged by an engine in FP32, and not compared again: there is no ONNX Runtime to compare with."""

    def missing() -> tuple[str, ...]:
        raise BackendUnavailableError("ONNX Runtime cannot be imported")

    monkeypatch.setattr("jetface.cli.engine.available_providers", missing)
    assert "by an engine of the same toolkit in FP32" in run("build", NAME).stdout
    assert list(plans_dir.glob("*.plan"))
    checked = run("check", NAME)
    assert checked.exit_code == 1
    assert "`jetface engine list` has the verdicts" in checked.stderr


def test_an_engine_is_built_listed_compared_and_removed(plans_dir: Path) -> None:
    built = run("build", NAME)
    assert built.exit_code == 0, built.output
    assert f"{NAME}: built in" in built.stdout
    assert "check: cosine" in built.stdout
    assert "here already" in run("build", NAME).stdout

    listed = run("list").stdout
    assert f"{NAME}-fp16-" in listed
    assert "fits" in listed
    assert "does not fit" not in listed
    assert "one note" in listed
    assert "does not fit: built for device stand-in 1, here it is stand-in 2" in run("list", device="stand-in 2").stdout

    checked = run("check", NAME)
    assert checked.exit_code == 0, checked.output
    assert f"{NAME}  fp16  passed  cosine" in checked.stdout

    assert run("prune").stdout == ""
    assert "would be removed" in run("prune", device="stand-in 2").stdout
    assert len(list(plans_dir.glob("*.plan"))) == 1
    assert "removed: " in run("prune", "--yes", device="stand-in 2").stdout
    assert not list(plans_dir.glob("*.plan"))
    assert "No engines in" in run("list").stdout


def test_an_engine_that_disagrees_fails_the_check(plans_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("build", NAME).exit_code == 0
    monkeypatch.setenv("STAND_IN_FAULT", "wrong")
    checked = run("check", NAME)
    assert checked.exit_code == 1
    assert "FAILED" in checked.stdout
    assert "less than 0.999" in checked.stderr
    monkeypatch.setenv("STAND_IN_FAULT", "open")
    assert "There is no device" in run("check", NAME).stderr
    next(plans_dir.glob("*.plan")).write_bytes(b"cut off")
    assert "no engine that fits is kept" in run("check", NAME).stderr
    assert "it is cut off" in run("prune").stdout


def test_old_and_unreadable_plans_are_pruned_when_asked(plans_dir: Path) -> None:
    assert run("build", NAME).exit_code == 0
    (plan,) = plans_dir.glob("*.plan")
    os.utime(plan, (0, 0))
    assert run("prune").stdout == ""
    assert "older than 30 days" in run("prune", "--older-than", "30").stdout
    plan.with_suffix(".json").write_text("{")
    assert "no readable sidecar" in run("prune").stdout


@pytest.mark.usefixtures("plans_dir")
def test_a_build_that_fails_is_one_line_and_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_FAULT", "build")
    failed = run("build", NAME)
    assert failed.exit_code == 1
    assert "tiny_arcface: The node Conv_7" in failed.stderr
    assert "1 of 1 models failed" in failed.stderr


@pytest.mark.usefixtures("plans_dir")
def test_an_engine_that_cannot_be_kept_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_ENGINE_CACHE_ENABLE", "0")
    failed = run("build", NAME)
    assert failed.exit_code == 1
    assert "cannot be kept" in failed.stderr
    assert "Engines are not kept" in run("list").stdout


@pytest.mark.usefixtures("plans_dir")
def test_a_model_that_is_not_there_is_a_wrong_argument() -> None:
    assert run("build", "nobody").exit_code == 2


def test_a_plan_that_cannot_be_removed_is_said(plans_dir: Path) -> None:
    plans_dir.mkdir()
    (plans_dir / "a.plan").mkdir()
    failed = run("prune", "--yes")
    assert failed.exit_code == 1
    assert "cannot be removed" in failed.stderr


@pytest.mark.usefixtures("plans_dir")
@pytest.mark.parametrize("command", ["build", "check"])
def test_without_tensorrt_one_line_says_what_to_do(command: str) -> None:
    failed = CliRunner().invoke(main, ["engine", command, NAME])
    assert failed.exit_code == 1
    assert "Engines need TensorRT and a GPU" in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1


def test_without_tensorrt_plans_are_listed_unjudged(plans_dir: Path) -> None:
    plans_dir.mkdir()
    (plans_dir / "a.plan").write_bytes(b"a plan")
    listed = CliRunner().invoke(main, ["engine", "list"])
    assert listed.exit_code == 0
    assert "a.plan" in listed.stdout
    assert "cannot be told" in listed.stderr
    assert "would be removed: a.plan: no readable sidecar" in CliRunner().invoke(main, ["engine", "prune"]).stdout
