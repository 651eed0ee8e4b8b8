"""What an image is built from: what its Dockerfile copies, and neither weights nor keys nor anybody's pictures."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from tests.support.dockerfiles import Dockerfile
from tests.support.image_layout import build_context
from tests.support.shared import REPOSITORY

DOCKERFILES = [
    REPOSITORY / "Dockerfile.jetson",
    *sorted((REPOSITORY / "deploy/jetson").glob("Dockerfile.*")),
    REPOSITORY / "deploy/Dockerfile.gpu",
    REPOSITORY / "deploy/Dockerfile.cpu",
]


@pytest.fixture(scope="module")
def context() -> set[str]:
    return build_context()


def test_it_holds_the_code_and_the_registry(context: set[str]) -> None:
    """Whole: what git knows of app/ and models/."""
    for folder, pattern in (
        ("app", "*.py"),
        ("app/jetface/page", "*.js"),
        ("models", "*.toml"),
        ("models", "starter_*.onnx"),
    ):
        files = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / folder).rglob(pattern)}
        assert files
        assert files <= context


def test_it_holds_nothing_else(context: set[str]) -> None:
    parts = {"app", "models", "requirements", "entrypoint.sh", "deploy"}
    assert {PurePosixPath(path).parts[0] for path in context} == parts
    assert {path for path in context if path.startswith("deploy/")} <= {
        "deploy/healthcheck.sh",
        "deploy/launcher.py",
        "deploy/jetson/check_libraries.py",
        "deploy/jetson/fetch_onnxruntime.sh",
        "deploy/jetson/wheels/onnxruntime_gpu-1.23.0-cp310-cp310-linux_aarch64.whl",
    }
    assert not {path for path in context if "__pycache__" in path}


def test_weights_and_secrets_stay_out(tmp_path: Path) -> None:
    """As they lie about in a checkout that is in use."""
    ignored = REPOSITORY.joinpath(".dockerignore").read_text(encoding="utf-8")
    tmp_path.joinpath(".dockerignore").write_text(ignored, encoding="utf-8")
    for name in (
        "models/glintr100.onnx", "models/scrfd.toml.part", "models/engines/a.plan", "models/w.toml", ".env",
        "deploy/local/jetface.env", "deploy/cpu.env", ".git/config", "app/jetface/__pycache__/x.pyc", "photos/me.jpg",
        "app/jetface/main.py", "id_rsa",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert build_context(tmp_path) == {"app/jetface/main.py", "models/w.toml"}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_everything_that_is_copied_is_let_through(path: Path, context: set[str]) -> None:
    """A folder of your own wheels may be missing: the pattern for it stands beside a file that is there."""
    dockerfile = Dockerfile.read(path)
    sources = {source for stage in dockerfile.stages for source, _ in dockerfile.files(stage.name)}
    missing = {
        source for source in sources if source not in context and not any(p.startswith(f"{source}/") for p in context)
    }
    assert missing <= {"deploy/jetson/wheels*"}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_code_lies_alike_in_every_image(path: Path) -> None:
    """What is proven of one layout holds for all."""
    places = [(source, str(place)) for source, place in Dockerfile.read(path).files("code")]
    assert places == [(source, str(place)) for source, place in Dockerfile.read(DOCKERFILES[-1]).files("code")]
