"""What the CPU image's Dockerfile copies is enough to serve, and is not written to. The other images copy the same."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.dockerfiles import Dockerfile
from tests.support.drawn import PEOPLE, draw_group, encode
from tests.support.image_layout import ImageFolder
from tests.support.server import Server
from tests.support.shared import REPOSITORY

ENV_FILE = REPOSITORY / "deploy/cpu.env"

STARTERS = {"DET_MODEL": "starter_det", "REC_MODEL": "starter_rec", "MODEL_DOWNLOAD": "0", "BACKEND": "onnxruntime"}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    """The image's files, with the environment that these tests run in."""
    image = ImageFolder(Dockerfile.read(REPOSITORY / "deploy/Dockerfile.cpu"), tmp_path_factory.mktemp("image"))
    image.use_environment(Path(sys.prefix))
    return image


@pytest.fixture(scope="module")
def server(image: ImageFolder) -> Iterator[Server]:
    """The service as the container would run it, under tini."""
    if shutil.which("tini") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "tini is not installed (Debian and Ubuntu: apt install tini)"
        )
    with image.running(ENV_FILE, STARTERS) as server:
        yield server


def test_it_finds_faces(server: Server) -> None:
    """With the models that come along, found in the image's registry."""
    picture = base64.b64encode(encode(draw_group())).decode()
    answer = httpx.post(
        f"{server.url}/extract", json={"images": {"data": [picture]}, "threshold": 0.5}, timeout=60, trust_env=False
    )
    (found,) = answer.raise_for_status().json()["data"]
    assert len(found["faces"]) == len(PEOPLE)


def test_the_code_is_the_image_s_own(image: ImageFolder) -> None:
    """Not that of the checkout, which is installed in the same environment."""
    environ = image.environ(ENV_FILE, {})
    script = "import jetface, jetface.registry as specs; print(jetface.__file__); print(specs.default_registry_dir())"
    python = ["python", "-c", script]
    done = subprocess.run(python, env=environ, cwd=image.root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(image.path("/app/app/jetface/__init__.py")), str(image.path("/app/models"))]
    version = ["jetface", "--version"]
    shown = subprocess.run(version, env=environ, cwd=image.root, capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("jetface, version ")


class TestHealthCheck:
    """`/app/healthcheck.sh`, as Docker runs it inside the container."""

    def run(self, image: ImageFolder, **variables: str) -> int:
        environ = {"PATH": "/usr/bin:/bin", **variables}
        return subprocess.run(
            [image.path("/app/healthcheck.sh")], env=environ, capture_output=True, check=False
        ).returncode

    @pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
    def test_is_well_while_it_serves(self, image: ImageFolder, server: Server, host: str) -> None:
        port = str(httpx.URL(server.url).port)
        assert self.run(image, HOST=host, PORT=port) == 0

    def test_is_not_when_nobody_listens(self, image: ImageFolder) -> None:
        assert self.run(image, HOST="127.0.0.1", PORT="1") != 0


def test_nothing_is_written_beside_the_code(image: ImageFolder, server: Server) -> None:
    """Which lies in a read-only root file system: no compiled module, no cache."""
    httpx.get(f"{server.url}/info", trust_env=False).raise_for_status()
    assert image.files() == image.laid_out
