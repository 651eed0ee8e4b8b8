"""From a weights file to a graph a backend can open: checked against its registry entry, relaxed, made fast, kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
import structlog

from jetface.atomic import sidecar_of, write_with_sidecar
from jetface.errors import ModelContractError, ModelFileError
from jetface.graphs.exports import before_suppression, channels_first
from jetface.graphs.free_batch import answers_apart, free_batch
from jetface.graphs.half import Precision, policy_of, to_half
from jetface.graphs.parts import GraphError, GraphParts, Shape, read_data, shape_of, take_apart
from jetface.graphs.pixels import take_pixels
from jetface.graphs.rewrite import Rewrite
from jetface.registry import ModelSpec

_log = structlog.get_logger(__name__)


_KEY_DIGITS = 16
"""Hexadecimal digits of the key in a file name: 64 bits tell the few files of a folder apart."""


class PreparedFiles:
    """Folders of prepared graphs. Safe for several processes: each file appears whole, under its final name."""

    def __init__(self, *folders: Path) -> None:
        """Name the folders.

        Args:
            folders: Where graphs are looked for, in order; the first that can be written keeps new ones.
        """
        self.folders = folders

    def load(self, name: str, key: Sequence[str]) -> tuple[Path, Mapping[str, Any]] | None:
        """Return the file kept under `key` and its facts; None when there is none that can be trusted."""
        return next(filter(None, (_load(name, _path(folder, name, key)) for folder in self.folders)), None)

    def store(self, name: str, key: Sequence[str], serialized: bytes, facts: Mapping[str, Any]) -> Path | None:
        """Keep a graph; None when no folder can be written, which is logged and no failure."""
        sha256 = hashlib.sha256(serialized).hexdigest()
        for folder in self.folders:
            model = _path(folder, name, key)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write_with_sidecar(model, serialized, json.dumps({**facts, "sha256": sha256}, indent=2).encode())
            except OSError as cause:
                _log.info(
                    "prepared graph is not kept: the folder cannot be written",
                    model=name, folder=str(folder), reason=cause.strerror,
                )  # fmt: skip
                continue
            return model
        return None


def _load(name: str, model: Path) -> tuple[Path, Mapping[str, Any]] | None:
    try:
        facts = json.loads(sidecar_of(model).read_bytes())
        is_intact = facts["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as cause:
        _log.warning("prepared graph is unreadable and made anew", model=name, reason=repr(cause))
        return None
    if not is_intact:
        _log.warning("prepared graph is damaged and made anew", model=name)
        return None
    return model, facts


def _path(folder: Path, name: str, key: Sequence[str]) -> Path:
    digest = hashlib.sha256("\n".join(key).encode()).hexdigest()[:_KEY_DIGITS]
    return folder / f"{name}-{digest}.onnx"


_DETECTION_OUTPUTS: Mapping[str, tuple[int, ...]] = MappingProxyType({"scrfd": (6, 9), "yunet": (12,)})
"""By family, where it is told before a graph is run: scores and distances of three strides, without or with landmarks;
YuNet has two scores."""

_CUT_BEFORE_SUPPRESSION = frozenset({"yolo"})
"""Families that suppress overlaps themselves, and whose graphs may come with that inside."""

_CHANNELS = 3


def check_inputs(parts: GraphParts, spec: ModelSpec) -> None:
    """Check that a graph takes one (N, 3, H, W) float32 tensor of the entry's size.

    Raises:
        ModelContractError: It does not; the message tells what was found.
    """
    found = ", ".join(map(_describe, parts.inputs)) or "none"
    if len(parts.inputs) != 1:
        raise ModelContractError(f"Model {spec.name} should have one input; found {found}.")
    shape = shape_of(parts.inputs[0])
    is_float = parts.inputs[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    if shape is None or len(shape) != 4 or shape[1] not in (_CHANNELS, None) or not is_float:
        raise ModelContractError(f"Model {spec.name} should take (N, 3, H, W) float32; found {found}.")
    wanted_hw = (spec.input.height_px, spec.input.width_px)
    if any(wanted and length not in (wanted, None) for wanted, length in zip(wanted_hw, shape[2:], strict=True)):
        raise ModelContractError(f"Model {spec.name} should take {wanted_hw[0]}x{wanted_hw[1]} pixels; found {found}.")


def canvas_hw(parts: GraphParts, spec: ModelSpec) -> Shape:
    """Return the height and width a checked graph runs at: fixed by graph or entry, else None for both."""
    shape = shape_of(parts.inputs[0]) or ()
    height_px, width_px = (
        length or wanted or None
        for length, wanted in zip(shape[2:], (spec.input.height_px, spec.input.width_px), strict=True)
    )
    return (height_px, width_px)


def check_outputs(parts: GraphParts, spec: ModelSpec, shapes: Mapping[str, Shape]) -> None:
    """Check number, type and rank of the outputs, and the embedding's length where the graph fixes it.

    Args:
        parts: The graph.
        spec: What it has to be.
        shapes: What `infer_shapes` says of it.

    Raises:
        ModelContractError: They are not what the task wants; the message tells what was found.
    """
    found = ", ".join(f"{end.name} {_words(shapes.get(end.name))}" for end in parts.outputs)
    if any(end.type.tensor_type.elem_type != onnx.TensorProto.FLOAT for end in parts.outputs):
        raise ModelContractError(f"Model {spec.name} should answer in float32; found {found}.")
    ranks = {len(shapes[end.name]) for end in parts.outputs if end.name in shapes}
    if spec.is_detector:
        numbers = _DETECTION_OUTPUTS.get(spec.family, ())
        if (numbers and len(parts.outputs) not in numbers) or not ranks <= {2, 3}:
            wanted = " or ".join(map(str, numbers)) or "only"
            raise ModelContractError(
                f"Model {spec.name} should have {wanted} outputs [anchors, C] or [N, anchors, C]; found {found}."
            )
        return
    length = spec.embedding_length or len(spec.labels) or None
    is_row = all(_is_row(shapes[end.name], length) for end in parts.outputs if end.name in shapes)
    if len(parts.outputs) != 1 or not is_row:
        raise ModelContractError(f"Model {spec.name} should have one output [N, {length or 'L'}]; found {found}.")


def declares_free_batch(parts: GraphParts, spec: ModelSpec, shapes: Mapping[str, Shape]) -> bool:
    """Whether the exporter left the batch free and nothing speaks against it.

    Args:
        parts: The graph, its input as the exporter declared it.
        spec: What the graph is for.
        shapes: What `infer_shapes` says of it when the batch is free.
    """
    if (shape_of(parts.inputs[0]) or (1,))[0] is not None:
        return False
    # A detector that answers [anchors, C] lists the anchors of all pictures in an order only it knows.
    least_rank = 3 if spec.is_detector else 2
    outputs = [shapes.get(end.name, ()) for end in parts.outputs]
    return all(len(shape) >= least_rank and shape[0] is None for shape in outputs)


def _is_row(shape: Shape, length: int | None) -> bool:
    """Whether (N, length) is meant, any row where that is None; some exports keep trailing axes of length 1."""
    if length is None:
        return len(shape) >= 2
    return len(shape) >= 2 and shape[1] in {length, None} and all(axis in {1, None} for axis in shape[2:])


def _describe(value: onnx.ValueInfoProto) -> str:
    number = value.type.tensor_type.elem_type
    is_known = number in onnx.TensorProto.DataType.values()
    kind = onnx.TensorProto.DataType.Name(number).lower() if is_known else f"of type {number}"
    return f"{value.name} {_words(shape_of(value))} {kind}"


def _words(shape: Shape | None) -> str:
    return "of unknown rank" if shape is None else str([length or "?" for length in shape]).replace("'", "")


PREPARATION_VERSION = 8
"""Goes up with every change of what preparing writes: prepared files are kept under it."""


_TRIAL_CANVAS_HW = (128, 128)
"""What a detector of free canvas is tried on: small, and its three strides have different numbers of anchors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedGraph:
    """What a backend opens."""

    model: bytes | Path
    """A serialized ONNX model, or the file that holds it."""
    input_hw: tuple[int, int] | None
    """Height and width the graph is fixed to, pixels; None when it takes any canvas."""
    is_batch_free: bool
    """Whether a run takes several items, each answered as if alone; else one at a time."""
    takes_pixels: bool
    """Whether a batch is (N, H, W, 3) uint8 BGR; else a blob, (N, 3, H, W) float32."""
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
        "input_hw": (height_px, width_px) if height_px and width_px else None,
        "is_batch_free": is_batch_free,
        "takes_pixels": pixels,
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
    parts = channels_first(parts)
    check_inputs(parts, spec)
    sides_px = canvas_hw(parts, spec)
    declared = shape_of(parts.inputs[0]) or ()
    if spec.family in _CUT_BEFORE_SUPPRESSION:
        parts = before_suppression(_with_input(parts, (declared[0], 3, *sides_px)))
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
        input_hw=facts["input_hw"] and tuple(facts["input_hw"]),
        is_batch_free=facts["is_batch_free"],
        takes_pixels=facts["takes_pixels"],
        rewrites=tuple(facts["rewrites"]),
        source_sha256=facts["source_sha256"],
    )
