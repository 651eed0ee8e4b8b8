"""OpenVINO: loaded late, precise where asked, bounded whatever the canvas."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest

from jetface.errors import BackendUnavailableError, InferenceError, ModelFileError
from jetface.graphs.prepare import PreparedGraph, prepare_graph
from jetface.registry import default_registry_dir, read_registry
from jetface.runtimes.onnx import open_onnx_backends
from jetface.runtimes.openvino import (
    Graphs,
    OpenVinoBackend,
    has_bf16,
    is_installed,
    load_runtime,
    open_openvino_backends,
)
from tests.support.tiny_onnx import arcface_model, arcface_spec, scrfd_model, scrfd_spec

_MIB = 2**20


@pytest.fixture(scope="module")
def core() -> Any:
    return load_runtime()


@pytest.fixture
def detector(tmp_path: Path) -> PreparedGraph:
    """A detector of free canvas."""
    path = tmp_path / "detector.onnx"
    path.write_bytes(scrfd_model())
    return prepare_graph(path, scrfd_spec())


def canvas(height_px: int, width_px: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 3, height_px, width_px)).astype(np.float32)


def test_it_is_known_to_be_installed() -> None:
    assert is_installed()


class _Core:
    """A runtime on a machine it does not support."""

    available_devices = ("GPU.0",)


class _BrokenCore:
    def __init__(self) -> None:
        raise RuntimeError("plugins.xml")


@pytest.mark.parametrize(
    ("core_type", "message"), [(_Core, "finds no CPU it supports"), (_BrokenCore, "does not start")]
)
def test_a_runtime_that_cannot_be_used_says_why(monkeypatch: pytest.MonkeyPatch, core_type: type, message: str) -> None:
    monkeypatch.setattr("openvino.Core", core_type)
    with pytest.raises(BackendUnavailableError, match=message):
        load_runtime()


def test_a_model_opens_from_bytes_and_from_a_file(core: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(arcface_model())
    face = canvas(112, 112)
    one, other = (open_openvino_backends(core, model)[0].run(face)[0] for model in (path, arcface_model()))
    np.testing.assert_array_equal(one, other)


def test_a_model_the_runtime_cannot_read_is_a_model_error(core: Any, tmp_path: Path) -> None:
    built = onnx.load_model_from_string(arcface_model())
    built.graph.node[0].op_type = "NoSuchOperator"
    for model in (b"junk", built.SerializeToString(), tmp_path / "missing.onnx"):
        with pytest.raises(ModelFileError) as caught:
            open_openvino_backends(core, model)
        assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("hw", [(64, 64), (96, 32)])
def test_answers_are_those_of_onnx_runtime(core: Any, detector: PreparedGraph, hw: tuple[int, int]) -> None:
    (ours,) = open_openvino_backends(core, detector.model)
    (theirs,) = open_onnx_backends(detector.model)
    for mine, other in zip(ours.run(canvas(*hw)), theirs.run(canvas(*hw)), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)


def test_f32_is_f32_and_bf16_is_close(core: Any, shared_models: Path) -> None:
    """Left alone, OpenVINO takes bf16 where the CPU has it: the default here must not."""
    if not has_bf16(core):
        pytest.skip("this CPU has no bf16")
    spec = read_registry([default_registry_dir()])["w600k_mbf_dequantized"]
    model = prepare_graph(shared_models / spec.file_name, spec).model
    face = canvas(112, 112)
    (expected,) = open_onnx_backends(model)[0].run(face)
    (exact,) = open_openvino_backends(core, model)[0].run(face)
    (reduced,) = open_openvino_backends(core, model, precision="bf16")[0].run(face)
    np.testing.assert_allclose(exact, expected, atol=1e-3)
    assert np.abs(reduced - expected).max() > 1e-3
    cosine = float(reduced.ravel() @ expected.ravel() / np.linalg.norm(reduced) / np.linalg.norm(expected))
    assert 0.99 < cosine < 1


def test_a_run_that_fails_inside_is_an_inference_error_and_the_backend_lives_on(core: Any) -> None:
    """Channels are free in no model of ours, so the failure has to be made: a request that fails once."""
    (backend,) = open_openvino_backends(core, arcface_model())

    class Failing:
        def infer(self, *_args: object, **_kwargs: object) -> None:
            raise RuntimeError("oneDNN")

    failing = OpenVinoBackend(
        Graphs(Failing(), Failing, most=1), dtype=np.dtype(np.float32), lengths=[3, 112, 112], max_batch_size=1
    )
    for _ in range(2):
        with pytest.raises(InferenceError, match="could not be run"):
            failing.run(canvas(112, 112))
    assert backend.run(canvas(112, 112))[0].shape == (1, 4)


class TestGraphs:
    def test_a_run_takes_the_graph_that_had_its_size_last(self) -> None:
        graphs = Graphs("first", iter(["second"]).__next__, most=2)
        for shape, name in (((1,), "first"), ((2,), "second"), ((1,), "first"), ((2,), "second"), ((1,), "first")):
            with graphs.taken(shape) as request:
                assert request == name

    def test_a_new_size_takes_the_graph_unused_longest_once_all_are_made(self) -> None:
        graphs = Graphs("first", iter(["second"]).__next__, most=2)
        for shape, name in (((1,), "first"), ((2,), "second"), ((3,), "first"), ((4,), "second"), ((4,), "second")):
            with graphs.taken(shape) as request:
                assert request == name

    def test_runs_at_the_same_time_have_graphs_of_their_own(self) -> None:
        graphs = Graphs("first", iter(["second"]).__next__, most=2)
        with graphs.taken((1,)) as one, graphs.taken((1,)) as other:
            assert {one, other} == {"first", "second"}

    def test_a_graph_that_could_not_be_made_is_tried_again(self) -> None:
        results: Iterator[Exception | str] = iter([ModelFileError("no memory"), "second"])

        def create() -> str:
            result = next(results)
            if isinstance(result, Exception):
                raise result
            return result

        graphs = Graphs("first", create, most=2)
        with graphs.taken((1,)):
            with pytest.raises(ModelFileError), graphs.taken((2,)):
                pass
            with graphs.taken((2,)) as request:
                assert request == "second"


def test_lanes_share_their_graphs_and_make_no_more_than_they_need(core: Any, detector: PreparedGraph) -> None:
    lanes = open_openvino_backends(core, detector.model, num_lanes=2)
    created: list[object] = []
    graphs = lanes[0]._graphs
    assert graphs is not None
    assert lanes[1]._graphs is graphs
    create = graphs._create

    def create_counted() -> object:
        created.append(None)
        return create()

    graphs._create = create_counted
    for side_px in range(32, 32 * 12, 32):
        lanes[side_px % 2].run(canvas(side_px, side_px))
    assert len(created) == 3


def test_memory_is_bounded_whatever_the_canvas(core: Any, shared_models: Path) -> None:
    """After one round of a hundred sizes, another round of a hundred others adds little."""
    spec = read_registry([default_registry_dir()])["det_500m"]
    (backend,) = open_openvino_backends(core, prepare_graph(shared_models / "det_500m.onnx", spec).model)
    order = np.random.default_rng(0).permutation(400)
    sizes = [(32 * (1 + index // 20), 32 * (1 + index % 20)) for index in order]
    backend.run(canvas(640, 640))
    for hw in sizes[:100]:
        backend.run(canvas(*hw))
    before = psutil.Process().memory_info().rss
    for hw in sizes[100:200]:
        backend.run(canvas(*hw))
    assert psutil.Process().memory_info().rss - before < 48 * _MIB


def test_closing_the_last_lane_frees_the_memory(core: Any, shared_models: Path) -> None:
    spec = read_registry([default_registry_dir()])["w600k_mbf_dequantized"]
    model = prepare_graph(shared_models / spec.file_name, spec).model

    def open_run_close() -> int:
        lanes = open_openvino_backends(core, model, num_lanes=2)
        threads = [threading.Thread(target=lane.run, args=(canvas(112, 112),)) for lane in lanes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for lane in lanes:
            lane.close()
        return int(psutil.Process().memory_info().rss)

    for _ in range(3):
        settled = open_run_close()
    for _ in range(5):
        last = open_run_close()
    assert last - settled < 16 * _MIB


def test_a_graph_of_fixed_size_is_compiled_once_for_all_lanes(core: Any, tmp_path: Path) -> None:
    """A stream each, weights shared."""
    path = tmp_path / "recognizer.onnx"
    path.write_bytes(arcface_model())
    lanes = open_openvino_backends(core, prepare_graph(path, arcface_spec()).model, num_lanes=3)
    graphs = lanes[0]._graphs
    assert graphs is not None
    assert graphs._num_to_create == 2
