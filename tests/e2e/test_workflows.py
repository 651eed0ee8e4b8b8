"""What GitHub would run: files of its schema, that call what a person calls."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.support.shared import REPOSITORY

WORKFLOWS = sorted((REPOSITORY / ".github/workflows").glob("*.yml"))


def test_they_fit_the_schema() -> None:
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        *map(str, WORKFLOWS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


def test_what_they_call_is_there() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    called = [word for words in re.findall(r"make ((?:[a-z]+ ?)+)", text) for word in words.split()]
    assert {"dist", "lint", "site", "test"} <= set(called) <= set(targets)
    files = re.findall(r"dockerfile: ([\w./]+)", text) + re.findall(r"uses: \./(\S+)", text) + [".ci/run"]
    assert [name for name in files if not (REPOSITORY / name).is_file()] == []


def test_issue_forms_fit_the_schema_and_ask_for_the_doctor() -> None:
    forms = [path for path in (REPOSITORY / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    schema = ["--builtin-schema", "vendor.github-issue-forms"]
    command = [sys.executable, "-m", "check_jsonschema", *schema, *map(str, forms)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
    assert any("jetface doctor" in path.read_text(encoding="utf-8") for path in forms)
