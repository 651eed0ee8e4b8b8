"""Cores: what is built in, on and off, as the kernel writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetface.device.machine import cpu_model, offline_cores, online_cores, present_cores, read_number, read_text

PlantTree = Callable[[Mapping[str, str]], Path]

PRESENT = "sys/devices/system/cpu/present"
ONLINE = "sys/devices/system/cpu/online"


@pytest.mark.parametrize(
    ("present", "online", "offline"),
    [
        ("0-11\n", "0-11\n", set()),
        ("0-11\n", "0-7\n", {8, 9, 10, 11}),
        ("0-11\n", "0-3\n", set(range(4, 12))),
        ("0-7\n", "0-3,6\n", {4, 5, 7}),
        ("0\n", "0\n", set()),
    ],
    ids=["MAXN", "30W", "15W", "hot-plugged", "one core"],
)
def test_offline_is_what_is_present_and_not_online(
    plant: PlantTree, present: str, online: str, offline: set[int]
) -> None:
    assert offline_cores(plant({PRESENT: present, ONLINE: online})) == offline


def test_a_system_that_does_not_say_has_none_offline(plant: PlantTree) -> None:
    """No evidence is not evidence of trouble."""
    assert offline_cores(plant({})) == frozenset()
    assert offline_cores(plant({PRESENT: "0-3"})) == frozenset()
    assert offline_cores(plant({PRESENT: "0-3", ONLINE: "garbage"})) == frozenset()


def test_this_machine_is_read() -> None:
    assert online_cores() <= present_cores()


@given(cores=st.sets(st.integers(0, 40), min_size=1))
def test_any_set_of_cores_is_read_back(tmp_path_factory: pytest.TempPathFactory, cores: set[int]) -> None:
    """Ranges and single numbers, in any mixture."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and runs[-1][1] == core - 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    path = tmp_path_factory.mktemp("tree") / ONLINE
    path.parent.mkdir(parents=True)
    path.write_text(",".join(f"{first}-{last}" if first != last else f"{first}" for first, last in runs) + "\n")
    assert online_cores(path.parents[4]) == cores


def test_small_files_are_read_without_what_surrounds_them(plant: PlantTree) -> None:
    root = plant({"model": "Jetson AGX Orin\0", "number": " 42\n", "word": "on"})
    assert read_text(root / "model") == "Jetson AGX Orin"
    assert read_text(root / "missing") is None
    assert read_text(root) is None
    assert [read_number(root / name) for name in ("number", "word", "missing")] == [42, None, None]


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC 9R14\n\nprocessor\t: 1\nmodel name\t: another\n", "AMD EPYC 9R14"),
        (
            "processor\t: 0\nCPU implementer\t: 0x41\nCPU variant\t: 0x0\nCPU part\t: 0xd42\n",
            "CPU implementer 0x41, CPU part 0xd42, CPU variant 0x0",
        ),
        ("processor\t: 0\n", None),
        (None, None),
    ],
    ids=["x86", "Arm", "silent", "hidden"],
)
def test_a_cpu_is_called_as_the_system_calls_its_first_core(tmp_path: Path, cpuinfo: str | None, model: str) -> None:
    if cpuinfo is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    assert cpu_model(tmp_path) == model
