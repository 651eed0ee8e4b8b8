"""The check of an engine: whether it answers as the model does in FP32, on pictures drawn by code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from jetface.engines.job import EngineJob, written
from jetface.graphs.prepare import PreparedFiles, prepare_graph
from jetface.judging.agreement import ENGINE, INT8_ENGINE, Agreement, Trial
from jetface.judging.drawings import draw_for
from jetface.runtimes.backend import Backend
from jetface.runtimes.engine_kit import EngineKit, profiles_for
from jetface.runtimes.onnx import open_onnx_backends


def check_engine(job: EngineJob, kit: EngineKit, plan: bytes, scratch: Path) -> tuple[str, str | None]:
    """Run an engine and what it is judged by on the same pictures.

    Args:
        job: What the engine was made by. The reference is `job.reference`; for INT8 the same quantized graph, in the
            arithmetic of ONNX Runtime.
        kit: Opens the plan.
        plan: To be checked.
        scratch: A folder for a graph that no other keeps.

    Returns:
        What was measured, for people; and the first limit that is missed, None where none is.

    Raises:
        EngineLoadError: The plan does not open.
        ModelError: The weights are not those of the entry, or the engine's outputs not those of the model.
        BackendError: A run failed, or the reference cannot be opened.
    """
    with closing(kit.open(plan, job.recipe)) as engine, _reference(job, kit, scratch) as reference:
        agreement = compare(job, engine, reference)
    judge = "ONNX Runtime" if job.reference == "onnxruntime" else "an engine of the same toolkit"
    fault = agreement.fault(INT8_ENGINE if job.recipe.precision == "int8" else ENGINE)
    return f"{agreement}, by {judge} in FP32", fault and f"does not agree with {judge} in FP32: {fault}"


def compare(job: EngineJob, engine: Backend, reference: Backend) -> Agreement:
    """Compare an engine with its reference; both are owned by the calling thread."""
    drawings = draw_for(job.spec.task)
    pictures = drawings.pictures if job.spec.is_detector else drawings.crops
    trial = Trial(job.spec, lambda: pictures, job.canvases_hw)
    return trial.compare(trial.answers(reference), trial.answers(engine, takes_pixels=True))


@contextmanager
def _reference(job: EngineJob, kit: EngineKit, scratch: Path) -> Iterator[Backend]:
    """Open the model as it was published, in FP32, one item at a time."""
    if job.reference == "onnxruntime":
        backend: Backend = open_onnx_backends(prepare_graph(job.weights, job.spec).model)[0]
    else:
        cache = PreparedFiles(*job.prepared_folders)
        graph = prepare_graph(job.weights, job.spec, has_onnxruntime=False, cache=cache).model
        path = graph if isinstance(graph, Path) else written(graph, scratch / "reference.onnx")
        sizes_hw = job.canvases_hw or ((job.spec.input.height_px, job.spec.input.width_px),)
        profiles = profiles_for([(3, *image_hw) for image_hw in sizes_hw], (1,))
        recipe = replace(job.recipe, precision="fp32", profiles=profiles, dla_core=-1)
        plan = kit.build(recipe, path, lambda _: None, timing_cache=job.timing_cache).plan
        backend = kit.open(plan, recipe)
    with closing(backend):
        yield backend
