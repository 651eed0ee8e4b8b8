"""TensorRT for real: the one for RTX, which builds on any CPU of this kind."""

from __future__ import annotations

import pytest

from app.backends.tensorrt.module import RTX, Toolkit, find_toolkit


@pytest.fixture(scope="session")
def toolkit() -> Toolkit:
    """The toolkit that is installed for development."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX has wheels for x86-64 only")
    found = find_toolkit(with_rtx=True)
    if found.name != RTX:
        pytest.skip("TensorRT itself needs a GPU to build")
    return found
