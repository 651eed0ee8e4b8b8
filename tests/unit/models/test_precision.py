"""Which precision a model is run in: as it is set, and INT8 only where a quantized graph may be believed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from jetface.errors import ModelFileError
from jetface.models.precision import Precisions, int8_path
from jetface.registry import ModelSpec
from tests.support.tiny_onnx import arcface_model, arcface_spec, scrfd_model, scrfd_spec

WITHIN = {"mean_cosine": 0.99, "tar_loss_points": 0.1}


def put(folder: Path, agreement: dict[str, Any], spec: ModelSpec | None = None) -> tuple[ModelSpec, Path]:
    """Write weights and a file that stands for their quantized graph; return the entry and the weights."""
    spec = spec or arcface_spec()
    weights = folder / spec.file_name
    weights.write_bytes(arcface_model() if spec.task == "recognition" else scrfd_model())
    int8_path(spec, folder).write_bytes(b"quantized")
    verdict = {
        "model": spec.name,
        "sha256": hashlib.sha256(b"quantized").hexdigest(),
        "source_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "agreement": agreement,
    }
    int8_path(spec, folder).with_suffix(".json").write_text(json.dumps(verdict))
    return spec, weights


@pytest.mark.parametrize(
    ("limits", "is_taken"),
    [
        ({}, False),
        ({"least_cosine": 0.985}, True),
        ({"least_cosine": 0.995}, False),
        ({"most_tar_loss": 0.2}, True),
        ({"most_tar_loss": 0.05}, False),
        ({"least_cosine": 0.985, "most_tar_loss": 0.05}, False),
        ({"least_iou": 0.5}, False),
    ],
)
def test_auto_takes_int8_only_within_every_limit_the_operator_set(
    tmp_path: Path, limits: dict[str, float], is_taken: bool
) -> None:
    spec, weights = put(tmp_path, WITHIN)
    path = Precisions(**limits).quantized(spec, weights, tmp_path)  # type: ignore[arg-type]
    assert path == (int8_path(spec, tmp_path) if is_taken else None)


def test_what_was_not_measured_is_within_no_limit(tmp_path: Path) -> None:
    spec, weights = put(tmp_path, {"mean_cosine": 0.99, "tar_loss_points": None})
    assert Precisions(most_tar_loss=100).quantized(spec, weights, tmp_path) is None


def test_a_detector_is_taken_by_its_boxes(tmp_path: Path) -> None:
    spec, weights = put(tmp_path, {"mean_iou": 0.96}, scrfd_spec())
    assert Precisions(least_iou=0.95).quantized(spec, weights, tmp_path)
    assert Precisions(least_iou=0.97).quantized(spec, weights, tmp_path) is None
    assert Precisions(least_cosine=0).quantized(spec, weights, tmp_path) is None


def test_named_it_is_taken_whatever_the_limits(tmp_path: Path) -> None:
    spec, weights = put(tmp_path, {"mean_cosine": 0.9})
    assert Precisions(recognition="int8", least_cosine=0.99).quantized(spec, weights, tmp_path)


@pytest.mark.parametrize("named", ["fp32", "fp16"])
def test_another_precision_that_is_named_leaves_it_out(tmp_path: Path, named: Any) -> None:
    spec, weights = put(tmp_path, WITHIN)
    precisions = Precisions(recognition=named, least_cosine=0)
    assert precisions.quantized(spec, weights, tmp_path) is None
    assert precisions.of_engine(spec) == named


@pytest.mark.parametrize("harm", ["graph", "weights", "sidecar", "deep sidecar", "missing", "of another model"])
def test_one_that_cannot_be_trusted_is_an_error_where_named_and_left_out_by_auto(tmp_path: Path, harm: str) -> None:
    spec, weights = put(tmp_path, WITHIN)
    path = int8_path(spec, tmp_path)
    if harm == "graph":
        path.write_bytes(b"damaged")
    elif harm == "weights":
        weights.write_bytes(arcface_model(seed=1))
    elif harm == "sidecar":
        path.with_suffix(".json").write_text("[")
    elif harm == "deep sidecar":
        path.with_suffix(".json").write_text("[" * 100_000)
    elif harm == "missing":
        path.unlink()
    else:
        path.with_suffix(".json").write_text('{"model": "other"}')
    with pytest.raises(ModelFileError, match=f"`jetface models quantize {spec.name} --pictures FOLDER`"):
        Precisions(recognition="int8").quantized(spec, weights, tmp_path)
    assert Precisions(least_cosine=0.5).quantized(spec, weights, tmp_path) is None


def test_force_fp16_speaks_where_no_precision_is_named() -> None:
    assert Precisions(prefers_half=True).of_engine(arcface_spec()) == "fp16"
    assert Precisions(prefers_half=False).of_engine(arcface_spec()) == "fp32"
    assert Precisions(prefers_half=False, recognition="fp16").of_engine(arcface_spec()) == "fp16"
    assert Precisions(prefers_half=True, recognition="fp32").of_engine(arcface_spec()) == "fp32"
