"""What the building process does: build, check, keep; and say so as it goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from jetface.backends.engines.files import PlanFolder, record_of
from jetface.backends.engines.job import (
    Accepted,
    EngineJob,
    Rejected,
    Step,
    encode_report,
    load_kit,
    plan_beside,
    read_job,
)
from jetface.backends.engines.kit import BuildProgress, BuiltEngine, EngineKit
from jetface.backends.engines.lock import build_lock
from jetface.backends.engines.process import end_with, give_way, report_stream
from jetface.backends.protocol import Backend
from jetface.backends.tensorrt.profiles import profiles_for
from jetface.errors import ServiceError
from jetface.models.engines.check import compare, open_reference
from jetface.models.engines.recipe import written
from jetface.models.graphs.prepare import prepare_graph
from jetface.models.graphs.prepared import PreparedFiles

Tell = Callable[[Step | Accepted | Rejected], object]

_LEAST_STEP = 0.005
"""Progress is told in steps of at least this fraction."""


def run_job_file(path: Path) -> None:
    """Do what a job file says, as the process that was started for it, and report on standard output.

    Raises:
        EngineBuildError: The file is no job.
        SystemExit: Whoever wrote it is gone.
    """
    job = read_job(path)
    end_with(job.parent_pid)
    give_way()
    with report_stream() as stream:
        run_job(job, plan_beside(path), lambda report: stream.write(encode_report(report)))


def run_job(job: EngineJob, fallback: Path, tell: Tell) -> None:
    """Build, check and keep an engine; what comes of it is the last report.

    Args:
        job: What to do.
        fallback: Where the plan goes when it cannot be kept.
        tell: Called with each report.
    """
    try:
        end = _make(job, fallback, tell)
    except ServiceError as error:
        end = Rejected(reason=error.message)
    except OSError as cause:
        end = Rejected(reason=f"The plan can be written nowhere: {cause.strerror}.")
    tell(end)


def _make(job: EngineJob, fallback: Path, tell: Tell) -> Accepted | Rejected:
    tell(Step(state="building", fraction=0.0, phase="starting"))
    kit = load_kit(job.kit)
    plans = PlanFolder(job.folder)
    waiting = Step(state="building", fraction=0.0, phase="waiting for another process that builds")
    with build_lock(job.folder, on_wait=partial(tell, waiting)):
        # Whom we waited for may have built the very same.
        if kept := plans.find(job.key):
            return Accepted(record=kept.record, is_kept=True)
        started = time.perf_counter()
        built = kit.build(job.request, _progress(tell))
        tell(Step(state="checking", fraction=1.0, phase="comparing with the model in FP32"))
        verdict, fault = _check(job, kit, built, fallback.parent)
        if fault:
            return Rejected(reason=fault)
        build_s = time.perf_counter() - started
        record = record_of(job.key, built.plan, verdict=verdict, notes=built.notes, build_s=build_s)
        if plans.keep(built.plan, record):
            return Accepted(record=record, is_kept=True)
    fallback.write_bytes(built.plan)
    return Accepted(record=record, is_kept=False)


def _check(job: EngineJob, kit: EngineKit, built: BuiltEngine, scratch: Path) -> tuple[str, str | None]:
    """Return what the check measured, and why the engine is no good, None where it is."""
    judge = "ONNX Runtime" if job.reference == "onnxruntime" else "an engine of the same toolkit"
    try:
        with (
            closing(kit.open(built.plan, max_batch_size=job.max_batch_size, dla_core=job.request.dla_core)) as engine,
            closing(_reference(job, kit, scratch)) as reference,
        ):
            check = compare(
                job.spec,
                engine,
                reference,
                takes_pixels=job.takes_pixels,
                canvases_hw=job.canvases_hw,
                is_int8=job.request.precision == "int8",
            )
    except ServiceError as error:
        return "", f"The engine was built, but its check could not be run: {error.message}"
    if check.fault:
        return check.verdict, f"The engine does not agree with {judge} in FP32: {check.fault}."
    return f"{check.verdict}, by {judge} in FP32", None


def _reference(job: EngineJob, kit: EngineKit, scratch: Path) -> Backend:
    """Open the model as it was published, in FP32, one item at a time."""
    if job.reference == "onnxruntime":
        return open_reference(job.weights, job.spec)
    cache = PreparedFiles(*job.prepared_folders)
    graph = prepare_graph(job.weights, job.spec, has_onnxruntime=False, cache=cache).model
    path = graph if isinstance(graph, Path) else written(graph, scratch / "reference.onnx")
    sizes_hw = job.canvases_hw or ((job.spec.input.height_px, job.spec.input.width_px),)
    profiles = profiles_for([(3, *image_hw) for image_hw in sizes_hw], (1,))
    request = replace(job.request, graph=path, precision="fp32", profiles=profiles, dla_core=-1)
    return kit.open(kit.build(request, lambda _: None).plan, max_batch_size=1)


def _progress(tell: Tell) -> Callable[[BuildProgress], None]:
    told = [0.0]

    def on_progress(progress: BuildProgress) -> None:
        if progress.fraction - told[0] >= _LEAST_STEP:
            told[0] = progress.fraction
            tell(Step(state="building", fraction=min(progress.fraction, 1.0), phase=progress.phase))

    return on_progress
