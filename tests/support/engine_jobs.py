"""Jobs for engines of tiny graphs, made with the stand-in toolkit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from jetface.engines.job import EngineJob, EngineJobs, EngineSource
from jetface.engines.plan import PlanFolder
from jetface.models.precision import Precisions
from jetface.models.weights import WeightsFolder
from jetface.registry import ModelSpec
from tests.support import stand_in_kit
from tests.support.tiny_onnx import arcface_model, arcface_spec


def stored(folder: Path, spec: ModelSpec, serialized: bytes) -> ModelSpec:
    """Put weights into a folder; return the entry with their digest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / spec.file_name).write_bytes(serialized)
    return spec.model_copy(update={"sha256": hashlib.sha256(serialized).hexdigest(), "md5": None})


def tiny_recognizer(folder: Path, *, name: str = "tiny_arcface", seed: int = 0) -> ModelSpec:
    """Put a recognizer of a few nodes into a folder of weights; return its entry."""
    spec = arcface_spec().model_copy(update={"name": name})
    return stored(folder, spec, arcface_model(seed=seed))


def jobs_of(models_dir: Path, *, keeps: bool = True, **options: Any) -> EngineJobs:
    """Return what makes jobs for models of a folder, plans kept below it."""
    return EngineJobs(
        **{
            "weights": WeightsFolder(folder=models_dir),
            "source": EngineSource(stand_in_kit.make_kit(), stand_in_kit.FACTORY),
            "plans": PlanFolder(models_dir / "engines" if keeps else None),
            "precisions": Precisions(prefers_half=False),
            "det_batch_size": 2,
            "rec_batch_size": 4,
            "canvases_hw": ((96, 96), (32, 32)),
            **options,
        }
    )


def tiny_job(folder: Path, *, name: str = "tiny_arcface", **options: Any) -> EngineJob:
    """Return the job of a recognizer of a few nodes; its weights and plans are in the folder."""
    return jobs_of(folder, **options).job(tiny_recognizer(folder, name=name))
