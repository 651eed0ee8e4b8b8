"""An engine of TensorRT behind the `Backend` protocol.

For each bucket and shape there is one context with its own buffers and CUDA graph: TensorRT leaves undefined what a
graph does once the context it was captured from is set to another shape. All contexts of an engine share one scratch
memory, as they run one after the other on one stream.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from app.backends.buckets import Kept, bucket_of, most_kept
from app.backends.cuda.buffers import TensorBuffer
from app.backends.cuda.runtime import CudaError, CudaRuntime
from app.backends.cuda.streams import Graph
from app.backends.tensorrt.loaded_engine import EngineFacts, LoadedEngine, Shape, read_facts
from app.domain import Tensor
from app.errors import EngineLoadError, InferenceError

_log = structlog.get_logger(__name__)


def open_engine(
    trt: Any,
    plan: bytes,
    *,
    max_batch_size: int,
    cuda: CudaRuntime,
    uses_graphs: bool = True,
    logger: Any = None,
) -> TensorrtBackend:
    """Load a plan; buffers are made by the first run of each shape.

    Args:
        trt: The module `tensorrt`, 10.1 or later.
        plan: As `EngineKit.build` returns it.
        max_batch_size: Most items per run; the engine's profiles may allow fewer.
        cuda: Where its buffers and its stream are made.
        uses_graphs: Whether the kernels of a run are launched as one CUDA graph.
        logger: An `ILogger`, the same for all of a process; None writes errors to stderr.

    Raises:
        EngineLoadError: The plan is damaged, of another version or device, or no engine of ours.
    """
    try:
        runtime = trt.Runtime(logger or trt.Logger(trt.Logger.ERROR))
        engine = runtime.deserialize_cuda_engine(plan)
    # Bindings raise RuntimeError, TypeError or what pybind11 makes of C++, by version.
    except Exception as cause:
        raise EngineLoadError("TensorRT cannot load the plan.") from cause
    if engine is None:
        raise EngineLoadError(
            "The plan is damaged, or of another TensorRT or GPU, or there is no GPU; TensorRT's log says which."
        )
    facts = read_facts(trt, engine)
    most = max(profile.most[0] for profile in facts.profiles)
    try:
        loaded = LoadedEngine(trt, runtime, engine, facts, cuda)
    except CudaError as cause:
        raise EngineLoadError("The engine finds no room on the device.") from cause
    return TensorrtBackend(loaded, max_batch_size=min(max_batch_size, most), uses_graphs=uses_graphs)


class _Bucket:
    """A context at one shape: buffers, and the graph of its kernels once they have run."""

    def __init__(self, engine: LoadedEngine, profile: int, shape: Shape, *, uses_graphs: bool) -> None:
        self._engine = engine
        self._is_graph_due = uses_graphs
        self._graph: Graph | None = None
        self._outputs: list[TensorBuffer] = []
        self._context = engine.context(profile, shape)
        facts = engine.facts
        self._input = self._buffer(facts.input_name, shape, facts.input_dtype)
        try:
            for name, dtype in facts.outputs:
                length = tuple(self._context.get_tensor_shape(name))
                if min(length, default=0) < 0:
                    raise InferenceError(f"The shape of output {name} depends on what the picture shows.")  # noqa: TRY301 - what was made is given back below
                self._outputs.append(self._buffer(name, length, dtype))
        except BaseException:
            self.close()
            raise

    def run(self, batch: NDArray[Any]) -> tuple[Tensor, ...]:
        stream, num_items, bucket = self._engine.stream, len(batch), len(self._input.array)
        self._input.upload(batch, stream)
        if self._graph is not None:
            self._graph.launch(stream)
        else:
            self._enqueue()
        counts = [num_items if len(output.array) == bucket else len(output.array) for output in self._outputs]
        for output, count in zip(self._outputs, counts, strict=True):
            output.fetch(count, stream)
        stream.synchronize()
        answers = tuple(
            np.array(output.array[:count], np.float32) for output, count in zip(self._outputs, counts, strict=True)
        )
        if self._is_graph_due:
            self._capture()
        return answers

    def close(self) -> None:
        # After a failure there may be work left that reads or writes the buffers.
        with contextlib.suppress(CudaError):
            self._engine.stream.synchronize()
        if self._graph is not None:
            self._graph.close()
        self._context = None
        for buffer in (self._input, *self._outputs):
            buffer.close()

    def _buffer(self, name: str, shape: Shape, dtype: np.dtype[Any]) -> TensorBuffer:
        buffer = TensorBuffer(self._engine.cuda, shape, dtype, is_integrated=self._engine.is_integrated)
        if not self._context.set_tensor_address(name, buffer.address):
            buffer.close()
            raise InferenceError(f"TensorRT refuses the memory of {name}.")
        return buffer

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._engine.stream.handle):
            raise InferenceError("TensorRT did not start the run; its log says why.")

    def _capture(self) -> None:
        """Note the kernels down; only after a run for real, in which TensorRT does what is due after a new shape."""
        self._is_graph_due = False
        try:
            self._graph = Graph.capture(self._engine.cuda, self._engine.stream, self._enqueue)
        except (CudaError, InferenceError) as error:
            _log.warning(
                "kernels are launched one by one: they cannot be captured in a CUDA graph",
                shape=self._input.shape,
                reason=str(error),
            )


class TensorrtBackend:
    """An engine and its buffers. One thread owns it from the first run to `close`."""

    def __init__(self, engine: LoadedEngine, *, max_batch_size: int, uses_graphs: bool) -> None:
        """Own an engine; `open_engine` makes one."""
        self._engine: LoadedEngine | None = engine
        self._max_batch_size = max_batch_size
        self._uses_graphs = uses_graphs
        self._buckets: Kept[tuple[int, Shape], _Bucket] = Kept(most_kept(max_batch_size))

    @property
    def max_batch_size(self) -> int:
        """Most items one run takes."""
        return self._max_batch_size

    def run(self, batch: NDArray[Any]) -> tuple[Tensor, ...]:
        """Run the engine once, as `Backend.run` says.

        A batch is padded to the next bucket on the device, and only its own rows are copied.

        Args:
            batch: As the engine wants it: (N, C, H, W) float32, or (N, H, W, C) uint8 where the graph begins with
                pixels.
        """
        if self._engine is None:
            raise InferenceError("The model is closed.")
        key = self._place(self._engine.facts, batch)
        try:
            bucket = self._buckets.get(key, lambda: self._make(*key))
            return bucket.run(batch)
        except (CudaError, InferenceError) as cause:
            # What state its context is in is anybody's guess; the next run starts with a new one.
            self._buckets.drop(key)
            if isinstance(cause, InferenceError):
                raise
            raise InferenceError("The model could not be run.") from cause

    def close(self) -> None:
        """Free all memory on the device; a second call does nothing."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            self._buckets.close()
            engine.close()

    def _place(self, facts: EngineFacts, batch: NDArray[Any]) -> tuple[int, Shape]:
        """Find the profile and the padded shape of a batch."""
        if not 1 <= len(batch) <= self._max_batch_size:
            raise InferenceError(f"A run takes 1 to {self._max_batch_size} items, not {len(batch)}.")
        shape = (bucket_of(len(batch), self._max_batch_size), *batch.shape[1:])
        holding = (index for index, profile in enumerate(facts.profiles) if profile.holds(shape))
        profile = next(holding, None)
        if profile is None or batch.dtype != facts.input_dtype:
            raise InferenceError(f"The engine does not take a batch of {list(batch.shape)} {batch.dtype}.")
        return profile, shape

    def _make(self, profile: int, shape: Shape) -> _Bucket:
        if self._engine is None:  # pragma: no cover - `run` has looked
            raise InferenceError("The model is closed.")
        return _Bucket(self._engine, profile, shape, uses_graphs=self._uses_graphs)
