"""200 people are enrolled by one command, and each is found on a photograph that was not enrolled."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import service_environ

LEAST_RANK_1 = 0.995


def run(variables: dict[str, str], *arguments: str | Path, code: int = 0) -> str:
    done = subprocess.run(
        ["jetface", "gallery", *map(str, arguments)],
        capture_output=True, text=True, check=False, env=service_environ(variables),
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout


def best_of_largest(line: str) -> str | None:
    """Return who the largest face of a picture is."""
    faces: list[dict[str, Any]] = json.loads(line)["faces"]
    largest = max(faces, key=lambda face: (face["box"][2] - face["box"][0]) * (face["box"][3] - face["box"][1]))
    return largest["matches"][0]["person"] if largest["matches"] else None


@pytest.mark.timeout(600)
def test_each_person_is_found_on_a_fourth_photograph(
    weights: dict[str, str], shared_faces: Path, tmp_path: Path
) -> None:
    variables = {**weights, "GALLERY_DIR": str(tmp_path / "gallery"), "BACKEND": "onnxruntime", "MODEL_DOWNLOAD": "0"}
    for folder in sorted(shared_faces.iterdir()):
        if folder.is_dir():
            for kind, numbers in (("enrolled", (1, 2, 3)), ("asked", (4,))):
                person = tmp_path / kind / folder.name
                person.mkdir(parents=True)
                for number in numbers:
                    (person / f"{number}.jpg").symlink_to(folder / f"{number}.jpg")
    assert "200 persons, 600 faces; 600 are new" in run(variables, "enrol", tmp_path / "enrolled")
    found = run(variables, "search", tmp_path / "asked", "--json").splitlines()
    right = sum(best_of_largest(line) == Path(json.loads(line)["path"]).parent.name for line in found)
    assert len(found) == 200
    assert right / len(found) >= LEAST_RANK_1
