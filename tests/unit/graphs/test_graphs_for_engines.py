"""TensorRT takes what we prepare for it: real weights, both precisions, fed blobs or pixels."""

from __future__ import annotations

from pathlib import Path

import pytest

from jetface.graphs.half import Precision
from jetface.graphs.prepare import PreparedFiles, PreparedGraph, prepare_graph
from jetface.graphs.rewrite import EVERYWHERE
from jetface.registry import default_registry_dir, read_registry
from jetface.runtimes.engine_kit import profiles_for
from jetface.runtimes.tensorrt import Toolkit
from jetface.runtimes.tensorrt_build import build_engine
from tests.support.recipes import recipe_of
from tests.support.rtx_toolkit import rtx_toolkit

NAMES = ("det_500m", "scrfd_2.5g_bnkps", "w600k_mbf_dequantized", "mobilefacenet128", "starter_det", "starter_rec")
CANVAS_HW = (320, 320)


@pytest.fixture(scope="module")
def toolkit() -> Toolkit:
    """TensorRT for RTX: it parses and builds on any CPU it is published for."""
    return rtx_toolkit()


def prepare(folder: Path, shared_models: Path, name: str, precision: Precision, *, pixels: bool) -> PreparedGraph:
    spec = read_registry([default_registry_dir()])[name]
    weights = (default_registry_dir() if name.startswith("starter") else shared_models) / spec.file_name
    cache = PreparedFiles(folder)
    return prepare_graph(weights, spec, rewrites=EVERYWHERE, precision=precision, pixels=pixels, cache=cache)


@pytest.mark.parametrize("pixels", [False, True], ids=["blobs", "pixels"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_parsed_with_the_types_that_are_written_in_the_graph(
    toolkit: Toolkit, tmp_path: Path, shared_models: Path, name: str, precision: Precision, pixels: bool
) -> None:
    """Input and outputs are what the runner feeds and reads; inside, half is half."""
    trt = toolkit.trt
    graph = prepare(tmp_path, shared_models, name, precision, pixels=pixels)
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(toolkit.network_flags())
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(graph.model)), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    entry = network.get_input(0)
    assert (network.num_inputs, entry.dtype) == (1, trt.uint8 if pixels else trt.float32)
    height_px, width_px = graph.input_hw or (-1, -1)
    assert tuple(entry.shape) == ((-1, height_px, width_px, 3) if pixels else (-1, 3, height_px, width_px))
    assert {network.get_output(i).dtype for i in range(network.num_outputs)} == {trt.float32}
    convolved = {
        layer.get_output(0).dtype
        for layer in (network.get_layer(i) for i in range(network.num_layers))
        if layer.type == trt.LayerType.CONVOLUTION
    }
    assert convolved == {trt.float16 if precision == "fp16" else trt.float32}


@pytest.mark.parametrize("name", ["det_500m", "w600k_mbf_dequantized"])
def test_built_in_half_from_pixels(toolkit: Toolkit, tmp_path: Path, shared_models: Path, name: str) -> None:
    graph = prepare(tmp_path, shared_models, name, "fp16", pixels=True)
    assert isinstance(graph.model, Path)
    profiles = profiles_for([(*(graph.input_hw or CANVAS_HW), 3)], (1, 2))
    recipe = recipe_of(profiles, precision="fp16", optimization_level=0)
    assert build_engine(toolkit, recipe, graph.model, lambda _: None).plan
