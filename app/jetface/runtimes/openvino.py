"""OpenVINO's own runtime behind the `Backend` protocol: an optional extra, `pip install jetface[openvino]`.

`openvino` is imported when it is first asked for and not before: it is not installed everywhere. Figures and reasons:
docs/adr/0008-openvino.md.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jetface.device.faults import why_not_opened
from jetface.domain import Batch, Tensor
from jetface.errors import BackendUnavailableError, InferenceError, ModelFileError
from jetface.runtimes.backend import stacked

Precision = Literal["f32", "bf16"]

_DEVICE = "CPU"

_SPARE_GRAPHS = 2
"""Graphs of a free canvas beyond one a lane: room for the sizes that traffic goes back and forth between."""

_KEPT_KERNELS = 100
"""Most generated kernels a graph of a free canvas keeps; by default it is 5,000, which took 800 MiB for one graph."""


def is_installed() -> bool:
    """Tell whether `openvino` is there to import, without doing so."""
    return importlib.util.find_spec("openvino") is not None


def load_runtime() -> Any:
    """Import OpenVINO and return a `Core` that has a CPU.

    Raises:
        BackendUnavailableError: It is not installed, cannot be loaded, or has no CPU device here.
    """
    try:
        # Its CPU plugin gives the thread that starts it a stack for signal handlers and takes that back when it ends.
        # Of two plugins the second puts the first one's stack back, freed by then, and the next signal ends the
        # process. So it starts on a thread that ends at once and that no signal ever reaches.
        with ThreadPoolExecutor(1, thread_name_prefix="openvino") as thread:
            core, devices = thread.submit(_start_runtime).result()
    except ImportError as cause:
        raise BackendUnavailableError("OpenVINO cannot be imported; `pip install jetface[openvino]`.") from cause
    except Exception as cause:
        raise BackendUnavailableError("OpenVINO is installed but does not start.") from cause
    if _DEVICE not in devices:
        raise BackendUnavailableError("OpenVINO is installed but finds no CPU it supports.")
    return core


def _start_runtime() -> tuple[Any, list[str]]:
    import openvino  # noqa: PLC0415 - optional

    core = openvino.Core()
    return core, core.available_devices


def has_bf16(core: Any) -> bool:
    """Tell whether this CPU multiplies bfloat16 itself (AVX512_BF16 or AMX); elsewhere it would be slower than f32."""
    return "BF16" in core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")


def open_openvino_backends(
    core: Any,
    model: bytes | Path,
    *,
    precision: Precision = "f32",
    num_lanes: int = 1,
    max_batch_size: int = 1,
    num_threads: int = 1,
) -> list[OpenVinoBackend]:
    """Open a model once and return a backend for each of `num_lanes` threads; they share its graphs.

    Args:
        core: From `load_runtime`.
        model: A prepared graph, serialized or in a file.
        precision: Of the inner computations; inputs and outputs are float32 either way.
        num_lanes: Threads that will run the model at the same time.
        max_batch_size: Most items per run.
        num_threads: Cores one run uses.

    Raises:
        ModelFileError: OpenVINO cannot read or compile the model.
    """
    try:
        read = core.read_model(str(model) if isinstance(model, Path) else model)
        shape = read.inputs[0].get_partial_shape()
        shape[0] = _batch_of(max_batch_size)
        read.reshape(shape)
    # What OpenVINO raises is RuntimeError or derives from Exception alone, by version.
    except Exception as cause:
        raise ModelFileError(f"OpenVINO cannot open the model{why_not_opened(str(cause))}") from cause
    has_free_canvas = any(axis.is_dynamic for axis in list(shape)[1:])

    def compiled(num_streams: int) -> Any:
        settings = {
            "NUM_STREAMS": num_streams,
            "INFERENCE_NUM_THREADS": num_streams * num_threads,
            "INFERENCE_PRECISION_HINT": precision,
            # Which cores are ours is the scheduler's affair: pinned threads of several models would share one.
            "ENABLE_CPU_PINNING": False,
        }
        if has_free_canvas:
            settings["CPU_RUNTIME_CACHE_CAPACITY"] = _KEPT_KERNELS
        try:
            return core.compile_model(read, _DEVICE, settings)
        except Exception as cause:
            raise ModelFileError(f"OpenVINO cannot compile the model{why_not_opened(str(cause))}") from cause

    if has_free_canvas:
        # One is made now: a model that cannot be compiled fails here, not in a request.
        first = compiled(1).create_infer_request()
        graphs = Graphs(first, lambda: compiled(1).create_infer_request(), most=num_lanes + _SPARE_GRAPHS)
    else:
        graph = compiled(num_lanes)
        graphs = Graphs(graph.create_infer_request(), graph.create_infer_request, most=num_lanes)
    lengths = [None if axis.is_dynamic else axis.get_length() for axis in list(shape)[1:]]
    dtype = np.dtype(read.inputs[0].get_element_type().to_dtype())
    return [
        OpenVinoBackend(graphs, dtype=dtype, lengths=lengths, max_batch_size=max_batch_size) for _ in range(num_lanes)
    ]


class OpenVinoBackend:
    """One lane of an open model. One thread owns it; the graphs are shared by all lanes."""

    def __init__(self, graphs: Graphs, *, dtype: np.dtype[Any], lengths: list[int | None], max_batch_size: int) -> None:
        """Wrap graphs with one input of `dtype`; `lengths` are those of its axes after the batch, None where free."""
        self._graphs: Graphs | None = graphs
        self._dtype = dtype
        self._lengths = lengths
        self.max_batch_size = max_batch_size
        """Most items one run takes."""

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Run the graph once, as `Backend.run` says."""
        if self._graphs is None:
            raise InferenceError("The model is closed.")
        values = stacked(batch)
        self._check(values)
        try:
            with self._graphs.taken(values.shape) as request:
                results = request.infer([values], share_inputs=True, share_outputs=True)
                return tuple(np.array(result, np.float32, order="C") for result in results.values())
        except Exception as cause:
            raise InferenceError("The model could not be run.") from cause

    def close(self) -> None:
        """Let go of the graphs; the last lane to do so frees their memory."""
        self._graphs = None

    def _check(self, batch: NDArray[Any]) -> None:
        """OpenVINO would convert other types in silence, and recompute the graph for other shapes."""
        if not 1 <= len(batch) <= self.max_batch_size:
            raise InferenceError(f"A run takes 1 to {self.max_batch_size} items, not {len(batch)}.")
        fits = len(batch.shape) == len(self._lengths) + 1 and all(
            wanted in (None, length) for wanted, length in zip(self._lengths, batch.shape[1:], strict=True)
        )
        if not fits or batch.dtype != self._dtype:
            raise InferenceError("The model does not take a batch of this shape or type.")


@dataclass(slots=True, eq=False)
class _Graph:
    request: Any
    """An `openvino.InferRequest`."""
    shape: tuple[int, ...] | None = None
    """Of its last run."""


class Graphs:
    """The graphs of a model, each for one run at a time. Thread-safe.

    A graph of free canvas is set up anew when the size changes from one run to the next: 2 to 10 ms, as long as
    a run of a small detector. A run takes the graph that had its size last; there are a few more graphs than lanes.
    """

    def __init__(self, first: Any, create: Callable[[], Any], *, most: int) -> None:
        """Start with the graph of request `first`; `create` makes more as they are needed.

        In all there are at most `most`, which must be the number of lanes or more.
        """
        self._create = create
        self._num_to_create = most - 1
        self._lock = threading.Lock()
        self._idle = [_Graph(first)]
        """Longest unused first."""

    @contextmanager
    def taken(self, shape: tuple[int, ...]) -> Iterator[Any]:
        """Lend the request of the graph that is best for a batch of this shape."""
        graph = self._claim(shape)
        try:
            yield graph.request
        finally:
            graph.shape = shape
            with self._lock:
                self._idle.append(graph)

    def _claim(self, shape: tuple[int, ...]) -> _Graph:
        with self._lock:
            set_up = next((graph for graph in reversed(self._idle) if graph.shape == shape), None)
            unused = next((graph for graph in self._idle if graph.shape is None), None)
            if found := set_up or unused:
                self._idle.remove(found)
                return found
            if not self._num_to_create:
                return self._idle.pop(0)
            self._num_to_create -= 1
        try:
            return _Graph(self._create())
        except BaseException:
            with self._lock:
                self._num_to_create += 1
            raise


def _batch_of(max_batch_size: int) -> Any:
    from openvino import Dimension  # noqa: PLC0415 - optional

    return Dimension(1, max_batch_size) if max_batch_size > 1 else Dimension(1)
