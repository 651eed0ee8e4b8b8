"""The gallery of a started service: what its page shows, what outlives a restart, what does not start."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server import Server, running_server, service_environ
from tests.support.shared import REPOSITORY

ADDRESS = "localhost:18080"


@pytest.fixture(scope="module")
def gallery_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gallery")


@pytest.fixture(scope="module")
def server(weights: dict[str, str], gallery_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with a gallery."""
    variables = {**weights, "GALLERY_DIR": str(gallery_dir), "GALLERY_KEEP_CROPS": "1"}
    with running_server(tmp_path_factory.mktemp("server"), variables) as started:
        yield started


@pytest.fixture(scope="module")
def folder(shared_images: Path, shared_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader of the pages stands."""
    folder = tmp_path_factory.mktemp("reader")
    for number in (1, 2):
        shutil.copy(shared_faces / "Al_Gore" / f"{number}.jpg", folder / f"ada{number}.jpg")
    shutil.copy(shared_images / "t1.jpg", folder / "group.jpg")
    return folder


def commands(page: str) -> list[str]:
    text = (REPOSITORY / "docs" / page).read_text("utf-8")
    blocks = "".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    return [line for line in blocks.splitlines() if line.startswith(("curl", "split"))]


def run(command: str, server: Server, folder: Path) -> Any:
    """Run a command of a page; return the JSON that it printed."""
    text = command.replace(ADDRESS, str(httpx.URL(server.url).netloc, "ascii"))
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=folder, capture_output=True, check=True)
    return json.loads(done.stdout or b"null")


def test_the_page_works_as_it_stands_there(server: Server, folder: Path) -> None:
    made, enrolled, found, identified, deleted = (run(each, server, folder) for each in commands("gallery.md")[:5])
    assert made["model"]["name"] == "w600k_mbf_dequantized"
    assert enrolled["pictures"][0]["status"] == "ok"
    (face,) = found["pictures"][0]["faces"]
    assert face["matches"][0]["person"]["name"] == "Ada Lovelace"
    assert len(identified["pictures"][0]["faces"]) == 6
    assert all(face["person"] is None for face in identified["pictures"][0]["faces"])
    assert deleted["faces"] == 1


def test_an_example_of_erasing_is_one_the_service_knows(server: Server, folder: Path) -> None:
    (command,) = commands("privacy.md")
    assert run(command, server, folder)["error"]["code"] == "not_found"


def test_a_collection_goes_out_and_in_as_the_page_says(server: Server, folder: Path) -> None:
    """Crops and all; a second time, in parts, nothing is new."""
    make, enrol, *_ = commands("gallery.md")
    run(make, server, folder)
    run(enrol, server, folder)
    exporting, importing, in_parts = commands("gallery.md")[5:]
    assert run(exporting, server, folder) is None
    kinds = [next(iter(json.loads(line))) for line in (folder / "people.jsonl").read_bytes().splitlines()]
    assert kinds == ["collection", "person", "face"]
    done = run(importing, server, folder)
    assert (done["persons_added"], done["faces_added"]) == (1, 1)
    assert run(in_parts, server, folder)["faces_added"] == 0
    (face,) = httpx.get(f"{server.url}/v1/collections/copy/persons/ada/faces").json()["faces"]
    crops = [
        httpx.get(f"{server.url}/v1/collections/{each}/faces/{face['id']}/crop").content for each in ("people", "copy")
    ]
    assert crops[0] == crops[1]
    assert crops[0].startswith(b"\xff\xd8")


def test_a_second_process_does_not_get_the_folder(
    server: Server, weights: dict[str, str], gallery_dir: Path, tmp_path: Path
) -> None:
    """One sentence says why, and the exit code is that of a start that is hopeless."""
    del server
    variables = {**weights, "GALLERY_DIR": str(gallery_dir)}
    with running_server(tmp_path, variables, wait=False) as second:
        assert second.process.wait(60) == 3
        said = second.log.read_text()
    assert "The service cannot start: Another process uses the folder" in said
    assert "Traceback" not in said


def test_an_index_whose_library_is_not_installed_ends_the_start(
    weights: dict[str, str], gallery_dir: Path, tmp_path: Path
) -> None:
    """One sentence says why, and what to install."""
    (tmp_path / "faiss.py").write_text("raise ModuleNotFoundError(name='faiss')")
    variables = {**weights, "GALLERY_DIR": str(gallery_dir), "GALLERY_INDEX": "faiss", "PYTHONPATH": str(tmp_path)}
    with running_server(tmp_path, variables, wait=False) as started:
        assert started.process.wait(60) == 3
        said = started.log.read_text()
    assert "GALLERY_INDEX=faiss needs FAISS: pip install 'jetface[faiss]'" in said
    assert "Traceback" not in said


def test_the_index_of_a_gpu_ends_the_start_where_there_is_none(
    weights: dict[str, str], gallery_dir: Path, tmp_path: Path
) -> None:
    variables = {**weights, "GALLERY_DIR": str(gallery_dir), "GALLERY_INDEX": "cuda"}
    with running_server(tmp_path, variables, wait=False) as started:
        assert started.process.wait(60) == 3
        said = started.log.read_text()
    assert "GALLERY_INDEX=cuda needs models that run on ONNX Runtime's CUDA provider" in said
    assert "Traceback" not in said


def test_several_workers_do_not_start(gallery_dir: Path) -> None:
    done = subprocess.run(
        ["jetface", "serve"], capture_output=True, text=True, check=False, timeout=60,
        env=service_environ({"GALLERY_DIR": str(gallery_dir), "WORKERS": "2"}),
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.strip().splitlines()[-1].startswith("Error: WORKERS=2 is not allowed with GALLERY_DIR")
