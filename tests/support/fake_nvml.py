"""NVML as `jetface.device.telemetry` uses it: functions of the module `pynvml`, answered from values."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any


class FakeNvml:
    """A driver with GPUs that are given as values by name; a value that is missing is not supported."""

    class NVMLError(Exception):
        """The base of all errors of the real one."""

    def __init__(self, *gpus: Mapping[str, float], is_there: bool = True) -> None:
        self.gpus = gpus
        self.is_there = is_there
        self.is_open = False

    def nvmlInit(self) -> None:  # noqa: N802 - the module's name
        if not self.is_there:
            raise self.NVMLError("Driver Not Loaded")
        self.is_open = True

    def nvmlShutdown(self) -> None:  # noqa: N802 - the module's name
        self.is_open = False

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 - the module's name
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Mapping[str, float]:  # noqa: N802 - the module's name
        return self.gpus[index]

    def nvmlDeviceGetUtilizationRates(self, gpu: Mapping[str, float]) -> Any:  # noqa: N802 - the module's name
        return SimpleNamespace(gpu=self._value(gpu, "load_percent"))

    def nvmlDeviceGetClockInfo(self, gpu: Mapping[str, float], _kind: int) -> Any:  # noqa: N802 - the module's name
        return self._value(gpu, "clock_mhz")

    def nvmlDeviceGetTemperature(self, gpu: Mapping[str, float], _sensor: int) -> Any:  # noqa: N802 - the module's name
        return self._value(gpu, "temperature_c")

    def nvmlDeviceGetPowerUsage(self, gpu: Mapping[str, float]) -> Any:  # noqa: N802 - the module's name
        return self._value(gpu, "power_mw")

    def nvmlDeviceGetMemoryInfo(self, gpu: Mapping[str, float]) -> Any:  # noqa: N802 - the module's name
        free = self._value(gpu, "free_bytes")
        return SimpleNamespace(free=free, total=free)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: Mapping[str, float]) -> Any:  # noqa: N802 - as above
        return self._value(gpu, "reasons")

    def _value(self, gpu: Mapping[str, float], name: str) -> Any:
        if name not in gpu:
            raise self.NVMLError("Not Supported")
        return gpu[name]


H200 = {
    "load_percent": 87, "clock_mhz": 1980, "temperature_c": 61, "power_mw": 412_000, "free_bytes": 120 * 2**30,
    "reasons": 0x4,
}  # fmt: skip
"""A server's GPU at its power limit."""
