"""TensorRT for RTX as tests get it: it parses and builds on any CPU it is published for."""

from __future__ import annotations

import pytest

from jetface.runtimes.tensorrt import RTX, Toolkit, find_toolkit


def rtx_toolkit() -> Toolkit:
    """Return the toolkit that is installed for development; skips the test where it is not, or another one is."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX has wheels for x86-64 only")
    found = find_toolkit(with_rtx=True)
    if found.name != RTX:
        pytest.skip("TensorRT itself needs a GPU to build")
    return found
