"""As much of the module `tensorrt` as the runner uses; its engines run on ONNX Runtime's CPU provider.

They keep TensorRT's rules: nothing runs before its shape, its memory and all addresses are set, a graph is captured
only after a run, outputs appear when the stream gets there.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime

from tests.support.fake_cuda import FakeCuda

_MAGIC = b"stand-in plan"
SCRATCH_BYTES = 4096

Shape = Sequence[int]


def make_plan(model: bytes, profiles: Sequence[tuple[Shape, Shape, Shape]]) -> bytes:
    """Return a plan of a serialized ONNX graph; profiles are least, usual and most input shapes."""
    return b"\n".join((_MAGIC, json.dumps(profiles).encode(), model))


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class Logger:
    ERROR = 1

    def __init__(self, severity: int) -> None:
        self.severity = severity


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = range(3)


class StandInTrt:
    """The module. `refusing` names what answers False, None or with an error from now on."""

    TensorIOMode = TensorIOMode
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    Logger = Logger
    ILogger = ILogger

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.refusing: set[str] = set()
        self.num_contexts = 0
        self.dla_cores: list[int] = []

    def Runtime(self, _logger: object) -> Runtime:  # noqa: N802 - TensorRT's name
        """Return what loads plans."""
        if "Runtime" in self.refusing:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return Runtime(self)

    @staticmethod
    def nptype(dtype: Any) -> Any:
        """Return the numpy type of a tensor."""
        return dtype


class Runtime:
    num_DLA_cores = 2  # noqa: N815 - TensorRT's name

    def __init__(self, module: StandInTrt) -> None:
        self._module = module
        self._dla_core = 0

    @property
    def DLA_core(self) -> int:  # noqa: N802 - TensorRT's name
        """The accelerator that plans are loaded for; TensorRT leaves it at the first."""
        return self._dla_core

    @DLA_core.setter
    def DLA_core(self, core: int) -> None:  # noqa: N802 - TensorRT's name
        if core < self.num_DLA_cores:
            self._dla_core = core

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        """Return an engine; None for what is no plan."""
        parts = plan.split(b"\n", 2)
        if len(parts) != 3 or parts[0] != _MAGIC:
            return None
        self._module.dla_cores.append(self._dla_core)
        return Engine(self._module, json.loads(parts[1]), parts[2])


class Engine:
    def __init__(self, module: StandInTrt, profiles: Sequence[tuple[Shape, Shape, Shape]], model: bytes) -> None:
        self.module = module
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._profiles = profiles
        self._inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = {value.name: value for value in self.session.get_outputs()}
        self._names: list[str] = [*self._inputs, *self.outputs]
        self.num_io_tensors = len(self._names)
        self.num_optimization_profiles = len(profiles)
        self.device_memory_size_v2 = SCRATCH_BYTES

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> np.dtype[Any]:
        value = self._inputs.get(name) or self.outputs[name]
        return np.dtype({"tensor(float)": "float32", "tensor(uint8)": "uint8"}[value.type])

    def get_tensor_profile_shape(self, name: str, index: int) -> tuple[Shape, Shape, Shape]:
        assert name in self._inputs
        return self._profiles[index]

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> Context | None:
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        if "create_execution_context" in self.module.refusing:
            return None
        self.module.num_contexts += 1
        return Context(self)

    def run(self, blob: np.ndarray) -> list[np.ndarray]:
        """Answer a batch."""
        return list(self.session.run(None, {next(iter(self._inputs)): blob}))


class Context:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cuda = engine.module.cuda
        self._profile: tuple[Shape, Shape, Shape] | None = None
        self._input: tuple[str, tuple[int, ...]] | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._has_memory = False
        self._has_run = False

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= SCRATCH_BYTES
        self._cuda.window(memory, size)
        self._has_memory = True

    def set_optimization_profile_async(self, profile_index: int, _stream_handle: int) -> bool:
        self._profile = self._engine.get_tensor_profile_shape(self._engine.get_tensor_name(0), profile_index)
        return self._allows("set_optimization_profile_async")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self._profile is not None
        least, _, most = self._profile
        if not all(low <= length <= high for low, length, high in zip(least, shape, most, strict=True)):
            return False
        self._input = (name, shape)
        outputs = self._engine.run(np.zeros(shape, self._engine.get_tensor_dtype(name)))
        self._shapes = {output: value.shape for output, value in zip(self._engine.outputs, outputs, strict=True)}
        return self._allows("set_input_shape")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 4) if "get_tensor_shape" in self._engine.module.refusing else self._shapes[name]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return self._allows("set_tensor_address")

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self._has_memory
        assert self._input is not None
        assert len(self._addresses) == self._engine.num_io_tensors
        if self._cuda.is_capturing(stream_handle) and (not self._has_run or not self._allows("capture")):
            return False
        if not self._allows("execute_async_v3"):
            return False
        self._cuda.enqueue(stream_handle, self._work)
        self._has_run = True
        return True

    def _work(self) -> None:
        assert self._input is not None
        name, shape = self._input
        outputs = self._engine.run(self._array(name, shape))
        for output, value in zip(self._engine.outputs, outputs, strict=True):
            self._array(output, value.shape)[:] = value

    def _array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        dtype = np.dtype(self._engine.get_tensor_dtype(name))
        num_bytes = int(np.prod(shape)) * dtype.itemsize
        return np.frombuffer(self._cuda.window(self._addresses[name], num_bytes), dtype).reshape(shape)

    def _allows(self, call: str) -> bool:
        return call not in self._engine.module.refusing
