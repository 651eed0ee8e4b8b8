"""Connections are bounded by the descriptors that a process has."""

from __future__ import annotations

import subprocess
import sys


def test_no_more_connections_are_taken_than_there_are_descriptors_for() -> None:
    """In a process of its own: limits that were lowered cannot be raised again."""
    program = """
import resource
from jetface.main import _most_connections
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2048))
print(_most_connections(1000), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1024))
print(_most_connections(4096), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
print(_most_connections(4096))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if "descriptors" not in line]
    assert lines == ["1000 1256", "768 1024", "32"]
    assert "few descriptors" in done.stdout + done.stderr
