"""Which Jetson this is, and how it is set: module, release, power mode, clocks. What cannot be read is None."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from jetface.device.sysfs import read_number, read_text

_MODEL_FILES = ("proc/device-tree/model", "sys/devices/soc0/machine")
"""The first is hidden in a container."""
_RELEASE_FILE = "etc/nv_tegra_release"
_GPU_NAMES = ("17000000.gpu", "17000000.ga10b", "gpu.0", "57000000.gpu")
"""What kernels call the GPU: of JetPack 6, of JetPack 5, an alias, of the first Nano."""
_CLOCK_NAMES = (*_GPU_NAMES, "gpu-gpc-0")
"""What kernels call its clock: the last is Thor's."""
_CAPABILITIES = {"tegra194": (7, 2), "tegra234": (8, 7), "tegra264": (11, 0)}
"""Compute capabilities of Xavier, Orin and Thor, by the chip in the device tree. Source: NVIDIA, CUDA GPUs."""
_FIRST_L4T_OF_THOR = 38
"""JetPack 7.0 and 7.1 are for Thor alone; 7.2, which is L4T 39, is for Orin too, whose GPU has a folder of its own."""
_CHIPS = {"25": "tegra194", "35": "tegra234", "38": "tegra264"}
"""By `soc_id`, which containers see too. Source: Linux, `tegra_get_chip_id` and include/soc/tegra/fuse.h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Jetson:
    """What an owner would write on its label."""

    module: str
    """Such as `NVIDIA Jetson AGX Orin Developer Kit`."""
    l4t_release: str | None
    """Such as `36.4.3`, of JetPack 6.2."""
    power_mode: str | None
    """Number and name, such as `0 MAXN`."""
    gpu_clock_is_fixed: bool | None
    """Whether `jetson_clocks` has fixed the GPU's clock at one value."""


def find_jetson(root: Path = Path("/")) -> Jetson | None:
    """Return what is known of the Jetson this runs on; None on any other machine.

    Args:
        root: Where `/proc`, `/sys`, `/etc` and `/var` are; another folder in tests.
    """
    release = _l4t_release(root)
    module = next(filter(None, (read_text(root / name) for name in _MODEL_FILES)), None)
    # A carrier board of another maker need not have the word in its name.
    is_tegra = "nvidia,tegra" in (read_text(root / "proc/device-tree/compatible") or "") or "Jetson" in (module or "")
    if release is None and not is_tegra:
        return None
    return Jetson(
        module=module or "NVIDIA Jetson",
        l4t_release=release,
        power_mode=_power_mode(root),
        gpu_clock_is_fixed=_gpu_clock_is_fixed(root),
    )


def compute_capability(root: Path = Path("/")) -> tuple[int, int] | None:
    """Return that of a Jetson's GPU, as files tell it: CUDA is not asked. None where they do not, and elsewhere."""
    compatible = read_text(root / "proc/device-tree/compatible") or ""
    chip = next((name for name in _CAPABILITIES if f"nvidia,{name}" in compatible), None)
    if chip is None and read_text(root / "sys/devices/soc0/family") == "Tegra":
        chip = _CHIPS.get(read_text(root / "sys/devices/soc0/soc_id") or "")
    return _CAPABILITIES.get(chip or "")


def l4t_major(root: Path = Path("/")) -> int | None:
    """Return the major release of L4T: 36 of JetPack 6, 38 and 39 of JetPack 7; None where it is not known."""
    release = _l4t_release(root)
    return int(release.partition(".")[0]) if release else None


def is_thor(root: Path = Path("/")) -> bool:
    """Tell whether this is a Jetson Thor: in a container by its chip, its GPU's clock or its release."""
    capability = compute_capability(root)
    if capability is not None or gpu_device_folders(root):
        return capability == _CAPABILITIES["tegra264"]
    return (root / "sys/class/devfreq" / _CLOCK_NAMES[-1]).is_dir() or (l4t_major(root) or 0) >= _FIRST_L4T_OF_THOR


def gpu_clock_folder(root: Path) -> Path | None:
    """Return the folder of files that tell the clock of a Jetson's GPU; None when there is none."""
    return next(filter(Path.is_dir, (root / "sys/class/devfreq" / name for name in _CLOCK_NAMES)), None)


def gpu_device_folders(root: Path) -> list[Path]:
    """Return the folders of a Jetson's GPU that there are: the same device by several names."""
    platform = root / "sys/devices/platform"
    folders = (parent / name for parent in (platform, platform / "bus@0") for name in _GPU_NAMES)
    return [folder for folder in folders if folder.is_dir()]


def _l4t_release(root: Path) -> str | None:
    """Read a line such as `# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, ...`."""
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", read_text(root / _RELEASE_FILE) or "")
    return f"{found[1]}.{found[2]}" if found else None


def _power_mode(root: Path) -> str | None:
    """Read the mode `nvpmodel` remembers, such as `pmode:0002`, and its name from the list of modes."""
    found = re.search(r"pmode:(\d+)", read_text(root / "var/lib/nvpmodel/status") or "")
    if found is None:
        return None
    number = int(found[1])
    modes = read_text(root / "etc/nvpmodel.conf") or ""
    name = re.search(rf"<\s*POWER_MODEL\s+ID={number}\s+NAME=([^\s>]+)", modes)
    return f"{number} {name[1]}" if name else str(number)


def _gpu_clock_is_fixed(root: Path) -> bool | None:
    folder = gpu_clock_folder(root)
    if folder is None:
        return None
    least, most = read_number(folder / "min_freq"), read_number(folder / "max_freq")
    return None if least is None or most is None else least == most
