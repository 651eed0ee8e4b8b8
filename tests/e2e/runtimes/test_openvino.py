"""OpenVINO in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.tiny_onnx import arcface_model


def test_importing_the_backends_loads_no_runtime() -> None:
    """Neither the 80 MB of it nor its telemetry package, which sends nothing unless models are converted."""
    code = "import sys, jetface.runtimes.choose; sys.exit('openvino' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_signals_are_survived_when_runtimes_have_come_and_gone(tmp_path: Path) -> None:
    """A service that ends in a process that opened another one before must still hear its SIGTERM."""
    model = tmp_path / "recognizer.onnx"
    model.write_bytes(arcface_model())
    program = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from jetface.runtimes.openvino import load_runtime, open_openvino_backends\n"
        "heard = []\n"
        "signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))\n"
        "cores = [load_runtime() for _ in range(3)]\n"
        "backends = [open_openvino_backends(core, Path(sys.argv[1])) for core in cores]\n"
        "while cores:\n"
        "    del cores[0], backends[0]\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "assert heard == [signal.SIGTERM] * 3\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(model)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
