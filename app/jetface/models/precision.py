"""In which precision a model is run: as the settings say, and INT8 only where a quantized graph may be believed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog

from jetface.errors import ModelFileError
from jetface.graphs.parts import GraphError, read_data
from jetface.registry import ModelSpec

_log = structlog.get_logger(__name__)

PrecisionName = Literal["auto", "fp32", "fp16", "int8"]

VARIABLES: Mapping[str, str] = {"detection": "DET_PRECISION", "recognition": "REC_PRECISION"}
"""What a task's precision is set by; the others take none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precisions:
    """What the settings say of precisions."""

    detection: PrecisionName = "auto"
    recognition: PrecisionName = "auto"
    prefers_half: bool = True
    """Whether engines of `auto` are FP16."""
    least_cosine: float | None = None
    """With which mean cosine `auto` takes a quantized recognizer; None: any, where `most_tar_loss` says so."""
    most_tar_loss: float | None = None
    """Points of TAR at one false match in 1,000 that such a one may have lost; None: any, where `least_cosine` says."""
    least_iou: float | None = None
    """With which mean IoU `auto` takes a quantized detector; None: never."""

    def wanted(self, spec: ModelSpec) -> PrecisionName:
        """Return what is set for a model."""
        return {"detection": self.detection, "recognition": self.recognition}.get(spec.task, "auto")

    def of_engine(self, spec: ModelSpec) -> Literal["fp32", "fp16"]:
        """Return what an engine computes in where its graph is not quantized."""
        wanted = self.wanted(spec)
        if wanted in {"fp32", "fp16"}:
            return "fp16" if wanted == "fp16" else "fp32"
        return "fp16" if self.prefers_half else "fp32"

    def require_files(self, spec: ModelSpec, folder: Path) -> None:
        """See that a graph is there which was asked for by name; not yet whether it is that of the weights.

        Raises:
            ModelFileError: It is not; says how it is made.
        """
        if self.wanted(spec) == "int8":
            _read(spec, folder)

    def quantized(self, spec: ModelSpec, weights: Path, folder: Path) -> Path | None:
        """Return the quantized graph that may run a model, None where none may. Blocks while files are hashed.

        Args:
            spec: The model.
            weights: Its verified file.
            folder: `MODELS_DIR`, where `jetface models quantize` writes.

        Raises:
            ModelFileError: INT8 is asked for by name, and the graph is missing, damaged, or of other weights.
        """
        wanted = self.wanted(spec)
        if wanted not in {"auto", "int8"} or (wanted == "auto" and not int8_path(spec, folder).is_file()):
            return None
        try:
            verdict = _read(spec, folder)
            if wanted == "auto" and (reason := self._why_not(spec, verdict)):
                _log.info("quantized graph is left out", model=spec.name, reason=reason)
                return None
            return _verified(spec, weights, folder, verdict)
        except ModelFileError as error:
            if wanted == "int8":
                raise
            _log.warning("quantized graph is left out", model=spec.name, reason=error.message)
            return None

    def _why_not(self, spec: ModelSpec, verdict: Mapping[str, Any]) -> str | None:
        """Return which limit of the operator's a quantized graph misses; that there is none is a reason, too."""
        found = verdict.get("agreement") or {}
        if spec.is_detector:
            checks = [("INT8_LEAST_IOU", self.least_iou, found.get("mean_iou"), 1)]
        else:
            checks = [
                ("INT8_LEAST_COSINE", self.least_cosine, found.get("mean_cosine"), 1),
                ("INT8_MOST_TAR_LOSS", self.most_tar_loss, found.get("tar_loss_points"), -1),
            ]
        if all(limit is None for _, limit, _, _ in checks):
            return f"no limit is set: {' or '.join(name for name, *_ in checks)}"
        missed = [
            f"{name}={limit:g} is missed: {'not measured' if value is None else f'{value:.4f}'}"
            for name, limit, value, sign in checks
            if limit is not None and (value is None or sign * value < sign * limit)
        ]
        return "; ".join(missed) or None


def int8_path(spec: ModelSpec, folder: Path) -> Path:
    """Return where the quantized graph of a model lies."""
    return folder / f"{spec.name}.int8.onnx"


def _read(spec: ModelSpec, folder: Path) -> Mapping[str, Any]:
    """Return what a quantized graph was judged by."""
    path = int8_path(spec, folder)
    try:
        verdict = json.loads(path.with_suffix(".json").read_bytes())
    except (OSError, ValueError, RecursionError) as cause:
        raise _not_to_be_had(spec, f"{path.name} or its .json is not in MODELS_DIR, or cannot be read") from cause
    if not path.is_file() or not isinstance(verdict, dict) or verdict.get("model") != spec.name:
        raise _not_to_be_had(spec, f"{path.name} is not in MODELS_DIR, or its .json is another model's")
    return verdict


def _verified(spec: ModelSpec, weights: Path, folder: Path, verdict: Mapping[str, Any]) -> Path:
    path = int8_path(spec, folder)
    try:
        model = path.read_bytes()
        source = weights.read_bytes()
        digest = hashlib.sha256(source)
        for part in read_data(source, weights.parent).values():
            digest.update(part)
    except (OSError, GraphError) as cause:
        raise _not_to_be_had(spec, f"{path.name} cannot be read") from cause
    if hashlib.sha256(model).hexdigest() != verdict.get("sha256"):
        raise _not_to_be_had(spec, f"{path.name} is not what its .json was written for")
    if digest.hexdigest() != verdict.get("source_sha256"):
        raise _not_to_be_had(spec, f"{path.name} was made of other weights")
    return path


def _not_to_be_had(spec: ModelSpec, reason: str) -> ModelFileError:
    return ModelFileError(
        f"INT8 cannot be had for model {spec.name}: {reason}. "
        f"Run `jetface models quantize {spec.name} --pictures FOLDER`, or set {VARIABLES[spec.task]}=auto."
    )
