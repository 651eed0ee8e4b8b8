"""An engine of TensorRT that was loaded, and what it says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from jetface.backends.cuda.buffers import DeviceBuffer
from jetface.backends.cuda.runtime import CudaError, CudaRuntime
from jetface.backends.cuda.streams import Stream
from jetface.errors import EngineLoadError, InferenceError

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """Input shapes of a profile."""

    least: Shape
    most: Shape

    def holds(self, shape: Shape) -> bool:
        """Whether an input of this shape fits."""
        return len(shape) == len(self.least) and all(
            least <= length <= most for least, length, most in zip(self.least, shape, self.most, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What an engine says of its tensors."""

    input_name: str
    input_dtype: np.dtype[Any]
    outputs: Sequence[tuple[str, np.dtype[Any]]]
    """Names and types, in the graph's order."""
    profiles: Sequence[ShapeRange]


def read_facts(trt: Any, engine: Any) -> EngineFacts:
    """Ask an engine for its tensors and profiles.

    Raises:
        EngineLoadError: It has not one input, or no output.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    if len(inputs) != 1 or len(names) < 2:
        raise EngineLoadError(f"An engine has one input and at least one output; this one has {', '.join(names)}.")
    dtypes = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
    profiles = []
    for index in range(engine.num_optimization_profiles):
        least, _, most = engine.get_tensor_profile_shape(inputs[0], index)
        profiles.append(ShapeRange(tuple(least), tuple(most)))
    return EngineFacts(
        input_name=inputs[0],
        input_dtype=dtypes[inputs[0]],
        outputs=[(name, dtypes[name]) for name in names if name != inputs[0]],
        profiles=profiles,
    )


class LoadedEngine:
    """What all buckets of an engine share: the engine itself, a stream and scratch memory."""

    def __init__(self, trt: Any, runtime: Any, engine: Any, facts: EngineFacts, cuda: CudaRuntime) -> None:
        """Own an engine.

        Args:
            trt: The module `tensorrt`.
            runtime: What the engine was loaded by.
            engine: An `ICudaEngine`.
            facts: What `read_facts` says of it.
            cuda: Where its memory and its stream are made.

        Raises:
            CudaError: The device has no room.
        """
        self._trt = trt
        self._runtime = runtime  # has to outlive the engine
        self._engine: Any | None = engine
        self.facts = facts
        self.cuda = cuda
        self.is_integrated = cuda.properties().is_integrated
        self.stream = Stream(cuda)
        try:
            self._scratch = DeviceBuffer(cuda, max(1, engine.device_memory_size_v2))
        except CudaError:
            self.stream.close()
            raise

    def context(self, profile: int, shape: Shape) -> Any:
        """Return a context for one input shape.

        Raises:
            InferenceError: TensorRT refuses.
        """
        if self._engine is None:
            raise InferenceError("The model is closed.")
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise InferenceError("TensorRT makes no context; is the device out of memory?")
        context.set_device_memory(self._scratch.address, self._scratch.num_bytes)
        is_set = context.set_optimization_profile_async(profile, self.stream.handle)
        self.stream.synchronize()
        if not is_set or not context.set_input_shape(self.facts.input_name, shape):
            raise InferenceError(f"The engine does not take a batch of {list(shape)}.")
        return context

    def close(self) -> None:
        """Free the engine; its contexts are gone before."""
        self._engine = self._runtime = None
        self._scratch.close()
        self.stream.close()
