"""Engines built in a process of their own: what comes back, and what becomes of a process that dies, hangs or lies."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog.testing

from jetface.engines.child import EngineChild
from jetface.engines.job import JOB, EngineJob, Step
from jetface.engines.plan import KeptPlan, PlanFolder
from jetface.errors import EngineBuildError
from tests.support import stand_in_kit
from tests.support.engine_jobs import tiny_job
from tests.support.shared import REPOSITORY


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """The building process finds `jetface` and the stand-in toolkit as this one does."""
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture
def job(tmp_path: Path) -> EngineJob:
    return tiny_job(tmp_path)


@pytest.fixture
def plans(tmp_path: Path) -> PlanFolder:
    return PlanFolder(tmp_path / "engines")


def child_of(job: EngineJob, steps: list[Step] | None = None, **options: Any) -> EngineChild:
    return EngineChild(job, (lambda _: None) if steps is None else steps.append, **options)


def build(job: EngineJob, **options: Any) -> KeptPlan:
    with structlog.testing.capture_logs():
        return child_of(job, **options).run()


def test_the_plan_that_passed_its_check_is_kept_and_returned(job: EngineJob, plans: PlanFolder) -> None:
    steps: list[Step] = []
    kept = child_of(job, steps).run()
    assert kept.plan.startswith(stand_in_kit.HEADER)
    assert kept.record.notes == ("one note",)
    assert kept.record.verdict == "cosine 1.00000 mean, 1.00000 worst over 20 crops, by ONNX Runtime in FP32"
    found = plans.find(job.recipe)
    assert found is not None
    assert found.plan == kept.plan
    assert [step.state for step in steps] == ["building"] * 5 + ["checking"]
    assert [step.phase for step in steps[:5]] == ["starting", *(f"step {number}" for number in range(1, 5))]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("build", "Conv_7"),
        ("crash", r"exit code 1.*a fault of the program"),
        ("die", r"SIGKILL, as happens when memory runs out.*last words of a dying build"),
        ("open", r"check could not be run: There is no device"),
        ("wrong", r"does not agree with ONNX Runtime in FP32: an embedding has a cosine"),
    ],
)
def test_a_build_that_fails_says_why_and_keeps_nothing(
    job: EngineJob, plans: PlanFolder, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    monkeypatch.setenv("STAND_IN_FAULT", fault)
    with pytest.raises(EngineBuildError, match=words):
        build(job)
    assert plans.entries() == []


def test_what_libraries_write_into_any_stream_does_no_harm(job: EngineJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_FAULT", "garbage")
    assert build(job).plan


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("print('{\"kind\": \"step\"}'); print('x' * 3000000); raise SystemExit('enough')", r"exit code 1.*enough"),
        ("import os; os.close(1); import time; time.sleep(60)", "stopped reporting"),
        ("import time; time.sleep(60)", "longer than 1 s"),
    ],
    ids=["nonsense", "deaf", "hangs"],
)
def test_a_process_that_is_no_builder_is_ended(job: EngineJob, program: str, words: str) -> None:
    with pytest.raises(EngineBuildError, match=words):
        build(
            job,
            command=[sys.executable, "-c", program],
            deadline_s=1.0 if "longer" in words else 60.0,
            end_s=1.0 if "stopped" in words else 60.0,
        )


def test_a_program_that_is_not_there_is_said(job: EngineJob) -> None:
    with pytest.raises(EngineBuildError, match="cannot be started"):
        build(job, command=["/nonexistent/jetface"])


def test_without_room_for_the_job_the_cure_is_said(
    job: EngineJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    with pytest.raises(EngineBuildError, match=r"cannot be started: .* Make room in /tmp, or start the container anew"):
        build(job)


def test_a_build_can_be_stopped_at_any_time(job: EngineJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_STEP_S", "30")
    begun = threading.Event()
    child = EngineChild(job, lambda _: begun.set())
    errors: list[EngineBuildError] = []

    def run() -> None:
        with pytest.raises(EngineBuildError) as caught, structlog.testing.capture_logs():
            child.run()
        errors.append(caught.value)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(60)
    child.stop("the service stops")
    thread.join(60)
    assert str(errors[0]) == "The engine was not built: the service stops."
    with pytest.raises(EngineBuildError, match="the service stops"):
        child.run()


def test_killed_at_any_moment_it_leaves_a_folder_that_the_next_build_can_use(
    job: EngineJob, plans: PlanFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_STEP_S", "0.02")
    started = time.monotonic()
    plan = build(job).plan
    longest_s = time.monotonic() - started
    chance = random.Random(4)
    for _ in range(4):
        for entry in plans.entries():
            plans.remove(entry)
        child = child_of(job)
        killer = threading.Timer(chance.uniform(0.4, 1.05) * longest_s, child.stop)
        killer.start()
        try:
            with structlog.testing.capture_logs():
                child.run()
        except EngineBuildError:
            pass
        killer.cancel()
        found = plans.find(job.recipe)
        assert found is None or found.plan == plan
    assert build(job).plan == plan
    assert {path.suffix for path in (plans.folder or Path()).iterdir()} <= {".plan", ".json", ".lock"}


def test_two_processes_that_want_the_same_build_it_once(
    job: EngineJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "builds.log"
    monkeypatch.setenv("STAND_IN_LOG", str(log))
    monkeypatch.setenv("STAND_IN_STEP_S", "0.3")
    results: list[KeptPlan] = []
    threads = [threading.Thread(target=lambda: results.append(child_of(job).run())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert len(results) == 2
    assert results[0].plan == results[1].plan
    assert len(log.read_text().splitlines()) == 1


def test_a_lock_ends_with_the_process_that_held_it(job: EngineJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_FAULT", "die")
    with pytest.raises(EngineBuildError):
        build(job)
    monkeypatch.delenv("STAND_IN_FAULT")
    assert build(job).plan


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own means is Linux's")
def test_the_building_process_ends_with_its_parent(tmp_path: Path) -> None:
    """Even when the parent is killed and can do nothing about it."""
    log = tmp_path / "builds.log"
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from jetface.engines.child import EngineChild\n"
        "from tests.support.engine_jobs import tiny_job\n"
        "EngineChild(tiny_job(Path(sys.argv[1])), lambda step: print(step.phase, flush=True)).run()\n"
    )
    environ = {**os.environ, "STAND_IN_STEP_S": "60", "STAND_IN_LOG": str(log), "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], env=environ, stdout=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not log.exists() or not log.read_text().endswith("\n"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        builder = psutil.Process(int(log.read_text().split()[1]))
        assert builder.nice() > psutil.Process().nice()
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.communicate()
    builder.wait(30)


def test_an_orphan_does_not_even_begin(job: EngineJob, plans: PlanFolder, tmp_path: Path) -> None:
    job_file = tmp_path / "job.json"
    job_file.write_bytes(JOB.dump_json(job))
    done = subprocess.run(
        [sys.executable, "-m", "jetface.engines.build", str(job_file), "1"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"is gone" in done.stderr
    assert plans.entries() == []
