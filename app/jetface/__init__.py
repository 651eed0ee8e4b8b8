"""jetface: face detection and recognition as an HTTP service.

The packages and modules are layers whose imports run one way; docs/architecture.md draws them, import-linter enforces
them. Importing any module of this package starts nothing, reads no file and loads no model.

Two libraries report to their makers when they are imported. This package is imported before either of them, in every
process of ours, and turns both off: docs/operate.md, "What leaves the machine".
"""

import os
import sys

# ONNX Runtime reads this once, when it is imported; its own switch in Python comes too late. Children inherit it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# OpenVINO has no switch but a file under HOME, and does without this package where it cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # None: documented as "not to be found"

__all__ = ["__commit__", "__version__"]

try:
    from jetface._version import __commit__, __version__  # written by what builds, installs or starts a checkout
except ImportError:
    __version__, __commit__ = "0.0.0+unknown", "unknown"
