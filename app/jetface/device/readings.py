"""What is measured of a machine while it runs: the quantities, their units, and one set of readings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

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
