"""TensorRT for RTX without a device: it builds engines for real on any CPU, and can open none."""

from __future__ import annotations

from jetface.backends.tensorrt.kit import TensorrtKit
from jetface.backends.tensorrt.module import find_toolkit

FACTORY = f"{__name__}:make_kit"


def make_kit() -> TensorrtKit:
    """Return the toolkit, in whichever process."""
    return TensorrtKit(toolkit=find_toolkit(with_rtx=True))
