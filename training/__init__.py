"""The recipe of the starter models: data, teachers, students, losses, export and figures.

Small programs, each run as `python -m training.<program>`; README.md beside this file gives their order. Nothing in
`app/` imports this package and no image or wheel holds it.
"""

import os

# ONNX Runtime reports to its maker otherwise; read once, when it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
