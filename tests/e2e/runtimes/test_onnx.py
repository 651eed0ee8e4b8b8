"""What ONNX Runtime costs a process: nothing by importing its backend, no memory for each shape of input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_RUN_SHAPES = """
import sys
from pathlib import Path
import numpy as np
import psutil
from jetface.graphs.prepare import prepare_graph
from jetface.registry import default_registry_dir, read_registry
from jetface.runtimes.onnx import open_onnx_backends

spec = read_registry([default_registry_dir()])["det_500m"]
backend = open_onnx_backends(prepare_graph(Path(sys.argv[1]), spec).model)[0]
shapes = [(height, width) for height in range(32, 641, 32) for width in range(32, 641, 32)]
order = np.random.default_rng(0).permutation(len(shapes))[:200]

def run(height, width):
    backend.run(np.zeros((1, 3, height, width), np.float32))

for _ in range(3):
    run(640, 640)
before = psutil.Process().memory_info().rss
for index in order:
    run(*shapes[index])
print(psutil.Process().memory_info().rss - before)
"""


def test_importing_the_backends_loads_no_runtime() -> None:
    """On some devices ONNX Runtime must not be loaded at all."""
    code = "import sys, jetface.runtimes.choose, jetface.graphs.prepare; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_memory_does_not_grow_with_the_shapes_that_were_seen(shared_models: Path) -> None:
    """Two hundred shapes up to 640x640 cost no more than the largest did; every shape is a new one."""
    command = [sys.executable, "-c", _RUN_SHAPES, str(shared_models / "det_500m.onnx")]
    grown_bytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown_bytes < 24 * 2**20
