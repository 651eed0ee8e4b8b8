"""TensorRT: its versions, its messages, and an engine behind the `Backend` protocol.

The same code builds with 10.3 (JetPack 6.2), 10.16, 11.x and TensorRT for RTX; what one of them lacks is asked for
here and nowhere else.

For each bucket and shape there is one context with its own buffers and CUDA graph: TensorRT leaves undefined what a
graph does once the context it was captured from is set to another shape. All contexts of an engine share one scratch
memory, as they run one after the other on one stream.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import structlog

from jetface.device.faults import Fault, explain
from jetface.domain import Batch, Tensor
from jetface.errors import BackendUnavailableError, EngineLoadError, InferenceError
from jetface.runtimes.cuda import Cuda, CudaError, Graph, Stream
from jetface.runtimes.gpu_buffers import Bucket, DeviceBuffer, GpuBackend, InputBuffer, OutputBuffers, Shape

_log = structlog.get_logger(__name__)

_MOST_LINES = 20
"""Warnings that are logged of one piece of work; a build can repeat itself thousands of times."""


_HARMLESS = ("Empty initializer",)
"""Of every detector: exports give Resize an empty region of interest."""


class Messages:
    """What TensorRT says while one piece of work is done.

    All of it is logged as warnings: whether the work fails is told by whoever does it.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._seen: set[str] = set()
        self.errors: list[str] = []
        """Texts of the errors, in order, each on one line."""

    @property
    def text(self) -> str:
        """All errors on one line."""
        return "; ".join(dict.fromkeys(self.errors))

    def add(self, text: str, *, is_error: bool) -> None:
        """Take in a message."""
        if is_error:
            self.errors.append(text)
        if text not in self._seen:
            self._seen.add(text)
            if len(self._seen) <= _MOST_LINES:
                _log.warning("TensorRT says", model=self._model, text=text, is_error=is_error)

    def close(self) -> None:
        """Say how many lines were left out."""
        if len(self._seen) > _MOST_LINES:
            num_left_out = len(self._seen) - _MOST_LINES
            _log.warning("TensorRT says more", model=self._model, num_lines_left_out=num_left_out)


class Relay:
    """TensorRT's logger. One a process: as long as a builder or an engine is there, it ignores every other."""

    def __init__(self, trt: Any) -> None:
        """Make a logger of this TensorRT."""
        self._listeners: list[Messages] = []
        self.logger = self._make(trt)
        """An `ILogger`, to be given to all that wants one."""

    @contextmanager
    def heard(self, model: str) -> Iterator[Messages]:
        """Collect what is said in the block; what else is said at the same time, in other threads, is too."""
        messages = Messages(model)
        self._listeners.append(messages)
        try:
            yield messages
        finally:
            self._listeners.remove(messages)
            messages.close()

    def tell(self, text: str, *, is_error: bool) -> None:
        """Hand a message to all who listen, or to the log."""
        text = " ".join(text.split())
        if not is_error and any(words in text for words in _HARMLESS):
            return
        for messages in tuple(self._listeners):
            messages.add(text, is_error=is_error)
        if not self._listeners:
            _log.warning("TensorRT says", text=text, is_error=is_error)

    def _make(self, trt: Any) -> Any:
        is_error = {trt.ILogger.INTERNAL_ERROR: True, trt.ILogger.ERROR: True, trt.ILogger.WARNING: False}
        relay = self

        class Logger(trt.ILogger):  # type: ignore[misc]  # the base is found at run time
            def __init__(self) -> None:
                trt.ILogger.__init__(self)  # pybind11 wants it called by name

            def log(self, severity: Any, msg: str) -> None:
                # Thousands of lines are for information alone.
                if severity in is_error:
                    relay.tell(msg, is_error=is_error[severity])

        return Logger()


class LoadedEngine:
    """What all buckets of an engine share: the engine itself, a stream and scratch memory."""

    def __init__(self, trt: Any, runtime: Any, engine: Any, cuda: Cuda) -> None:
        """Own an engine.

        Args:
            trt: The module `tensorrt`.
            runtime: What the engine was loaded by.
            engine: An `ICudaEngine`.
            cuda: Where its memory and its stream are made.

        Raises:
            EngineLoadError: It has not one input, or no output.
            CudaError: The device has no room.
        """
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        if len(inputs) != 1 or len(names) < 2:
            raise EngineLoadError(f"An engine has one input and at least one output; this one has {', '.join(names)}.")
        dtypes = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        self.input_name = inputs[0]
        self.input_dtype = dtypes.pop(self.input_name)
        self.outputs = dtypes
        """Types by name, in the graph's order."""
        ends = (engine.get_tensor_profile_shape(inputs[0], at) for at in range(engine.num_optimization_profiles))
        self._profiles: list[tuple[Shape, Shape]] = [(tuple(least), tuple(most)) for least, _, most in ends]
        self.max_batch_size = max(most[0] for _, most in self._profiles)
        self._trt = trt
        self._runtime = runtime  # has to outlive the engine
        self._engine: Any = engine
        self.cuda = cuda
        self.is_integrated = cuda.properties().is_integrated
        self.stream = Stream(cuda)
        try:
            self._scratch = DeviceBuffer(cuda, max(1, engine.device_memory_size_v2))
        except CudaError:
            self.stream.close()
            raise

    def profile_of(self, shape: Shape) -> int:
        """Return the first profile that holds a shape.

        Raises:
            InferenceError: None does.
        """
        for index, (least, most) in enumerate(self._profiles):
            if len(shape) == len(least) and all(
                low <= length <= high for low, length, high in zip(least, shape, most, strict=True)
            ):
                return index
        raise InferenceError(f"The engine does not take a batch of {list(shape)}.")

    def context(self, shape: Shape) -> Any:
        """Return a context for one input shape.

        Raises:
            InferenceError: TensorRT refuses.
        """
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise InferenceError("TensorRT makes no context; is the device out of memory?")
        context.set_device_memory(self._scratch.address, self._scratch.num_bytes)
        is_set = context.set_optimization_profile_async(self.profile_of(shape), self.stream.handle)
        self.stream.synchronize()
        if not is_set or not context.set_input_shape(self.input_name, shape):
            raise InferenceError(f"The engine does not take a batch of {list(shape)}.")
        return context

    def close(self) -> None:
        """Free the engine; its contexts are gone before."""
        self._engine = self._runtime = None
        self._scratch.close()
        self.stream.close()


TENSORRT = "tensorrt"
RTX = "tensorrt_rtx"

_MODULES = {TENSORRT: (TENSORRT,), RTX: (RTX, "tensorrt_rtx_bindings")}
"""Python packages of each toolkit, the first that is there; wheels of RTX may bring the second alone."""

_NEEDED = (
    "Builder.build_serialized_network",
    "ICudaEngine.device_memory_size_v2",
    "IBuilderConfig.set_memory_pool_limit",
    "IExecutionContext.execute_async_v3",
    "IProgressMonitor",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "OnnxParser.parse_from_file",
    "Runtime.deserialize_cuda_engine",
)
"""What came last of all we use: with these a version has the rest. All of it is there from 10.1 on."""


@dataclass(frozen=True, slots=True)
class Toolkit:
    """A TensorRT that was found, and what its version can do."""

    trt: Any
    """The Python module."""
    name: str
    """`tensorrt` or `tensorrt_rtx`."""
    keeps_timings: bool
    """Whether a timing cache has any effect; RTX times nothing while it builds."""
    relay: Relay
    """Its logger, the same for all that it does."""

    @property
    def version(self) -> str:
        """Such as `10.3.0`."""
        return str(self.trt.__version__)

    def network_flags(self) -> int:
        """Return the flags of a strongly typed network with its batch in its shapes.

        Up to 10 strong typing is asked for, and a dynamic batch was once; from 11 on both are all there is, and the
        second flag is gone.
        """
        flags = self.trt.NetworkDefinitionCreationFlag
        names = ("EXPLICIT_BATCH", "STRONGLY_TYPED")
        return sum(1 << int(getattr(flags, name)) for name in names if hasattr(flags, name))

    def adjust_for_accelerator(self, parser: Any) -> None:
        """Let a parser write layers as a deep learning accelerator takes them, where it can; 10.3 cannot."""
        flag = getattr(self.trt.OnnxParserFlag, "ADJUST_FOR_DLA", None)
        if flag is not None:
            parser.set_flag(flag)

    def has_fast_fp16(self, builder: Any) -> bool:
        """Tell whether half precision is worth it; 11 does not say, as it runs on no GPU where it is not."""
        return bool(getattr(builder, "platform_has_fast_fp16", True))


def find_toolkit(
    *, with_rtx: bool = False, import_module: Callable[[str], ModuleType] = importlib.import_module
) -> Toolkit:
    """Import TensorRT.

    Args:
        with_rtx: Take TensorRT for RTX where there is no TensorRT. It builds on any CPU, but neither for Hopper nor
            for Orin: it is for tests.
        import_module: Imports a module by name.

    Raises:
        BackendUnavailableError: It cannot be had; `details` has `why` and `cure`.
    """
    fault: Fault | None = None
    for name in (TENSORRT, RTX) if with_rtx else (TENSORRT,):
        for module in _MODULES[name]:
            try:
                found = import_module(module)
            # A broken package raises whatever it likes: ImportError, OSError, AttributeError, ...
            except Exception as cause:  # noqa: BLE001 - every failure is told, with its reason
                fault = fault or explain(str(cause), what="TensorRT cannot be imported")
                continue
            _check(found, name)
            return Toolkit(found, name, keeps_timings=name == TENSORRT, relay=Relay(found))
    raise unavailable(fault or explain("", what="TensorRT cannot be imported"))


def unavailable(fault: Fault) -> BackendUnavailableError:
    """Return the error that says what was found."""
    return BackendUnavailableError(fault.sentence, what=fault.what, why=fault.why, cure=fault.cure)


def _check(module: Any, name: str) -> None:
    missing = next((path for path in _NEEDED if not _has(module, path)), None)
    if missing:
        version = getattr(module, "__version__", "of no version")
        raise unavailable(
            Fault(
                "TensorRT cannot be used",
                f"{name} {version} has no {missing}",
                "Install 10.1 or later: JetPack 6.2 has 10.3.",
            )
        )


def _has(module: Any, path: str) -> bool:
    for name in path.split("."):
        if not hasattr(module, name):
            return False
        module = getattr(module, name)
    return True


def open_engine(
    trt: Any,
    plan: bytes,
    *,
    max_batch_size: int,
    cuda: Cuda,
    dla_core: int = -1,
    logger: Any = None,
) -> TensorrtBackend:
    """Load a plan; buffers are made by the first run of each shape.

    Args:
        trt: The module `tensorrt`, 10.1 or later.
        plan: As `EngineKit.build` returns it.
        max_batch_size: Most items per run; the engine's profiles may allow fewer.
        cuda: Where its buffers and its stream are made.
        dla_core: Deep learning accelerator it runs on; -1: none. A plan says that it needs one, not which.
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
    try:
        loaded = LoadedEngine(trt, runtime, engine, cuda)
    except CudaError as cause:
        raise EngineLoadError("The engine finds no room on the device.") from cause
    return TensorrtBackend(loaded, max_batch_size=min(max_batch_size, loaded.max_batch_size))


def _use_accelerator(runtime: Any, core: int) -> None:
    """Let plans run on this core: left alone, a runtime takes the first for all of them."""
    runtime.DLA_core = core
    # What is out of range is not taken, and nothing is said.
    if runtime.DLA_core != core:
        raise EngineLoadError(
            f"TRT_DLA_CORE={core} cannot be had: TensorRT finds {runtime.num_DLA_cores} deep learning accelerators "
            "here. Set it to -1."
        )


class _EngineBucket(Bucket):
    """A context at one shape: buffers, and the graph of its kernels once they have run."""

    def __init__(self, engine: LoadedEngine, shape: Shape) -> None:
        self._engine = engine
        self._is_graph_due = True
        self._graph: Graph | None = None
        self._context = engine.context(shape)
        cuda, is_integrated = engine.cuda, engine.is_integrated
        found = [(self._shape_of(name), dtype) for name, dtype in engine.outputs.items()]
        self._input = InputBuffer(cuda, shape, engine.input_dtype, is_integrated=is_integrated)
        try:
            self._outputs = OutputBuffers(cuda, found, shape[0], is_integrated=is_integrated)
        except BaseException:
            self._input.close()
            raise
        try:
            self._bind(engine.input_name, self._input.address)
            for name, address in zip(engine.outputs, self._outputs.addresses, strict=True):
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


class TensorrtBackend(GpuBackend):
    """An engine and its buffers."""

    def __init__(self, engine: LoadedEngine, *, max_batch_size: int) -> None:
        """Own an engine; `open_engine` makes one."""
        super().__init__(engine.cuda, max_batch_size=max_batch_size)
        self._engine = engine

    def _check(self, shape: Shape, dtype: np.dtype[Any]) -> None:
        if dtype != self._engine.input_dtype:
            raise InferenceError(f"The engine does not take a batch of {dtype}, but of {self._engine.input_dtype}.")
        if shape not in self._buckets:
            self._engine.profile_of(shape)

    def _make(self, shape: Shape) -> Bucket:
        return _EngineBucket(self._engine, shape)

    def _free(self) -> None:
        self._engine.close()
