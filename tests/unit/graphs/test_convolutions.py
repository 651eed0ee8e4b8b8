"""Convolutions in other words: the same answers, fewer idle channels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from jetface.graphs.parts import GraphParts, attribute, take_apart
from jetface.graphs.rewrite import BLOCK_CHANNELS, merge_siblings, widen_groups
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.tiny_onnx import model


def graph(convolutions: Sequence[dict[str, Any]], *, opset: int = 11) -> GraphParts:
    """Convolutions side by side over one input of as many channels as the first asks for."""
    rng = np.random.default_rng(0)
    weights: dict[str, NDArray[Any]] = {}
    nodes, outputs = [], []
    for index, convolution in enumerate(convolutions):
        group = convolution.get("group", 1)
        kernel_px = convolution.get("kernel_px", 3)
        shape = (convolution["channels"], convolution["inputs"] // group, kernel_px, kernel_px)
        weights[f"kernel{index}"] = rng.normal(0, 1, shape).astype(np.float32)
        inputs = ["data", f"kernel{index}"]
        if convolution.get("bias", True):
            weights[f"bias{index}"] = rng.normal(0, 1, convolution["channels"]).astype(np.float32)
            inputs.append(f"bias{index}")
        nodes.append(helper.make_node("Conv", inputs, [f"out{index}"], group=group, pads=[kernel_px // 2] * 4))
        outputs.append(helper.make_tensor_value_info(f"out{index}", TensorProto.FLOAT, ["N", None, None, None]))
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", convolutions[0]["inputs"], "H", "W"])
    parts = take_apart(model(nodes, weights, [data], outputs))
    assert parts.opset == 11
    if opset != 11:
        imports = (helper.make_opsetid("", opset),)
        parts = GraphParts(parts.nodes, parts.weights, parts.inputs, parts.outputs, imports, parts.ir_version)
    return parts


def answers(parts: GraphParts, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    assembled = parts.assemble()
    onnx.checker.check_model(assembled)
    (backend,) = open_onnx_backends(assembled.SerializeToString(), max_batch_size=len(batch))
    return backend.run(batch)


def noise(channels: int, side_px: int = 12) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(0, 1, (2, channels, side_px, side_px)).astype(np.float32)


def kinds(parts: GraphParts) -> list[str]:
    return [node.op_type for node in parts.nodes]


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("bias", [(True, True, True), (False, True, False), (False, False, False)])
def test_heads_become_one_convolution(opset: int, bias: tuple[bool, ...]) -> None:
    """Three heads of SCRFD: in any operator set, with and without a bias."""
    heads = [{"inputs": 16, "channels": channels, "bias": bias[i]} for i, channels in enumerate((2, 8, 20))]
    parts = graph(heads, opset=opset)
    merged = merge_siblings(parts)
    assert kinds(merged) == ["Conv", "Split"]
    for before, after in zip(answers(parts, noise(16)), answers(merged, noise(16)), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    "pair",
    [
        ({"inputs": 16, "channels": 16}, {"inputs": 16, "channels": 32}),  # whole blocks: nothing to gain
        ({"inputs": 16, "channels": 10}, {"inputs": 16, "channels": 10}),  # two blocks either way
        ({"inputs": 16, "channels": 2}, {"inputs": 16, "channels": 8, "kernel_px": 1}),
        ({"inputs": 16, "channels": 2, "group": 2}, {"inputs": 16, "channels": 8, "group": 2}),
    ],
)
def test_what_gains_nothing_or_differs_in_kind_stays(pair: Sequence[dict[str, Any]]) -> None:
    parts = graph(pair)
    assert merge_siblings(parts).nodes == parts.nodes


def test_a_kernel_that_is_computed_stays() -> None:
    parts = graph([{"inputs": 16, "channels": 2}, {"inputs": 16, "channels": 8}])
    computed = helper.make_node("Neg", ["kernel0"], ["computed"])
    first = helper.make_node("Conv", ["data", "computed", "bias0"], ["out0"], group=1, pads=[1, 1, 1, 1])
    changed = parts.replace(nodes=[computed, first, parts.nodes[1]])
    assert merge_siblings(changed).nodes == changed.nodes


@given(
    inputs_per_group=st.sampled_from([2, 4, 8]), outputs_per_group=st.sampled_from([1, 2, 4, 8]), seed=st.integers(0, 9)
)
def test_joined_groups_answer_the_same(inputs_per_group: int, outputs_per_group: int, seed: int) -> None:
    """Whatever the groups take and give, as long as they add up to blocks."""
    num_groups = 32
    shape = {
        "inputs": num_groups * inputs_per_group,
        "channels": num_groups * outputs_per_group,
        "group": num_groups,
        "bias": bool(seed % 2),
    }
    parts = graph([shape])
    widened = widen_groups(parts)
    (node,) = widened.nodes
    kernel = widened.constant(node.input[1])
    if outputs_per_group * (BLOCK_CHANNELS // inputs_per_group) % BLOCK_CHANNELS:
        assert widened.nodes == parts.nodes
    else:
        assert kernel is not None
        assert kernel.shape[1] == BLOCK_CHANNELS
        assert attribute(node, "group") == num_groups * inputs_per_group // BLOCK_CHANNELS
        assert attribute(node, "pads") == [1, 1, 1, 1]
    batch = noise(shape["inputs"], 6)
    np.testing.assert_allclose(answers(widened, batch)[0], answers(parts, batch)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "shape",
    [
        {"inputs": 32, "channels": 32, "group": 32},  # one channel each: there is a kernel for that
        {"inputs": 32, "channels": 32, "group": 2},  # whole blocks
        {"inputs": 32, "channels": 32},
        {"inputs": 6, "channels": 6, "group": 3},  # do not add up to a block
        {"inputs": 36, "channels": 36, "group": 12},  # groups of three do not fill a block
    ],
)
def test_groups_that_are_fine_or_do_not_fit_stay(shape: dict[str, Any]) -> None:
    parts = graph([shape])
    assert widen_groups(parts).nodes == parts.nodes


def test_real_detectors_lose_idle_channels(shared_models: Path) -> None:
    """The nine heads of each become three, and answer the same."""
    for name in ("det_500m", "scrfd_2.5g_bnkps"):
        parts = take_apart((shared_models / f"{name}.onnx").read_bytes())
        merged = merge_siblings(parts)
        assert kinds(parts).count("Conv") - kinds(merged).count("Conv") == 6
        picture = np.random.default_rng(2).uniform(-1, 1, (1, 3, 160, 160)).astype(np.float32)
        for before, after in zip(answers(parts, picture), answers(merged, picture), strict=True):
            np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_a_real_recognizer_has_its_group_of_two_widened(shared_models: Path) -> None:
    parts = take_apart((shared_models / "w600k_mbf_dequantized.onnx").read_bytes())
    widened = widen_groups(parts)
    assert widened.nodes != parts.nodes
    crops = np.random.default_rng(3).uniform(-1, 1, (2, 3, 112, 112)).astype(np.float32)
    before, after = answers(parts, crops)[0], answers(widened, crops)[0]
    assert np.abs(before - after).max() <= 1e-5 * np.abs(before).max()
