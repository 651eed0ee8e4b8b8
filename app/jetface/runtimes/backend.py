"""What every backend is: a graph on one device, its batches and the sizes it is prepared for."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import structlog
from numpy.typing import DTypeLike, NDArray

from jetface.device.faults import recognize
from jetface.domain import Batch, Tensor
from jetface.errors import DeviceMemoryError, InferenceError


class Backend(Protocol):
    """A loaded graph on one device. Not thread-safe: one thread owns it from the first run to `close`."""

    @property
    def max_batch_size(self) -> int:
        """Most items one run takes, at least 1."""
        ...

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Run the graph once.

        Args:
            batch: (N, C, H, W) float32, or (N, H, W, 3) uint8 BGR where the graph was prepared to take pixels; or a
                sequence of its N items, all of one shape and type. 1 <= N <= `max_batch_size`. It is read until the
                run ends, and left as it was.

        Returns:
            The graph's outputs in the graph's order, float32. They are valid until this backend's next run, or its
            `close`: they may be views of memory that it writes to again. Who keeps them longer copies them.

        Raises:
            InferenceError: The run failed, or the graph takes no such batch; the backend stays usable unless it says
                otherwise.
        """
        ...

    def close(self) -> None:
        """Free the device's memory. A second call does nothing; `run` after it raises InferenceError."""
        ...


_log = structlog.get_logger(__name__)

_RETRY_AFTER_S = 1.0


def layout_of(batch: Batch) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape that a batch has as one array, and its type.

    Raises:
        InferenceError: It has no item, or items of different shapes or types.
    """
    if isinstance(batch, np.ndarray):
        return batch.shape, batch.dtype
    if not batch:
        raise InferenceError("A run takes at least one item.")
    shape, dtype = batch[0].shape, batch[0].dtype
    for item in batch:
        if item.shape != shape or item.dtype != dtype:
            raise InferenceError("The items of a batch are not all of one shape and type.")
    return (len(batch), *shape), dtype


def stacked(batch: Batch) -> NDArray[Any]:
    """Return a batch as one array: itself where it is one; a single item as a view.

    Raises:
        InferenceError: As `layout_of`.
    """
    if isinstance(batch, np.ndarray):
        return batch
    layout_of(batch)
    return np.ascontiguousarray(batch[0])[None] if len(batch) == 1 else np.stack(batch)


def run_within_memory(
    run: Callable[[Batch], tuple[Tensor, ...]], batch: Batch, *, reopen: Callable[[], None]
) -> tuple[Tensor, ...]:
    """Run a batch; where the device's memory does not suffice, once more in two halves, a single item as it is.

    Args:
        run: Runs a batch or a part of it; its answers are valid until its next run.
        batch: One item at least.
        reopen: Gives back what the model holds on the device, so that the next run starts anew.

    Raises:
        DeviceMemoryError: It did not suffice for the halves either; the model is reopened.
        InferenceError: A run failed otherwise.
    """
    try:
        return run(batch)
    except InferenceError as error:
        if not _is_of_memory(error):
            raise
        _log.warning("device is out of memory: batch is run in halves", num_items=len(batch), reason=_words(error))
    reopen()
    middle = (len(batch) + 1) // 2
    try:
        parts = [[np.array(output) for output in run(part)] for part in (batch[:middle], batch[middle:]) if len(part)]
    except InferenceError as error:
        reopen()
        if not _is_of_memory(error):
            raise
        _log.error("device is out of memory: model is reopened", num_items=len(batch), reason=_words(error))
        raise DeviceMemoryError(
            "The device's memory does not suffice for the run.", retry_after_s=_RETRY_AFTER_S
        ) from error
    return tuple(np.concatenate(outputs) for outputs in zip(*parts, strict=True))


def _is_of_memory(error: InferenceError) -> bool:
    fault = recognize(_words(error))
    return fault is not None and fault.is_memory


def _words(error: InferenceError) -> str:
    return f"{error} {error.__cause__ or ''}".strip()


RECORD_ENTRY = ("session.record_ep_graph_assignment_info", "1")
"""Session configuration that lets `nodes_elsewhere` find anything, from ONNX Runtime 1.24 on."""

_SHAPE_OPERATORS = frozenset(
    {"Shape", "Size", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Constant", "Add", "Sub", "Mul"}
    | {"Div", "Floor", "ReduceProd", "Reshape", "Range", "ConstantOfShape"}
)
"""What computes sizes from sizes: ONNX Runtime keeps those on the CPU on purpose, as their answers are needed there."""


@runtime_checkable
class Audited(Protocol):
    """A backend that knows which of its nodes run elsewhere."""

    @property
    def cpu_nodes(self) -> tuple[str, ...]:
        """Nodes that run on the CPU although a GPU was asked for, `operator name`."""
        ...


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


def buckets_up_to(max_batch_size: int) -> tuple[int, ...]:
    """Return 1, 2, 4, 8, ... and the largest batch itself, ascending.

    Args:
        max_batch_size: At least 1.
    """
    powers = [1 << exponent for exponent in range(max_batch_size.bit_length()) if 1 << exponent < max_batch_size]
    return (*powers, max_batch_size)


def bucket_of(num_items: int, max_batch_size: int) -> int:
    """Return the smallest bucket that holds `num_items`, 1 to `max_batch_size` of them."""
    return min(1 << (num_items - 1).bit_length(), max_batch_size)


def most_kept(max_batch_size: int) -> int:
    """Return for how many shapes a backend keeps its buffers: every bucket of five item shapes, and 16 at least.

    A detector sees up to four canvas sizes, and one more when it is probed.
    """
    return max(16, 5 * len(buckets_up_to(max_batch_size)))


def warm(
    backend: Backend, item_shapes: Sequence[tuple[int, ...]], dtype: DTypeLike = np.float32, *, num_runs: int = 1
) -> None:
    """Run every bucket, the largest first: what it allocates then has room for all smaller ones.

    Args:
        backend: Owned by the calling thread for the duration of the call.
        item_shapes: Shapes of one item that will come, (C, H, W), the usual one first.
        dtype: Of the items.
        num_runs: Of each bucket: 2 where the first allocates and the second captures a CUDA graph.

    Raises:
        InferenceError: A run failed.
    """
    for shape in item_shapes:
        for bucket in reversed(buckets_up_to(backend.max_batch_size)):
            for _ in range(num_runs):
                backend.run(np.zeros((bucket, *shape), dtype))


@runtime_checkable
class SharesBuckets(Protocol):
    """A backend that may find no room for a bucket, and then pads its batches to a larger one."""

    @property
    def num_shared(self) -> int:
        """Shapes that share the buffers of a larger one."""
        ...


class Closable(Protocol):
    """Something that holds what must be given back."""

    def close(self) -> None:
        """Give it back; a second call does nothing."""
        ...


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value", bound=Closable)


class Kept(Generic[Key, Value]):
    """What was made for the keys that were used last; closes what it lets go of. One thread."""

    def __init__(self, most: int) -> None:
        """Keep at most `most` values, at least 1."""
        self._most = most
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        """Number of values kept."""
        return len(self._values)

    def __contains__(self, key: Key) -> bool:
        """Whether there is a value of `key`."""
        return key in self._values

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the value of `key`, made now where there is none; one that was long unused makes room for it."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        # Room first: on a full device the new value may only fit when the old one is gone.
        while len(self._values) >= self._most:
            self._values.popitem(last=False)[1].close()
        value = make()
        self._values[key] = value
        return value

    def drop(self, key: Key) -> None:
        """Close the value of `key`, where there is one."""
        value = self._values.pop(key, None)
        if value is not None:
            value.close()

    def close(self) -> None:
        """Close all values."""
        while self._values:
            self._values.popitem()[1].close()
