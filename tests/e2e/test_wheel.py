"""What a release installs: a wheel that serves from an empty folder by a newcomer's commands, and its version."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import resources
from pathlib import Path

import httpx
import pytest

from jetface import __commit__
from tests.support.drawn import PEOPLE, draw_group, encode
from tests.support.server import free_port, running, service_environ
from tests.support.shared import REPOSITORY

INSTALL_TIMEOUT_S = 600
"""Longest time to fetch and unpack what jetface depends on: 150 MB, on a busy machine."""

OLDEST_OPENCV = "opencv-python-headless==4.11.0.86"
"""The oldest that is allowed, and what a Jetson of Python 3.10 has."""

UVX = Path(sys.executable).parent / "uvx"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=60)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A package index that answers; in CI there is one."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "1", "annotated-types"]
    done = subprocess.run(command, cwd=tmp_path_factory.mktemp("index"), check=False, capture_output=True, timeout=120)
    if done.returncode:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no package index answers")


def answers(command: list[str], folder: Path, log: Path) -> None:
    """Start a command in an empty folder, and have it find the people of a drawing; it leaves nothing in the folder."""
    port = free_port()
    home = log.parent / "home"
    # The caches are those of this machine: what was fetched once is not fetched again.
    caches = {"UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache/uv"))}
    command = [*command, "--host", "127.0.0.1", "--port", str(port)]
    variables = {"HOST": "what-a-shell-sets", "HOME": str(home), **caches}
    environ = service_environ(variables)
    environ.pop("XDG_CACHE_HOME", None)
    environ.pop("PYTHONPATH", None)
    with running(command, port, log, environ, folder=folder) as server:
        server.wait_until_live(INSTALL_TIMEOUT_S)
        picture = base64.b64encode(encode(draw_group())).decode()
        body = {"images": {"data": [picture]}, "threshold": 0.5}
        answer = httpx.post(f"{server.url}/extract", json=body, timeout=60, trust_env=False).raise_for_status()
        about = httpx.get(f"{server.url}/info", timeout=10, trust_env=False).json()
        page = httpx.get(server.url, timeout=10, trust_env=False).text
        log_text = server.read_log()
    assert f"Open http://127.0.0.1:{port}/" in log_text
    assert "gpu" not in log_text.lower()
    assert list(folder.iterdir()) == []
    assert (home / ".cache/jetface").is_dir()
    assert len(answer.json()["data"][0]["faces"]) == len(PEOPLE)
    assert about["models"]["rec_name"] == "starter_rec"
    assert about["commit"] == __commit__
    assert "<title>jetface" in page


def test_it_holds_the_page_the_registry_and_the_starters(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    folder = resources.files("jetface.page")
    page = {f"jetface/page/assets/{file.name}" for file in folder.joinpath("assets").iterdir()}
    models = {f"jetface/registry/{path.name}" for path in (REPOSITORY / "models").glob("*.toml")}
    starters = {f"jetface/registry/{name}.onnx" for name in ("starter_det", "starter_rec")}
    assert {"jetface/page/index.html", "jetface/_version.py", *page, *models, *starters} <= names


@pytest.mark.timeout(2 * INSTALL_TIMEOUT_S)
@pytest.mark.usefixtures("index")
def test_pip_installs_it_and_it_serves_and_finds_a_person(wheel: Path, shared_faces: Path, tmp_path: Path) -> None:
    """`pip install dist/*.whl && jetface serve`, then `pip install 'jetface[parquet]'` and `jetface find`."""
    environment, folder = tmp_path / "environment", tmp_path / "empty"
    folder.mkdir()
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=120)
    python = str(environment / "bin/python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)]
    subprocess.run(pip, check=True, timeout=INSTALL_TIMEOUT_S)
    answers([str(environment / "bin/jetface"), "serve"], folder, tmp_path / "log")
    subprocess.run([*pip[:-1], OLDEST_OPENCV], check=True, timeout=INSTALL_TIMEOUT_S)
    answers([str(environment / "bin/jetface"), "serve"], folder, tmp_path / "log with the oldest OpenCV")
    subprocess.run([*pip[:-1], "jetface[parquet]"], check=True, timeout=INSTALL_TIMEOUT_S)
    for name in ("Adrien_Brody", "Al_Gore", "Ben_Affleck"):
        shutil.copytree(shared_faces / name, folder / "photos" / name)
    shutil.copy(shared_faces / "Adrien_Brody/1.jpg", folder / "who.jpg")
    find = [str(environment / "bin/jetface"), "find", "who.jpg", "photos"]
    environ = service_environ({"HOME": str(tmp_path / "home")})
    done = subprocess.run(find, cwd=folder, env=environ, check=True, capture_output=True, text=True, timeout=120)
    assert re.findall(r"^photos/(\w+)/\d\.jpg:", done.stdout, re.MULTILINE) == ["Adrien_Brody"] * 4


@pytest.mark.skipif(not UVX.exists(), reason="uvx is not in this environment")
@pytest.mark.timeout(2 * INSTALL_TIMEOUT_S)
@pytest.mark.usefixtures("index")
def test_uvx_runs_it(wheel: Path, tmp_path: Path) -> None:
    """`uvx --from dist/*.whl jetface serve`."""
    folder = tmp_path / "empty"
    folder.mkdir()
    python = ["--python", sys.executable]
    answers([str(UVX), *python, "--from", str(wheel), "jetface", "serve"], folder, tmp_path / "log")


def versions_in(folder: Path, out: Path) -> str:
    """Build a wheel of a folder in another, and return what its `_version.py` holds."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    (wheel,) = out.glob("*.whl")
    return zipfile.ZipFile(wheel).read("jetface/_version.py").decode()


def without_history(folder: Path) -> None:
    """Lay out what a build reads, as no checkout."""
    folder.mkdir()
    for name in ("app", "deploy", "models"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("_version.py", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(REPOSITORY / name, folder)


def git(folder: Path, *words: str) -> str:
    """Run git in a folder, as nobody in particular."""
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    return subprocess.run(
        ["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True, timeout=30
    ).stdout.strip()


def test_the_version_is_the_tag_s(tmp_path: Path) -> None:
    """With the commit; a clone without history has the commit, and a folder without git says that it knows neither."""
    tree, shallow = tmp_path / "tree", tmp_path / "shallow"
    without_history(tree)
    assert versions_in(tree, tmp_path / "1") == '__version__ = "0.0.0+unknown"\n__commit__ = "unknown"\n\n'
    git(tree, "init", "--quiet")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "--message", "first")
    git(tree, "tag", "v1.2.3")
    commit = git(tree, "rev-parse", "HEAD")
    assert versions_in(tree, tmp_path / "2") == f'__version__ = "1.2.3"\n__commit__ = "{commit}"\n\n'
    git(tree, "clone", "--quiet", "--depth", "1", "--no-tags", f"file://{tree}", str(shallow))
    assert f'__commit__ = "{commit}"' in versions_in(shallow, tmp_path / "3")


def test_the_source_distribution_builds_without_git(tmp_path: Path) -> None:
    """And says the version and the commit that it was made of."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=60)
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path, filter="data")
    found = versions_in(tmp_path / archive.name.removesuffix(".tar.gz"), tmp_path / "out")
    assert found == (REPOSITORY / "app/jetface/_version.py").read_text(encoding="utf-8")
