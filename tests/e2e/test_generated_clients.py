"""Clients that others' generators write from the OpenAPI description: without a warning, and as the page calls them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from tests.support.fakes import Harness
from tests.support.shared import REPOSITORY

PAGE = (REPOSITORY / "docs/generated-clients.md").read_text(encoding="utf-8")
GENERATOR = "openapi-python-client==0.29.1"
TYPES = """
[mypy]
strict = true
[mypy-jetface_api.client]
# The same whatever is generated.
ignore_errors = true
"""


@pytest.fixture
def description(tmp_path: Path) -> Path:
    """The description, as a file."""
    path = tmp_path / "openapi.json"
    path.write_bytes(orjson.dumps(Harness().app.openapi()))
    return path


def program(language: str) -> str:
    """Return the page's program in a language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    assert found is not None
    return found[1]


def run(command: Sequence[str], folder: Path, *, unless: str | None = None) -> str:
    """Run a command and return what it says.

    Args:
        command: Program and arguments.
        folder: Where it runs.
        unless: Why the test is skipped where the command fails; None: it must not.
    """
    # What a generator formats its output with stands beside this Python.
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=110)
    said = done.stdout + done.stderr
    if done.returncode and unless is not None:
        pytest.skip(f"{unless}: {said[-300:]}")
    assert done.returncode == 0, said[-4000:]
    return said


@pytest.mark.skipif(shutil.which("npm") is None, reason="node and npm are not installed")
@pytest.mark.timeout(300)
def test_typescript_has_types_for_every_call_of_the_page(description: Path, tmp_path: Path) -> None:
    """The generator and the compiler in the versions of the lock file."""
    folder = tmp_path / "javascript"
    folder.mkdir()
    for name in ("package.json", "package-lock.json", "generate.mjs"):
        shutil.copy(REPOSITORY / "clients/javascript" / name, folder)
    fetch = ["npm", "ci", "--silent", "--no-audit", "--no-fund", "--prefer-offline"]
    run(fetch, folder, unless="npm cannot fetch the generator")
    assert run(["node", "generate.mjs", str(description)], folder) == ""
    (folder / "program.ts").write_text(program("ts"), encoding="utf-8")
    options = ["--noEmit", "--strict", "--module", "nodenext", "--target", "es2022", "--types", "node"]
    assert run(["npx", "tsc", *options, "program.ts"], folder) == ""


@pytest.mark.timeout(300)
def test_python_is_generated_without_a_warning_and_has_types_for_every_call_of_the_page(
    description: Path, tmp_path: Path
) -> None:
    generator = [sys.executable, "-m", "uv", "tool", "run", "--from", GENERATOR, "openapi-python-client"]
    run([*generator, "--version"], tmp_path, unless=f"uv cannot fetch {GENERATOR}")
    config = ["--config", str(REPOSITORY / "clients/openapi-python-client.yaml")]
    output = ["--meta", "none", "--output-path", "jetface_api", "--fail-on-warning"]
    said = run([*generator, "generate", "--path", str(description), *config, *output], tmp_path)
    assert "warning" not in said.lower()
    (tmp_path / "program.py").write_text(program("python"), encoding="utf-8")
    (tmp_path / "mypy.ini").write_text(TYPES, encoding="utf-8")
    run([sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "program.py", "jetface_api"], tmp_path)
