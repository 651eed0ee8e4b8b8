"""The machine: its cores, its memory, its GPU, and which Jetson it is."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

_MOST_BYTES = 64 * 1024
"""What is longer is no file of this kind: a device, or a pipe that never ends."""


def read_text(path: Path) -> str | None:
    """Return a small file's text without white space and zero bytes around it; None when it cannot be read.

    Files of the device tree end in a zero byte; a sensor whose device sleeps answers with an error of its driver's.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES)
    except OSError:
        return None
    return content.decode("utf-8", errors="replace").strip(" \t\r\n\0")


def read_number(path: Path) -> int | None:
    """Return the whole number a file holds; None when it holds none or cannot be read."""
    text = read_text(path)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        return None


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


_CPU_FIELDS = re.compile(r"^(model name|CPU implementer|CPU part|CPU variant)\s*:\s*(.+)$", re.MULTILINE)
"""Of x86, and of Arm, where makers and their designs are numbers."""


def cpu_model(root: Path = Path("/")) -> str | None:
    """Return what the first core is called, such as `AMD EPYC 9R14`; None when the system does not say.

    Args:
        root: Where `/proc` is; another folder in tests.
    """
    found = dict(reversed(_CPU_FIELDS.findall(read_text(root / "proc/cpuinfo") or "")))
    return found.get("model name") or ", ".join(f"{name} {found[name]}" for name in sorted(found)) or None


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


def total_memory_bytes(root: Path = Path("/")) -> int | None:
    """Return the machine's memory; None when the system does not say.

    Args:
        root: Where `/proc` is; another folder in tests.
    """
    return _field(root, "MemTotal")


def available_memory_bytes(root: Path = Path("/")) -> int | None:
    """Return what can be had without swapping, page cache that can go included; None when the system does not say."""
    return _field(root, "MemAvailable")


def trim_memory() -> bool:
    """Give memory that was freed back to the system: whole pages, of every arena of malloc.

    glibc keeps arenas for several threads and returns only what lies at the end of each, so a burst of large pictures
    or crowds leaves a step behind in the resident memory, to which later bursts add. Threads that allocate meanwhile
    wait for their arena.

    Returns:
        Whether the C library can do it: glibc's can, musl's and macOS's cannot.

    Source: malloc_trim(3), glibc 2.8 and later.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True


def _field(root: Path, name: str) -> int | None:
    """Read a field of `meminfo`, which is in kibibytes."""
    for line in (read_text(root / "proc/meminfo") or "").splitlines():
        field, _, value = line.partition(":")
        words = value.split()
        if field == name and words and words[0].isdecimal():
            return 1024 * int(words[0])
    return None


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
