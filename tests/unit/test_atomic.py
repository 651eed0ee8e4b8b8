"""Files that appear whole, and what killed writers leave of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from jetface.atomic import PART_SUFFIX, sweep_parts, whole_file


def age(folder: Path, by_s: float = 3600.0) -> None:
    """Let all files of a folder have been written a while ago."""
    then = time.time() - by_s
    for path in folder.iterdir():
        os.utime(path, (then, then))


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
