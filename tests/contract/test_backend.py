"""What every backend promises, run on each that is here. A backend joins by one line in `OPENERS`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from jetface.domain import Batch
from jetface.errors import InferenceError
from jetface.graphs.pixels import to_batch
from jetface.graphs.prepare import PreparedGraph, prepare_graph
from jetface.graphs.rewrite import choose_rewrites
from jetface.registry import ModelSpec
from jetface.runtimes.backend import Backend
from jetface.runtimes.gpu_buffers import GpuBackend
from jetface.runtimes.onnx import open_onnx_backends
from jetface.runtimes.onnx_cuda import CudaSetup, open_cuda_backend
from jetface.runtimes.openvino import load_runtime, open_openvino_backends
from jetface.runtimes.tensorrt import open_engine
from tests.support.fake_cuda import FakeCuda
from tests.support.stand_in_trt import StandInTrt, make_plan
from tests.support.tiny_onnx import EMBEDDING_LENGTH, arcface_model, arcface_spec, scrfd_model, scrfd_spec

MAX_BATCH = 4

Open = Callable[[PreparedGraph], Sequence[Backend]]


def _open_onnx_cpu(graph: PreparedGraph) -> Sequence[Backend]:
    return open_onnx_backends(graph.model, num_lanes=2, max_batch_size=MAX_BATCH)


def _open_onnx_cpu_wide(graph: PreparedGraph) -> Sequence[Backend]:
    return open_onnx_backends(graph.model, num_lanes=2, max_batch_size=MAX_BATCH, num_threads=2)


def _open_openvino(graph: PreparedGraph) -> Sequence[Backend]:
    return open_openvino_backends(load_runtime(), graph.model, num_lanes=2, max_batch_size=MAX_BATCH)


def _open_tensorrt(graph: PreparedGraph) -> Sequence[Backend]:
    """Run the runner itself, on a TensorRT and a CUDA of our own: of the real ones only names can be checked here."""
    model = graph.model if isinstance(graph.model, bytes) else graph.model.read_bytes()
    low, high = (graph.input_hw,) * 2 if graph.input_hw else ((32, 32), (128, 128))
    least, most = ((*hw, 3) if graph.takes_pixels else (3, *hw) for hw in (low, high))
    plan = make_plan(model, [((1, *least), (MAX_BATCH, *most), (MAX_BATCH, *most))])
    devices = (FakeCuda(), FakeCuda(is_integrated=True))
    return [open_engine(StandInTrt(cuda), plan, max_batch_size=MAX_BATCH, cuda=cuda) for cuda in devices]


def _open_onnx_bound(graph: PreparedGraph) -> Sequence[Backend]:
    """Run what the CUDA provider is run with, on the CPU provider and a CUDA of our own."""
    setups = [
        CudaSetup(cuda=FakeCuda(is_eager=True, is_integrated=is_integrated), device="cpu")
        for is_integrated in (False, True)
    ]
    return [open_cuda_backend(graph.model, setup=setup, max_batch_size=MAX_BATCH) for setup in setups]


OPENERS: dict[str, Open] = {
    "onnxruntime-cpu": _open_onnx_cpu,
    "onnxruntime-cpu-wide": _open_onnx_cpu_wide,
    "onnxruntime-bound": _open_onnx_bound,
    "openvino": _open_openvino,
    "tensorrt": _open_tensorrt,
}


def _prepare(folder: Path, serialized: bytes, spec: ModelSpec, *, pixels: bool = False) -> PreparedGraph:
    path = folder / f"{spec.name}.onnx"
    path.write_bytes(serialized)
    return prepare_graph(path, spec, rewrites=choose_rewrites("CPUExecutionProvider", (99,)), pixels=pixels)


@pytest.fixture(params=sorted(OPENERS))
def open_graph(request: pytest.FixtureRequest) -> Open:
    return OPENERS[request.param]


@pytest.fixture
def lanes(open_graph: Open, tmp_path: Path) -> Iterator[Sequence[Backend]]:
    """Two lanes of a recognizer."""
    opened = open_graph(_prepare(tmp_path, arcface_model(), arcface_spec()))
    yield opened
    for backend in opened:
        backend.close()


@pytest.fixture
def backend(lanes: Sequence[Backend]) -> Backend:
    return lanes[0]


def faces(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(count).standard_normal((count, 3, 112, 112)).astype(np.float32)


def answer(backend: Backend, batch: Batch) -> NDArray[np.float32]:
    """Return a copy of the first output: the backend may write to its own again."""
    return np.array(backend.run(batch)[0])


@pytest.mark.parametrize("count", range(1, MAX_BATCH + 1))
def test_one_row_an_item_in_contiguous_float32(backend: Backend, count: int) -> None:
    (embeddings,) = backend.run(faces(count))
    assert embeddings.shape == (count, EMBEDDING_LENGTH)
    assert embeddings.dtype == np.float32
    assert embeddings.flags.c_contiguous


def test_a_batch_equals_its_items_alone(backend: Backend) -> None:
    batch = faces(MAX_BATCH)
    together = answer(backend, batch)
    alone = np.concatenate([answer(backend, batch[index : index + 1]) for index in range(MAX_BATCH)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_every_output_has_the_batch_first_for_any_canvas(open_graph: Open, tmp_path: Path) -> None:
    graph = _prepare(tmp_path, scrfd_model(), scrfd_spec())
    backend = open_graph(graph)[0]
    for height_px, width_px in ((64, 64), (64, 128), (96, 32), (64, 64)):
        outputs = backend.run(np.zeros((3, 3, height_px, width_px), np.float32))
        cells = [height_px * width_px // stride_px**2 for stride_px in (8, 16, 32)]
        assert [output.shape for output in outputs] == [
            (3, 2 * count, columns) for columns in (1, 4, 10) for count in cells
        ]
    backend.close()


def test_a_graph_that_takes_pixels_answers_them_as_it_would_their_blob(open_graph: Open, tmp_path: Path) -> None:
    """And refuses the blob: what a batch is made of is for the graph to say."""
    spec = arcface_spec()
    fed, taking = (open_graph(_prepare(tmp_path, arcface_model(), spec, pixels=pixels))[0] for pixels in (False, True))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)
    blob = to_batch(list(pixels), spec.input, takes_pixels=False)
    np.testing.assert_allclose(taking.run(pixels)[0], fed.run(blob)[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(taking.run(list(pixels))[0], fed.run(blob)[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(taking.run(pixels[1:2])[0], fed.run(blob[1:2])[0], rtol=1e-4, atol=1e-4)
    for backend, wrong in ((taking, blob), (fed, pixels)):
        with pytest.raises(InferenceError):
            backend.run(wrong)
        backend.close()


def test_a_detector_that_takes_pixels_takes_any_canvas(open_graph: Open, tmp_path: Path) -> None:
    backend = open_graph(_prepare(tmp_path, scrfd_model(), scrfd_spec(), pixels=True))[0]
    for height_px, width_px in ((64, 64), (96, 32)):
        outputs = backend.run(np.zeros((2, height_px, width_px, 3), np.uint8))
        assert outputs[0].shape == (2, 2 * height_px * width_px // 64, 1)
    backend.close()


@pytest.mark.parametrize("count", range(1, MAX_BATCH + 1))
def test_items_one_by_one_are_answered_as_the_batch_they_make(backend: Backend, count: int) -> None:
    together = answer(backend, faces(count))
    items = [face.copy() for face in faces(count)]
    np.testing.assert_array_equal(answer(backend, items), together)
    np.testing.assert_array_equal(answer(backend, [np.asfortranarray(item) for item in items]), together)


def test_pictures_are_taken_from_where_they_lie(open_graph: Open, tmp_path: Path) -> None:
    """Also those in memory of the backend's own, where it has such."""
    spec = arcface_spec()
    for backend in open_graph(_prepare(tmp_path, arcface_model(), spec, pixels=True)):
        pictures = list(np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8))
        expected = answer(backend, np.stack(pictures))
        pool = backend.pin_items(pictures[0].nbytes, 2) if isinstance(backend, GpuBackend) else None
        pinned = [taken for picture in pictures if pool and (taken := pool.take(picture.shape)) is not None]
        for taken, picture in zip(pinned, pictures, strict=False):
            taken[:] = picture
        for _ in range(3):
            np.testing.assert_array_equal(answer(backend, [*pinned, *pictures[len(pinned) :]]), expected)
        if pool:
            pool.close()
        backend.close()


def test_an_answer_lasts_until_the_next_run(backend: Backend) -> None:
    """Whatever happens to the batch it answers."""
    batch = faces(2)
    (lasting,) = backend.run(batch)
    kept = lasting.copy()
    batch[:] = 7
    del batch
    np.testing.assert_array_equal(lasting, kept)


def test_what_is_written_to_an_answer_changes_no_later_one(backend: Backend) -> None:
    kept = answer(backend, faces(2))
    backend.run(faces(2))[0][:] = 7
    np.testing.assert_array_equal(backend.run(faces(2))[0], kept)


def test_the_batch_is_left_as_it_was(backend: Backend) -> None:
    batch = faces(2)
    kept = batch.copy()
    backend.run(batch)
    np.testing.assert_array_equal(batch, kept)


def test_runs_are_repeatable(backend: Backend) -> None:
    np.testing.assert_array_equal(answer(backend, faces(2)), answer(backend, faces(2)))


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((MAX_BATCH + 1, 3, 112, 112), np.float32),
        np.zeros((0, 3, 112, 112), np.float32),
        np.zeros((1, 3, 111, 112), np.float32),
        np.zeros((1, 4, 112, 112), np.float32),
        np.zeros((1, 3, 112, 112), np.float64),
        [],
        [np.zeros((3, 112, 112), np.float32)] * (MAX_BATCH + 1),
        [np.zeros((3, 112, 112), np.float32), np.zeros((3, 112, 1), np.float32)],
        [np.zeros((3, 112, 112), np.float32), np.zeros((3, 112, 112), np.float64)],
        [np.zeros((3, 112, 1), np.float32)] * 2,
    ],
    ids=[
        *("too-many", "none", "height", "channels", "type"),
        *("no-item", "too-many-items", "item-of-another-shape", "item-of-another-type", "items-of-a-wrong-shape"),
    ],
)
def test_a_batch_the_graph_does_not_take_is_an_error_and_the_backend_lives_on(backend: Backend, batch: Batch) -> None:
    with pytest.raises(InferenceError):
        backend.run(batch)
    assert backend.run(faces(1))[0].shape == (1, EMBEDDING_LENGTH)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_an_item_that_is_no_picture_spoils_no_other(backend: Backend, value: float) -> None:
    batch = faces(3)
    clean = answer(backend, batch)
    batch[1] = value
    spoilt = answer(backend, batch)
    np.testing.assert_allclose(spoilt[[0, 2]], clean[[0, 2]], rtol=1e-5, atol=1e-5)


def test_a_closed_backend_refuses_and_closes_again(backend: Backend) -> None:
    backend.run(faces(1))
    backend.close()
    backend.close()
    with pytest.raises(InferenceError):
        backend.run(faces(1))


def test_closing_one_lane_leaves_the_others(lanes: Sequence[Backend]) -> None:
    lanes[0].close()
    assert lanes[1].run(faces(1))[0].shape == (1, EMBEDDING_LENGTH)


def test_lanes_run_at_the_same_time_from_threads_of_their_own(lanes: Sequence[Backend]) -> None:
    expected = answer(lanes[0], faces(2))
    answers: dict[int, list[NDArray[np.float32]]] = {}

    def own(lane: int) -> None:
        answers[lane] = [answer(lanes[lane], faces(2)) for _ in range(50)]

    threads = [threading.Thread(target=own, args=(lane,)) for lane in range(len(lanes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [0, 1]
    for found in (*answers[0], *answers[1]):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
