"""A model in FP16 or INT8, judged against itself in FP32 before anybody may have it.

FP16 is judged on the CPU by a graph that rounds where the cast one computes in halves: `jetface.graphs.half`. INT8 is
QDQ nodes in the graph, as few operators left in FP32 as the limits allow: docs/adr/0030-int8-graphs.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from jetface.domain import Batch, Crop
from jetface.errors import InferenceError, ModelContractError, ModelFileError
from jetface.graphs.half import ALL_HALF, POLICIES, computes_in_half, policy_of, round_as_half, to_half, widen
from jetface.graphs.int8 import quantize_onnx
from jetface.graphs.parts import GraphError, GraphParts, num_bytes, take_apart
from jetface.graphs.pixels import to_batch
from jetface.graphs.prepare import PreparedGraph, prepare_graph
from jetface.judging.agreement import (
    FP16,
    Agreement,
    Pictures,
    Trial,
    faces_in,
    letterbox_of,
)
from jetface.registry import ModelSpec
from jetface.runtimes.onnx import open_onnx_backends

NUM_CALIBRATED = 64
"""Pictures that ranges are taken from."""

_NUM_SEARCHED = 16
"""Of these, how many each operator's harm is measured on."""

_OPERATORS = ("Conv", "Gemm", "MatMul")
"""What is quantized. All else, the sums of a residual stream among it, stays in FP32."""

_MOST_KEPT = 0.5
"""Share of these that may stay in FP32: with more there is nothing to gain."""

_OVERFLOW = "its answers are not finite: values overflow half precision"

Fault = Callable[[Agreement, Any, Any], "str | None"]
"""Says which limit answers miss: of how near they are, of the reference's answers, and of theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """A model in less than FP32, and how near its answers were."""

    name: str
    """Of the precision, and of what stays in FP32."""
    model: bytes
    """The graph, serialized."""
    agreement: Agreement | None
    """None where there was nothing to compare: an answer was not finite."""
    fault: str | None
    """The limit that is missed; None where all are met."""
    num_operators: int = 0
    """Convolutions and matrix products; counted for INT8 alone."""
    kept: Sequence[str] = ()
    """Those of them in FP32, named by what they answer with."""
    num_calibrated: int = 0
    """Pictures that ranges were taken from."""


class Caster:
    """Casts one model and judges what comes out."""

    def __init__(self, path: Path, spec: ModelSpec, pictures: Pictures, *, num_threads: int = 1) -> None:
        """Read a model and run it in FP32.

        Args:
            path: The weights file, its checksum already verified.
            spec: Its registry entry.
            pictures: For a detector any pictures that show faces, for a recognizer crops.
            num_threads: Cores a run uses.

        Raises:
            ModelFileError: Not a readable ONNX graph.
            ModelContractError: Not what `spec` says, of a task that is not judged, or in half already.
        """
        if spec.task not in {"detection", "recognition"}:
            raise ModelContractError(
                f"Model {spec.name} does {spec.task}: only detectors and recognizers are converted; the others cost "
                "little."
            )
        self.spec = spec
        graph = prepare_graph(path, spec)
        self.source_bytes = num_bytes(path)
        self.source_sha256 = graph.source_sha256
        self._num_threads = num_threads
        self._parts = widen(take_apart(serialized(graph)))
        if computes_in_half(self._parts):
            raise ModelContractError(f"Model {spec.name} computes in half precision already.")
        self._trial = _trial(graph, spec, pictures)
        self._reference = self._answers(self._parts, self._trial)

    def half(self) -> Iterator[Cast]:
        """Cast to FP16, by one policy after the other until one meets the limits.

        Where the entry says `fp32_sums`, casting everything is not tried.

        Raises:
            ModelFileError: It cannot be cast.
        """
        for policy in POLICIES if policy_of(self.spec) is ALL_HALF else (policy_of(self.spec),):
            try:
                half = to_half(self._parts, policy)
            except GraphError as cause:
                raise ModelFileError(f"Model {self.spec.name} is not converted: {cause}.") from cause
            # What is judged is another graph: that this one opens is shown first.
            self._open(half).close()
            agreement = self._judge(round_as_half(half))
            cast = Cast(
                name=policy.name, model=_bytes(half), agreement=agreement,
                fault=agreement.fault(FP16) if agreement else _OVERFLOW,
            )  # fmt: skip
            yield cast
            if cast.fault is None:
                return

    def int8(self, fault_of: Fault) -> Cast:
        """Quantize, keeping no more operators in FP32 than the limits demand.

        Those that stay are found by letting one at a time be FP32, then taking the most harmful together: 1, 2, 4, ...
        Ranges come from a sample of the pictures, spread evenly; answers are compared on all.

        Args:
            fault_of: Holds answers to the limits.

        Raises:
            ModelFileError: It cannot be quantized.
            ModelContractError: There is no picture.
        """
        sample = _spread(self._trial.pictures, NUM_CALIBRATED)
        if not (held := sample()):
            raise ModelContractError(f"Model {self.spec.name} is not quantized: no picture shows a face.")
        full, whole = self._quantized(held)
        names = [node.name for node in full.nodes if node.op_type in _OPERATORS]
        ranked: list[str] = []
        num_kept = 0
        while True:
            model = _kept_full(whole, full, ranked[:num_kept])
            answers = self._answers(model, self._trial)
            agreement = self._trial.compare(self._reference, answers)
            fault = fault_of(agreement, self._reference, answers)
            next_kept = 2 * num_kept or 1
            if fault is None or next_kept > _MOST_KEPT * len(names):
                break
            ranked = ranked or self._ranked(names, whole, full, replace(self._trial, pictures=sample))
            num_kept = next_kept
        outputs = {node.name: node.output[0] for node in full.nodes}
        return Cast(
            name="int8", model=_bytes(model), agreement=agreement, fault=fault, num_operators=len(names),
            kept=[outputs[name] for name in ranked[:num_kept]], num_calibrated=len(held),
        )  # fmt: skip

    def _open(self, parts: GraphParts) -> Any:
        (backend,) = open_onnx_backends(_bytes(parts), num_threads=self._num_threads)
        return backend

    def _answers(self, parts: GraphParts, trial: Trial) -> Any:
        with closing(self._open(parts)) as backend:
            return trial.answers(backend)

    def _judge(self, parts: GraphParts) -> Agreement | None:
        """Return None where an answer is not finite; of a detector, opening it tells that too."""
        try:
            answers = self._answers(parts, self._trial)
        except (InferenceError, ModelContractError):
            return None
        if not self.spec.is_detector and not np.isfinite(answers).all():
            return None
        return self._trial.compare(self._reference, answers)

    def _quantized(self, pictures: Sequence[Any]) -> tuple[GraphParts, GraphParts]:
        """Return the model with its constants folded, and the same with each operator quantized."""
        batches = (self._batch(picture) for picture in pictures)
        try:
            full, quantized = quantize_onnx(_bytes(self._parts), batches, operators=_OPERATORS)
            return take_apart(full), take_apart(quantized)
        # The libraries check little: a graph they do not understand ends in whatever Python raises there.
        except Exception as cause:
            raise ModelFileError(f"Model {self.spec.name} cannot be quantized: {cause}.") from cause

    def _batch(self, picture: Any) -> Batch:
        """Return a picture as the graph is fed it, (1, 3, H, W) float32."""
        if self.spec.is_detector:
            picture = letterbox_of(picture, next(iter(self._trial.canvases_hw), None)).apply(picture)
        return to_batch([picture], self.spec.input, takes_pixels=False)

    def _ranked(self, names: Sequence[str], whole: GraphParts, full: GraphParts, trial: Trial) -> list[str]:
        """Return operators by what is gained where one alone stays in FP32, the most first."""
        few = replace(trial, pictures=_spread(trial.pictures, _NUM_SEARCHED))
        reference = self._answers(full, few)
        gains = {
            name: few.compare(reference, self._answers(_kept_full(whole, full, [name]), few)).nearness for name in names
        }
        return sorted(names, key=lambda name: -gains[name])


def find_faces(path: Path, spec: ModelSpec, pictures: Pictures, *, num_threads: int = 1) -> list[list[Crop]]:
    """Return the faces that a detector finds in each picture, aligned, the largest first.

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
    (backend,) = open_onnx_backends(graph.model, num_threads=num_threads)
    with closing(backend):
        return list(faces_in(_trial(graph, spec, pictures), backend))


def serialized(graph: PreparedGraph) -> bytes:
    """Return a graph that was prepared without a cache, and so never went to a file."""
    return graph.model if isinstance(graph.model, bytes) else graph.model.read_bytes()


def _trial(graph: PreparedGraph, spec: ModelSpec, pictures: Pictures) -> Trial:
    is_fixed = spec.is_detector and graph.input_hw is not None
    return Trial(spec, pictures, (graph.input_hw,) if is_fixed and graph.input_hw else ())


def _bytes(parts: GraphParts) -> bytes:
    return bytes(parts.assemble().SerializeToString())


def _spread(pictures: Pictures, most: int) -> Callable[[], list[Any]]:
    """Return what yields at most so many pictures, evenly from all of them."""
    total = sum(1 for _ in pictures())
    step = max(1, -(-total // most))
    return lambda: list(islice(pictures(), 0, None, step))


def _kept_full(quantized: GraphParts, full: GraphParts, names: Sequence[str]) -> GraphParts:
    """Return the quantized graph with some operators in FP32, as they were."""
    originals = {node.name: node for node in full.nodes if node.name in names}
    nodes = [originals.get(node.name, node) for node in quantized.nodes]
    new_weights = {
        name: weight
        for node in originals.values()
        for name in node.input
        if (weight := full.constant(name)) is not None
    }
    ends = {end.name for end in quantized.outputs}
    while True:
        read = {name for node in nodes for name in node.input} | ends
        kept = [node for node in nodes if not node.op_type.endswith("antizeLinear") or node.output[0] in read]
        if len(kept) == len(nodes):
            return quantized.replace(nodes=kept, new_weights=new_weights)
        nodes = kept
