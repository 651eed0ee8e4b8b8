"""Sensors of NVIDIA GPUs that have a driver of their own, through NVML; a Jetson's are files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from jetface.device.gpu import Gpu
from jetface.device.readings import Readings

_TEMPERATURE_OF_THE_GPU = 0
_GRAPHICS_CLOCK = 0
_THERMAL_REASONS = 0x20 | 0x40
"""Slowed down by software or hardware for heat."""
_POWER_REASONS = 0x04 | 0x80
"""By the power limit, or the power brake."""


class NvmlError(Exception):
    """NVML cannot be used; the message says why."""


class NvmlSensors:
    """Reads every GPU that this process may see. Not thread-safe."""

    def __init__(self, nvml: Any) -> None:
        """Open the driver.

        Args:
            nvml: The module `pynvml`, or one with its functions.

        Raises:
            NvmlError: The driver does not answer.
        """
        self._nvml = nvml
        try:
            nvml.nvmlInit()
            self._handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        except nvml.NVMLError as error:
            raise NvmlError(f"NVML does not answer: {error}") from error

    def read(self) -> Readings:
        """Return what can be read now; a GPU that does not support a figure leaves it out."""
        readings: dict[str, dict[str, float]] = {}
        for index, handle in enumerate(self._handles):
            for quantity, name, value in self._read_gpu(str(index), handle):
                values = readings.setdefault(quantity, {})
                # By either GPU.
                values[name] = max(value, values.get(name, value))
        return readings

    def close(self) -> None:
        """Close the driver."""
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def _read_gpu(self, number: str, handle: Any) -> Iterator[tuple[str, str, float]]:
        nvml, gpu = self._nvml, f"gpu{number}"
        load = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        if load is not None:
            yield "gpu_load_ratio", number, load.gpu / 100
        clock_mhz = self._ask(nvml.nvmlDeviceGetClockInfo, handle, _GRAPHICS_CLOCK)
        if clock_mhz is not None:
            yield "clock_hertz", gpu, clock_mhz * 1e6
        temperature_c = self._ask(nvml.nvmlDeviceGetTemperature, handle, _TEMPERATURE_OF_THE_GPU)
        if temperature_c is not None:
            yield "temperature_celsius", gpu, temperature_c
        power_mw = self._ask(nvml.nvmlDeviceGetPowerUsage, handle)
        if power_mw is not None:
            yield "power_watts", gpu, power_mw / 1000
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        # A Thor's has none of its own.
        if memory is not None and memory.total:
            yield "gpu_memory_free_bytes", number, memory.free
        reasons = self._ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        if reasons is not None:
            yield "throttled", "thermal", float(bool(reasons & _THERMAL_REASONS))
            yield "throttled", "power", float(bool(reasons & _POWER_REASONS))

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._nvml.NVMLError:
            return None


def open_nvml(gpu: Gpu | None) -> NvmlSensors:
    """Open NVML where there is a GPU for it.

    Raises:
        NvmlError: There is none, or it cannot be used.
    """
    if gpu is None:
        raise NvmlError("there is no NVIDIA GPU")
    if not gpu.has_nvml:
        raise NvmlError("a Jetson's GPU is read from /sys")
    if not gpu.is_reachable:
        raise NvmlError("the GPU cannot be reached from here")
    try:
        import pynvml  # noqa: PLC0415 - an extra
    except ImportError as cause:
        raise NvmlError("nvidia-ml-py is not installed: pip install 'jetface[gpu]'") from cause
    return NvmlSensors(pynvml)
