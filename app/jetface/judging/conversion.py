"""A model cast to FP16 and judged: the first policy whose answers stay near enough to FP32 on pictures of faces.

Judged on the CPU, by a graph that rounds where the cast one computes in halves: `jetface.graphs.half`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jetface.domain import Crop
from jetface.errors import InferenceError, ModelContractError, ModelFileError
from jetface.graphs.half import (
    ALL_HALF,
    POLICIES,
    HalfPolicy,
    computes_in_half,
    policy_of,
    round_as_half,
    to_half,
    widen,
)
from jetface.graphs.parts import GraphError, GraphParts, num_bytes, take_apart
from jetface.graphs.prepare import PreparedGraph, prepare_graph
from jetface.heads.families import FAMILIES
from jetface.judging.agreement import Agreement, Pictures, Run, Trial, candidates, find_crops, largest_crop, trial_of
from jetface.registry import ModelSpec
from jetface.runtimes.onnx import open_onnx_backends


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A model cast by one policy, and how near its answers were."""

    policy: HalfPolicy
    model: bytes
    """The cast graph, serialized."""
    agreement: Agreement | None
    """None where there was nothing to compare: an answer was not finite."""
    fault: str | None
    """The limit that is missed; None where all are met."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What came of a model."""

    source_bytes: int
    """Of the weights file."""
    source_sha256: str
    attempts: Sequence[Attempt]
    """At least one, in the order they were made; the last decides."""

    @property
    def model(self) -> bytes | None:
        """The cast graph, serialized; None when no policy meets the limits."""
        return None if self.attempts[-1].fault else self.attempts[-1].model

    @property
    def sha256(self) -> str:
        """Of the last attempt's graph."""
        return hashlib.sha256(self.attempts[-1].model).hexdigest()


def convert_to_half(path: Path, spec: ModelSpec, pictures: Pictures, *, num_threads: int = 1) -> Conversion:
    """Cast a model to FP16, keeping no more in FP32 than the limits demand.

    Args:
        path: The weights file, its checksum already verified.
        spec: Its registry entry. Where it says `fp32_sums`, casting everything is not tried.
        pictures: For a detector any pictures that show faces, for a recognizer crops.
        num_threads: Cores a run uses.

    Raises:
        ModelFileError: Not a readable ONNX graph, or one that cannot be cast.
        ModelContractError: Not what `spec` says, of a task that is not judged, or in half already.
    """
    graph = prepare_graph(path, spec)
    trial = trial_of(spec, pictures, graph.input_hw)
    parts = take_apart(serialized(graph))
    if computes_in_half(widen(parts)):
        raise ModelContractError(f"Model {spec.name} computes in half precision already.")
    reference = trial.answers(opened(serialized(graph), spec, graph.input_hw, num_threads))
    policies = POLICIES if policy_of(spec) is ALL_HALF else (policy_of(spec),)
    attempts: list[Attempt] = []
    for policy in policies:
        half = _cast(parts, spec, policy)
        model = half.assemble().SerializeToString()
        # What is judged is another graph: that this one opens and answers as its family does is shown first.
        opened(model, spec, graph.input_hw, num_threads)
        agreement, fault = _judge(half, spec, graph.input_hw, trial, reference, num_threads)
        attempts.append(Attempt(policy=policy, model=model, agreement=agreement, fault=fault))
        if fault is None:
            break
    return Conversion(source_bytes=num_bytes(path), source_sha256=graph.source_sha256, attempts=attempts)


def crops_of(path: Path, spec: ModelSpec, pictures: Pictures, *, num_threads: int = 1) -> list[Crop]:
    """Return every face that a detector finds, aligned.

    Args:
        path: The detector's weights file, its checksum already verified.
        spec: Its registry entry.
        pictures: Where to look.
        num_threads: Cores a run uses.

    Raises:
        ModelFileError: Not a readable ONNX graph.
        ModelContractError: Not what `spec` says.
    """
    graph = prepare_graph(path, spec)
    run = opened(serialized(graph), spec, graph.input_hw, num_threads)
    return list(find_crops(run, spec, pictures, graph.input_hw))


def largest_crops(path: Path, spec: ModelSpec, pictures: Pictures, *, num_threads: int = 1) -> list[Crop | None]:
    """Return the largest face of each picture, aligned; None where a detector finds none.

    Arguments and errors are those of `crops_of`.
    """
    graph = prepare_graph(path, spec)
    run = opened(serialized(graph), spec, graph.input_hw, num_threads)
    return [largest_crop(run, spec, picture, graph.input_hw) for picture in pictures()]


def _cast(parts: GraphParts, spec: ModelSpec, policy: HalfPolicy) -> GraphParts:
    try:
        return to_half(parts, policy)
    except GraphError as cause:
        raise ModelFileError(f"Model {spec.name} is not converted: {cause}.") from cause


def _judge(
    half: GraphParts,
    spec: ModelSpec,
    input_hw: tuple[int, int] | None,
    trial: Trial,
    reference: object,
    num_threads: int,
) -> tuple[Agreement | None, str | None]:
    try:
        rounding = round_as_half(half).assemble().SerializeToString()
        return trial.compare(reference, trial.answers(opened(rounding, spec, input_hw, num_threads)))
    except InferenceError:
        return None, "its answers are not finite: values overflow half precision"
    except ModelContractError:
        # A detector's scores are looked at when it is opened.
        return None, "it does not answer as its family does: values overflow half precision"


def opened(model: bytes, spec: ModelSpec, input_hw: tuple[int, int] | None, num_threads: int) -> Run:
    """Open a graph and return what its trial runs; errors are those of `open_onnx_backends` and of the family."""
    (backend,) = open_onnx_backends(model, num_threads=num_threads)
    head = FAMILIES[spec.family](spec, backend, input_hw).head
    return partial(candidates, head, backend) if spec.task == "detection" else partial(head.run, backend)


def serialized(graph: PreparedGraph) -> bytes:
    """Return a graph that was prepared without a cache, and so never went to a file."""
    return graph.model if isinstance(graph.model, bytes) else graph.model.read_bytes()
