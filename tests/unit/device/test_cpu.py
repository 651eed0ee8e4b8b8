"""Cores from quotas, on trees as Docker, systemd and Kubernetes lay them out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jetface.device.limits import usable_cores


@pytest.fixture(autouse=True)
def _many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 64 cores, all of them ours."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("max 100000", 64), ("", 64), ("junk", 64)],
)
def test_the_unified_hierarchy_inside_a_container(tmp_path: Path, quota: str, cores: int) -> None:
    assert usable_cores(tree(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota})) == cores


def test_the_least_quota_on_the_way_up_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/pod/container\n",
        "sys/fs/cgroup/pod/cpu.max": "300000 100000",
        "sys/fs/cgroup/pod/container/cpu.max": "max 100000",
    }
    assert usable_cores(tree(tmp_path, files)) == 3


def test_a_path_of_the_host_that_is_not_mounted(tmp_path: Path) -> None:
    """Docker with the host's namespace: the group named is not there, the mount point is the container's group."""
    files = {"proc/self/cgroup": "0::/../../system.slice/docker-1\n", "sys/fs/cgroup/cpu.max": "400000 100000"}
    assert usable_cores(tree(tmp_path, files)) == 4


@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(("quota", "cores"), [("250000", 3), ("-1", 64), ("0", 64)])
def test_the_first_hierarchy(tmp_path: Path, controllers: str, quota: str, cores: int) -> None:
    files = {
        "proc/self/cgroup": f"5:memory:/docker/1\n4:{controllers}:/docker/1\n",
        f"sys/fs/cgroup/{controllers}/docker/1/cpu.cfs_quota_us": f"{quota}\n",
        f"sys/fs/cgroup/{controllers}/docker/1/cpu.cfs_period_us": "100000\n",
    }
    assert usable_cores(tree(tmp_path, files)) == cores


@pytest.mark.parametrize("group", ["", "nonsense\n", "1:name=systemd:/\n"])
def test_without_control_groups_the_machine_counts(tmp_path: Path, group: str) -> None:
    assert usable_cores(tree(tmp_path, {"proc/self/cgroup": group})) == 64
    assert usable_cores(tmp_path / "nothing") == 64


def test_cores_we_may_not_be_scheduled_on_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5}, raising=False)
    assert usable_cores(tmp_path) == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores(tmp_path) == 64


def test_a_machine_that_cannot_count_has_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1
