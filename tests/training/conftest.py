"""Where the shared material lies, and what to do without it."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of weights and pictures that the project may use and not hold: a must in CI, else optional."""
    folder = Path(os.environ.get("SHARED_DIR", ROOT.parent / "shared"))
    if not (folder / "models" / "det_500m.onnx").exists():
        message = f"no shared material in {folder}: set SHARED_DIR"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder
