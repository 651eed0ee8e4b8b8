"""How an engine is run: what is allocated, copied, captured, refused and given back."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from structlog.testing import capture_logs

from jetface.errors import EngineLoadError, InferenceError
from jetface.runtimes import tensorrt as runner
from jetface.runtimes.engine_kit import profiles_for
from jetface.runtimes.tensorrt import TensorrtBackend, Toolkit, open_engine
from jetface.runtimes.tensorrt_build import build_engine
from tests.support.fake_cuda import FakeCuda
from tests.support.recipes import recipe_of
from tests.support.stand_in_trt import StandInTrt, make_plan
from tests.support.tiny_onnx import EMBEDDING_LENGTH, arcface_model, model

MAX_BATCH = 8
FACE_BYTES = 3 * 112 * 112 * 4
ANSWER_BYTES = EMBEDDING_LENGTH * 4


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def trt(cuda: FakeCuda) -> StandInTrt:
    return StandInTrt(cuda)


def recognizer_plan() -> bytes:
    faces = (3, 112, 112)
    return make_plan(arcface_model(declared_length="length"), [((1, *faces), (4, *faces), (MAX_BATCH, *faces))])


@pytest.fixture
def backend(trt: StandInTrt, cuda: FakeCuda) -> Iterator[TensorrtBackend]:
    opened = open_engine(trt, recognizer_plan(), max_batch_size=MAX_BATCH, cuda=cuda)
    yield opened
    opened.close()
    assert not cuda.held


def batch_of(num_items: int) -> np.ndarray:
    return np.random.default_rng(num_items).standard_normal((num_items, 3, 112, 112)).astype(np.float32)


def test_only_the_rows_that_are_used_are_copied(backend: TensorrtBackend, cuda: FakeCuda) -> None:
    for num_items in (3, 1, 8):
        before = cuda.bytes_to_device, cuda.bytes_to_host
        backend.run(batch_of(num_items))
        after = cuda.bytes_to_device, cuda.bytes_to_host
        assert after == (before[0] + num_items * FACE_BYTES, before[1] + num_items * ANSWER_BYTES)


def test_buffers_are_allocated_once_a_bucket(backend: TensorrtBackend, cuda: FakeCuda, trt: StandInTrt) -> None:
    for num_items in (5, 6, 7, 8, 3, 4, 1, 2):
        backend.run(batch_of(num_items))
    num_mallocs = cuda.calls["malloc"]
    assert trt.num_contexts == 4  # 8, 4, 1 and 2
    assert num_mallocs == 1 + 2 * 4  # scratch, and input and output of each
    for num_items in range(1, 9):
        backend.run(batch_of(num_items))
    assert cuda.calls["malloc"] == num_mallocs
    assert trt.num_contexts == 4


def test_a_gpu_that_shares_memory_copies_nothing(trt: StandInTrt, cuda: FakeCuda) -> None:
    cuda.is_integrated = True
    backend = open_engine(trt, recognizer_plan(), max_batch_size=MAX_BATCH, cuda=cuda)
    first = backend.run(batch_of(3))[0].copy()
    np.testing.assert_array_equal(backend.run(batch_of(3))[0], first)
    assert cuda.bytes_to_device == cuda.bytes_to_host == 0
    backend.close()
    assert not cuda.held


def test_kernels_are_captured_once_a_bucket_and_answers_stay_the_same(backend: TensorrtBackend, cuda: FakeCuda) -> None:
    first = [backend.run(batch_of(num_items))[0].copy() for num_items in (1, 2)]
    assert (cuda.calls["capture_begin"], cuda.calls["graph_launch"]) == (2, 0)
    again = [backend.run(batch_of(num_items))[0].copy() for num_items in (1, 2)]
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate(first))
    np.testing.assert_array_equal(backend.run(batch_of(2)[::-1].copy())[0], first[1][::-1])
    assert (cuda.calls["capture_begin"], cuda.calls["graph_launch"]) == (2, 3)


@pytest.mark.parametrize("by_cuda", [False, True])
def test_what_cannot_be_captured_runs_on_and_says_so_once(
    backend: TensorrtBackend, trt: StandInTrt, cuda: FakeCuda, by_cuda: bool
) -> None:
    (cuda.failing if by_cuda else trt.refusing).add("capture_begin" if by_cuda else "capture")
    with capture_logs() as logs:
        answers = [backend.run(batch_of(2))[0].copy() for _ in range(3)]
    np.testing.assert_array_equal(answers[0], answers[2])
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert cuda.calls["capture_begin"] == 1
    assert not cuda.calls["graph_launch"]


def test_shapes_come_and_go_within_bounds(trt: StandInTrt, cuda: FakeCuda) -> None:
    serialized = model(
        [helper.make_node("Relu", ["x"], ["y"])],
        {},
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, "H", "W"])],
    )
    small, large = ((1, 3, 1, 1), (2, 3, 8, 8), (2, 3, 32, 32)), ((1, 3, 64, 64), (1, 3, 64, 64), (1, 3, 64, 64))
    backend = open_engine(trt, make_plan(serialized, [small, large]), max_batch_size=4, cuda=cuda)
    assert backend.max_batch_size == 2
    most = 16
    for side in (*range(1, 33), 64):
        blob = np.full((1, 3, side, side), -1, np.float32)
        blob[0, 0] = side
        np.testing.assert_array_equal(backend.run(blob)[0], np.maximum(blob, 0))
    assert cuda.held == {
        "device": 1 + 2 * most,
        "host": 2 * most,
        "stream": 1,
        "instance": most,
    }
    with pytest.raises(InferenceError, match="does not take"):
        backend.run(np.zeros((2, 3, 64, 64), np.float32))  # the profile of that size takes one at a time
    backend.close()
    assert not cuda.held


def test_pixels_go_up_as_they_are_where_the_graph_takes_them(trt: StandInTrt, cuda: FakeCuda) -> None:
    serialized = model(
        [helper.make_node("Cast", ["pixels"], ["y"], to=TensorProto.FLOAT)],
        {},
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8, 8, 3])],
    )
    shape = (2, 8, 8, 3)
    backend = open_engine(trt, make_plan(serialized, [((1, 8, 8, 3), shape, shape)]), max_batch_size=2, cuda=cuda)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(backend.run(pixels)[0], pixels.astype(np.float32))
    assert cuda.bytes_to_device == pixels.nbytes
    with pytest.raises(InferenceError, match="float32"):
        backend.run(pixels.astype(np.float32))
    backend.close()


@pytest.mark.parametrize(
    "refused",
    ["create_execution_context", "set_input_shape", "set_tensor_address", "get_tensor_shape", "execute_async_v3"],
)
def test_what_tensorrt_refuses_is_an_error_that_holds_nothing(
    backend: TensorrtBackend, trt: StandInTrt, cuda: FakeCuda, refused: str
) -> None:
    trt.refusing = {refused}
    before = cuda.held
    with pytest.raises(InferenceError):
        backend.run(batch_of(1))
    assert cuda.held == before
    trt.refusing = set()
    assert backend.run(batch_of(1))[0].shape == (1, EMBEDDING_LENGTH)


@pytest.mark.parametrize("failing", ["malloc", "host_alloc", "copy_to_device", "copy_to_host", "stream_synchronize"])
def test_what_cuda_cannot_do_is_an_error_that_holds_nothing(
    backend: TensorrtBackend, cuda: FakeCuda, failing: str
) -> None:
    before = cuda.held
    cuda.failing = {failing}
    with pytest.raises(InferenceError):
        backend.run(batch_of(1))
    cuda.failing = set()
    assert cuda.held == before
    assert backend.run(batch_of(1))[0].shape == (1, EMBEDDING_LENGTH)


def test_where_there_is_no_memory_for_a_graph_the_run_is_made_without_it(
    backend: TensorrtBackend, cuda: FakeCuda
) -> None:
    expected = backend.run(batch_of(1))[0].copy()
    cuda.failing = {"graph_launch"}
    np.testing.assert_allclose(backend.run(batch_of(1))[0], expected, rtol=1e-5)


@pytest.mark.parametrize("num_left", [0, 1])
def test_a_device_that_fills_up_amid_a_bucket_gives_back_what_it_gave(
    trt: StandInTrt, cuda: FakeCuda, num_left: int
) -> None:
    """Input and outputs are an allocation each."""
    backend = open_engine(trt, recognizer_plan(), max_batch_size=MAX_BATCH, cuda=cuda)
    before = cuda.held
    cuda.mallocs_left = num_left
    with pytest.raises(InferenceError):
        backend.run(batch_of(1))
    assert cuda.held == before
    cuda.mallocs_left = None
    assert backend.run(batch_of(1))[0].shape == (1, EMBEDDING_LENGTH)
    backend.close()


@pytest.mark.parametrize("plan", [b"", b"garbage", recognizer_plan()[5:]])
def test_a_damaged_plan_is_not_loaded(trt: StandInTrt, cuda: FakeCuda, plan: bytes) -> None:
    with pytest.raises(EngineLoadError, match="damaged"):
        open_engine(trt, plan, max_batch_size=1, cuda=cuda)
    assert not cuda.held


def test_a_tensorrt_that_does_not_start_loads_nothing(trt: StandInTrt, cuda: FakeCuda) -> None:
    trt.refusing = {"Runtime"}
    with pytest.raises(EngineLoadError, match="cannot load"):
        open_engine(trt, recognizer_plan(), max_batch_size=1, cuda=cuda)


@pytest.mark.parametrize("failing", ["stream_create", "malloc", "properties"])
def test_an_engine_without_room_on_the_device_is_not_loaded(trt: StandInTrt, cuda: FakeCuda, failing: str) -> None:
    cuda.failing = {failing}
    with pytest.raises(EngineLoadError, match="no room"):
        open_engine(trt, recognizer_plan(), max_batch_size=1, cuda=cuda)
    assert not cuda.held


@pytest.mark.parametrize("is_damaged", [False, True])
def test_the_real_tensorrt_refuses_in_the_same_way(
    toolkit: Toolkit, cuda: FakeCuda, tmp_path: Path, is_damaged: bool
) -> None:
    """Without a GPU it loads no plan, and with one it would not load one that is cut short."""
    if not is_damaged and Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU here, which may load it")
    graph = tmp_path / "graph.onnx"
    graph.write_bytes(arcface_model(declared_length="length"))
    recipe = recipe_of(profiles_for([(3, 112, 112)], (1,)))
    plan = build_engine(toolkit, recipe, graph, lambda _: None).plan
    with pytest.raises(EngineLoadError):
        open_engine(
            toolkit.trt,
            plan[: len(plan) // 2] if is_damaged else plan,
            max_batch_size=1,
            cuda=cuda,
            logger=toolkit.relay.logger,
        )
    assert not cuda.held


def test_an_engine_of_two_inputs_is_not_ours(trt: StandInTrt, cuda: FakeCuda) -> None:
    value = helper.make_tensor_value_info
    serialized = model(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        {},
        [value("a", TensorProto.FLOAT, ["N"]), value("b", TensorProto.FLOAT, ["N"])],
        [value("y", TensorProto.FLOAT, ["N"])],
    )
    with pytest.raises(EngineLoadError, match="one input"):
        open_engine(trt, make_plan(serialized, [((1,), (1,), (1,))]), max_batch_size=1, cuda=cuda)


def names_used(function_names: set[str]) -> set[str]:
    """Return the attributes that the runner asks objects of these names for."""
    tree = ast.parse(inspect.getsource(runner))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value).removeprefix("self.").strip("_") in function_names
    }


def test_all_that_is_asked_of_tensorrt_exists_in_the_real_one() -> None:
    """TensorRT for RTX has TensorRT's Python interface and is here; what 10.3 has was read from its own wheel."""
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed here")
    module = names_used({"trt"})
    assert {"Runtime", "Logger", "TensorIOMode", "nptype", "ExecutionContextAllocationStrategy"} <= module
    assert all(hasattr(trt, name) for name in module)
    assert hasattr(trt.TensorIOMode, "INPUT")
    assert hasattr(trt.ExecutionContextAllocationStrategy, "USER_MANAGED")
    own = {"input_name", "input_dtype", "outputs", "profile_of", "cuda", "stream", "is_integrated", "context", "close"}
    engine, context = names_used({"engine"}) - own, names_used({"context"})
    assert {"create_execution_context", "device_memory_size_v2", "num_optimization_profiles"} <= engine
    assert {"set_device_memory", "set_input_shape", "set_tensor_address", "execute_async_v3"} <= context
    assert [name for name in engine if not hasattr(trt.ICudaEngine, name)] == []
    assert [name for name in context if not hasattr(trt.IExecutionContext, name)] == []
    assert hasattr(trt.Runtime, "deserialize_cuda_engine")
