"""From a weights file to a graph a backend can open: checked against its registry entry, relaxed, batched, fast."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import structlog

from jetface.errors import ModelFileError
from jetface.models.graphs.contract import canvas_hw, check_inputs, check_outputs, declares_free_batch
from jetface.models.graphs.free_batch import answers_apart, free_batch
from jetface.models.graphs.half import Precision, policy_of, to_half
from jetface.models.graphs.parts import GraphError, GraphParts, Shape, read_data, shape_of, take_apart
from jetface.models.graphs.pixels import take_pixels
from jetface.models.graphs.prepared import PreparedFiles
from jetface.models.graphs.rewrite import Rewrite
from jetface.specs import ModelSpec

_log = structlog.get_logger(__name__)

PREPARATION_VERSION = 6
"""Goes up with every change of what preparing writes: prepared files are kept under it."""


_TRIAL_CANVAS_HW = (128, 128)
"""What a detector of free canvas is tried on: small, and its three strides have different numbers of anchors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputInfo:
    """One output of a graph, as its operators say it is."""

    name: str
    shape: Shape | None
    """Length of each axis, None where free; None altogether when not even the rank can be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedGraph:
    """What a backend opens."""

    model: bytes | Path
    """A serialized ONNX model, or the file that holds it."""
    input_name: str
    input_hw: tuple[int, int] | None
    """Height and width the graph is fixed to, pixels; None when it takes any canvas."""
    outputs: tuple[OutputInfo, ...]
    """In the graph's order."""
    is_batch_free: bool
    """Whether a run takes several items, each answered as if alone; else one at a time."""
    takes_pixels: bool
    """Whether a batch is (N, H, W, 3) uint8 BGR; else a blob, (N, 3, H, W) float32."""
    precision: Precision
    """What it computes in; outputs are float32 either way, and so is a blob."""
    rewrites: tuple[str, ...]
    """Names of the speed-ups that changed it."""
    source_sha256: str
    """Of the weights file, and of the files beside it that hold weights of its, one after the other."""


def prepare_graph(
    path: Path,
    spec: ModelSpec,
    *,
    rewrites: Sequence[Rewrite] = (),
    pixels: bool = False,
    precision: Precision = "fp32",
    cache: PreparedFiles | None = None,
    has_onnxruntime: bool = True,
) -> PreparedGraph:
    """Read, check and improve a graph.

    Annotated shapes are replaced by what the operators say: ONNX Runtime warns on every run about a stale one. A batch
    fixed to 1 is freed where that is exact. One that is declared free is tried where the operators do not show it.

    Args:
        path: The weights file, its checksum already verified.
        spec: What the graph has to be.
        rewrites: Speed-ups to apply, in order.
        pixels: Let the graph take pixels and normalise them itself, as `take_pixels` says.
        precision: `fp16` casts it as `to_half` says; whether its answers are near enough is for the caller to check.
        cache: Where prepared graphs are kept between starts; None keeps nothing.
        has_onnxruntime: False where it must not be loaded: then what would have to be tried runs one item at a time.

    Raises:
        ModelFileError: Not a readable ONNX graph.
        ModelContractError: Not what `spec` says; the message tells what was found.
    """
    try:
        serialized = path.read_bytes()
    except OSError as cause:
        raise ModelFileError(f"The file {path.name} of model {spec.name} cannot be read.") from cause
    try:
        data = read_data(serialized, path.parent)
    except GraphError as cause:
        raise _unusable(path, spec, cause) from cause
    _check_data(data, spec)
    in_half = precision == "fp16"
    source_sha256 = _sha256((serialized, *data.values()))
    key = [
        source_sha256,
        spec.model_dump_json(include={"task", "family", "input", "embedding_length"}),
        f"onnx {onnx.__version__}, preparation {PREPARATION_VERSION}",
        *(f"{rewrite.name} {rewrite.version}" for rewrite in rewrites),
        *(["pixels"] if pixels else []),
        *([] if has_onnxruntime else ["batch not tried"]),
        *([f"{policy_of(spec).name}, onnxconverter-common {version('onnxconverter-common')}"] if in_half else []),
    ]
    if cache and (kept := cache.load(spec.name, key)):
        file, facts = kept
        _warn_of_single_items(spec, is_batch_free=facts["is_batch_free"])
        return _from_facts(facts, file)
    try:
        parts, is_batch_free, applied = _improve(take_apart(serialized, data), spec, rewrites, may_try=has_onnxruntime)
        height_px, width_px = (shape_of(parts.inputs[0]) or ())[2:]
        if in_half:
            parts = to_half(parts, policy_of(spec))
        if pixels:
            parts = _with_pixels(parts, spec)
        shapes = parts.infer_shapes()
    except GraphError as cause:
        raise _unusable(path, spec, cause) from cause
    except UnicodeDecodeError as cause:
        raise _unusable(path, spec, GraphError("it holds a name that is not UTF-8")) from cause
    _warn_of_single_items(spec, is_batch_free=is_batch_free)
    parts = parts.replace(outputs=[_value(end, shapes.get(end.name)) for end in parts.outputs])
    facts = {
        "model_name": spec.name,
        "input_name": parts.inputs[0].name,
        "input_hw": (height_px, width_px) if height_px and width_px else None,
        "outputs": [(end.name, shapes.get(end.name)) for end in parts.outputs],
        "is_batch_free": is_batch_free,
        "takes_pixels": pixels,
        "precision": precision,
        "rewrites": applied,
        "source_sha256": source_sha256,
    }
    prepared = parts.assemble().SerializeToString()
    return _from_facts(facts, (cache and cache.store(spec.name, key, prepared, facts)) or prepared)


def _unusable(path: Path, spec: ModelSpec, cause: GraphError) -> ModelFileError:
    return ModelFileError(f"The file {path.name} of model {spec.name} cannot be used: {cause}.")


def _check_data(data: Mapping[str, bytes], spec: ModelSpec) -> None:
    """Hold files of data to the checksums of the entry; say of those it does not name what to write there."""
    named = {part.file: part.sha256 for part in spec.data}
    for name, content in data.items():
        sha256 = _sha256((content,))
        if name not in named:
            _log.warning(
                "weights beside the model's file are held to no checksum: name them as [[data]] in its registry entry",
                model=spec.name, file=name, sha256=sha256,
            )  # fmt: skip
        elif named[name] != sha256:
            raise ModelFileError(f"The file {name} of model {spec.name} has another checksum than its registry entry.")


def _sha256(contents: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def _warn_of_single_items(spec: ModelSpec, *, is_batch_free: bool) -> None:
    if not is_batch_free:
        _log.warning("model runs one item at a time: its graph may mix the items of a batch", model=spec.name)


def _improve(
    parts: GraphParts, spec: ModelSpec, rewrites: Sequence[Rewrite], *, may_try: bool
) -> tuple[GraphParts, bool, Sequence[str]]:
    """Check a graph, free its batch and apply the rewrites; say whether the batch is free and what was applied."""
    check_inputs(parts, spec)
    sides_px = canvas_hw(parts, spec)
    declared = shape_of(parts.inputs[0]) or ()
    shapes = _with_input(parts, (declared[0], 3, *sides_px)).infer_shapes()
    check_outputs(parts, spec, shapes)
    freed = free_batch(parts)
    is_batch_free = freed is not None or (
        declares_free_batch(parts, spec, shapes) and may_try and _is_apart(parts, sides_px)
    )
    parts = _with_input(freed or parts, (None if is_batch_free else 1, 3, *sides_px))
    applied = []
    for rewrite in rewrites:
        before, parts = parts, rewrite.apply(parts)
        if parts.nodes != before.nodes:
            applied.append(rewrite.name)
    return parts, is_batch_free, applied


def _is_apart(parts: GraphParts, sides_px: Shape) -> bool:
    height_px, width_px = sides_px
    free = _with_input(parts, (None, 3, height_px, width_px))
    # What is annotated of the outputs may be wrong, and ONNX Runtime would say so on each run.
    model = free.replace(outputs=[_value(end, None) for end in free.outputs]).assemble().SerializeToString()
    return answers_apart(model, (height_px or _TRIAL_CANVAS_HW[0], width_px or _TRIAL_CANVAS_HW[1]))


def _with_pixels(parts: GraphParts, spec: ModelSpec) -> GraphParts:
    batch, _, height_px, width_px = shape_of(parts.inputs[0]) or ()
    return _with_input(take_pixels(parts, spec.input), (batch, height_px, width_px, 3))


def _with_input(parts: GraphParts, shape: Shape) -> GraphParts:
    return parts.replace(inputs=[_value(parts.inputs[0], shape)])


def _value(value: onnx.ValueInfoProto, shape: Shape | None) -> onnx.ValueInfoProto:
    """Return an input or output annotated with this shape and no other."""
    # Each free axis has a name of its own: axes that share one are taken to be of equal length.
    axes = shape and [length or f"{value.name}.{axis}" for axis, length in enumerate(shape)]
    return onnx.helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, axes)


def _from_facts(facts: Mapping[str, Any], model: bytes | Path) -> PreparedGraph:
    """Build the result from facts as they are, or as they come back from a file."""
    return PreparedGraph(
        model=model,
        input_name=facts["input_name"],
        input_hw=facts["input_hw"] and tuple(facts["input_hw"]),
        outputs=tuple(OutputInfo(name=name, shape=shape and tuple(shape)) for name, shape in facts["outputs"]),
        is_batch_free=facts["is_batch_free"],
        takes_pixels=facts["takes_pixels"],
        precision=facts["precision"],
        rewrites=tuple(facts["rewrites"]),
        source_sha256=facts["source_sha256"],
    )
