"""What is asked of cuda-python: names that exist, errors that are told, answers taken apart."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from jetface.errors import BackendUnavailableError
from jetface.runtimes import cuda as bindings
from jetface.runtimes.cuda import Cuda, CudaError, import_cudart, open_cuda

cudart = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed here")


class Answering:
    """A cuda-python whose functions succeed; its constants are the real ones."""

    def __init__(self, answers: dict[str, tuple[Any, ...]] | None = None) -> None:
        self.answers = answers or {}
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(cudart, name)
        if not callable(real) or isinstance(real, type):
            return real

        def function(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, *arguments))
            if name in ("cudaGetErrorName", "cudaGetErrorString"):
                return tuple(real(*arguments))
            return self.answers.get(name, (cudart.cudaError_t.cudaSuccess,))

        function.__name__ = name
        return function


def test_every_name_that_is_used_exists() -> None:
    tree = ast.parse(inspect.getsource(bindings))
    used = {
        path for node in ast.walk(tree) if isinstance(node, ast.Attribute) and "cudart." in (path := ast.unparse(node))
    }
    names = {path.split("cudart.", 1)[1] for path in used}
    assert {"cudaMalloc", "cudaGraphLaunch", "cudaMemcpyKind.cudaMemcpyHostToDevice"} <= names
    for name in names:
        found: Any = cudart
        for part in name.split("."):
            assert hasattr(found, part), name
            found = getattr(found, part)


@pytest.mark.parametrize(
    ("call", "function", "answer", "result"),
    [
        (lambda cuda: cuda.malloc(8), "cudaMalloc", (4096,), 4096),
        (lambda cuda: cuda.free(4096), "cudaFree", (), None),
        (lambda cuda: cuda.host_alloc(8, is_mapped=True), "cudaHostAlloc", (4096,), 4096),
        (lambda cuda: cuda.host_alloc(8, is_mapped=False), "cudaHostAlloc", (4096,), 4096),
        (lambda cuda: cuda.host_free(4096), "cudaFreeHost", (), None),
        (lambda cuda: cuda.device_address(4096), "cudaHostGetDevicePointer", (8192,), 8192),
        (lambda cuda: cuda.copy_to_device(1, 2, 3, 4), "cudaMemcpyAsync", (), None),
        (lambda cuda: cuda.copy_to_host(1, 2, 3, 4), "cudaMemcpyAsync", (), None),
        (lambda cuda: cuda.stream_create(), "cudaStreamCreateWithFlags", (cudart.cudaStream_t(7),), 7),
        (lambda cuda: cuda.stream_synchronize(7), "cudaStreamSynchronize", (), None),
        (lambda cuda: cuda.stream_destroy(7), "cudaStreamDestroy", (), None),
        (lambda cuda: cuda.capture_begin(7), "cudaStreamBeginCapture", (), None),
        (lambda cuda: cuda.capture_end(7), "cudaStreamEndCapture", (cudart.cudaGraph_t(9),), 9),
        (lambda cuda: cuda.graph_instantiate(9), "cudaGraphInstantiate", (cudart.cudaGraphExec_t(10),), 10),
        (lambda cuda: cuda.graph_launch(10, 7), "cudaGraphLaunch", (), None),
        (lambda cuda: cuda.graph_destroy(9), "cudaGraphDestroy", (), None),
        (lambda cuda: cuda.graph_instance_destroy(10), "cudaGraphExecDestroy", (), None),
        (lambda cuda: cuda.driver_version(), "cudaDriverGetVersion", (12060,), (12, 6)),
        (lambda cuda: cuda.runtime_version(), "cudaRuntimeGetVersion", (13010,), (13, 1)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_answers_are_plain_numbers(
    call: Callable[[Cuda], Any], function: str, answer: tuple[Any, ...], result: object
) -> None:
    module = Answering({function: (cudart.cudaError_t.cudaSuccess, *answer)})
    assert call(Cuda(module)) == result
    assert module.calls[0][0] == function


def test_mapped_memory_and_the_way_of_a_copy_are_asked_for() -> None:
    module = Answering({"cudaHostAlloc": (cudart.cudaError_t.cudaSuccess, 1)})
    cuda = Cuda(module)
    cuda.host_alloc(8, is_mapped=True)
    cuda.host_alloc(8, is_mapped=False)
    cuda.copy_to_device(1, 2, 3, 4)
    cuda.copy_to_host(1, 2, 3, 4)
    kinds = cudart.cudaMemcpyKind
    assert module.calls == [
        ("cudaHostAlloc", 8, cudart.cudaHostAllocMapped),
        ("cudaHostAlloc", 8, cudart.cudaHostAllocDefault),
        ("cudaMemcpyAsync", 1, 2, 3, kinds.cudaMemcpyHostToDevice, 4),
        ("cudaMemcpyAsync", 1, 2, 3, kinds.cudaMemcpyDeviceToHost, 4),
    ]


def test_pieces_leave_in_one_call_where_cuda_has_one() -> None:
    """Which it has since 12.8, in this form since 13."""
    success, pieces = cudart.cudaError_t.cudaSuccess, [(1, 2, 3), (4, 5, 6)]
    module = Answering({"cudaRuntimeGetVersion": (success, 13000)})
    Cuda(module).copy_pieces_to_device(pieces, 7)
    (_, (name, targets, sources, sizes, count, attributes, first, num_attributes, stream)) = module.calls
    assert (name, targets, sources, sizes, count, stream) == ("cudaMemcpyBatchAsync", [1, 4], [2, 5], [3, 6], 2, 7)
    assert (len(attributes), first, num_attributes) == (1, [0], 1)
    order = cudart.cudaMemcpySrcAccessOrder.cudaMemcpySrcAccessOrderStream
    assert attributes[0].srcAccessOrder == order
    for version, several in ((12060, pieces), (13000, pieces[:1])):
        module = Answering({"cudaRuntimeGetVersion": (success, version)})
        Cuda(module).copy_pieces_to_device(several, 7)
        assert [call[0] for call in module.calls[1:]] == ["cudaMemcpyAsync"] * len(several)


def test_the_device_tells_what_it_is() -> None:
    found = cudart.cudaDeviceProp()
    found.name, found.major, found.minor, found.integrated = b"Orin".ljust(256, b"\0"), 8, 7, 1
    success = cudart.cudaError_t.cudaSuccess
    cuda = Cuda(Answering({"cudaGetDeviceProperties": (success, found), "cudaMemGetInfo": (success, 3, 4)}))
    properties = cuda.properties()
    assert (properties.name, properties.compute_capability, properties.is_integrated) == ("Orin", (8, 7), True)
    assert (properties.free_bytes, properties.total_bytes) == (3, 4)


def test_an_error_has_name_and_text_and_is_not_left_for_others_to_find() -> None:
    module = Answering({"cudaMalloc": (cudart.cudaError_t.cudaErrorMemoryAllocation, None)})
    with pytest.raises(CudaError, match="cudaMalloc: cudaErrorMemoryAllocation, out of memory"):
        Cuda(module).malloc(8)
    assert ("cudaGetLastError",) in module.calls


def test_a_function_that_raises_is_an_error_too() -> None:
    def cudaFree(address: int) -> tuple[Any, ...]:  # noqa: N802 - cuda-python's name
        raise RuntimeError(f"Failed to dlopen libcuda.so.1 for {address}")

    module = Answering()
    vars(module)["cudaFree"] = cudaFree
    with pytest.raises(CudaError, match="cudaFree: Failed to dlopen libcuda"):
        Cuda(module).free(1)


def test_threads_are_let_sleep_unless_another_has_decided() -> None:
    module = Answering()
    Cuda(module).sleep_while_waiting()
    assert module.calls == [("cudaSetDeviceFlags", cudart.cudaDeviceScheduleBlockingSync)]
    taken = cudart.cudaError_t.cudaErrorSetOnActiveProcess
    Cuda(Answering({"cudaSetDeviceFlags": (taken,)})).sleep_while_waiting()
    missing = cudart.cudaError_t.cudaErrorNoDevice
    with pytest.raises(CudaError, match="cudaErrorNoDevice"):
        Cuda(Answering({"cudaSetDeviceFlags": (missing,)})).sleep_while_waiting()


def test_a_device_that_answers_is_open() -> None:
    success = cudart.cudaError_t.cudaSuccess
    found = cudart.cudaDeviceProp()
    found.name = b"Orin".ljust(256, b"\0")
    module = Answering({"cudaGetDeviceProperties": (success, found), "cudaMemGetInfo": (success, 3, 4)})
    assert open_cuda(lambda: module).properties().name == "Orin"


def test_a_cuda_python_that_is_not_there_is_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailableError, match=r"jetface\[cuda\]"):
        import_cudart()


def test_until_12_6_the_module_was_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("cuda")
    old.cudart = cudart  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", old)
    for name in ("cuda.bindings", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    assert import_cudart() is cudart


def has_gpu() -> bool:
    try:
        return Cuda(import_cudart()).properties() is not None
    except CudaError:
        return False


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(BackendUnavailableError, match=r"CUDA does not start: cuda\w+: "):
        open_cuda()
