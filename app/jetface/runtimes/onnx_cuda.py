"""ONNX Runtime's CUDA provider at its floor: bound buffers, one stream, CUDA graphs, nothing allocated by a run.

FP32 graphs stay FP32 here (with TF32): cast to FP16 they are slower than that at small batches, and NHWC with FP16
kills the process; docs/performance.md, "On a GPU".
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import structlog
from google.protobuf.message import DecodeError

from jetface.domain import Batch, Tensor
from jetface.errors import BackendUnavailableError, InferenceError, ModelFileError
from jetface.runtimes.cuda import Cuda, CudaError, Stream
from jetface.runtimes.gpu_buffers import Bucket, GpuBackend, InputBuffer, OutputBuffers, PinnedPool, Shape
from jetface.runtimes.onnx import open_session
from jetface.runtimes.providers import CPU, CUDA, CudaOptions, provider_options

_log = structlog.get_logger(__name__)


def may_prefer_nhwc(model: bytes | Path, compute_capability: tuple[int, int]) -> bool:
    """Tell whether channels last (NHWC) pay: IResNet runs 1.2 to 1.4 times as fast where tensor cores do TF32.

    Not where convolutions have groups, as det_500m and MobileFaceNet have: channels last gain little (2.0 for 2.1 ms,
    eight canvases of 640x640 by det_500m, its heads merged), and cuDNN plans each shape for nearly twice as long (2.7
    for 1.6 s, by a script that is not kept).

    Never with FP16 in the graph: ONNX Runtime 1.31.1 then ends the whole process with "terminate called without an
    active exception", on the BatchNormalization of a matrix that ends IResNet (`tests/device/nhwc_fp16.py` found it).

    Measured on an H200 (`tests/device/graphs.py`). TF32 came with compute capability 8.0.

    Args:
        model: A prepared graph, serialized or in a file; of one that cannot be read, opening it says what is wrong.
        compute_capability: Of the device.
    """
    if compute_capability < (8, 0):
        return False
    try:
        graph = onnx.load_model_from_string(model if isinstance(model, bytes) else model.read_bytes()).graph
    except (OSError, DecodeError):
        return False
    half = onnx.TensorProto.FLOAT16
    attributes = [(node.op_type, attribute.name, attribute.i) for node in graph.node for attribute in node.attribute]
    has_groups = any(op == "Conv" and name == "group" and groups > 1 for op, name, groups in attributes)
    casts_to_half = ("Cast", "to", half) in attributes
    return not has_groups and not casts_to_half and all(weight.data_type != half for weight in graph.initializer)


class CaptureGate:
    """Lets runs pass together, and a capture alone. Thread-safe.

    ONNX Runtime captures in CUDA's global mode: an allocation by any other thread of the process meanwhile fails, and
    makes the capture fail too.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_passing = 0
        self._num_opening = 0
        self._num_waiting = 0
        self._num_patient = 0
        self._is_capturing = False
        self._passing = _Passing(self._enter, self._leave)

    @property
    def is_awaited(self) -> bool:
        """Whether a patient capture waits for what is being opened."""
        return self._num_patient > 0

    def passing(self) -> AbstractContextManager[None]:
        """Run beside others; waits while there is a capture, or one waits."""
        return self._passing

    def _enter(self) -> None:
        with self._changed:
            if self._is_capturing or self._num_waiting:
                self._changed.wait_for(lambda: not self._is_capturing and not self._num_waiting)
            self._num_passing += 1

    def _leave(self) -> None:
        with self._changed:
            self._num_passing -= 1
            if self._num_waiting:
                self._changed.notify_all()

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Run beside others for seconds, as when a model is opened or runs a shape for the first time.

        No capture holds others up for that long; one that is patient comes before the next to open.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._num_patient)
            self._num_opening += 1
        try:
            with self.passing():
                yield
        finally:
            with self._changed:
                self._num_opening -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self, *, wait_s: float, patience_s: float = 0.0) -> Iterator[bool]:
        """Capture, once all who pass are through; nobody begins to pass meanwhile.

        Args:
            wait_s: Most seconds to hold the others up for, before giving way to them.
            patience_s: Most seconds to wait, holding up none that run, until nothing is being opened.

        Yields:
            Whether the device is the caller's; if not, others pass, and the caller passes as they do.
        """
        with self._changed:
            self._num_patient += 1
            self._changed.wait_for(lambda: not self._num_opening, patience_s)
            self._num_patient -= 1
            self._num_waiting += 1
            wait_s = 0.0 if self._num_opening else wait_s
            is_alone = self._changed.wait_for(lambda: not self._is_capturing and not self._num_passing, wait_s)
            self._num_waiting -= 1
            self._is_capturing = self._is_capturing or is_alone
            self._changed.notify_all()
        if not is_alone:
            with self.passing():
                yield False
            return
        try:
            yield True
        finally:
            with self._changed:
                self._is_capturing = False
                self._changed.notify_all()


class _Passing(AbstractContextManager[None]):
    """One for all runs: it holds nothing itself, and every run passes, so making one each would add up."""

    def __init__(self, enter: Callable[[], None], leave: Callable[[], None]) -> None:
        self._enter = enter
        self._leave = leave

    def __enter__(self) -> None:
        self._enter()

    def __exit__(self, *_: object) -> None:
        self._leave()


NO_GRAPH = "-1"
"""Number of a CUDA graph that is neither captured nor launched."""

ONLY_GRAPH = "1"
"""Number of the CUDA graph of a session that serves one shape."""

DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(float16)": "float16"}
"""ONNX Runtime's names of element types, as NumPy's."""

_PATIENCE_S = 30.0
"""How long the first capture of a shape waits while others plan theirs. cuDNN plans a shape for seconds (3 s for
det_500m on an H200), and anew whenever the shape changes, unless it was captured: serving without is no option."""

_LONGEST_HOLD_UP_S = 0.05
"""How long other models' runs are held up for a capture that waits for its turn; else it is tried the next time."""


class BoundBucket(Bucket):
    """Input and outputs of one shape at fixed addresses, and the number of the CUDA graph that works on them.

    The first run allocates, the second captures, those after that only copy and launch. One thread.
    """

    def __init__(
        self,
        session: Any,
        shape: Shape,
        dtype: np.dtype[Any],
        *,
        device: str,
        cuda: Cuda,
        stream: Stream,
        gate: CaptureGate,
        graph: str,
    ) -> None:
        """Allocate the input and bind it.

        Args:
            session: An open `onnxruntime.InferenceSession` with one input, of nobody else; it works on `stream`.
            shape: Of the input.
            dtype: Of the input.
            device: As ONNX Runtime calls it.
            cuda: Where buffers are made.
            stream: What copies go to.
            gate: Shared by all sessions of the process.
            graph: Number of the CUDA graph, or `NO_GRAPH`.
        """
        self._session = session
        self._device, self._cuda, self._stream, self._gate = device, cuda, stream, gate
        self._is_integrated = cuda.properties().is_integrated
        self._graph = graph
        self._captured_on: set[int] = set()
        self._patience_s = _PATIENCE_S
        self._without_graph, self._with_graph = run_options(NO_GRAPH), run_options(graph)
        self._bucket = shape[0]
        self._input = InputBuffer(cuda, shape, dtype, is_integrated=self._is_integrated)
        self._outputs: OutputBuffers | None = None
        self._binding = session.io_binding()
        self._binding.bind_input(session.get_inputs()[0].name, device, 0, dtype.type, list(shape), self._input.address)

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Run the graph on a batch that fits, up to as many rows as the shape has.

        Returns:
            The outputs, valid until the next run or `close`.

        Raises:
            CudaError: CUDA failed. ONNX Runtime raises errors of its own, which derive from Exception alone.
        """
        if self._outputs is None:
            with self._gate.opening():
                self._outputs = self._learn(batch)
                return self._bound_run(batch, self._without_graph, self._outputs)
        # ONNX Runtime keeps what a thread captured for that thread alone, and captures anew in each other one.
        thread = threading.get_ident()
        if self._graph == NO_GRAPH or thread in self._captured_on:
            with self._gate.passing():
                return self._bound_run(batch, self._with_graph, self._outputs)
        patience_s, self._patience_s = self._patience_s, 0.0
        with self._gate.alone(wait_s=_LONGEST_HOLD_UP_S, patience_s=patience_s) as is_alone:
            if is_alone:
                answers = self._capturing_run(batch, self._outputs)
            else:
                answers = self._bound_run(batch, self._without_graph, self._outputs)
        if is_alone:
            self._captured_on.add(thread)
        elif patience_s:
            _log.warning("shape runs without its CUDA graph until others pause", shape=self._input.shape)
        return answers

    def close(self) -> None:
        """Free the buffers; a second call does nothing."""
        with self._gate.passing():
            self._binding = self._session = None
            self._input.close()
            if self._outputs is not None:
                self._outputs.close()

    def _learn(self, batch: Batch) -> OutputBuffers:
        """Let ONNX Runtime allocate the outputs once, to learn their shapes; bind buffers of our own in their place."""
        names = [value.name for value in self._session.get_outputs()]
        for name in names:
            self._binding.bind_output(name, self._device, 0)
        self._input.upload(batch, self._stream)
        self._session.run_with_iobinding(self._binding, self._without_graph)
        self._stream.synchronize()
        found = [(tuple(value.shape()), np.dtype(DTYPES[value.data_type()])) for value in self._binding.get_outputs()]
        outputs = OutputBuffers(self._cuda, found, self._bucket, is_integrated=self._is_integrated)
        try:
            for name, (shape, dtype), address in zip(names, found, outputs.addresses, strict=True):
                self._binding.bind_output(name, self._device, 0, dtype.type, list(shape), address)
        except BaseException:
            outputs.close()
            raise
        return outputs

    def _capturing_run(self, batch: Batch, outputs: OutputBuffers) -> tuple[Tensor, ...]:
        try:
            return self._bound_run(batch, self._with_graph, outputs)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's classes have no other base
            # If it was not the capture that failed, this run fails too, and the caller learns of it.
            self._graph, self._with_graph = NO_GRAPH, self._without_graph
            answers = self._bound_run(batch, self._without_graph, outputs)
            _log.warning("shape runs without a CUDA graph", shape=self._input.shape, reason=str(error))
            return answers

    def _bound_run(self, batch: Batch, options: Any, outputs: OutputBuffers) -> tuple[Tensor, ...]:
        num_items = len(batch)
        self._input.upload(batch, self._stream)
        self._session.run_with_iobinding(self._binding, options)
        outputs.fetch(num_items, self._stream)
        self._stream.synchronize()
        return outputs.answers(num_items)


def run_options(graph: str, *, waits: bool = False) -> Any:
    """Return `onnxruntime.RunOptions`.

    Args:
        graph: Number of a CUDA graph, or `NO_GRAPH`.
        waits: Whether a run ends when the device has done it; else when all of it is queued.
    """
    import onnxruntime  # noqa: PLC0415 - it is slow to load, and on some devices must never be

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph)
    if not waits:
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaSetup:
    """What all models on the CUDA provider share. Made once a process."""

    cuda: Cuda
    gate: CaptureGate = field(default_factory=CaptureGate)
    memory_limit_bytes: int = 0
    """Most memory of the device for a model, its input and output buffers aside; 0: no limit."""
    audits_by_profile: bool = field(default_factory=lambda: not can_tell())
    """Whether only the profile of a run tells where nodes went; see `audit.can_tell`."""
    device: str = "cuda"
    """As ONNX Runtime calls it; `cpu` runs all but the GPU's own part of this module, for tests."""

    @property
    def provider(self) -> str:
        """Full name of the execution provider."""
        return CUDA if self.device == "cuda" else CPU


_SHAPE_OPERATORS = frozenset(
    {"Shape", "Size", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Constant", "Add", "Sub", "Mul"}
    | {"Div", "Floor", "ReduceProd", "Reshape", "Range", "ConstantOfShape"}
)
"""What computes sizes from sizes: ONNX Runtime keeps those on the CPU on purpose, as their answers are needed there."""


def can_tell() -> bool:
    """Whether this ONNX Runtime says where nodes went; before 1.24 only a profile tells."""
    import onnxruntime  # noqa: PLC0415 - it is slow to load, and on some devices must never be

    return hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info")


def nodes_elsewhere(session: Any, provider: str) -> tuple[str, ...]:
    """Return the nodes that another provider runs, such as `Shape Shape_12`, as often as there are.

    Args:
        session: An open `onnxruntime.InferenceSession`, its options with `RECORD_ENTRY`.
        provider: Full name of the one that was meant to run all.
    """
    return _sorted(
        f"{node.op_type} {node.name}"
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != provider
        for node in part.get_nodes()
    )


def nodes_in_profile(profile: Path, provider: str) -> tuple[str, ...]:
    """Return what `nodes_elsewhere` does, from the file that a session's `end_profiling` names.

    Args:
        profile: Events of at least one run.
        provider: Full name of the one that was meant to run all.
    """
    seen: dict[str, str] = {}
    for event in json.loads(profile.read_bytes()):
        arguments = event.get("args", {})
        ran_on = arguments.get("provider", "")
        if event.get("cat") == "Node" and ran_on and ran_on != provider:
            name = event["name"].removesuffix("_kernel_time")
            seen[name] = f"{arguments['op_name']} {name}"
    return _sorted(seen.values())


def report(nodes: Sequence[str], provider: str, model: str) -> None:
    """Say in the log which nodes of a model run elsewhere: a warning where that costs time, by operator."""
    counts: dict[str, int] = {}
    for node in nodes:
        operator = node.split(" ", 1)[0]
        counts[operator] = counts.get(operator, 0) + 1
    if counts.keys() - _SHAPE_OPERATORS:
        _log.warning("part of the model runs on the CPU", model=model, provider=provider, operators=counts)
    elif counts:
        _log.info("sizes are computed on the CPU", model=model, provider=provider, operators=counts)


def _sorted(nodes: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(node.strip() for node in nodes))


_FREE_SIDE_PX = 64
"""What an axis of free length is set to for a trial run: SCRFD takes multiples of 32."""

_NOT_TOLD = (
    "what a model leaves to the CPU cannot be told: there is no room for the profile of a run; make some in /tmp"
)

_MOST_NODES_TOLD = 20
"""Of those that keep a model from CUDA graphs; `GET /models` lists all."""


def open_cuda_backend(
    model: bytes | Path, *, setup: CudaSetup, max_batch_size: int = 1, open_session: Callable[..., Any] = open_session
) -> OnnxCudaBackend:
    """Open a model on the CUDA provider, with CUDA graphs where the model allows them.

    Args:
        model: A prepared graph, serialized or in a file.
        setup: What models share.
        max_batch_size: Most items per run; 1 where the graph's batch is not free.
        open_session: Opens a session.

    Raises:
        ModelFileError: ONNX Runtime cannot read the model.
        BackendUnavailableError: The provider did not start, or the device has no room.
    """
    try:
        compute_capability = setup.cuda.properties().compute_capability
        stream = Stream(setup.cuda)
    except CudaError as cause:
        raise BackendUnavailableError(f"CUDA gives no stream: {cause}.") from cause
    options = CudaOptions(
        memory_limit_bytes=setup.memory_limit_bytes,
        prefers_nhwc=may_prefer_nhwc(model, compute_capability),
        uses_graphs=True,
        stream=stream.handle,
    )

    def opened(options: CudaOptions, profile_prefix: Path | None) -> Any:
        providers = [(name, provider_options(name, cuda=options)) for name in dict.fromkeys((setup.provider, CPU))]
        return open_session(model, providers, num_threads=1, profile_prefix=profile_prefix)

    refusal: str | None = None
    cpu_nodes: tuple[str, ...] = ()
    try:
        with setup.gate.opening(), _profile_folder(setup) as folder:
            profile_prefix = folder and folder / "run"
            try:
                session = opened(options, profile_prefix)
            except ModelFileError as error:
                # It refuses to open a graph of which it could not capture all.
                options = replace(options, uses_graphs=False)
                session = opened(options, profile_prefix)
                refusal = str(error.__cause__)
            if not setup.audits_by_profile:
                cpu_nodes = nodes_elsewhere(session, setup.provider)
            elif folder:
                cpu_nodes = _nodes_of_one_run(session, setup.provider)
    except BaseException:
        stream.close()
        raise
    # Of a prepared graph in a file, what it was prepared from and under which key.
    name = model.stem if isinstance(model, Path) else "in memory"
    if refusal is not None:
        _log.warning(
            "model runs without CUDA graphs",
            model=name, cpu_nodes=list(cpu_nodes[:_MOST_NODES_TOLD]), num_cpu_nodes=len(cpu_nodes), reason=refusal,
        )  # fmt: skip
    report(cpu_nodes, setup.provider, name)
    return OnnxCudaBackend(
        session, partial(opened, options, None), setup, stream,
        max_batch_size=max_batch_size, cpu_nodes=cpu_nodes, uses_graphs=refusal is None,
    )  # fmt: skip


@contextlib.contextmanager
def _profile_folder(setup: CudaSetup) -> Iterator[Path | None]:
    """Make a folder for a profile where one is needed; None where not, or where there is no room: that is logged."""
    with contextlib.ExitStack() as stack:
        folder: Path | None = None
        if setup.audits_by_profile:
            try:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            except OSError as cause:
                _log.warning(_NOT_TOLD, reason=cause.strerror)
        yield folder


def _nodes_of_one_run(session: Any, provider: str) -> tuple[str, ...]:
    """Run a session once and return what its profile says; nothing where that could not be written whole, logged."""
    try:
        return nodes_in_profile(_profile_one_run(session), provider)
    except (OSError, ValueError) as cause:
        _log.warning(_NOT_TOLD, reason=repr(cause))
        return ()


def _profile_one_run(session: Any) -> Path:
    """Run a session once and return the profile of it; the session profiles no more."""
    value = session.get_inputs()[0]
    lengths = [length if isinstance(length, int) else None for length in value.shape]
    shape = [length or (1 if axis == 0 else _FREE_SIDE_PX) for axis, length in enumerate(lengths)]
    session.run(None, {value.name: np.zeros(shape, DTYPES[value.type])}, run_options(NO_GRAPH, waits=True))
    return Path(session.end_profiling())


class OnnxCudaBackend(GpuBackend):
    """A model on the CUDA provider: a session and its buffers for each shape.

    A session for each, because a convolution of ONNX Runtime keeps cuDNN's plan for the last shape alone: with another
    one it plans anew, for seconds, and what the former plan had loaded is gone from under the CUDA graphs that were
    captured with it ("illegal memory access"; 1.31.1 on an H200).
    """

    def __init__(
        self,
        session: Any,
        open_session: Callable[[], Any],
        setup: CudaSetup,
        stream: Stream,
        *,
        max_batch_size: int,
        cpu_nodes: Sequence[str],
        uses_graphs: bool,
    ) -> None:
        """Own a session and a stream; `open_cuda_backend` makes one.

        Args:
            session: For the first shape.
            open_session: Opens another one like it.
            setup: What models share.
            stream: What all sessions and copies of the model go to.
            max_batch_size: Most items per run.
            cpu_nodes: Nodes that run on the CPU.
            uses_graphs: Whether runs are captured.
        """
        super().__init__(setup.cuda, max_batch_size=max_batch_size)
        self._opened = [session]
        """Sessions that no shape has yet."""
        self._open_session = open_session
        self._setup = setup
        self._stream = stream
        self._graph = ONLY_GRAPH if uses_graphs else NO_GRAPH
        value = session.get_inputs()[0]
        self._dtype = np.dtype(DTYPES[value.type])
        self._lengths = [length if isinstance(length, int) else None for length in value.shape[1:]]
        self.cpu_nodes = tuple(cpu_nodes)
        """Nodes that run on the CPU although the GPU was asked for, `operator name`."""

    def pin_items(self, item_bytes: int, num_items: int) -> PinnedPool | None:
        """Return a pool of pinned memory for items, as `GpuBackend.pin_items` says."""
        with self._setup.gate.opening():
            return super().pin_items(item_bytes, num_items)

    def _check(self, shape: Shape, dtype: np.dtype[Any]) -> None:
        # What there are buffers for was looked at when they were made.
        fits = shape in self._buckets or (
            len(shape) == len(self._lengths) + 1
            and all(wanted in (None, length) for wanted, length in zip(self._lengths, shape[1:], strict=True))
        )
        if not fits or dtype != self._dtype:
            raise InferenceError(f"The model does not take a batch of {list(shape)} {dtype}.")

    def _make(self, shape: Shape) -> Bucket:
        setup = self._setup
        with setup.gate.opening():
            session = self._opened.pop() if self._opened else self._open_session()
            return BoundBucket(
                session, shape, self._dtype, device=setup.device, cuda=setup.cuda, stream=self._stream,
                gate=setup.gate, graph=self._graph,
            )  # fmt: skip

    def _let_go(self) -> None:
        super()._let_go()
        self._opened.clear()

    def _free(self) -> None:
        self._stream.close()
