"""Whether an NVIDIA GPU is here, and whether this process can reach it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from jetface.device.jetson import gpu_device_folders, is_thor
from jetface.device.sysfs import read_text

_TEGRA_NODES = ("nvgpu/igpu0/ctrl", "nvhost-ctrl-gpu", "nvhost-gpu", "nvmap")
"""Of an Orin with JetPack 6 and 7, the second and third of JetPack 5."""
_DISCRETE_NODES = re.compile(r"nvidia\d+|dxg")
"""The second is that of Windows Subsystem for Linux."""
_NVIDIA = "0x10de"
_DISPLAY_CLASS = "0x03"
"""First byte of a PCI class: display controllers, among them those without a display."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """An NVIDIA GPU, as the machine shows it; nothing is asked of CUDA."""

    is_integrated: bool
    """Whether it is a Jetson's, which shares the machine's memory."""
    has_nvml: bool
    """Whether NVIDIA's management library knows it: every GPU but an Orin's and those before it."""
    is_reachable: bool
    """Whether the device files that CUDA opens are here: in a container only when it was given the GPU."""
    driver: str | None
    """Version of the kernel's driver, where it says so."""


def find_gpu(root: Path = Path("/")) -> Gpu | None:
    """Return the GPU of this machine; None when there is no trace of one.

    Args:
        root: Where `/dev`, `/proc` and `/sys` are; another folder in tests.
    """
    driver = _driver_version(root)
    dev = root / "dev"
    if gpu_device_folders(root):
        is_reachable = any((dev / name).exists() for name in _TEGRA_NODES)
        return Gpu(is_integrated=True, has_nvml=False, is_reachable=is_reachable, driver=driver)
    is_reachable = any(_DISCRETE_NODES.fullmatch(node.name) for node in _children(dev))
    # Thor's has the driver and the device files of a card, and is none.
    is_integrated = is_thor(root)
    if is_reachable or driver or _has_card(root) or is_integrated:
        return Gpu(is_integrated=is_integrated, has_nvml=True, is_reachable=is_reachable, driver=driver)
    return None


def _driver_version(root: Path) -> str | None:
    """Read a line such as `NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  ...`."""
    found = re.search(r"NVRM version:.*?\s(\d+\.\d[\d.]*)\s", f"{read_text(root / 'proc/driver/nvidia/version')} ")
    return found[1] if found else None


def _has_card(root: Path) -> bool:
    return any(
        read_text(device / "vendor") == _NVIDIA and (read_text(device / "class") or "").startswith(_DISPLAY_CLASS)
        for device in _children(root / "sys/bus/pci/devices")
    )


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
