"""What the commands cost before they do anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_help_does_not_wait_for_the_models_libraries(tmp_path: Path) -> None:
    """What only serving needs is not imported to print a help text or to check settings."""
    program = (
        "import sys, jetface.cli.main; print(sorted({'onnx', 'onnxruntime', 'cv2', 'fastapi'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
