"""An image of ours without Docker: what its Dockerfile copies, laid out in a folder, and started as it would be.

    python -m tests.support.image_layout

makes one of deploy/Dockerfile.cpu in a temporary folder, with a virtual environment installed from requirements/cpu.txt
as the Dockerfile does it, and asks it for the faces in a drawing. It takes minutes; tests use the environment they run
in.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import httpx
from docker.utils.build import exclude_paths
from dotenv import dotenv_values

from tests.support.dockerfiles import Dockerfile
from tests.support.drawn import PEOPLE, draw_group, encode
from tests.support.server import Server, free_port, running
from tests.support.shared import REPOSITORY


def build_context(root: Path = REPOSITORY) -> set[str]:
    """Return the files that .dockerignore lets through, relative, by the matching of Docker's own Python library."""
    patterns = [
        line
        for line in root.joinpath(".dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    # The list itself is always sent, and never part of the context.
    sent = exclude_paths(str(root), patterns) - {".dockerignore"}
    return {path for path in sent if root.joinpath(path).is_file()}


def copied_files(dockerfile: Dockerfile, context: set[str]) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield each file of the context that the stage `code` copies, and its place in the image."""
    for source, place in dockerfile.files("code"):
        found = False
        for path in sorted(context):
            if path == source or path.startswith(f"{source}/"):
                yield path, place / PurePosixPath(path).relative_to(source)
                found = True
        if not found:
            raise FileNotFoundError(f"{dockerfile.path.name} copies {source}, which .dockerignore keeps out")


class ImageFolder:
    """An image's files below a folder that stands for `/`."""

    def __init__(self, dockerfile: Dockerfile, root: Path) -> None:
        """Lay out the code; the environment is added by `use_environment` or `make_environment`."""
        self.dockerfile = dockerfile
        self.root = root
        for source, place in copied_files(dockerfile, build_context()):
            target = self.path(str(place))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / source, target)
        for folder in ("/models", "/engines", "/tmp", "/opt"):
            self.path(folder).mkdir()
        # As the Dockerfile does: nothing is to be written where the code lies, not even by root.
        compiler = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
        subprocess.check_call([*compiler, self.path("/app/app")])
        self.laid_out = self.files()

    def path(self, place: str) -> Path:
        """Return where a place in the image is on this machine."""
        return self.root / place.lstrip("/")

    def use_environment(self, prefix: Path) -> None:
        """Let a virtual environment that is there stand for the image's own."""
        self.path("/opt/venv").symlink_to(prefix)

    def make_environment(self, requirements: Path) -> None:
        """Install the image's environment as its Dockerfile does: wheels first, then without an index or pip."""
        locks = REPOSITORY / "requirements"
        builder, wheels, venv = self.root / "builder", self.root / "wheels", self.path("/opt/venv")
        pip = [str(builder / "bin/pip"), "--quiet", "--no-cache-dir"]
        run = subprocess.check_call
        run([sys.executable, "-m", "venv", builder])
        run([*pip, "install", "--require-hashes", "--requirement", locks / "builder.txt"])
        only_wheels = ["--no-deps", "--no-build-isolation", "--only-binary=:all:"]
        run([*pip, "wheel", "--require-hashes", *only_wheels, "--wheel-dir", wheels, "--requirement", requirements])
        run([sys.executable, "-m", "venv", "--without-pip", venv])
        into_venv = ["--python", str(venv / "bin/python"), "install", "--no-index", "--no-deps"]
        run([*pip, *into_venv, *wheels.glob("*.whl")])

    def environ(self, env_file: Path, overrides: Mapping[str, str]) -> dict[str, str]:
        """Return the variables a container would have: the image's, over them the env file's, over them yours."""
        places = ("/app", "/models", "/engines", "/opt/venv", "/tmp")

        def here(value: str) -> str:
            parts = value.replace("$PATH", os.defpath).split(":")
            return ":".join(str(self.path(part)) if part.startswith(places) else part for part in parts)

        variables = {**self.dockerfile.environment(), **{k: v or "" for k, v in dotenv_values(env_file).items()}}
        return {**{name: here(value) for name, value in variables.items()}, **overrides}

    def command(self) -> list[str]:
        """Return the image's ENTRYPOINT, its paths on this machine."""
        return [str(self.path(word)) if word.startswith("/") else word for word in self.dockerfile.entrypoint()]

    def files(self) -> set[str]:
        """Return what lies in /app now."""
        return {str(path.relative_to(self.root)) for path in self.path("/app").rglob("*")}

    @contextmanager
    def running(self, env_file: Path, overrides: Mapping[str, str]) -> Iterator[Server]:
        """Start the image's program on a free loopback port, and stop it when the block ends."""
        port = free_port()
        environ = self.environ(env_file, {"HOST": "127.0.0.1", "PORT": str(port), **overrides})
        with running(self.command(), port, self.root / "log", environ, folder=self.path("/app")) as server:
            server.wait_until_live()
            yield server


def main() -> int:
    """Check the CPU image with an environment of its own; say what was found."""
    with tempfile.TemporaryDirectory(prefix="jetface-image-", ignore_cleanup_errors=True) as folder:
        image = ImageFolder(Dockerfile.read(REPOSITORY / "deploy/Dockerfile.cpu"), Path(folder))
        image.make_environment(REPOSITORY / "requirements/cpu.txt")
        overrides = {"DET_MODEL": "starter_det", "REC_MODEL": "starter_rec", "MODEL_DOWNLOAD": "0"}
        with image.running(REPOSITORY / "deploy/cpu.env", overrides) as server:
            picture = {"images": {"data": [base64.b64encode(encode(draw_group())).decode()]}, "threshold": 0.5}
            answer = httpx.post(f"{server.url}/extract", json=picture, timeout=120, trust_env=False)
            (found,) = answer.raise_for_status().json()["data"]
            exit_code = server.stop()
        written = image.files() - image.laid_out
        checks = {
            f"faces in a drawing of {len(PEOPLE)}: {len(found['faces'])}": len(found["faces"]) == len(PEOPLE),
            f"exit code after SIGTERM: {exit_code}": exit_code == 0,
            f"files written into /app: {len(written)}": not written,
        }
    for text, is_well in checks.items():
        sys.stdout.write(f"{'ok  ' if is_well else 'FAIL'} {text}\n")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
