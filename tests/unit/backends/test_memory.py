"""Memory limits, on trees as Docker, systemd and Kubernetes lay them out."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from app.backends.memory import memory_limit_bytes

MEMINFO = "MemTotal:       16000 kB\nMemFree:         5000 kB\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_without_a_limit_it_is_the_machine_s(tmp_path: Path) -> None:
    assert memory_limit_bytes(tree(tmp_path, {})) == 16000 * 1024


@pytest.mark.parametrize(("limit", "expected"), [("1048576", 1048576), ("max", 16384000), ("", 16384000)])
def test_the_unified_hierarchy_inside_a_container(tmp_path: Path, limit: str, expected: int) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{limit}\n"}
    assert memory_limit_bytes(tree(tmp_path, files)) == expected


def test_the_least_limit_on_the_way_up_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/pod/container\n",
        "sys/fs/cgroup/pod/memory.max": "1000",
        "sys/fs/cgroup/pod/container/memory.max": "max",
    }
    assert memory_limit_bytes(tree(tmp_path, files)) == 1000


@pytest.mark.parametrize(("limit", "expected"), [("2000", 2000), ("9223372036854771712", 16384000)])
def test_the_first_hierarchy(tmp_path: Path, limit: str, expected: int) -> None:
    files = {
        "proc/self/cgroup": "5:memory:/docker/1\n4:cpu:/docker/1\n",
        "sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": f"{limit}\n",
    }
    assert memory_limit_bytes(tree(tmp_path, files)) == expected


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    assert memory_limit_bytes(tmp_path) == math.inf
