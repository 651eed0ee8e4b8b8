"""The machine while it runs, read every few seconds by a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import structlog

from jetface.device.cores import present_cores
from jetface.device.gpu import Gpu, find_gpu
from jetface.device.jetson import find_jetson
from jetface.device.nvml import NvmlError, open_nvml
from jetface.device.readings import QUANTITIES, Readings, Sensors, merge
from jetface.device.sysfs_sensors import SysfsSensors

_log = structlog.get_logger(__name__)

TelemetryState = Literal["on", "off", "starting", "nothing readable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """What this machine is, and how it fares."""

    module: str | None = None
    """Of a Jetson, such as `NVIDIA Jetson AGX Orin Developer Kit`."""
    l4t_release: str | None = None
    power_mode: str | None = None
    gpu: Literal["integrated", "discrete", "unreachable"] | None = None
    """None where there is no trace of an NVIDIA GPU."""
    gpu_driver: str | None = None
    cores_present: int | None = None
    telemetry: TelemetryState = "off"
    readings: Readings = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Why, by the name of the quantity."""


class Telemetry:
    """Reads the sensors until it is stopped. Its thread never ends by itself, and never keeps the process alive."""

    def __init__(
        self,
        interval_s: float,
        root: Path = Path("/"),
        *,
        open_files: Callable[[Path], Sensors] = SysfsSensors,
        open_gpus: Callable[[Gpu | None], Sensors] = open_nvml,
    ) -> None:
        """Look at the machine once; nothing is measured before `start`.

        Args:
            interval_s: Seconds between two readings; 0: none are made.
            root: Where `/dev`, `/etc`, `/proc`, `/sys` and `/var` are; another folder in tests.
            open_files: Opens the sensors that are files below `root`.
            open_gpus: Opens those of GPUs with a driver of their own; raises NvmlError where there are none.
        """
        self._open_files = open_files
        self._open_gpus = open_gpus
        self._interval_s = interval_s
        self._root = root
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._readings: Readings | None = None
        self._nvml_fault = ""

    def start(self) -> None:
        """Begin to read, unless the interval is 0."""
        if self._interval_s > 0:
            self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Read no more. A reading under way ends in its own time: a sensor's driver may be slow."""
        self._stopped.set()

    def readings(self) -> Readings:
        """Return the latest readings; none before the first and after the end."""
        return self._readings or {}

    def status(self) -> DeviceStatus:
        """Return what the machine is and the latest readings."""
        jetson, gpu = find_jetson(self._root), find_gpu(self._root)
        # Once: the thread may write the next ones meanwhile.
        latest = self._readings
        readings = latest or {}
        return DeviceStatus(
            module=jetson.module if jetson else None,
            l4t_release=jetson.l4t_release if jetson else None,
            power_mode=jetson.power_mode if jetson else None,
            gpu=None if gpu is None
            else "unreachable" if not gpu.is_reachable
            else "integrated" if gpu.is_integrated
            else "discrete",
            gpu_driver=gpu.driver if gpu else None,
            cores_present=len(present_cores(self._root)) or None,
            telemetry=self._state(latest),
            readings=readings,
            unreadable={
                quantity.name: self._absence(quantity.absence, quantity.label)
                for quantity in QUANTITIES
                if latest is not None and quantity.name not in readings
            },
        )  # fmt: skip

    def _state(self, latest: Readings | None) -> TelemetryState:
        if self._interval_s <= 0:
            return "off"
        if latest is None:
            return "starting"
        return "on" if latest else "nothing readable"

    def _absence(self, absence: str, label: str) -> str:
        return f"{absence}; {self._nvml_fault}" if label == "gpu" and self._nvml_fault else absence

    def _run(self) -> None:
        sensors: list[Sensors] = [self._open_files(self._root)]
        try:
            sensors.append(self._open_gpus(find_gpu(self._root)))
        except NvmlError as error:
            self._nvml_fault = str(error)
        is_failing = False
        while not self._stopped.is_set():
            try:
                self._readings = merge(*(each.read() for each in sensors))
                is_failing = False
            except Exception:  # noqa: BLE001 - what a driver's library raises is its own affair, and never worth a service
                self._readings = {}
                if not is_failing:
                    _log.exception("telemetry failed")
                is_failing = True
            self._stopped.wait(self._interval_s)
        self._readings = {}
        for each in sensors:
            each.close()
