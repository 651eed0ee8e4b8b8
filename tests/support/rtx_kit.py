"""TensorRT for RTX without a device: it builds engines for real on any CPU, and can open none."""

from __future__ import annotations

from jetface.runtimes.tensorrt import find_toolkit
from jetface.runtimes.tensorrt_build import TensorrtKit

FACTORY = f"{__name__}:make_kit"


def make_kit() -> TensorrtKit:
    """Return the toolkit, in whichever process."""
    return TensorrtKit(toolkit=find_toolkit(with_rtx=True))
