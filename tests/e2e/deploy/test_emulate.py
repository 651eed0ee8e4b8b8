"""`emulate.sh`: what it refuses, and how an answer is judged. See docs/jetson-emulation.md for a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.shared import REPOSITORY

SCRIPT = REPOSITORY / "deploy/jetson/emulate.sh"
JUDGE = REPOSITORY / "deploy/jetson/golden_boxes.py"
TOOLS = ("debootstrap", "update-binfmts", "qemu-aarch64-static", "curl", "pgrep", "unshare")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the script where programs are stand-ins that do nothing, `without` some, as the user `uid`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "env", "dirname", "realpath", "cat", "python3"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(sys.executable if name == "python3" else found)

    def start(
        *arguments: str, without: tuple[str, ...] = (), uid: int = 0, shared: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        for name in ("id", *TOOLS):
            if name not in without:
                path = programs / name
                path.write_text(f"#!{shutil.which('bash')}\necho {uid}\n", encoding="utf-8")
                path.chmod(0o755)
        return subprocess.run(
            [str(SCRIPT), "--work", str(tmp_path / "work"), *arguments],
            env={"PATH": str(programs), "SHARED_DIR": str(shared or tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return start


def test_help_names_what_is_needed(run: Run) -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "Needs root" in done.stdout
    for word in ("--jetpack", "Debian 13", "--work", "--shared", "--picture", "debootstrap", "qemu-user-static"):
        assert word in done.stdout


def test_missing_tools_are_named_together(run: Run) -> None:
    """By package, as one command."""
    done = run(without=("debootstrap", "qemu-aarch64-static"))
    assert done.returncode == 2
    assert "apt install debootstrap qemu-user-static" in done.stderr


def test_without_root_it_says_so(run: Run) -> None:
    done = run(uid=1000)
    assert done.returncode == 2
    assert "needs root" in done.stderr


def test_missing_weights_are_named(run: Run, tmp_path: Path) -> None:
    done = run()
    assert done.returncode == 2
    assert "models/det_500m.onnx is not there" in done.stderr
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(("jetpack", "version"), [("6", "3.11"), ("7", "3.13")])
def test_a_python_of_another_version_is_refused(run: Run, tmp_path: Path, jetpack: str, version: str) -> None:
    """It would choose other wheels: the lock's markers are read by the Python that downloads."""
    for name in (
        "models/det_500m.onnx",
        "models/w600k_mbf_dequantized.onnx",
        "images/t1.jpg",
        "golden/insightface.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 3.12\n", encoding="utf-8")
    other.chmod(0o755)
    done = run("--jetpack", jetpack, "--python", str(other))
    assert done.returncode == 2
    assert f"is Python 3.12, and the wheels must be chosen by Python {version}" in done.stderr


@pytest.mark.parametrize("arguments", [("--frobnicate",), ("--work",), ("--jetpack", "5")])
def test_a_call_that_is_wrong_is_refused(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).returncode == 2


GOLDEN = {"bbox": [10.2, 20.4, 110.0, 150.9], "score": 0.87, "norm": 23.0}
FACE = {"bbox": [10, 20, 110, 150], "prob": 0.871, "norm": 23.1}


@pytest.mark.parametrize(
    ("faces", "said"),
    [
        pytest.param([FACE], None, id="the-same"),
        pytest.param([{**FACE, "norm": None}], None, id="without-embedding"),
        pytest.param([], "0 faces, not 1", id="none"),
        pytest.param([FACE, FACE], "2 faces, not 1", id="one-more"),
        pytest.param([{**FACE, "bbox": [10, 20, 114, 150]}], "no face at", id="elsewhere"),
        pytest.param([{**FACE, "prob": 0.8}], "score 0.8, not 0.87", id="other-score"),
        pytest.param([{**FACE, "norm": 20.0}], "norm 20.0, not 23.0", id="other-norm"),
    ],
)
def test_an_answer_is_held_to_the_golden_faces(
    tmp_path: Path, faces: list[dict[str, object]], said: str | None
) -> None:
    golden, answer = tmp_path / "golden.json", tmp_path / "answer.json"
    golden.write_text(json.dumps({"images": {"a.jpg": {"faces": [GOLDEN]}}}), encoding="utf-8")
    answer.write_text(json.dumps({"data": [{"status": "ok", "faces": faces}]}), encoding="utf-8")
    done = judge(golden, "a.jpg", answer)
    if said is None:
        assert (done.returncode, done.stderr) == (0, "")
        assert "1 faces as insightface finds them" in done.stdout
    else:
        assert done.returncode == 1
        assert said in done.stderr


def test_a_picture_that_failed_is_no_answer(tmp_path: Path) -> None:
    golden, answer = tmp_path / "golden.json", tmp_path / "answer.json"
    golden.write_text(json.dumps({"images": {"a.jpg": {"faces": []}}}), encoding="utf-8")
    failed = {"status": "failed", "faces": [], "traceback": "Can't decode file, possibly not an image"}
    answer.write_text(json.dumps({"data": [failed]}), encoding="utf-8")
    done = judge(golden, "a.jpg", answer)
    assert done.returncode == 1
    assert "Can't decode" in done.stderr


def judge(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run golden_boxes.py."""
    command = [sys.executable, str(JUDGE), *map(str, arguments)]
    return subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False, timeout=60)
