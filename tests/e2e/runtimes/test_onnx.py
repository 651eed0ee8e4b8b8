"""What importing the backends loads."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_backends_loads_no_runtime() -> None:
    """On some devices ONNX Runtime must not be loaded at all."""
    code = "import sys, jetface.runtimes.choose, jetface.graphs.prepare; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
