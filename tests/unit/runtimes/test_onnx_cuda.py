"""All of the CUDA provider's backend but CUDA itself: the same code on the CPU provider and a CUDA of host memory."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from structlog.testing import capture_logs

from jetface.errors import BackendUnavailableError, DeviceMemoryError, InferenceError, ModelFileError
from jetface.runtimes.onnx import open_session
from jetface.runtimes.onnx_cuda import CudaSetup, OnnxCudaBackend, can_tell, may_prefer_nhwc, open_cuda_backend
from tests.support.fake_cuda import FakeCuda
from tests.support.tiny_onnx import EMBEDDING_LENGTH, arcface_model, model

MAX_BATCH = 8
FACE_BYTES = 3 * 112 * 112 * 4
ANSWER_BYTES = EMBEDDING_LENGTH * 4


@dataclass(frozen=True, slots=True)
class Node:
    """A node as ONNX Runtime tells of it."""

    op_type: str
    name: str


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Nodes that went to another provider, as ONNX Runtime tells of them."""

    nodes: Sequence[Node]
    ep_name: str = "elsewhere"

    def get_nodes(self) -> Sequence[Node]:
        """Return them."""
        return self.nodes


class RecordingSession:
    """A session that notes which CUDA graph each run is for; `failing` numbers fail."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.elsewhere: Sequence[Node] = ()
        """Nodes it says another provider runs."""
        self.graphs: list[tuple[int, str]] = []
        """Thread and number, run by run."""
        self.failing: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def get_provider_graph_assignment_info(self) -> Sequence[Any]:
        """Tell what the session does, and of those elsewhere."""
        return [*self.session.get_provider_graph_assignment_info(), Elsewhere(self.elsewhere)]

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        """Run as the session does."""
        graph = options.get_run_config_entry("gpu_graph_id")
        self.graphs.append((threading.get_ident(), graph))
        if graph in self.failing:
            raise RuntimeError("capture failed")
        self.session.run_with_iobinding(binding, options)


class Opening:
    """Opens sessions that are recorded."""

    def __init__(self, *, refuses_graphs: bool = False, num_elsewhere: int = 0) -> None:
        self.refuses_graphs = refuses_graphs
        self.num_elsewhere = num_elsewhere
        self.num_calls = 0
        self.opened: list[RecordingSession] = []

    @property
    def last(self) -> RecordingSession:
        """The session opened last."""
        return self.opened[-1]

    def __call__(
        self,
        model: bytes | Path,
        providers: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        num_threads: int,
        profile_prefix: Path | None,
    ) -> Any:
        """Open a session as `open_session` does."""
        self.num_calls += 1
        if self.refuses_graphs and self.num_calls == 1:
            raise ModelFileError("ONNX Runtime cannot open the model.") from RuntimeError(
                "not all nodes are on the GPU"
            )
        session = open_session(model, providers, num_threads=num_threads, profile_prefix=profile_prefix)
        self.opened.append(RecordingSession(session))
        self.last.elsewhere = [Node("Shape", f"Shape_{index:02}") for index in range(self.num_elsewhere)]
        return self.last


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda(is_eager=True)


@pytest.fixture
def opening() -> Opening:
    return Opening()


@pytest.fixture
def backend(cuda: FakeCuda, opening: Opening) -> Iterator[OnnxCudaBackend]:
    opened = open_recognizer(cuda, opening)
    yield opened
    opened.close()
    assert not cuda.held


def open_recognizer(cuda: FakeCuda, opening: Opening, **setup: Any) -> OnnxCudaBackend:
    shared = CudaSetup(cuda=cuda, device="cpu", **setup)
    return open_cuda_backend(recognizer(), setup=shared, max_batch_size=MAX_BATCH, open_session=opening)


def recognizer() -> bytes:
    """Return a graph as it is prepared: its output says nothing of the batch."""
    built = onnx.load_model_from_string(arcface_model())
    built.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    return bytes(built.SerializeToString())


def relu_model() -> bytes:
    value = helper.make_tensor_value_info
    shape: list[str | int | None] = ["N", 3, "H", "W"]
    return model(
        [helper.make_node("Relu", ["x"], ["y"])],
        {},
        [value("x", TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, shape)],
    )


def batch_of(num_items: int) -> np.ndarray:
    return np.random.default_rng(num_items).standard_normal((num_items, 3, 112, 112)).astype(np.float32)


def test_only_the_rows_that_are_used_are_copied(backend: OnnxCudaBackend, cuda: FakeCuda) -> None:
    for num_items in (3, 4, 1, 8, 5):
        backend.run(batch_of(num_items))
    for num_items in (3, 1, 8):
        before = cuda.bytes_to_device, cuda.bytes_to_host
        backend.run(batch_of(num_items))
        after = cuda.bytes_to_device, cuda.bytes_to_host
        assert after == (before[0] + num_items * FACE_BYTES, before[1] + num_items * ANSWER_BYTES)


def test_buffers_are_allocated_once_a_bucket(backend: OnnxCudaBackend, cuda: FakeCuda) -> None:
    for num_items in (5, 3, 1, 2):
        backend.run(batch_of(num_items))
    assert cuda.calls["malloc"] == 2 * 4
    for num_items in range(1, 9):
        backend.run(batch_of(num_items))
    assert cuda.calls["malloc"] == 2 * 4


def test_the_second_run_of_a_bucket_captures_and_each_bucket_has_a_session_of_its_own(
    backend: OnnxCudaBackend, opening: Opening
) -> None:
    for num_items in (1, 2, 1, 2, 1):
        backend.run(batch_of(num_items))
    # The first run of each allocates: once to learn the shapes of the outputs, once on buffers of our own.
    runs = [[graph for _, graph in session.graphs] for session in opening.opened]
    assert runs == [["-1", "-1", "1", "1"], ["-1", "-1", "1"]]


def test_a_capture_that_fails_costs_no_answer_and_is_not_tried_again(
    backend: OnnxCudaBackend, opening: Opening
) -> None:
    expected = backend.run(batch_of(2))[0].copy()
    opening.last.failing = {"1"}
    with capture_logs() as logs:
        for _ in range(3):
            np.testing.assert_array_equal(backend.run(batch_of(2))[0], expected)
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert [graph for _, graph in opening.last.graphs].count("1") == 1


def test_a_run_that_fails_is_an_error_and_the_next_one_starts_anew(
    backend: OnnxCudaBackend, cuda: FakeCuda, opening: Opening
) -> None:
    before = cuda.held
    backend.run(batch_of(1))
    opening.last.failing = {"-1", "1"}
    with pytest.raises(InferenceError):
        backend.run(batch_of(1))
    assert cuda.held == before
    opening.last.failing = set()
    assert backend.run(batch_of(1))[0].shape == (1, EMBEDDING_LENGTH)


@pytest.mark.parametrize("failing", ["malloc", "host_alloc", "copy_to_device", "copy_to_host", "stream_synchronize"])
def test_what_cuda_cannot_do_is_an_error_that_holds_nothing(
    backend: OnnxCudaBackend, cuda: FakeCuda, failing: str
) -> None:
    before = cuda.held
    cuda.failing = {failing}
    with pytest.raises(InferenceError):
        backend.run(batch_of(1))
    cuda.failing = set()
    assert cuda.held == before
    assert backend.run(batch_of(1))[0].shape == (1, EMBEDDING_LENGTH)


@pytest.mark.parametrize("num_left", [0, 1])
def test_a_device_that_fills_up_amid_a_bucket_gives_back_what_it_gave(
    backend: OnnxCudaBackend, cuda: FakeCuda, num_left: int
) -> None:
    """Input and outputs are an allocation each."""
    before = cuda.held
    cuda.mallocs_left = num_left
    with pytest.raises(InferenceError):
        backend.run(batch_of(1))
    assert cuda.held == before
    cuda.mallocs_left = None
    assert backend.run(batch_of(1))[0].shape == (1, EMBEDDING_LENGTH)


def test_a_batch_size_for_which_there_is_no_room_shares_a_larger_one(
    backend: OnnxCudaBackend, cuda: FakeCuda, opening: Opening
) -> None:
    """As on a small device: each batch size has weights of its own there."""
    expected = [backend.run(batch_of(8))[0].copy() for _ in range(2)][1]
    held = cuda.held
    cuda.failing = {"malloc"}
    with capture_logs() as logs:
        answers = [backend.run(batch_of(num_items))[0].copy() for num_items in (3, 1, 2, 3)]
    assert [(entry["event"], entry["shape"][0]) for entry in logs] == [
        ("batch size shares the buffers of a larger one", bucket) for bucket in (4, 1, 2)
    ]
    assert cuda.held == held
    assert backend.num_shared == 3
    cuda.failing = set()
    for num_items, answer in zip((3, 1, 2, 3), answers, strict=True):
        np.testing.assert_allclose(answer, backend.run(batch_of(num_items))[0], rtol=1e-5)
    np.testing.assert_array_equal(backend.run(batch_of(8))[0], expected)
    assert len({graph for session in opening.opened for _, graph in session.graphs}) == 2


def test_a_run_without_memory_is_tried_in_halves_and_answers_the_same(backend: OnnxCudaBackend, cuda: FakeCuda) -> None:
    expected = backend.run(batch_of(7))[0].copy()
    backend._let_go()
    cuda.largest_bytes = 4 * FACE_BYTES
    with capture_logs() as logs:
        answers = [backend.run(list(batch_of(7)) if as_items else batch_of(7))[0] for as_items in (False, True)]
    for answer in answers:
        np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6)
    assert [entry["event"] for entry in logs] == ["device is out of memory: batch is run in halves"] * 2


@pytest.mark.parametrize("num_items", [1, 5])
def test_where_halves_find_no_memory_either_the_run_fails_and_the_session_is_opened_anew(
    backend: OnnxCudaBackend, opening: Opening, cuda: FakeCuda, num_items: int
) -> None:
    cuda.largest_bytes = 1
    with pytest.raises(DeviceMemoryError) as caught:
        backend.run(batch_of(num_items))
    assert caught.value.retry_after_s == 1
    assert set(cuda.held) == {"stream"}
    num_opened = len(opening.opened)
    cuda.largest_bytes = 2**30
    assert backend.run(batch_of(num_items))[0].shape == (num_items, EMBEDDING_LENGTH)
    assert len(opening.opened) == num_opened + 1


def test_another_thread_captures_for_itself(backend: OnnxCudaBackend, opening: Opening) -> None:
    for _ in range(3):
        backend.run(batch_of(1))
    thread = threading.Thread(target=lambda: [backend.run(batch_of(1)) for _ in range(2)])
    thread.start()
    thread.join()
    graphs = Counter(opening.last.graphs)
    assert sorted(count for (_, graph), count in graphs.items() if graph == "1") == [2, 2]


def test_while_others_pass_a_run_is_not_captured_but_answered(cuda: FakeCuda, opening: Opening) -> None:
    setup = CudaSetup(cuda=cuda, device="cpu")
    backend = open_cuda_backend(recognizer(), setup=setup, max_batch_size=MAX_BATCH, open_session=opening)
    backend.run(batch_of(1))
    with setup.gate.passing():
        backend.run(batch_of(1))
    assert opening.last.graphs[-1][1] == "-1"
    backend.run(batch_of(1))
    assert opening.last.graphs[-1][1] == "1"
    backend.close()


def test_shapes_come_and_go_within_bounds_and_late_ones_are_captured_too(cuda: FakeCuda, opening: Opening) -> None:
    backend = open_cuda_backend(
        relu_model(), setup=CudaSetup(cuda=cuda, device="cpu"), max_batch_size=2, open_session=opening
    )
    most = 16
    for side in range(1, most + 4):
        blob = np.full((1, 3, side, side), -1, np.float32)
        blob[0, 0] = side
        for _ in range(2):
            np.testing.assert_array_equal(backend.run(blob)[0], np.maximum(blob, 0))
    assert cuda.held == {"device": 2 * most, "host": 2 * most, "stream": 1}
    assert [[graph for _, graph in session.graphs] for session in opening.opened] == [["-1", "-1", "1"]] * (most + 3)
    backend.close()
    assert not cuda.held


@pytest.mark.skipif(not can_tell(), reason="this ONNX Runtime is older than 1.24")
def test_a_graph_that_cannot_be_captured_whole_is_opened_without_and_says_why(cuda: FakeCuda, tmp_path: Path) -> None:
    """With the name of the model and of the nodes in the way, of which there may be many."""
    path = tmp_path / "w600k_mbf-0123456789abcdef.onnx"
    path.write_bytes(recognizer())
    opening = Opening(refuses_graphs=True, num_elsewhere=30)
    with capture_logs() as logs:
        backend = open_cuda_backend(path, setup=CudaSetup(cuda=cuda, device="cpu"), open_session=opening)
    told = next(entry for entry in logs if entry["event"] == "model runs without CUDA graphs")
    assert told["log_level"] == "warning"
    assert "not all nodes" in told["reason"]
    assert told["model"] == path.stem
    assert told["cpu_nodes"] == [f"Shape Shape_{index:02}" for index in range(20)]
    assert told["num_cpu_nodes"] == len(backend.cpu_nodes) == 30
    assert next(entry["model"] for entry in logs if entry["event"] == "sizes are computed on the CPU") == path.stem
    backend.close()


def test_without_graphs_no_run_asks_for_one(cuda: FakeCuda) -> None:
    opening = Opening(refuses_graphs=True)
    with capture_logs() as logs:
        backend = open_recognizer(cuda, opening)
    assert [entry["model"] for entry in logs] == ["in memory"]
    for _ in range(3):
        backend.run(batch_of(1))
    assert {graph for _, graph in opening.last.graphs} == {"-1"}
    backend.close()


def test_a_model_that_cannot_be_opened_holds_nothing(cuda: FakeCuda) -> None:
    for unreadable in (b"junk", Path("missing.onnx")):
        with pytest.raises(ModelFileError):
            open_cuda_backend(unreadable, setup=CudaSetup(cuda=cuda, device="cpu"))
    assert not cuda.held


def test_a_device_without_streams_is_not_available(cuda: FakeCuda) -> None:
    cuda.failing = {"stream_create"}
    with pytest.raises(BackendUnavailableError, match="out of memory"):
        open_cuda_backend(relu_model(), setup=CudaSetup(cuda=cuda, device="cpu"))


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_cuda_provider_that_is_not_here_is_an_error_and_not_a_slow_cpu(cuda: FakeCuda) -> None:
    with pytest.raises(BackendUnavailableError, match="CUDAExecutionProvider did not start"):
        open_cuda_backend(relu_model(), setup=CudaSetup(cuda=cuda))
    assert not cuda.held


@pytest.mark.parametrize("audits_by_profile", [False, True])
def test_no_node_is_elsewhere_where_the_cpu_was_asked_for(
    cuda: FakeCuda, opening: Opening, audits_by_profile: bool
) -> None:
    if not audits_by_profile and not can_tell():
        pytest.skip("this ONNX Runtime is older than 1.24")
    backend = open_recognizer(cuda, opening, audits_by_profile=audits_by_profile)
    assert backend.cpu_nodes == ()
    assert backend.run(batch_of(2))[0].shape == (2, EMBEDDING_LENGTH)
    backend.close()


class CutOff:
    """A session whose profile found no room for its end."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def end_profiling(self) -> str:
        path = str(self.session.end_profiling())
        Path(path).write_text('[{"cat": "Node", ')
        return path


@pytest.mark.parametrize("is_there", [False, True], ids=["no folder takes a file", "the profile is cut off"])
def test_without_room_for_a_profile_a_model_serves_and_the_log_says_what_is_not_told(
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_there: bool
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path if is_there else tmp_path / "full"))
    with capture_logs() as logs:
        backend = open_cuda_backend(
            recognizer(),
            setup=CudaSetup(cuda=cuda, device="cpu", audits_by_profile=True),
            max_batch_size=2,
            open_session=lambda *args, **options: (
                CutOff(open_session(*args, **options)) if is_there else open_session(*args, **options)
            ),
        )
    assert backend.cpu_nodes == ()
    assert [line["event"] for line in logs if "make some in /tmp" in line["event"]]
    assert backend.run(batch_of(2))[0].shape == (2, EMBEDDING_LENGTH)
    backend.close()


def test_pixels_go_up_as_they_are_where_the_graph_takes_them(cuda: FakeCuda) -> None:
    value = helper.make_tensor_value_info
    serialized = model(
        [helper.make_node("Cast", ["pixels"], ["y"], to=TensorProto.FLOAT)],
        {},
        [value("pixels", TensorProto.UINT8, ["N", 8, 8, 3])],
        [value("y", TensorProto.FLOAT, ["N", 8, 8, 3])],
    )
    backend = open_cuda_backend(serialized, setup=CudaSetup(cuda=cuda, device="cpu"), max_batch_size=2)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(backend.run(pixels)[0], pixels.astype(np.float32))
    with pytest.raises(InferenceError, match="float32"):
        backend.run(pixels.astype(np.float32))
    backend.close()


def half_weights() -> bytes:
    built = onnx.load_model_from_string(arcface_model())
    weight = built.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name))
    return bytes(built.SerializeToString())


def groups() -> bytes:
    value = helper.make_tensor_value_info
    return model(
        [helper.make_node("Conv", ["x", "kernels"], ["y"], group=3)],
        {"kernels": np.ones((3, 1, 1, 1), np.float32)},
        [value("x", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [value("y", TensorProto.FLOAT, ["N", 3, "H", "W"])],
    )


def half_casts() -> bytes:
    built = onnx.load_model_from_string(relu_model())
    built.graph.node.insert(0, helper.make_node("Cast", ["x"], ["z"], to=TensorProto.FLOAT16))
    return bytes(built.SerializeToString())


def test_channels_last_are_for_float32_on_gpus_with_tf32(tmp_path: Path) -> None:
    """FP16 with NHWC ends the process in ONNX Runtime 1.31.1."""
    path = tmp_path / "model.onnx"
    path.write_bytes(arcface_model())
    assert may_prefer_nhwc(arcface_model(), (8, 7))
    assert may_prefer_nhwc(path, (9, 0))
    assert not may_prefer_nhwc(path, (7, 5))
    path.write_bytes(half_weights())
    assert not may_prefer_nhwc(path, (9, 0))
    assert not may_prefer_nhwc(half_casts(), (9, 0))
    assert not may_prefer_nhwc(groups(), (9, 0))
