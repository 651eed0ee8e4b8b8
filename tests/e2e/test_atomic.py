"""A writer that was killed leaves nothing for long."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from jetface.atomic import sweep_parts
from tests.unit.test_atomic import age

WRITE = """
import sys, time
from pathlib import Path
from jetface.atomic import whole_file
with whole_file(Path(sys.argv[1])) as file:
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    """And not before: whoever writes holds a lock on it that ends with the process, whatever ends it."""
    writer = subprocess.Popen([sys.executable, "-c", WRITE, tmp_path / "model.onnx"], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    with writer.stdout:
        assert writer.stdout.readline() == b"writing\n"
        age(tmp_path)
        assert sweep_parts(tmp_path) == 0
        writer.kill()
        writer.wait()
    assert sweep_parts(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []
