"""An engine of TensorRT behind the `Backend` protocol.

For each bucket and shape there is one context with its own buffers and CUDA graph: TensorRT leaves undefined what a
graph does once the context it was captured from is set to another shape. All contexts of an engine share one scratch
memory, as they run one after the other on one stream.
"""

from __future__ import annotations

import contextlib
from typing import Any

import structlog

from jetface.backends.batches import layout_of, run_within_memory
from jetface.backends.buckets import Kept, bucket_of, most_kept
from jetface.backends.cuda.inputs import InputBuffer
from jetface.backends.cuda.outputs import OutputBuffers
from jetface.backends.cuda.pinned import PinnedPool, pin_items
from jetface.backends.cuda.runtime import CudaError, CudaRuntime
from jetface.backends.cuda.streams import Graph
from jetface.backends.tensorrt.loaded_engine import EngineFacts, LoadedEngine, Shape, read_facts
from jetface.domain import Batch, Tensor
from jetface.errors import EngineLoadError, InferenceError

_log = structlog.get_logger(__name__)


def open_engine(
    trt: Any,
    plan: bytes,
    *,
    max_batch_size: int,
    cuda: CudaRuntime,
    dla_core: int = -1,
    uses_graphs: bool = True,
    logger: Any = None,
) -> TensorrtBackend:
    """Load a plan; buffers are made by the first run of each shape.

    Args:
        trt: The module `tensorrt`, 10.1 or later.
        plan: As `EngineKit.build` returns it.
        max_batch_size: Most items per run; the engine's profiles may allow fewer.
        cuda: Where its buffers and its stream are made.
        dla_core: Deep learning accelerator it runs on; -1: none. A plan says that it needs one, not which.
        uses_graphs: Whether the kernels of a run are launched as one CUDA graph.
        logger: An `ILogger`, the same for all of a process; None writes errors to stderr.

    Raises:
        EngineLoadError: The plan is damaged, of another version or device, or no engine of ours.
    """
    try:
        runtime = trt.Runtime(logger or trt.Logger(trt.Logger.ERROR))
        if dla_core >= 0:
            _use_accelerator(runtime, dla_core)
        engine = runtime.deserialize_cuda_engine(plan)
    except EngineLoadError:
        raise
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


def _use_accelerator(runtime: Any, core: int) -> None:
    """Let plans run on this core: left alone, a runtime takes the first for all of them."""
    runtime.DLA_core = core
    # What is out of range is not taken, and nothing is said.
    if runtime.DLA_core != core:
        raise EngineLoadError(
            f"TRT_DLA_CORE={core} cannot be had: TensorRT finds {runtime.num_DLA_cores} deep learning accelerators "
            "here. Set it to -1."
        )


class _Bucket:
    """A context at one shape: buffers, and the graph of its kernels once they have run."""

    def __init__(self, engine: LoadedEngine, profile: int, shape: Shape, *, uses_graphs: bool) -> None:
        self._engine = engine
        self._is_graph_due = uses_graphs
        self._graph: Graph | None = None
        self._context = engine.context(profile, shape)
        facts, cuda, is_integrated = engine.facts, engine.cuda, engine.is_integrated
        found = [(self._shape_of(name), dtype) for name, dtype in facts.outputs]
        self._input = InputBuffer(cuda, shape, facts.input_dtype, is_integrated=is_integrated)
        try:
            self._outputs = OutputBuffers(cuda, found, shape[0], is_integrated=is_integrated)
        except BaseException:
            self._input.close()
            raise
        try:
            self._bind(facts.input_name, self._input.address)
            for (name, _), address in zip(facts.outputs, self._outputs.addresses, strict=True):
                self._bind(name, address)
        except BaseException:
            self.close()
            raise

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        stream, num_items = self._engine.stream, len(batch)
        self._input.upload(batch, stream)
        if self._graph is not None:
            self._graph.launch(stream)
        else:
            self._enqueue()
        self._outputs.fetch(num_items, stream)
        stream.synchronize()
        if self._is_graph_due:
            self._capture()
        return self._outputs.answers(num_items)

    def close(self) -> None:
        # After a failure there may be work left that reads or writes the buffers.
        with contextlib.suppress(CudaError):
            self._engine.stream.synchronize()
        if self._graph is not None:
            self._graph.close()
        self._context = None
        self._input.close()
        self._outputs.close()

    def _shape_of(self, name: str) -> Shape:
        shape = tuple(self._context.get_tensor_shape(name))
        if min(shape, default=0) < 0:
            raise InferenceError(f"The shape of output {name} depends on what the picture shows.")
        return shape

    def _bind(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise InferenceError(f"TensorRT refuses the memory of {name}.")

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
        self._buckets: Kept[Shape, _Bucket] = Kept(most_kept(max_batch_size))

    @property
    def max_batch_size(self) -> int:
        """Most items one run takes."""
        return self._max_batch_size

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Run the engine once, as `Backend.run` says; float32 outputs are views of its buffers.

        A batch is padded to the next bucket on the device, and only its own rows are copied there; from where they are,
        where that is memory of `pin_items`.

        Args:
            batch: As the engine wants it: (N, C, H, W) float32, or (N, H, W, C) uint8 where the graph begins with
                pixels; or its items.

        Raises:
            DeviceMemoryError: The device has no memory for it, nor for its halves; all contexts are let go.
            InferenceError: The run failed, or the engine takes no such batch.
        """
        return run_within_memory(self._run, batch, reopen=self._buckets.close)

    def _run(self, batch: Batch) -> tuple[Tensor, ...]:
        if self._engine is None:
            raise InferenceError("The model is closed.")
        engine, shape = self._engine, self._padded(self._engine.facts, batch)
        try:
            bucket = self._buckets.get(shape, lambda: self._make(engine, shape))
            return bucket.run(batch)
        except (CudaError, InferenceError) as cause:
            # What state its context is in is anybody's guess; the next run starts with a new one.
            self._buckets.drop(shape)
            if isinstance(cause, InferenceError):
                raise
            raise InferenceError("The model could not be run.") from cause

    def pin_items(self, item_bytes: int, num_items: int) -> PinnedPool | None:
        """Pin memory for items, as `PinsItems.pin_items` says."""
        return None if self._engine is None else pin_items(self._engine.cuda, item_bytes, num_items)

    def close(self) -> None:
        """Free all memory on the device; a second call does nothing."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            self._buckets.close()
            engine.close()

    def _padded(self, facts: EngineFacts, batch: Batch) -> Shape:
        """Return the shape a batch is padded to."""
        if not 1 <= len(batch) <= self._max_batch_size:
            raise InferenceError(f"A run takes 1 to {self._max_batch_size} items, not {len(batch)}.")
        (_, *item_shape), dtype = layout_of(batch)
        shape = (bucket_of(len(batch), self._max_batch_size), *item_shape)
        if dtype != facts.input_dtype:
            raise InferenceError(f"The engine does not take a batch of {dtype}, but of {facts.input_dtype}.")
        if shape not in self._buckets:
            # Before there is a bucket for it: that would take the place of another one.
            _profile_of(facts, shape)
        return shape

    def _make(self, engine: LoadedEngine, shape: Shape) -> _Bucket:
        return _Bucket(engine, _profile_of(engine.facts, shape), shape, uses_graphs=self._uses_graphs)


def _profile_of(facts: EngineFacts, shape: Shape) -> int:
    """Return the first profile that holds a shape."""
    for index, profile in enumerate(facts.profiles):
        if profile.holds(shape):
            return index
    raise InferenceError(f"The engine does not take a batch of {list(shape)}.")
