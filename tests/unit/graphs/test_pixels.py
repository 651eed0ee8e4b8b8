"""Graphs that take pixels answer as they did when they were fed blobs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from jetface.geometry.tensors import to_blob
from jetface.graphs.parts import take_apart
from jetface.graphs.pixels import take_pixels, to_batch
from jetface.graphs.prepare import PreparedGraph, prepare_graph
from jetface.heads.families import FAMILIES
from jetface.judging.drawings import draw_pictures
from jetface.registry import InputSpec, default_registry_dir, read_registry
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.tiny_onnx import arcface_model, arcface_spec, model, scrfd_model, scrfd_spec, yunet_model


def input_spec(mean: float, std: float, channel_order: str) -> InputSpec:
    return InputSpec.model_validate(
        {"height_px": 0, "width_px": 0, "mean": mean, "std": std, "channel_order": channel_order}
    )


@settings(max_examples=25)
@given(
    st.integers(1, 3),
    st.sampled_from([(127.5, 127.5), (127.5, 128.0), (0.0, 1.0), (0.0, 255.0), (103.94, 58.4)]),
    st.sampled_from(["rgb", "bgr"]),
    st.integers(0, 2**32 - 1),
)
def test_the_graph_makes_the_blob_itself(count: int, scale: tuple[float, float], channel_order: str, seed: int) -> None:
    """To the rounding of float32, for every normalization."""
    pictures = np.random.default_rng(seed).integers(0, 256, (count, 5, 7, 3), np.uint8)
    spec = input_spec(*scale, channel_order)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, "H", "W"]) for name in ("x", "y")]
    plain = take_apart(model([helper.make_node("Identity", ["x"], ["y"])], {}, ends[:1], ends[1:]))
    serialized = take_pixels(plain, spec).assemble().SerializeToString()
    (made,) = open_onnx_backends(serialized, max_batch_size=3)[0].run(pictures)
    expected = to_blob(pictures, mean=spec.mean, std=spec.std, channel_order=spec.channel_order)
    np.testing.assert_allclose(made, expected, rtol=1e-6, atol=1e-6)


def test_the_first_node_casts_and_alone_reads_the_input() -> None:
    """TensorRT takes no other network with 8-bit input."""
    parts = take_pixels(take_apart(scrfd_model()), scrfd_spec().input)
    readers = [node for node in parts.nodes if parts.inputs[0].name in node.input]
    assert [node.op_type for node in readers] == ["Cast"]
    assert readers[0] == parts.nodes[0]


@pytest.mark.parametrize("channel_order", ["rgb", "bgr"])
def test_a_convolution_takes_channels_in_any_order_and_of_any_spread(channel_order: str) -> None:
    """Instead of nodes that put them right, and with equal answers."""
    kernels = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None, "H", "W"]) for name in ("x", "y")]
    ends[0].type.tensor_type.shape.dim[1].dim_value = 3
    convolution = helper.make_node("Conv", ["x", "kernels"], ["y"], pads=[1] * 4)
    plain = take_apart(model([convolution], {"kernels": kernels}, ends[:1], ends[1:]))
    spec = input_spec(127.5, 128.0, channel_order)
    taking = take_pixels(plain, spec)
    assert [node.op_type for node in taking.nodes] == ["Cast", "Sub", "Transpose", "Conv"]
    pictures = np.random.default_rng(1).integers(0, 256, (2, 6, 8, 3), np.uint8)
    blob = to_blob(pictures, mean=spec.mean, std=spec.std, channel_order=spec.channel_order)
    batches = ((plain, blob), (taking, pictures))
    answers = [
        open_onnx_backends(parts.assemble().SerializeToString(), max_batch_size=2)[0].run(batch)[0]
        for parts, batch in batches
    ]
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-5, atol=1e-5)


def test_a_batch_is_what_the_graph_takes() -> None:
    """Pictures that are taken as they are stay where they are."""
    pictures = [np.zeros((8, 8, 3), np.uint8) for _ in range(2)]
    spec = input_spec(127.5, 127.5, "rgb")
    for taken, picture in zip(to_batch(pictures, spec, takes_pixels=True), pictures, strict=True):
        assert taken is picture
    blob = to_batch(pictures, spec, takes_pixels=False)
    assert isinstance(blob, np.ndarray)
    assert blob.shape == (2, 3, 8, 8)


def both(path: Path, name: str) -> list[PreparedGraph]:
    spec = read_registry([default_registry_dir()])[name]
    return [prepare_graph(path, spec, pixels=pixels) for pixels in (False, True)]


def test_real_detector_finds_the_same_faces(shared_models: Path) -> None:
    spec = read_registry([default_registry_dir()])["det_500m"]
    picture = draw_pictures().pictures[-1]
    canvas = np.ascontiguousarray(picture[:192, :608])
    outputs = []
    for graph in both(shared_models / "det_500m.onnx", "det_500m"):
        assert graph.input_hw is None
        batch = to_batch([canvas, canvas[:, ::-1]], spec.input, takes_pixels=graph.takes_pixels)
        outputs.append(open_onnx_backends(graph.model, max_batch_size=2)[0].run(batch))
    for plain, own in zip(*outputs, strict=True):
        np.testing.assert_allclose(own, plain, rtol=1e-4, atol=1e-4)


def test_real_recognizer_gives_the_same_embeddings(shared_models: Path) -> None:
    spec = read_registry([default_registry_dir()])["w600k_mbf_dequantized"]
    crops = draw_pictures().crops[:3]
    answers = []
    for graph in both(shared_models / spec.file_name, spec.name):
        (backend,) = open_onnx_backends(graph.model, max_batch_size=2)
        head = FAMILIES[spec.family].probe(spec, backend, graph.input_hw, takes_pixels=graph.takes_pixels).head
        answers.append(np.stack([embedding.vector for embedding in head.run(backend, crops)]))
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-5)


@pytest.mark.parametrize("family", ["arcface", "scrfd", "yunet"])
def test_every_kind_of_head_feeds_pixels(tmp_path: Path, family: str) -> None:
    spec, serialized = {
        "arcface": (arcface_spec(), arcface_model()),
        "scrfd": (scrfd_spec(), scrfd_model(batch="N")),
        "yunet": (
            scrfd_spec(canvas_hw=(64, 96)).model_copy(
                update={
                    "family": "yunet",
                    "input": InputSpec(height_px=64, width_px=96, mean=0, std=1, channel_order="bgr"),
                }
            ),
            yunet_model(),
        ),
    }[family]
    path = tmp_path / "model.onnx"
    path.write_bytes(serialized)
    graph = prepare_graph(path, spec, pixels=True)
    (backend,) = open_onnx_backends(graph.model, max_batch_size=2)
    probed = FAMILIES[spec.family].probe(spec, backend, graph.input_hw, takes_pixels=True)
    assert len(probed.head.run(backend, [probed.probe_item] * 3)) == 3
