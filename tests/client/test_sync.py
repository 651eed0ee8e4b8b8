"""The client for threads is the one for asyncio, said for threads."""

from __future__ import annotations

import subprocess
import sys

from tests.support.shared import REPOSITORY


def test_the_client_for_threads_is_what_the_program_writes() -> None:
    """`make docs` writes it anew."""
    program = "import unasync; print(unasync.sync_source(), end='')"
    written = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY / "clients" / "python",
        capture_output=True,
        text=True,
        check=True,
    )
    assert written.stdout == (REPOSITORY / "clients" / "python" / "jetface_client" / "client.py").read_text()
