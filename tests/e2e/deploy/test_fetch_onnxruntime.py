"""`fetch_onnxruntime.sh`: from the first source that has a known build, and with advice where none has."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.shared import REPOSITORY

SCRIPT = REPOSITORY / "deploy/jetson/fetch_onnxruntime.sh"
WHEEL = "onnxruntime_gpu-1.23.0-cp310-cp310-linux_aarch64.whl"
CONTENT = b"a wheel"


class Place:
    """The script in a folder of its own, as in the builder stage, and a folder that serves files."""

    def __init__(self, folder: Path) -> None:
        self.script = folder / "build/fetch_onnxruntime.sh"
        self.script.parent.mkdir()
        shutil.copy(SCRIPT, self.script)
        self.served = folder / "served"
        self.served.mkdir()
        self.wheels = folder / "wheels"

    def serve(self, name: str, content: bytes) -> str:
        """Return the address of a file with this content."""
        path = self.served / name
        path.write_bytes(content)
        return path.as_uri()

    def run(self, *sources: str, sha256: str | None = None) -> subprocess.CompletedProcess[str]:
        environ = {
            "PATH": "/usr/bin:/bin",
            "ONNXRUNTIME_SOURCES": "\n".join(sources),
            "ONNXRUNTIME_SHA256": sha256 or hashlib.sha256(CONTENT).hexdigest(),
            "ONNXRUNTIME_RETRIES": "0",
        }
        command = [self.script, self.wheels]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)

    @property
    def fetched(self) -> bytes | None:
        path = self.wheels / WHEEL
        return path.read_bytes() if path.exists() else None


@pytest.fixture
def place(tmp_path: Path) -> Place:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    return Place(tmp_path)


def test_the_first_source_that_has_it_is_taken(place: Place) -> None:
    done = place.run(place.serve("one", CONTENT), place.serve("two", CONTENT))
    assert done.returncode == 0
    assert place.fetched == CONTENT
    assert done.stdout.strip().endswith("/one")


def test_the_second_source_serves_when_the_first_is_gone(place: Place) -> None:
    done = place.run((place.served / "gone").as_uri(), place.serve("two", CONTENT))
    assert done.returncode == 0
    assert place.fetched == CONTENT
    assert "gone: not usable" in done.stderr


def test_a_file_that_is_not_a_known_build_is_not_taken(place: Place) -> None:
    """Neither cut off nor swapped; the log says its checksum, for who wants to trust it."""
    cut_off = place.serve("one", CONTENT[:-1])
    done = place.run(cut_off, place.serve("two", CONTENT))
    assert done.returncode == 0
    assert place.fetched == CONTENT
    assert hashlib.sha256(CONTENT[:-1]).hexdigest() in done.stderr


def test_one_of_several_known_builds_is_enough(place: Place) -> None:
    done = place.run(place.serve("one", CONTENT), sha256=f"{'0' * 64}\n{hashlib.sha256(CONTENT).hexdigest()}")
    assert done.returncode == 0


@pytest.mark.parametrize("where", ["", "wheels/"])
def test_a_copy_beside_the_script_needs_no_network(place: Place, where: str) -> None:
    """`COPY deploy/jetson/wheels*` lays the folder's content beside the script."""
    copy = place.script.parent / where / WHEEL
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(CONTENT)
    assert place.run().returncode == 0
    assert place.fetched == CONTENT


def test_a_bad_copy_does_not_hide_the_sources(place: Place) -> None:
    place.script.parent.joinpath(WHEEL).write_bytes(b"broken")
    assert place.run(place.serve("one", CONTENT)).returncode == 0
    assert place.fetched == CONTENT


def test_where_none_has_it_three_ways_out_are_named(place: Place) -> None:
    done = place.run((place.served / "gone").as_uri())
    assert done.returncode == 1
    assert place.fetched is None
    assert not any(place.wheels.iterdir())
    for words in ("deploy/jetson/wheels/", "ONNXRUNTIME_SOURCES", "Dockerfile.slim"):
        assert words in done.stderr


def test_two_sources_and_the_known_builds_are_written_down() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert text.count("https://pypi.jetson-ai-lab.io/") == 1
    assert text.count("https://github.com/") == 1
    assert WHEEL in text
