"""ONNX Runtime's CUDA provider at its floor: bound buffers, one stream, CUDA graphs, nothing allocated by a run.

FP32 graphs stay FP32 here (with TF32): cast to FP16 they are slower than that at small batches, and NHWC with FP16
kills the process; docs/performance.md, "On a GPU".
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from jetface.backends.audit import nodes_elsewhere, nodes_in_profile, report
from jetface.backends.batches import layout_of, run_within_memory
from jetface.backends.buckets import Kept, bucket_of, buckets_up_to, most_kept
from jetface.backends.cuda.pinned import PinnedPool, pin_items
from jetface.backends.cuda.runtime import CudaError
from jetface.backends.cuda.streams import Stream
from jetface.backends.cuda_setup import CudaSetup, SessionOpener
from jetface.backends.nhwc import may_prefer_nhwc
from jetface.backends.onnx import open_session
from jetface.backends.onnx_bucket import DTYPES, NO_GRAPH, ONLY_GRAPH, BoundBucket, Shape, run_options
from jetface.backends.providers import CPU, CudaOptions, provider_options
from jetface.domain import Batch, Tensor
from jetface.errors import BackendUnavailableError, InferenceError, ModelFileError

_log = structlog.get_logger(__name__)

_FREE_SIDE_PX = 64
"""What an axis of free length is set to for a trial run: SCRFD takes multiples of 32."""

_NOT_TOLD = (
    "what a model leaves to the CPU cannot be told: there is no room for the profile of a run; make some in /tmp"
)

_MOST_NODES_TOLD = 20
"""Of those that keep a model from CUDA graphs; `GET /models` lists all."""


def open_cuda_backend(
    model: bytes | Path, *, setup: CudaSetup, max_batch_size: int = 1, open_session: SessionOpener = open_session
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


class OnnxCudaBackend:
    """A model on the CUDA provider: a session and its buffers for each shape. One thread owns it until `close`.

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
        self._opened = [session]
        """Sessions that no shape has yet."""
        self._open_session = open_session
        self._setup = setup
        self._stream = stream
        self._max_batch_size = max_batch_size
        self._buckets: Kept[Shape, BoundBucket] = Kept(most_kept(max_batch_size))
        self._graph = ONLY_GRAPH if uses_graphs else NO_GRAPH
        self._without_room: set[Shape] = set()
        """Shapes for which the device had no room, and of which there is a larger one."""
        self._is_closed = False
        value = session.get_inputs()[0]
        self._dtype = np.dtype(DTYPES[value.type])
        self._lengths = [length if isinstance(length, int) else None for length in value.shape[1:]]
        self.cpu_nodes = tuple(cpu_nodes)
        """Nodes that run on the CPU although the GPU was asked for, `operator name`."""

    @property
    def max_batch_size(self) -> int:
        """Most items one run takes."""
        return self._max_batch_size

    @property
    def num_shared(self) -> int:
        """Shapes that share the buffers of a larger one, as the device has no room for their own."""
        return len(self._without_room)

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Run the graph once, as `Backend.run` says; float32 outputs are views of its buffers.

        A batch is padded to the next bucket on the device, and only its own rows are copied there; from where they are,
        where that is memory of `pin_items`. The first run of a shape allocates, the second captures, those after that
        only copy and launch. Where the device's memory does not suffice the batch is run in halves, once; where that
        fails too, all sessions are closed, and the next run opens one anew.
        """
        return run_within_memory(self._run, batch, reopen=self._let_go)

    def _run(self, batch: Batch) -> tuple[Tensor, ...]:
        shape = self._padded(batch)
        is_new = shape not in self._buckets
        try:
            bucket = self._buckets.get(shape, lambda: self._make(shape))
            return bucket.run(batch)
        # ONNX Runtime's classes derive from Exception alone, and importing them here would load it.
        except Exception as cause:
            # What state it is in is anybody's guess; the next run starts with new buffers.
            self._buckets.drop(shape)
            if not is_new or not self._has_larger(shape):
                raise InferenceError("The model could not be run.") from cause
            # A small device may have no room for one more: what there is serves, at the cost of rows that are empty.
            self._without_room.add(shape)
            _log.warning("batch size shares the buffers of a larger one", shape=shape, reason=str(cause))
        return self._run(batch)

    def _let_go(self) -> None:
        """Give back all memory of the device but the stream's."""
        self._buckets.close()
        self._opened.clear()
        self._without_room.clear()

    def pin_items(self, item_bytes: int, num_items: int) -> PinnedPool | None:
        """Pin memory for items, as `PinsItems.pin_items` says."""
        with self._setup.gate.opening():
            return pin_items(self._setup.cuda, item_bytes, num_items)

    def close(self) -> None:
        """Free all memory on the device; a second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._let_go()
            self._stream.close()

    def _padded(self, batch: Batch) -> Shape:
        if self._is_closed:
            raise InferenceError("The model is closed.")
        if not 1 <= len(batch) <= self._max_batch_size:
            raise InferenceError(f"A run takes 1 to {self._max_batch_size} items, not {len(batch)}.")
        shape, dtype = layout_of(batch)
        padded = (bucket_of(len(batch), self._max_batch_size), *shape[1:])
        while padded in self._without_room:
            padded = (min(2 * padded[0], self._max_batch_size), *shape[1:])
        # What there are buffers for was looked at when they were made.
        fits = padded in self._buckets or (
            len(shape) == len(self._lengths) + 1
            and all(wanted in (None, length) for wanted, length in zip(self._lengths, shape[1:], strict=True))
        )
        if not fits or dtype != self._dtype:
            raise InferenceError(f"The model does not take a batch of {list(shape)} {dtype}.")
        return padded

    def _has_larger(self, shape: Shape) -> bool:
        buckets = buckets_up_to(self._max_batch_size)
        return any(bucket > shape[0] and (bucket, *shape[1:]) in self._buckets for bucket in buckets)

    def _make(self, shape: Shape) -> BoundBucket:
        setup = self._setup
        with setup.gate.opening():
            session = self._opened.pop() if self._opened else self._open_session()
            return BoundBucket(
                session, shape, self._dtype, device=setup.device, cuda=setup.cuda, stream=self._stream,
                gate=setup.gate, graph=self._graph,
            )  # fmt: skip
