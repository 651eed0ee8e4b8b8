"""What may keep the service from starting or from running well on this machine, found before it starts.

Nothing here loads a library of the GPU or a model: ONNX Runtime is imported in a process of its own, which may crash.
"""

from __future__ import annotations

from pathlib import Path

from jetface.device.findings import Finding, worst_first
from jetface.device.gpu import find_gpu
from jetface.device.hardware_checks import check_cores, check_dla_compiler, check_gpu, check_power, check_release
from jetface.device.jetson import compute_capability, find_jetson, l4t_major
from jetface.device.package_checks import Packages, check_kernels, check_numpy, check_runtime, check_wheels
from jetface.device.place_checks import Place, check_folders, check_memory, check_port, check_temporary


def preflight(packages: Packages, place: Place, *, backend: str, machine: str, root: Path = Path("/")) -> list[Finding]:
    """Make every check.

    Args:
        packages: What is installed.
        place: Where the service reads, writes and listens.
        backend: The setting `BACKEND`.
        machine: The processor's architecture, as `platform.machine` says it.
        root: Where `/dev`, `/etc`, `/proc`, `/sys`, `/usr` and `/var` are; another folder in tests.

    Returns:
        What was found, the worst first; each check that cannot be made finds nothing.
    """
    gpu = find_gpu(root)
    jetson = find_jetson(root)
    # Inside a container its GPU may be all that tells a Jetson.
    is_jetson = jetson is not None or (gpu is not None and gpu.is_integrated)
    has_gpu = gpu is not None and gpu.is_reachable
    builds_engines = has_gpu and backend in {"auto", "tensorrt"}
    return worst_first(
        [
            *check_cores(root, packages, backend=backend, machine=machine, is_jetson=is_jetson),
            *check_gpu(gpu, backend=backend),
            *check_dla_compiler(
                root, packages, backend=backend, is_jetson=is_jetson and has_gpu, l4t_major=l4t_major(root)
            ),
            *check_release(root, packages, backend=backend, l4t_major=l4t_major(root)),
            *check_wheels(gpu, packages, backend=backend, jetson_l4t=l4t_major(root)),
            *check_kernels(l4t_major(root), compute_capability(root) if has_gpu else None, packages, backend=backend),
            *check_numpy(packages, backend=backend, machine=machine),
            *check_runtime(packages, backend=backend),
            *check_folders(place, builds_engines=builds_engines),
            *check_temporary(place),
            *check_memory(place, builds_engines=builds_engines),
            *check_port(place),
            *check_power(jetson),
        ]
    )
