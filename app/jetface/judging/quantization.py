"""A model quantized to INT8 and judged: QDQ nodes in the graph, as few operators left in FP32 as the limits allow.

Why this way: docs/adr/0030-int8-graphs.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from jetface.domain import Batch
from jetface.errors import ModelContractError, ModelFileError
from jetface.geometry.letterbox import Letterbox
from jetface.graphs.half import computes_in_half, widen
from jetface.graphs.int8 import quantize_onnx
from jetface.graphs.parts import GraphParts, num_bytes, take_apart
from jetface.graphs.pixels import to_batch
from jetface.graphs.prepare import prepare_graph
from jetface.judging.agreement import CANVAS_HW, Agreement, DetectionAgreement, Pictures, trial_of
from jetface.judging.conversion import opened, serialized
from jetface.registry import ModelSpec

NUM_CALIBRATED = 64
"""Pictures that ranges are taken from."""

_NUM_SEARCHED = 16
"""Of these, how many each operator's harm is measured on."""

_OPERATORS = ("Conv", "Gemm", "MatMul")
"""What is quantized. All else, the sums of a residual stream among it, stays in FP32."""

_MOST_KEPT = 0.5
"""Share of these that may stay in FP32: with more there is nothing to gain."""

Fault = Callable[[Agreement, Any, Any], "str | None"]
"""Says which limit answers miss: of how near they are, of the reference's answers, and of theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """What came of a model."""

    source_bytes: int
    """Of the weights file."""
    source_sha256: str
    model: bytes
    """The quantized graph, serialized."""
    num_operators: int
    """Convolutions and matrix products of the model."""
    kept: Sequence[str]
    """Those in FP32, named by what they answer with."""
    num_calibrated: int
    """Pictures that ranges were taken from."""
    reference: Any
    """What the model answered in FP32, as its trial has it."""
    answers: Any
    """What the quantized one answered."""
    agreement: Agreement
    fault: str | None
    """The limit that is missed; None where all are met."""


def quantize(path: Path, spec: ModelSpec, pictures: Pictures, fault_of: Fault, *, num_threads: int = 1) -> Quantization:
    """Quantize a model, keeping no more operators in FP32 than the limits demand.

    Those that stay are found by letting one at a time be FP32, then taking the most harmful together: 1, 2, 4, ...

    Args:
        path: The weights file, its checksum already verified.
        spec: Its registry entry.
        pictures: For a detector any that show faces, for a recognizer crops. Ranges come from a sample of them, spread
            evenly; answers are compared on all.
        fault_of: Holds answers to the limits.
        num_threads: Cores a run uses.

    Raises:
        ModelFileError: Not a readable ONNX graph, or one that cannot be quantized.
        ModelContractError: Not what `spec` says, of a task that is not judged, in half already, or without pictures.
    """
    graph = prepare_graph(path, spec)
    trial = trial_of(spec, pictures, graph.input_hw)
    parts = take_apart(serialized(graph))
    if computes_in_half(widen(parts)):
        raise ModelContractError(f"Model {spec.name} computes in half precision already.")

    def run(model: GraphParts) -> Any:
        return opened(model.assemble().SerializeToString(), spec, graph.input_hw, num_threads)

    reference = trial.answers(opened(serialized(graph), spec, graph.input_hw, num_threads))
    sample = _spread(pictures, NUM_CALIBRATED)
    if not (held := sample()):
        raise ModelContractError(f"Model {spec.name} is not quantized: no picture shows a face.")
    full, whole = _quantized(widen(parts), spec, (_batch(picture, spec, graph.input_hw) for picture in held))
    names = [node.name for node in full.nodes if node.op_type in _OPERATORS]
    few = trial_of(spec, _spread(sample, _NUM_SEARCHED), graph.input_hw)
    few_reference = few.answers(run(full))
    ranked: list[str] = []
    num_kept = 0
    while True:
        model = _kept_full(whole, full, ranked[:num_kept])
        answers = trial.answers(run(model))
        agreement, _ = trial.compare(reference, answers)
        fault = fault_of(agreement, reference, answers)
        next_kept = 2 * num_kept or 1
        if fault is None or next_kept > _MOST_KEPT * len(names):
            break
        if not ranked:
            gains = {
                name: _nearness(few.compare(few_reference, few.answers(run(_kept_full(whole, full, [name]))))[0])
                for name in names
            }
            ranked = sorted(names, key=lambda name: -gains[name])
        num_kept = next_kept
    outputs = {node.name: node.output[0] for node in full.nodes}
    return Quantization(
        source_bytes=num_bytes(path), source_sha256=graph.source_sha256,
        model=model.assemble().SerializeToString(), num_operators=len(names),
        kept=[outputs[name] for name in ranked[:num_kept]], num_calibrated=len(held),
        reference=reference, answers=answers, agreement=agreement, fault=fault,
    )  # fmt: skip


def _spread(pictures: Pictures, most: int) -> Callable[[], list[Any]]:
    """Return what yields at most so many pictures, evenly from all of them."""
    total = sum(1 for _ in pictures())
    step = max(1, -(-total // most))
    return lambda: list(islice(pictures(), 0, None, step))


def _batch(picture: Any, spec: ModelSpec, input_hw: tuple[int, int] | None) -> Batch:
    """Return a picture as the graph is fed it, (1, 3, H, W) float32."""
    if spec.task == "detection":
        canvas_hw = input_hw or CANVAS_HW
        picture = Letterbox.fit(picture.shape[:2], canvas_hw, rectangular=input_hw is None).apply(picture)
    return to_batch([picture], spec.input, takes_pixels=False)


def _nearness(agreement: Agreement) -> float:
    return agreement.mean_iou if isinstance(agreement, DetectionAgreement) else agreement.mean_cosine


def _quantized(parts: GraphParts, spec: ModelSpec, batches: Iterator[Batch]) -> tuple[GraphParts, GraphParts]:
    """Return the model with its constants folded, and the same with each operator quantized."""
    try:
        full, quantized = quantize_onnx(parts.assemble().SerializeToString(), batches, operators=_OPERATORS)
        return take_apart(full), take_apart(quantized)
    # The libraries check little: a graph they do not understand ends in whatever Python raises there.
    except Exception as cause:
        raise ModelFileError(f"Model {spec.name} cannot be quantized: {cause}.") from cause


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
