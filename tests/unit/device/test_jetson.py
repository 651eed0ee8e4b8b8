"""Which Jetson it is, and how it is set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from jetface.device.machine import Gpu, Jetson, compute_capability, find_gpu, find_jetson, l4t_major
from tests.support import machines

PlantTree = Callable[[Mapping[str, str]], Path]

ORIN = Jetson(
    module="NVIDIA Jetson AGX Orin Developer Kit", l4t_release="36.4.3", power_mode="0 MAXN", gpu_clock_is_fixed=True
)


def without(files: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: text for name, text in files.items() if not name.startswith(names)}


class TestJetson:
    """Module, release, power mode, clocks."""

    def test_all_of_it(self, plant: PlantTree) -> None:
        assert find_jetson(plant(machines.ORIN)) == ORIN

    @pytest.mark.parametrize(
        ("status", "modes", "expected"),
        [
            ("pmode:0002\n", "< POWER_MODEL ID=2 NAME=MODE_30W >\n", "2 MODE_30W"),
            ("pmode:0002 fmode:cool\n", "", "2"),
            ("garbage", "", None),
        ],
    )
    def test_the_power_mode_is_a_number_and_a_name_where_it_has_one(
        self, plant: PlantTree, status: str, modes: str, expected: str | None
    ) -> None:
        files = {**machines.ORIN, "var/lib/nvpmodel/status": status, "etc/nvpmodel.conf": modes}
        found = find_jetson(plant(files))
        assert found is not None
        assert found.power_mode == expected

    def test_thor_is_one(self, plant: PlantTree) -> None:
        assert find_jetson(plant(machines.THOR)) == Jetson(
            module="NVIDIA Jetson AGX Thor Developer Kit",
            l4t_release="39.2.0",
            power_mode="0 MAXN",
            gpu_clock_is_fixed=True,
        )

    def test_in_a_container_little_is_to_be_seen(self, plant: PlantTree) -> None:
        """The device tree is hidden; the kernel's list of systems on a chip is not."""
        files = without(machines.ORIN, "proc/", "etc/", "var/", "sys/class/devfreq")
        found = find_jetson(plant({**files, "sys/devices/soc0/machine": "NVIDIA Jetson AGX Orin Developer Kit\n"}))
        assert found == Jetson(module=ORIN.module, l4t_release=None, power_mode=None, gpu_clock_is_fixed=None)

    @pytest.mark.parametrize(
        ("files", "expected"),
        [
            ({"proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0005\0nvidia,tegra234\0"}, (8, 7)),
            ({"proc/device-tree/compatible": "nvidia,p4071-0000+p3834-0008\0nvidia,tegra264\0"}, (11, 0)),
            ({"sys/devices/soc0/family": "Tegra\n", "sys/devices/soc0/soc_id": "35\n"}, (8, 7)),
            ({"sys/devices/soc0/family": "Tegra\n", "sys/devices/soc0/soc_id": "38\n"}, (11, 0)),
            ({"sys/devices/soc0/family": "i.MX\n", "sys/devices/soc0/soc_id": "35\n"}, None),
            ({}, None),
        ],
    )
    def test_the_chip_tells_the_compute_capability(
        self, plant: PlantTree, files: Mapping[str, str], expected: tuple[int, int] | None
    ) -> None:
        assert compute_capability(plant(files)) == expected

    def test_the_release_of_l4t_has_a_major_number(self, plant: PlantTree) -> None:
        assert l4t_major(plant(machines.ORIN)) == 36
        assert l4t_major(plant({"etc/nv_tegra_release": "no release"})) is None

    def test_a_release_alone_says_enough(self, plant: PlantTree) -> None:
        release = "etc/nv_tegra_release"
        found = find_jetson(plant({release: machines.ORIN[release]}))
        assert found is not None
        assert (found.module, found.l4t_release) == ("NVIDIA Jetson", "36.4.3")

    def test_a_carrier_board_of_another_maker_is_one(self, plant: PlantTree) -> None:
        files = {
            "proc/device-tree/model": "Rogue carrier",
            "proc/device-tree/compatible": "acme,rogue\0nvidia,tegra234",
        }
        found = find_jetson(plant(files))
        assert found is not None
        assert found.module == "Rogue carrier"

    @pytest.mark.parametrize("files", [machines.SERVER, machines.PLAIN, {"proc/device-tree/model": "Raspberry Pi 5"}])
    def test_another_machine_is_none(self, plant: PlantTree, files: Mapping[str, str]) -> None:
        assert find_jetson(plant(files)) is None


class TestGpu:
    """Is one here, and can it be reached."""

    @pytest.mark.parametrize(
        ("files", "expected"),
        [
            (machines.ORIN, Gpu(is_integrated=True, has_nvml=False, is_reachable=True, driver="540.4.0")),
            (
                machines.ORIN_WITHOUT_RUNTIME,
                Gpu(is_integrated=True, has_nvml=False, is_reachable=False, driver="540.4.0"),
            ),
            (machines.ORIN_R39, Gpu(is_integrated=True, has_nvml=False, is_reachable=True, driver="595.78")),
            (machines.THOR, Gpu(is_integrated=True, has_nvml=True, is_reachable=True, driver="595.78")),
            (
                without(machines.THOR, "dev/", "etc/", "proc/"),
                Gpu(is_integrated=True, has_nvml=True, is_reachable=False, driver=None),
            ),
            (
                {
                    **without(machines.THOR, "etc/", "proc/", "sys/"),
                    "etc/nv_tegra_release": machines.THOR["etc/nv_tegra_release"],
                },
                Gpu(is_integrated=True, has_nvml=True, is_reachable=True, driver=None),
            ),
            (machines.SERVER, Gpu(is_integrated=False, has_nvml=True, is_reachable=True, driver="570.86.15")),
            (
                machines.SERVER_WITHOUT_TOOLKIT,
                Gpu(is_integrated=False, has_nvml=True, is_reachable=False, driver="570.86.15"),
            ),
            ({"dev/dxg": ""}, Gpu(is_integrated=False, has_nvml=True, is_reachable=True, driver=None)),
            (
                machines.CARD_WITHOUT_DRIVER,
                Gpu(is_integrated=False, has_nvml=True, is_reachable=False, driver=None),
            ),
        ],
        ids=[
            "Jetson",
            "Jetson without runtime",
            "Orin with JetPack 7",
            "Thor",
            "Thor without runtime",
            "Thor by its release",
            "server",
            "server without toolkit",
            "WSL",
            "card without driver",
        ],
    )
    def test_found(self, plant: PlantTree, files: Mapping[str, str], expected: Gpu) -> None:
        assert find_gpu(plant(files)) == expected

    @pytest.mark.parametrize(
        "files",
        [
            machines.PLAIN,
            {"dev/nvidiactl": "", "dev/nvidia-uvm": ""},
            {"sys/bus/pci/devices/0000:01:00.0/vendor": "0x8086\n", "sys/bus/pci/devices/0000:01:00.0/class": "0x0300"},
            {"sys/bus/pci/devices/0000:01:00.1/vendor": "0x10de\n", "sys/bus/pci/devices/0000:01:00.1/class": "0x0403"},
        ],
        ids=["none", "no GPU behind the driver", "another maker's", "its sound card"],
    )
    def test_none(self, plant: PlantTree, files: Mapping[str, str]) -> None:
        assert find_gpu(plant(files)) is None
