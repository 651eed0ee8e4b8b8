"""Sensors that the kernel shows as files: load, clocks, temperatures, rails, throttling, memory, cores."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from jetface.device.cores import online_cores
from jetface.device.jetson import gpu_clock_folder, gpu_device_folders
from jetface.device.meminfo import available_memory_bytes
from jetface.device.readings import Readings
from jetface.device.sysfs import read_number, read_text

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
