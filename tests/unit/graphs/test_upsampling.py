"""Upsampling by factors: no size is computed as the graph runs, and every answer is the same to the bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from jetface.graphs.free_batch import free_batch
from jetface.graphs.half import to_half
from jetface.graphs.parts import GraphParts, take_apart
from jetface.graphs.prepare import prepare_graph
from jetface.graphs.rewrite import FIX_SIZES, fix_sizes
from jetface.registry import ModelSpec, default_registry_dir, read_registry
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.tiny_onnx import model, scrfd_model, scrfd_spec

DETECTORS = ("det_500m", "scrfd_2.5g_bnkps")

make = helper.make_node
MODES = ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners")


def answers(serialized: bytes | Path, batch: NDArray[Any]) -> tuple[NDArray[np.float32], ...]:
    return open_onnx_backends(serialized, max_batch_size=len(batch))[0].run(batch)


def equal(before: bytes | Path, after: bytes | Path, batch: NDArray[Any]) -> bool:
    """Whether two graphs answer the same to the bit."""
    pairs = zip(answers(before, batch), answers(after, batch), strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)


def kinds(parts: GraphParts) -> list[str]:
    return [node.op_type for node in parts.nodes]


def pictures(count: int, canvas_hw: tuple[int, int], *, pixels: bool = False) -> NDArray[Any]:
    rng = np.random.default_rng(count)
    if pixels:
        return rng.integers(0, 256, (count, *canvas_hw, 3), np.uint8)
    return rng.standard_normal((count, 3, *canvas_hw)).astype(np.float32)


def graph(
    nodes: Sequence[onnx.NodeProto],
    *,
    opset: int = 11,
    shape: Sequence[int | str] = ("N", 3, "H", "W"),
    **weights: Any,
) -> GraphParts:
    """A graph from `x` to `y`, with the usual weights of shape arithmetic."""
    known = {"none": np.zeros(0, np.float32), "from": [0], "to": [2], "end": [4], "hw": [2, 3], "two": [1, 1, 2, 2]}
    tensors = {
        name: np.asarray(value, None if isinstance(value, np.ndarray) else np.int64)
        for name, value in {**known, **weights}.items()
    }
    value = helper.make_tensor_value_info
    serialized = model(
        nodes, tensors, [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, [None] * 4)]
    )
    parts = take_apart(serialized)
    return GraphParts(
        parts.nodes, parts.weights, parts.inputs, parts.outputs, (helper.make_opsetid("", opset),), parts.ir_version
    )


def pool(side: int, source: str = "x", target: str = "small", **options: Any) -> onnx.NodeProto:
    return make("MaxPool", [source], [target], kernel_shape=[side] * 2, strides=[side] * 2, **options)


def resize_like(small: str = "small", large: str = "x", **options: Any) -> list[onnx.NodeProto]:
    """Nodes that upsample one map to the height and width of another."""
    modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return [
        make("Shape", [small], ["small_shape"]),
        make("Slice", ["small_shape", "from", "to"], ["nc"]),
        make("Shape", [large], ["large_shape"]),
        make("Slice", ["large_shape", "to", "end"], ["sides"]),
        make("Concat", ["nc", "sides"], ["sizes"], axis=0),
        make("Resize", [small, "none", "none", "sizes"], ["y"], **(modes | options)),
    ]


@pytest.fixture(scope="module")
def registry() -> dict[str, ModelSpec]:
    return dict(read_registry([default_registry_dir()]))


@pytest.mark.parametrize("pixels", [False, True], ids=["blobs", "pixels"])
@pytest.mark.parametrize("name", DETECTORS)
def test_a_real_detector_computes_no_sizes_and_answers_the_same(
    name: str, pixels: bool, shared_models: Path, registry: Mapping[str, ModelSpec]
) -> None:
    path, spec = shared_models / f"{name}.onnx", registry[name]
    before = prepare_graph(path, spec, pixels=pixels)
    after = prepare_graph(path, spec, pixels=pixels, rewrites=[FIX_SIZES])
    assert after.rewrites == ("fix_sizes",)
    assert after.is_batch_free
    assert isinstance(after.model, bytes)
    parts = take_apart(after.model)
    assert "Shape" not in kinds(parts)
    types = parts.infer_types()
    assert {types[output] for node in parts.nodes for output in node.output} == {TensorProto.FLOAT}
    for count, canvas_hw in [(1, (64, 96)), (2, (160, 32)), (3, (32, 224)), (1, (320, 320))]:
        assert equal(before.model, after.model, pictures(count, canvas_hw, pixels=pixels))


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_as_it_was_published_is_changed_too(name: str, shared_models: Path) -> None:
    """With its batch of one still in it."""
    published = (shared_models / f"{name}.onnx").read_bytes()
    fixed = fix_sizes(take_apart(published))
    assert "Shape" not in kinds(fixed)
    for canvas_hw in [(96, 64), (32, 160)]:
        assert equal(published, fixed.assemble().SerializeToString(), pictures(1, canvas_hw))


def test_a_detector_cast_to_half_is_changed_too(shared_models: Path) -> None:
    half = to_half(take_apart((shared_models / "det_500m.onnx").read_bytes()))
    fixed = fix_sizes(half)
    assert "Shape" not in kinds(fixed)
    before, after = (parts.assemble().SerializeToString() for parts in (half, fixed))
    assert equal(before, after, pictures(1, (96, 64)))


@given(
    perm=st.sampled_from([(2, 3, 0, 1), (0, 2, 3, 1)]),
    count=st.integers(1, 3),
    steps=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_every_export_of_scrfd_answers_the_same(perm: tuple[int, ...], count: int, steps: tuple[int, int]) -> None:
    freed = free_batch(take_apart(scrfd_model(perm=perm, batch="N")))
    assert freed is not None
    fixed = fix_sizes(freed)
    assert set(kinds(freed)) - set(kinds(fixed)) == {"Shape", "Gather", "Unsqueeze", "Slice", "Concat"}
    assert {"two", "three", "from", "to"}.isdisjoint(fixed.weights)
    before, after = (parts.assemble() for parts in (freed, fixed))
    onnx.checker.check_model(after)
    batch = pictures(count, (32 * steps[0], 32 * steps[1]))
    assert equal(before.SerializeToString(), after.SerializeToString(), batch)


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("coordinates", MODES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("factor", [2, 4])
def test_every_mode_that_knows_no_region_answers_the_same(opset: int, coordinates: str, mode: str, factor: int) -> None:
    upsampling = resize_like(mode=mode, coordinate_transformation_mode=coordinates, nearest_mode="round_prefer_floor")
    parts = graph([pool(factor), *upsampling], opset=opset)
    fixed = fix_sizes(parts)
    assert kinds(fixed) == ["MaxPool", "Resize"]
    factors = fixed.constant(fixed.nodes[1].input[2])
    assert factors is not None
    assert factors.tolist() == [1, 1, factor, factor]
    before, after = (changed.assemble() for changed in (parts, fixed))
    onnx.checker.check_model(after)
    for count, canvas_hw in [(1, (64, 96)), (2, (160, 32))]:
        assert equal(before.SerializeToString(), after.SerializeToString(), pictures(count, canvas_hw))


def test_one_upsampling_on_another_is_followed() -> None:
    """The second one's sizes are known only when the first one's are."""
    parts = take_apart(scrfd_model())
    second = [
        make("Shape", ["merged"], ["again"]), make("Slice", ["again", "from", "to", "from"], ["again_nc"]),
        make("Shape", ["input.1"], ["full"]), make("Slice", ["full", "to", "four", "from"], ["full_hw"]),
        make("Concat", ["again_nc", "full_hw"], ["full_sizes"], axis=0),
        make("Resize", ["merged", "none", "none", "full_sizes"], ["large"]),
    ]  # fmt: skip
    end = helper.make_tensor_value_info("large", TensorProto.FLOAT, [None] * 4)
    longer = parts.replace(
        nodes=[*parts.nodes, *second], new_weights={"four": np.array([4])}, outputs=[*parts.outputs, end]
    )
    fixed = fix_sizes(longer)
    assert "Shape" not in kinds(fixed)
    scales = [fixed.constant(node.input[2]) for node in fixed.nodes if node.op_type == "Resize"]
    assert [None if scale is None else scale.tolist() for scale in scales] == [[1, 1, 2, 2], [1, 1, 8, 8]]


def test_a_canvas_that_is_fixed_is_the_only_one_asked() -> None:
    """17 pixels pool to 8: a factor of 2 there alone, where the height is 16."""
    upsampling = [make("Shape", ["small"], ["s"]), make("Mul", ["s", "two"], ["sizes"]),
                  make("Resize", ["small", "none", "none", "sizes"], ["y"], mode="nearest")]  # fmt: skip
    fixed = fix_sizes(graph([pool(2), *upsampling], shape=("N", 3, 16, 17)))
    assert kinds(fixed) == ["MaxPool", "Resize"]
    stays = graph([pool(2), *resize_like()], shape=("N", 3, 16, 17))
    assert fix_sizes(stays) is stays


def test_sizes_may_be_computed_in_any_way() -> None:
    """Twice the size by a product of floats, as some exporters write `scale_factor=2`."""
    nodes = [
        make("Shape", ["x"], ["s"]),
        make("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        make("Mul", ["f", "k"], ["m"]),
        make("Floor", ["m"], ["r"]),
        make("Cast", ["r"], ["sizes"], to=TensorProto.INT64),
        make("Resize", ["x", "none", "none", "sizes"], ["y"], mode="nearest"),
    ]
    fixed = fix_sizes(graph(nodes, k=np.array([1, 1, 2, 2], np.float32)))
    assert kinds(fixed) == ["Resize"]


def test_parts_of_a_shape_are_read_as_the_operator_says() -> None:
    """From operator set 15 on Shape takes a start and an end."""
    nodes = [
        make("Shape", ["small"], ["nc"], start=0, end=2), make("Shape", ["x"], ["sides"], start=2),
        make("Concat", ["nc", "sides"], ["sizes"], axis=0), make("Resize", ["small", "", "", "sizes"], ["y"]),
    ]  # fmt: skip
    assert kinds(fix_sizes(graph([pool(2), *nodes], opset=15))) == ["MaxPool", "Resize"]


def test_the_shape_of_a_map_alone_is_a_factor_of_one() -> None:
    nodes = [make("Shape", ["x"], ["sizes"]), make("Resize", ["small", "none", "none", "sizes"], ["y"])]
    relu = make("Relu", ["x"], ["small"])
    fixed = fix_sizes(graph([relu, *nodes]))
    factors = fixed.constant(fixed.nodes[1].input[2])
    assert factors is not None
    assert factors.tolist() == [1, 1, 1, 1]


def test_what_others_read_is_kept() -> None:
    """A shape that an output is made of stays, though its other reader is gone."""
    parts = graph([pool(2), *resize_like(), make("Cast", ["large_shape"], ["told"], to=TensorProto.FLOAT)])
    told = helper.make_tensor_value_info("told", TensorProto.FLOAT, [4])
    fixed = fix_sizes(parts.replace(outputs=[*parts.outputs, told]))
    assert kinds(fixed) == ["MaxPool", "Shape", "Resize", "Cast"]


POOLED = pool(2)
STAYS: Mapping[str, GraphParts] = {
    "no upsampling": graph([make("Relu", ["x"], ["y"])]),
    "sizes written at export": graph(
        [make("Resize", ["x", "none", "none", "k"], ["y"])], shape=(1, 3, 64, 64), k=[1, 3, 128, 128]
    ),
    "factors already": graph([make("Resize", ["x", "none", "k"], ["y"])], k=np.array([1, 1, 2, 2], np.float32)),
    "sides rounded up at odd numbers of steps": graph(
        [pool(64, ceil_mode=1), pool(32, target="l"), *resize_like(large="l")]
    ),
    "sides rounded down at odd numbers of steps": graph([pool(64), pool(32, target="l"), *resize_like(large="l")]),
    "by three halves": graph([pool(3, target="small"), pool(2, target="l"), *resize_like(large="l")]),
    "downwards": graph([POOLED, *resize_like(small="x", large="small")]),
    "a height fixed at export": graph(
        [POOLED, make("Shape", ["small"], ["s"]), make("Slice", ["s", "from", "to"], ["nc"]),
         make("Concat", ["nc", "k"], ["sizes"], axis=0), make("Resize", ["small", "none", "none", "sizes"], ["y"])],
        k=[64, 96],
    ),
    "a batch of one fixed at export": graph(
        [POOLED, make("Shape", ["x"], ["s"]), make("Slice", ["s", "k", "end"], ["chw"]),
         make("Concat", ["k", "chw"], ["sizes"], axis=0), make("Resize", ["small", "none", "none", "sizes"], ["y"])],
        k=[1],
    ),
    "a region": graph([POOLED, *resize_like(coordinate_transformation_mode="tf_crop_and_resize")]),
    "the aspect ratio kept": graph([POOLED, *resize_like(keep_aspect_ratio_policy="not_larger")], opset=18),
    "some axes only": graph(
        [POOLED, make("Shape", ["x"], ["s"]), make("Gather", ["s", "hw"], ["sizes"]),
         make("Resize", ["small", "none", "none", "sizes"], ["y"], axes=[2, 3])],
        opset=18,
    ),
    "too few sizes": graph(
        [POOLED, make("Shape", ["x"], ["s"]), make("Gather", ["s", "hw"], ["sizes"]),
         make("Resize", ["small", "none", "none", "sizes"], ["y"])],
    ),
    "sizes that depend on pixels": graph(
        [POOLED, make("NonZero", ["x"], ["nz"]), make("Shape", ["nz"], ["s"]),
         make("Concat", ["s", "s"], ["sizes"], axis=0), make("Resize", ["small", "none", "none", "sizes"], ["y"])],
    ),
    "sizes from an operator we do not follow": graph(
        [POOLED, make("Shape", ["x"], ["s"]), make("Neg", ["s"], ["n"]), make("Neg", ["n"], ["sizes"]),
         make("Resize", ["small", "none", "none", "sizes"], ["y"])],
    ),
    "sizes that are fed": graph(
        [POOLED, make("Cast", ["x"], ["sizes"], to=TensorProto.INT64),
         make("Resize", ["small", "none", "none", "sizes"], ["y"])],
    ),
    "an index past the end": graph(
        [POOLED, make("Shape", ["x"], ["s"]), make("Gather", ["s", "k"], ["sizes"]),
         make("Resize", ["small", "none", "none", "sizes"], ["y"])], k=[0, 1, 2, 9],
    ),
    "sizes of zero": graph(
        [POOLED, make("Shape", ["x"], ["s"]), make("Mul", ["s", "k"], ["sizes"]),
         make("Resize", ["small", "none", "none", "sizes"], ["y"])], k=[1, 1, 0, 0],
    ),
    "operators that do not fit together": graph([make("Conv", [], ["z"]), POOLED, *resize_like(large="z")]),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYS)
def test_what_is_no_whole_factor_everywhere_stays_as_it_is(name: str) -> None:
    assert fix_sizes(STAYS[name]) is STAYS[name]


def test_a_graph_within_a_graph_may_read_anything_and_stays() -> None:
    parts = take_apart(scrfd_model())
    inner = helper.make_graph(
        [make("Identity", ["sizes"], ["seen"])], "inner", [],
        [helper.make_tensor_value_info("seen", TensorProto.INT64, [4])],
    )  # fmt: skip
    branch = make("If", ["yes"], ["sizes_again"], then_branch=inner, else_branch=inner)
    parts = parts.replace(nodes=[*parts.nodes, branch], new_weights={"yes": np.array(True)})
    assert fix_sizes(parts) is parts


def test_a_detector_of_one_fixed_canvas_keeps_the_sizes_it_was_exported_with(tmp_path: Path) -> None:
    path = tmp_path / "det.onnx"
    path.write_bytes(scrfd_model(fixed_upsample=True, canvas_hw=(64, 64)))
    prepared = prepare_graph(path, scrfd_spec(), rewrites=[FIX_SIZES])
    assert prepared.rewrites == ()
    assert equal(path, prepared.model, pictures(1, (64, 64)))


def test_the_graph_that_is_rewritten_stays_as_it_was() -> None:
    parts = take_apart(scrfd_model())
    before = parts.assemble().SerializeToString()
    assert fix_sizes(parts) is not parts
    assert parts.assemble().SerializeToString() == before
