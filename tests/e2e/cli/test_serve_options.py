"""`jetface serve` with options, and with a file of variables."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.server import service_environ


def would_listen(folder: Path, *options: str, **variables: str) -> str:
    """Return where it would listen."""
    environ = service_environ({"MODELS_DIR": str(folder / "models"), **variables})
    done = subprocess.run(
        ["jetface", "serve", "--dry-run", *options],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_options_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "my.env"
    file.write_text("# mine\nHOST=127.0.0.2\nPORT=18301\nWORKERS=2\nLOG_LEVEL=\n", encoding="utf-8")
    named = ("--env-file", str(file))
    assert would_listen(tmp_path, *named) == "would listen on http://127.0.0.2:18301, WORKERS=2"
    assert would_listen(tmp_path, *named, PORT="18302") == "would listen on http://127.0.0.2:18302, WORKERS=2"
    options = (*named, "--port", "18303", "--host", "127.0.0.1")
    assert would_listen(tmp_path, *options, JETFACE_PORT="18302") == "would listen on http://127.0.0.1:18303, WORKERS=2"
