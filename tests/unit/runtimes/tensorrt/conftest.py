"""TensorRT for real: the one for RTX, which builds on any CPU of this kind."""

from __future__ import annotations

import pytest

from jetface.runtimes.tensorrt import Toolkit
from tests.support.rtx_toolkit import rtx_toolkit


@pytest.fixture(scope="session")
def toolkit() -> Toolkit:
    """The toolkit that is installed for development."""
    return rtx_toolkit()
