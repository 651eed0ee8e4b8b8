"""The machine while it runs, read every few seconds by a thread of its own."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import structlog

from jetface.device.machine import (
    Gpu,
    available_memory_bytes,
    find_gpu,
    find_jetson,
    gpu_clock_folder,
    gpu_device_folders,
    online_cores,
    present_cores,
    read_number,
    read_text,
)

Readings = Mapping[str, Mapping[str, float]]
"""By the name of the quantity, then by what was measured: a GPU, zone, rail, clock or cause. What cannot be read is
missing."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """One kind of figure."""

    name: str
    """With its unit."""
    label: str
    """What tells several apart; empty where there is one."""
    meaning: str
    """One sentence."""
    absence: str
    """Why there may be none."""


QUANTITIES: tuple[Quantity, ...] = (
    Quantity(
        "gpu_load_ratio", "gpu", "Share of time the GPU was busy, 0 to 1.", "no GPU tells its load"
    ),
    Quantity(
        "clock_hertz", "clock", "Clock of each GPU, and of the fastest CPU core.", "neither cpufreq nor a GPU tells it"
    ),
    Quantity(
        "temperature_celsius", "zone", "Temperature of each zone that has a sensor.", "no thermal zone and no sensor"
    ),
    Quantity("power_watts", "rail", "Power drawn by each rail that is measured.", "no rail is measured"),
    Quantity(
        "throttled", "cause", "1 while clocks are held down: thermal, over-current or power.", "nothing tells of it"
    ),
    Quantity("gpu_memory_free_bytes", "gpu", "Free memory of each GPU that has its own.", "no GPU has its own"),
    Quantity(
        "memory_available_bytes", "", "Memory that can be had without swapping; a Jetson's GPU shares it.",
        "/proc/meminfo does not tell it",
    ),
    Quantity("cores_online", "", "CPU cores that are switched on.", "/sys/devices/system/cpu does not tell it"),
)  # fmt: skip
"""All of them, in the order in which they are shown."""


class Sensors(Protocol):
    """Something that can be read."""

    def read(self) -> Readings:
        """Return what can be read now; never raises for a sensor that is gone."""
        ...

    def close(self) -> None:
        """Let go of the device."""
        ...


def merge(*several: Readings) -> dict[str, dict[str, float]]:
    """Put readings together; of two with one name the higher counts, so that throttling by either is throttling."""
    merged: dict[str, dict[str, float]] = {}
    for readings in several:
        for quantity, values in readings.items():
            into = merged.setdefault(quantity, {})
            for name, value in values.items():
                into[name] = max(value, into.get(name, value))
    return {quantity: values for quantity, values in merged.items() if values}


_MOST_SERIES = 64
"""Of one quantity: a server's board may have hundreds of sensors."""

_COLDEST_MILLIDEGREES = -100_000
"""A zone that is switched off reads -256000 on a Jetson."""

_HOLDS_CLOCKS_DOWN = re.compile(r".*throttle-alert|(thermal-)?(cpufreq|devfreq)-.*|Processor")
"""Cooling devices that cool by slowing down; the others are fans and the like."""


class SysfsSensors:
    """Reads the files anew each time: a sensor that comes or goes costs nothing but its series. Not thread-safe."""

    def __init__(self, root: Path = Path("/")) -> None:
        """Read nothing yet.

        Args:
            root: Where `/proc` and `/sys` are; another folder in tests.
        """
        self._root = root
        self._over_currents: int | None = None

    def read(self) -> Readings:
        """Return what can be read now."""
        memory = available_memory_bytes(self._root)
        cores = len(online_cores(self._root))
        return {
            "gpu_load_ratio": self._gpu_load(),
            "clock_hertz": self._clocks(),
            "temperature_celsius": _named(self._temperatures()),
            "power_watts": _named(self._rails()),
            "throttled": self._throttled(),
            "memory_available_bytes": {} if memory is None else {"": memory},
            "cores_online": {"": cores} if cores else {},
        }

    def close(self) -> None:
        """Nothing is held."""

    def _gpu_load(self) -> dict[str, float]:
        for folder in gpu_device_folders(self._root):
            permille = read_number(folder / "load")
            if permille is not None:
                return {"0": permille / 1000}
        return {}

    def _clocks(self) -> dict[str, float]:
        clocks: dict[str, float] = {}
        policies = _folders(self._root / "sys/devices/system/cpu/cpufreq", "policy")
        kilohertz = [khz for folder in policies if (khz := read_number(folder / "scaling_cur_freq")) is not None]
        if kilohertz:
            clocks["cpu"] = 1000.0 * max(kilohertz)
        folder = gpu_clock_folder(self._root)
        hertz = None if folder is None else read_number(folder / "cur_freq")
        if hertz is not None:
            clocks["gpu0"] = float(hertz)
        return clocks

    def _temperatures(self) -> Iterator[tuple[str, float]]:
        zones = set()
        for zone in _folders(self._root / "sys/class/thermal", "thermal_zone"):
            name, millidegrees = read_text(zone / "type"), read_number(zone / "temp")
            if name and millidegrees is not None and millidegrees > _COLDEST_MILLIDEGREES:
                zones.add(name.replace("-", "_"))
                yield name, millidegrees / 1000
        for chip in self._chips():
            name = read_text(chip / "name") or chip.name
            # The kernel shows its zones a second time among the chips.
            if name not in zones:
                yield from (
                    (f"{name} {label}".strip(), value / 1000)
                    for label, value in _inputs(chip, "temp")
                    # One zone a processor is enough.
                    if value > _COLDEST_MILLIDEGREES and not label.startswith("Core ")
                )

    def _rails(self) -> Iterator[tuple[str, float]]:
        for chip in self._chips():
            name = read_text(chip / "name") or chip.name
            for label, microwatts in _inputs(chip, "power"):
                yield f"{name} {label}".strip(), microwatts / 1e6
            for path in _files(chip, r"curr\d+_input"):
                number = path.name[4:-6]
                rail = read_text(chip / f"in{number}_label")
                milliamperes, millivolts = read_number(path), read_number(chip / f"in{number}_input")
                # NC: not connected. An INA3221 gives each rail a label: its fourth current is a sum of the others.
                if milliamperes is None or millivolts is None or rail == "NC" or (not rail and name == "ina3221"):
                    continue
                yield rail or f"{name} {number}", milliamperes * millivolts / 1e6

    def _throttled(self) -> dict[str, float]:
        causes: dict[str, float] = {}
        for device in _folders(self._root / "sys/class/thermal", "cooling_device"):
            state = read_number(device / "cur_state")
            if state is not None and _HOLDS_CLOCKS_DOWN.fullmatch(read_text(device / "type") or ""):
                causes["thermal"] = max(float(state > 0), causes.get("thermal", 0.0))
        counts = [
            count
            for chip in self._chips()
            for path in _files(chip, r"oc\d+_event_cnt")
            if (count := read_number(path)) is not None
        ]
        if counts:
            total, before = sum(counts), self._over_currents
            causes["over-current"] = float(before is not None and total > before)
            self._over_currents = total
        return causes

    def _chips(self) -> list[Path]:
        return _folders(self._root / "sys/class/hwmon", "hwmon")


def _inputs(chip: Path, kind: str) -> Iterator[tuple[str, int]]:
    """Yield label and value of each `kind` a chip measures; the label is empty where there is none."""
    for path in _files(chip, rf"{kind}\d+_input"):
        value = read_number(path)
        if value is not None:
            yield read_text(chip / path.name.replace("_input", "_label")) or "", value


def _named(values: Iterator[tuple[str, float]]) -> dict[str, float]:
    """Give each value a name of its own, numbers after those that come twice; no more than there is room for."""
    named: dict[str, float] = {}
    for name, value in values:
        if len(named) == _MOST_SERIES:
            break
        numbered = (f"{name} {number}" for number in range(2, _MOST_SERIES + 2))
        named[name if name not in named else next(other for other in numbered if other not in named)] = value
    return named


def _folders(parent: Path, prefix: str) -> list[Path]:
    return [path for path in _files(parent, rf"{prefix}\d+") if path.is_dir()]


def _files(parent: Path, pattern: str) -> list[Path]:
    """Return what a folder holds under names of a pattern that has one number, in the order of the numbers."""
    try:
        names = [path for path in parent.iterdir() if re.fullmatch(pattern, path.name)]
    except OSError:
        return []
    return sorted(names, key=lambda path: int(re.sub(r"\D", "", path.name)))


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
    age_s: float | None = None
    """Seconds since the readings were made; None where there are none."""
    readings: Readings = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Why, by the name of the quantity."""


def look_at(root: Path) -> DeviceStatus:
    """Return what the machine is, without readings: some hundred small files are read, half a millisecond.

    Args:
        root: Where `/dev`, `/etc`, `/proc`, `/sys` and `/var` are; another folder in tests.
    """
    jetson, gpu = find_jetson(root), find_gpu(root)
    return DeviceStatus(
        module=jetson.module if jetson else None,
        l4t_release=jetson.l4t_release if jetson else None,
        power_mode=jetson.power_mode if jetson else None,
        gpu=None if gpu is None
        else "unreachable" if not gpu.is_reachable
        else "integrated" if gpu.is_integrated
        else "discrete",
        gpu_driver=gpu.driver if gpu else None,
        cores_present=len(present_cores(root)) or None,
    )  # fmt: skip


_LOOK_S = 2.0
"""How long a look at the machine is good for: a power mode may change while the service runs."""


class Telemetry:
    """Reads the sensors until it is stopped. Its thread never ends by itself, and never keeps the process alive."""

    def __init__(
        self,
        interval_s: float,
        root: Path = Path("/"),
        *,
        open_files: Callable[[Path], Sensors] = SysfsSensors,
        open_gpus: Callable[[Gpu | None], Sensors] = open_nvml,
        look: Callable[[Path], DeviceStatus] = look_at,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read nothing yet; nothing is measured before `start`.

        Args:
            interval_s: Seconds between two readings; 0: none are made.
            root: Where `/dev`, `/etc`, `/proc`, `/sys` and `/var` are; another folder in tests.
            open_files: Opens the sensors that are files below `root`.
            open_gpus: Opens those of GPUs with a driver of their own; raises NvmlError where there are none.
            look: Returns what the machine is.
            clock: Returns seconds since a fixed point.
        """
        self._open_files = open_files
        self._open_gpus = open_gpus
        self._interval_s = interval_s
        self._root = root
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._readings: Readings | None = None
        self._read_at = 0.0
        self._nvml_fault = ""
        self._look = look
        self._clock = clock
        self._machine: DeviceStatus | None = None
        self._looked_at = 0.0

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
        """Return what the machine is, as of the last two seconds, and the latest readings. No sensor is read for it."""
        now = self._clock()
        if self._machine is None or now - self._looked_at >= _LOOK_S:
            self._machine, self._looked_at = self._look(self._root), now
        # Once: the thread may write the next ones meanwhile.
        latest = self._readings
        readings = latest or {}
        return replace(
            self._machine,
            telemetry=self._state(latest),
            age_s=max(0.0, now - self._read_at) if readings else None,
            readings=readings,
            unreadable={
                quantity.name: self._absence(quantity.absence, quantity.label)
                for quantity in QUANTITIES
                if latest is not None and quantity.name not in readings
            },
        )

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
                self._read_at = self._clock()
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
