"""`compare_images.sh`: refuses where it cannot know, and writes what it found as Markdown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.shared import REPOSITORY

SCRIPT = REPOSITORY / "deploy/jetson/compare_images.sh"

JETSON_INSIDE = """\
Python=3.10.12
CUDA runtime=12.6.68-1
cuDNN=9.3.0.75-1
TensorRT=10.3.0.30-1+cuda12.5
nvcc=/usr/local/cuda-12.6/bin/nvcc
onnxruntime=1.23.0
numpy=1.26.4"""

SLIM_INSIDE = """\
Python=3.10.12
CUDA runtime=12.6.68-1
cuDNN=
TensorRT=10.3.0.30-1+cuda12.5
nvcc=
onnxruntime=
numpy=1.26.4"""


class StandIn:
    """A `docker` on PATH that writes down its calls, and answers each by the first rule whose words it holds."""

    def __init__(self, folder: Path) -> None:
        self.calls_file = folder / "calls"
        self.rules_file = folder / "rules.json"
        self.bin = folder / "bin"
        self.bin.mkdir()
        program = self.bin / "docker"
        program.write_text(
            textwrap.dedent(f"""\
                #!{sys.executable}
                import json, sys
                call = sys.argv[1:]
                with open({str(self.calls_file)!r}, "a") as calls:
                    calls.write(json.dumps(call) + "\\n")
                for words, answer, code in json.load(open({str(self.rules_file)!r})):
                    if all(word in call for word in words):
                        print(answer)
                        sys.exit(code)
                sys.exit(0)
                """),
            encoding="utf-8",
        )
        program.chmod(0o755)
        self.answer([])

    def answer(self, rules: Sequence[tuple[Sequence[str], str, int]]) -> None:
        """Set the rules: words, what to print, exit code."""
        self.rules_file.write_text(json.dumps(rules), encoding="utf-8")

    @property
    def calls(self) -> list[list[str]]:
        """What it was called with so far."""
        if not self.calls_file.exists():
            return []
        return [json.loads(line) for line in self.calls_file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def docker(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path)


def compare(path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ: Mapping[str, str] = {"PATH": path}
    return subprocess.run([SCRIPT, *arguments], env=environ, capture_output=True, text=True, timeout=60, check=False)


def with_stand_in(docker: StandIn, *arguments: str) -> subprocess.CompletedProcess[str]:
    return compare(f"{docker.bin}{os.pathsep}/usr/bin:/bin", *arguments)


def test_without_docker_it_says_where_to_run(tmp_path: Path) -> None:
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = compare(str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "docker is not installed" in done.stderr


def test_without_an_engine_it_says_so(docker: StandIn) -> None:
    docker.answer([(["info"], "", 1)])
    done = with_stand_in(docker)
    assert (done.returncode, done.stdout) == (1, "")
    assert "not its engine" in done.stderr
    assert docker.calls == [["info"]]


def test_a_missing_image_comes_with_the_command_that_builds_it(docker: StandIn) -> None:
    docker.answer([(["inspect", "jetface:jetson-slim"], "", 1)])
    done = with_stand_in(docker)
    assert (done.returncode, done.stdout) == (1, "")
    assert "docker build --network host -f deploy/jetson/Dockerfile.slim -t jetface:jetson-slim ." in done.stderr
    assert not [call for call in docker.calls if call[0] in {"build", "run"}]


def test_a_missing_image_of_another_name_cannot_be_built(docker: StandIn) -> None:
    docker.answer([(["inspect", "mine:1"], "", 1)])
    done = with_stand_in(docker, "--build", "jetface:jetson", "mine:1")
    assert done.returncode == 1
    assert "no image mine:1" in done.stderr
    assert not [call for call in docker.calls if call[0] == "build"]


def test_build_makes_what_is_missing(docker: StandIn) -> None:
    docker.answer(
        [
            (["inspect", "--format", "{{.Size}}"], "1000000000", 0),
            (["inspect", "--format"], "9", 0),
            (["inspect", "jetface:jetson"], "", 1),
            (["run"], "numpy=1.26.4", 0),
        ]
    )
    done = with_stand_in(docker, "--build")
    assert done.returncode == 0, done.stderr
    built = [call for call in docker.calls if call[0] == "build"]
    assert built == [["build", "--network", "host", "-f", "Dockerfile.jetson", "-t", "jetface:jetson", "."]]


def test_what_was_found_is_markdown(docker: StandIn) -> None:
    docker.answer(
        [
            (["inspect", "--format", "{{.Size}}", "jetface:jetson"], "14200000000", 0),
            (["inspect", "--format", "{{.Size}}"], "3280000000", 0),
            (["inspect", "--format", "jetface:jetson"], "31", 0),
            (["inspect", "--format"], "17", 0),
            (["run", "jetface:jetson"], JETSON_INSIDE, 0),
            (["run"], SLIM_INSIDE, 0),
        ]
    )
    done = with_stand_in(docker)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == textwrap.dedent("""\
        |  | `jetface:jetson` | `jetface:jetson-slim` |
        |---|---|---|
        | size | 14.20 GB | 3.28 GB |
        | layers | 31 | 17 |
        | Python | 3.10.12 | 3.10.12 |
        | CUDA runtime | 12.6.68-1 | 12.6.68-1 |
        | cuDNN | 9.3.0.75-1 | none |
        | TensorRT | 10.3.0.30-1+cuda12.5 | 10.3.0.30-1+cuda12.5 |
        | nvcc | /usr/local/cuda-12.6/bin/nvcc | none |
        | onnxruntime | 1.23.0 | none |
        | numpy | 1.26.4 | 1.26.4 |

        `jetface:jetson-slim` is 10.92 GB (76.9 %) smaller than `jetface:jetson`.
        """)


def test_it_looks_inside_without_a_gpu_or_a_network(docker: StandIn) -> None:
    docker.answer([(["inspect"], "1000", 0), (["run"], "numpy=1.26.4", 0)])
    with_stand_in(docker)
    runs = [call for call in docker.calls if call[0] == "run"]
    assert [call[:7] for call in runs] == [
        ["run", "--rm", "--network", "none", "--entrypoint", "sh", image]
        for image in ("jetface:jetson", "jetface:jetson-slim")
    ]


def test_what_it_asks_inside_is_a_script_that_runs(docker: StandIn) -> None:
    """Here, where almost nothing of it is installed: a line for each name, and no complaint."""
    docker.answer([(["inspect"], "1000", 0), (["run"], "numpy=1.26.4", 0)])
    with_stand_in(docker)
    script = next(call[-1] for call in docker.calls if call[0] == "run")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    names = [line.split("=")[0] for line in done.stdout.splitlines()]
    assert names[:4] == ["Python", "CUDA runtime", "cuDNN", "TensorRT"]
    assert {"onnxruntime", "numpy"} <= set(names)
    assert done.stderr == ""


def test_an_image_of_another_architecture_is_refused(docker: StandIn) -> None:
    docker.answer([(["inspect"], "1000", 0), (["run"], "", 1)])
    done = with_stand_in(docker)
    assert (done.returncode, done.stdout) == (1, "")
    assert "another architecture" in done.stderr
