"""Which CPU cores the machine has, and which of them are switched off."""

from __future__ import annotations

from pathlib import Path

from jetface.device.sysfs import read_text

_FOLDER = "sys/devices/system/cpu"


def present_cores(root: Path = Path("/")) -> frozenset[int]:
    """Return the numbers of the cores that are built in; empty when the system does not say.

    Args:
        root: Where `/sys` is; another folder in tests.
    """
    return _read_list(root / _FOLDER / "present")


def online_cores(root: Path = Path("/")) -> frozenset[int]:
    """Return the numbers of the cores that are switched on; empty when the system does not say."""
    return _read_list(root / _FOLDER / "online")


def offline_cores(root: Path = Path("/")) -> frozenset[int]:
    """Return the numbers of the cores that are built in but switched off; empty when the system does not say.

    On a Jetson every power mode but the largest switches some off, and ONNX Runtime before 1.27 then writes out of
    bounds on aarch64. Source: microsoft/onnxruntime#24092.
    """
    online = online_cores(root)
    return present_cores(root) - online if online else frozenset()


def _read_list(path: Path) -> frozenset[int]:
    """Read the kernel's notation of core numbers, such as `0-3,8-11`."""
    cores: set[int] = set()
    for part in filter(None, (read_text(path) or "").split(",")):
        first, _, last = part.partition("-")
        try:
            cores.update(range(int(first), int(last or first) + 1))
        except ValueError:
            return frozenset()
    return frozenset(cores)
