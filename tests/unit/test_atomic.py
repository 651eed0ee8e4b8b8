"""Files that appear whole, and what killed writers leave of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from jetface.atomic import PART_SUFFIX, sweep_parts, whole_file

WRITE = """
import sys, time
from pathlib import Path
from jetface.atomic import whole_file
with whole_file(Path(sys.argv[1])) as file:
    print("writing", flush=True)
    time.sleep(60)
"""


def age(folder: Path, by_s: float = 3600.0) -> None:
    """Let all files of a folder have been written a while ago."""
    then = time.time() - by_s
    for path in folder.iterdir():
        os.utime(path, (then, then))


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


def test_nothing_else_is_swept(tmp_path: Path) -> None:
    """Files of other names, and parts whose writer may have just begun."""
    for name in ("model.onnx", "model.onnx.part", ".hidden"):
        (tmp_path / name).touch()
    age(tmp_path)
    (tmp_path / f".young{PART_SUFFIX}").touch()
    assert sweep_parts(tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == 4
    assert sweep_parts(tmp_path / "absent") == 0


def test_a_file_that_was_written_is_not_locked(tmp_path: Path) -> None:
    with whole_file(tmp_path / "model.onnx") as file:
        file.write(b"graph")
    with whole_file(tmp_path / "model.onnx") as file:
        file.write(b"another")
    assert (tmp_path / "model.onnx").read_bytes() == b"another"
