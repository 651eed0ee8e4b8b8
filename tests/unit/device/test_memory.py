"""Memory limits and what they leave, on trees as Docker, systemd and Kubernetes lay them out."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetface.device.limits import MemoryGuard, free_memory_bytes, memory_limit_bytes
from jetface.errors import MemoryPressureError

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


class TestFree:
    """What can still be taken: the machine's and the least headroom of the groups around us."""

    AVAILABLE = MEMINFO + "MemAvailable:    9000 kB\n"

    def test_without_a_limit_it_is_what_the_machine_has_available(self, tmp_path: Path) -> None:
        assert free_memory_bytes(tree(tmp_path, {"proc/meminfo": self.AVAILABLE})) == 9000 * 1024

    def test_a_system_that_tells_nothing(self, tmp_path: Path) -> None:
        assert free_memory_bytes(tmp_path) == math.inf

    @pytest.mark.parametrize(
        ("stat", "expected"),
        [("", 500_000), ("anon 7\ninactive_file 100000\nactive_file 50000\n", 650_000)],
        ids=["no statistics", "page cache counts as free"],
    )
    def test_the_unified_hierarchy(self, tmp_path: Path, stat: str, expected: int) -> None:
        files = {
            "proc/self/cgroup": "0::/\n",
            "proc/meminfo": self.AVAILABLE,
            "sys/fs/cgroup/memory.max": "1000000\n",
            "sys/fs/cgroup/memory.current": "500000\n",
            "sys/fs/cgroup/memory.stat": stat,
        }
        assert free_memory_bytes(tree(tmp_path, files)) == expected

    def test_the_first_hierarchy_counts_the_groups_below(self, tmp_path: Path) -> None:
        folder = "sys/fs/cgroup/memory/docker/1"
        files = {
            "proc/self/cgroup": "5:memory:/docker/1\n",
            "proc/meminfo": self.AVAILABLE,
            f"{folder}/memory.limit_in_bytes": "1000000\n",
            f"{folder}/memory.usage_in_bytes": "900000\n",
            f"{folder}/memory.stat": "inactive_file 1\ntotal_inactive_file 300000\ntotal_active_file 0\n",
        }
        assert free_memory_bytes(tree(tmp_path, files)) == 400_000

    def test_the_group_with_the_least_headroom_counts(self, tmp_path: Path) -> None:
        files = {
            "proc/self/cgroup": "0::/pod/container\n",
            "sys/fs/cgroup/pod/memory.max": "1000",
            "sys/fs/cgroup/pod/memory.current": "900",
            "sys/fs/cgroup/pod/container/memory.max": "800",
            "sys/fs/cgroup/pod/container/memory.current": "300",
        }
        assert free_memory_bytes(tree(tmp_path, files)) == 100

    def test_a_group_over_its_limit_has_nothing_left(self, tmp_path: Path) -> None:
        files = {"sys/fs/cgroup/memory.max": "1000", "sys/fs/cgroup/memory.current": "2000"}
        assert free_memory_bytes(tree(tmp_path, files)) == 0

    def test_a_limit_without_usage_cannot_be_counted(self, tmp_path: Path) -> None:
        files = {"proc/meminfo": self.AVAILABLE, "sys/fs/cgroup/memory.max": "1000"}
        assert free_memory_bytes(tree(tmp_path, files)) == 9000 * 1024

    def test_this_machine_is_read(self) -> None:
        assert 0 < free_memory_bytes() <= memory_limit_bytes()


class TestGuard:
    """Work that would leave too little memory is refused before it starts."""

    @given(floor=st.integers(1, 2**40), need=st.integers(0, 2**40), free=st.integers(0, 2**41))
    def test_it_refuses_exactly_what_would_break_the_floor(self, floor: int, need: int, free: int) -> None:
        refused: list[str] = []
        guard = MemoryGuard(floor, read_free_bytes=lambda: free, on_refusal=refused.append)
        if free - need >= floor:
            guard.require(need, work="load", subject="model a")
            assert refused == []
        else:
            with pytest.raises(MemoryPressureError, match="MIN_FREE_MEMORY_BYTES") as raised:
                guard.require(need, work="load", subject="model a")
            assert raised.value.retry_after_s
            assert refused == ["load"]

    @pytest.mark.parametrize(("floor", "free"), [(0, 0), (2**30, math.inf)], ids=["no-floor", "nothing-known"])
    def test_without_a_floor_or_a_figure_nothing_is_refused(self, floor: int, free: float) -> None:
        refused: list[str] = []
        guard = MemoryGuard(floor, read_free_bytes=lambda: free, on_refusal=refused.append)
        guard.require(2**40, work="build", subject="model a")
        assert refused == []

    def test_the_refusal_says_how_much_is_wanted_and_how_much_there_is(self) -> None:
        guard = MemoryGuard(256 * 2**20, read_free_bytes=lambda: 300 * 2**20)
        with pytest.raises(MemoryPressureError) as raised:
            guard.require(100 * 2**20, work="build", subject="the engine of glintr100")
        for part in ("build the engine of glintr100", "100 MiB", "300 MiB", "256 MiB"):
            assert part in raised.value.message
