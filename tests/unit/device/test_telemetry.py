"""Telemetry: what is read on which machine, and that it costs nothing where there is nothing."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from jetface.device.machine import Gpu
from jetface.device.telemetry import (
    QUANTITIES,
    DeviceStatus,
    NvmlError,
    NvmlSensors,
    Readings,
    SysfsSensors,
    Telemetry,
    look_at,
    merge,
    open_nvml,
)
from tests.support import machines
from tests.support.fake_nvml import H200, FakeNvml

PlantTree = Callable[[Mapping[str, str]], Path]

HWMON = "sys/class/hwmon/hwmon3"


def read(plant: PlantTree, files: Mapping[str, str]) -> Readings:
    return merge(SysfsSensors(plant(files)).read())


class TestSysfs:
    """What the kernel shows as files."""

    def test_a_jetson_tells_everything(self, plant: PlantTree) -> None:
        assert read(plant, machines.ORIN) == {
            "gpu_load_ratio": {"0": 0.437},
            "clock_hertz": {"gpu0": 1.3005e9, "cpu": 2.2016e9},
            "temperature_celsius": {"cpu-thermal": 48.25, "gpu-thermal": 45.0},
            "power_watts": {"VDD_GPU_SOC": 7.6, "VDD_CPU_CV": 1.9},
            "throttled": {"thermal": 0, "over-current": 0},
            "memory_available_bytes": {"": 48_000_000 * 1024},
            "cores_online": {"": 12},
        }

    @pytest.mark.parametrize(
        "folder",
        ["sys/devices/platform/gpu.0", "sys/devices/platform/17000000.gpu", "sys/devices/platform/bus@0/17000000.gpu"],
    )
    def test_the_gpu_has_several_names(self, plant: PlantTree, folder: str) -> None:
        assert read(plant, {f"{folder}/load": "1000"}) == {"gpu_load_ratio": {"0": 1.0}}

    def test_a_server_tells_its_processor_s_temperature_once(self, plant: PlantTree) -> None:
        """Not each core's."""
        assert read(plant, machines.SERVER)["temperature_celsius"] == {"coretemp Package id 0": 51.0}

    def test_rails_that_tell_watts_themselves(self, plant: PlantTree) -> None:
        files = {f"{HWMON}/name": "amdgpu", f"{HWMON}/power1_input": "15000000", f"{HWMON}/power1_label": "PPT"}
        assert read(plant, files) == {"power_watts": {"amdgpu PPT": 15.0}}

    def test_a_rail_without_a_name_has_its_chip_s(self, plant: PlantTree) -> None:
        files = {f"{HWMON}/curr2_input": "100", f"{HWMON}/in2_input": "5000"}
        assert read(plant, files) == {"power_watts": {"hwmon3 2": 0.5}}

    def test_what_a_power_monitor_does_not_name_is_no_rail(self, plant: PlantTree) -> None:
        """The fourth current of an INA3221 is the sum of the other three, and has no label."""
        files = {
            f"{HWMON}/name": "ina3221", f"{HWMON}/curr1_input": "400", f"{HWMON}/in1_input": "19000",
            f"{HWMON}/in1_label": "VDD_GPU_SOC", f"{HWMON}/curr4_input": "900", f"{HWMON}/in4_input": "19000",
        }  # fmt: skip
        assert read(plant, files)["power_watts"] == {"VDD_GPU_SOC": 7.6}

    def test_zones_of_one_name_are_told_apart(self, plant: PlantTree) -> None:
        zone = "sys/class/thermal/thermal_zone"
        files = {f"{zone}{n}/{file}": text for n in range(3) for file, text in (("type", "acpitz"), ("temp", "27800"))}
        assert list(read(plant, files)["temperature_celsius"]) == ["acpitz", "acpitz 2", "acpitz 3"]

    def test_a_zone_that_is_shown_twice_counts_once(self, plant: PlantTree) -> None:
        files = {
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone0/temp": "40000",
            f"{HWMON}/name": "cpu_thermal",
            f"{HWMON}/temp1_input": "40000",
        }
        assert read(plant, files) == {"temperature_celsius": {"cpu-thermal": 40.0}}

    def test_no_more_series_than_there_is_room_for(self, plant: PlantTree) -> None:
        files = {f"{HWMON}/temp{number}_input": "30000" for number in range(1, 200)}
        assert len(read(plant, files)["temperature_celsius"]) == 64

    @pytest.mark.parametrize(
        ("kind", "state", "expected"),
        [
            ("gpu-throttle-alert", "1", {"thermal": 1.0}),
            ("cpufreq-cpu0", "0", {"thermal": 0.0}),
            ("Processor", "3", {"thermal": 1.0}),
            ("pwm-fan", "3", {}),
            ("gpu-throttle-alert", "unreadable", {}),
        ],
    )
    def test_what_slows_down_throttles_and_fans_do_not(
        self, plant: PlantTree, kind: str, state: str, expected: dict[str, float]
    ) -> None:
        folder = "sys/class/thermal/cooling_device0"
        assert read(plant, {f"{folder}/type": kind, f"{folder}/cur_state": state}).get("throttled", {}) == expected

    def test_over_current_is_what_has_happened_since_the_last_reading(self, plant: PlantTree) -> None:
        root = plant(machines.ORIN)
        sensors = SysfsSensors(root)
        count = root / "sys/class/hwmon/hwmon4/oc3_event_cnt"
        seen = []
        for value in ("2", "2", "3", "3"):
            count.write_text(value)
            seen.append(sensors.read()["throttled"]["over-current"])
        assert seen == [0, 0, 1, 0]

    def test_a_sensor_that_goes_takes_its_series_along_and_no_other(self, plant: PlantTree) -> None:
        root = plant(machines.ORIN)
        sensors = SysfsSensors(root)
        before = merge(sensors.read())
        shutil.rmtree(root / HWMON)
        (root / "sys/class/thermal/thermal_zone1/temp").write_text("Resource temporarily unavailable")
        after = merge(sensors.read())
        assert before.keys() - after.keys() == {"power_watts"}
        assert after["temperature_celsius"] == {"cpu-thermal": 48.25}

    @settings(max_examples=20)
    @given(text=st.text(max_size=20))
    def test_whatever_the_files_hold_it_is_read_or_left_out(
        self, tmp_path_factory: pytest.TempPathFactory, text: str
    ) -> None:
        root = tmp_path_factory.mktemp("machine")
        for name in machines.ORIN:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="replace")
        for values in SysfsSensors(root).read().values():
            assert all(isinstance(value, (int, float)) for value in values.values())


class TestNvml:
    """GPUs with a driver of their own."""

    def test_everything_of_every_gpu(self) -> None:
        nvml = FakeNvml(H200, {**H200, "load_percent": 3, "reasons": 0x40})
        sensors = NvmlSensors(nvml)
        assert sensors.read() == {
            "gpu_load_ratio": {"0": 0.87, "1": 0.03},
            "clock_hertz": {"gpu0": 1.98e9, "gpu1": 1.98e9},
            "temperature_celsius": {"gpu0": 61, "gpu1": 61},
            "power_watts": {"gpu0": 412, "gpu1": 412},
            "gpu_memory_free_bytes": {"0": 120 * 2**30, "1": 120 * 2**30},
            "throttled": {"thermal": 1, "power": 1},
        }
        assert nvml.is_open
        sensors.close()
        assert not nvml.is_open

    def test_what_a_gpu_does_not_support_is_left_out(self) -> None:
        assert NvmlSensors(FakeNvml({"temperature_c": 40})).read() == {"temperature_celsius": {"gpu0": 40}}

    def test_a_gpu_without_memory_of_its_own_has_none_free(self) -> None:
        """As the driver tells of a Thor's, of which it knows the rest."""
        assert NvmlSensors(FakeNvml({"free_bytes": 0, "temperature_c": 40})).read() == {
            "temperature_celsius": {"gpu0": 40}
        }

    def test_a_driver_that_does_not_answer(self) -> None:
        with pytest.raises(NvmlError, match="Driver Not Loaded"):
            NvmlSensors(FakeNvml(is_there=False))

    @pytest.mark.parametrize(
        ("gpu", "reason"),
        [
            (None, "there is no NVIDIA GPU"),
            (Gpu(is_integrated=True, has_nvml=False, is_reachable=True, driver=None), "a Jetson's GPU"),
            (Gpu(is_integrated=False, has_nvml=True, is_reachable=False, driver="570"), "cannot be reached"),
        ],
    )
    def test_it_is_not_asked_in_vain(self, gpu: Gpu | None, reason: str) -> None:
        with pytest.raises(NvmlError, match=reason):
            open_nvml(gpu)

    def test_it_is_asked_of_a_thor_s(self) -> None:
        """Which has the driver of a card; here it is not there, and says so itself."""
        with pytest.raises(NvmlError) as raised:
            open_nvml(Gpu(is_integrated=True, has_nvml=True, is_reachable=True, driver="595.78"))
        assert "is read from /sys" not in str(raised.value)

    def test_without_its_bindings_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
        with pytest.raises(NvmlError, match=r"jetface\[gpu\]"):
            open_nvml(Gpu(is_integrated=False, has_nvml=True, is_reachable=True, driver="570"))

    def test_the_real_bindings_have_what_is_asked_of_them(self) -> None:
        """On a machine without a driver they raise the error that we expect."""
        pynvml = pytest.importorskip("pynvml")
        for name in dir(FakeNvml):
            if name.startswith(("nvml", "NVML")):
                assert hasattr(pynvml, name), name
        assert (pynvml.NVML_TEMPERATURE_GPU, pynvml.NVML_CLOCK_GRAPHICS) == (0, 0)
        with contextlib.suppress(NvmlError):
            open_nvml(Gpu(is_integrated=False, has_nvml=True, is_reachable=True, driver="570")).close()


class Sampled:
    """Telemetry with a fast clock, and a way to wait for its next reading."""

    def __init__(self, root: Path, *, interval_s: float = 0.01, **openers: Any) -> None:
        self.telemetry = Telemetry(interval_s, root, **openers)

    def wait_until(self, condition: Callable[[DeviceStatus], bool]) -> DeviceStatus:
        deadline = time.monotonic() + 30
        while not condition(status := self.telemetry.status()):
            assert time.monotonic() < deadline, status
            time.sleep(0.005)
        return status


@pytest.fixture
def sampled(plant: PlantTree) -> Iterator[Callable[..., Sampled]]:
    """Start telemetry of a machine with these files; stop it in the end."""
    started: list[Sampled] = []

    def start(files: Mapping[str, str], **openers: Any) -> Sampled:
        root = plant(files)
        root.mkdir(exist_ok=True)
        one = Sampled(root, **openers)
        started.append(one)
        one.telemetry.start()
        return one

    yield start
    for one in started:
        one.telemetry.stop()


Start = Callable[..., Sampled]


class TestTelemetry:
    """The thread, and what `/info` is told."""

    def test_it_says_what_the_machine_is_and_how_it_fares(self, sampled: Start) -> None:
        status = sampled(machines.ORIN).wait_until(lambda status: status.telemetry == "on")
        assert (status.module, status.l4t_release, status.power_mode) == (
            "NVIDIA Jetson AGX Orin Developer Kit", "36.4.3", "0 MAXN",
        )  # fmt: skip
        assert (status.gpu, status.gpu_driver, status.cores_present) == ("integrated", "540.4.0", 12)
        assert status.readings["gpu_load_ratio"] == {"0": 0.437}
        assert status.unreadable.keys() == {"gpu_memory_free_bytes"}

    def test_what_changes_is_read_anew(self, sampled: Start, tmp_path: Path) -> None:
        machine = sampled(machines.ORIN)
        machine.wait_until(lambda status: status.telemetry == "on")
        (tmp_path / "root/sys/devices/platform/bus@0/17000000.gpu/load").write_text("990")
        machine.wait_until(lambda status: status.readings["gpu_load_ratio"] == {"0": 0.99})

    def test_where_nothing_can_be_read_it_says_so_with_reasons(self, sampled: Start) -> None:
        status = sampled({}).wait_until(lambda status: status.telemetry == "nothing readable")
        assert status.readings == {}
        assert list(status.unreadable) == [quantity.name for quantity in QUANTITIES]
        assert "there is no NVIDIA GPU" in status.unreadable["gpu_load_ratio"]

    @pytest.mark.parametrize(
        ("files", "gpu"),
        [(machines.SERVER, "discrete"), (machines.SERVER_WITHOUT_TOOLKIT, "unreachable"), (machines.PLAIN, None)],
    )
    def test_the_kind_of_gpu(self, plant: PlantTree, files: Mapping[str, str], gpu: str | None) -> None:
        assert Telemetry(0, plant(files)).status().gpu == gpu

    def test_who_asks_often_reads_nothing_more(self, sampled: Start) -> None:
        """`/info` answers from the last reading, which it tells the age of, and the last look at the machine."""
        now, reads, looks = 1000.0, [], []

        class Counted(SysfsSensors):
            def read(self) -> Readings:
                reads.append(now)
                return super().read()

        def look(root: Path) -> DeviceStatus:
            looks.append(now)
            return look_at(root)

        machine = sampled(machines.ORIN, open_files=Counted, look=look, clock=lambda: now, interval_s=3600)
        machine.wait_until(lambda status: status.telemetry == "on")
        for later in (1000.0, 1001.5, 1002.5, 1004.0):
            now = later
            for _ in range(50):
                status = machine.telemetry.status()
        assert (len(reads), looks) == (1, [1000.0, 1002.5])
        assert (status.age_s, status.module) == (4.0, "NVIDIA Jetson AGX Orin Developer Kit")

    def test_before_the_first_reading_it_is_starting(self, plant: PlantTree) -> None:
        telemetry = Telemetry(5, plant(machines.ORIN))
        assert (telemetry.status().telemetry, telemetry.status().age_s) == ("starting", None)
        assert telemetry.readings() == {}

    def test_off_reads_nothing_and_starts_no_thread(self, plant: PlantTree) -> None:
        telemetry = Telemetry(0, plant(machines.ORIN))
        before = set(threading.enumerate())
        telemetry.start()
        assert set(threading.enumerate()) <= before
        status = telemetry.status()
        assert (status.telemetry, status.readings, status.unreadable) == ("off", {}, {})
        telemetry.stop()

    def test_a_sensor_that_raises_is_told_once_and_survived(self, sampled: Start) -> None:
        num_reads = 0
        is_broken = threading.Event()
        is_broken.set()

        class Fragile(SysfsSensors):
            def read(self) -> Readings:
                nonlocal num_reads
                num_reads += 1
                if is_broken.is_set():
                    raise RuntimeError("the driver went away")
                return super().read()

        with capture_logs() as logs:
            machine = sampled(machines.ORIN, open_files=Fragile)
            machine.wait_until(lambda _status: num_reads > 3)
            assert machine.telemetry.status().telemetry == "nothing readable"
            is_broken.clear()
            machine.wait_until(lambda status: status.telemetry == "on")
        assert [line["event"] for line in logs] == ["telemetry failed"]

    def test_after_the_end_there_are_no_readings(self, sampled: Start) -> None:
        machine = sampled(machines.ORIN)
        machine.wait_until(lambda status: status.telemetry == "on")
        machine.telemetry.stop()
        machine.wait_until(lambda status: status.readings == {})

    def test_gpus_of_the_driver_are_read_beside_the_files(self, sampled: Start) -> None:
        nvml = FakeNvml(H200)
        machine = sampled(machines.SERVER, open_gpus=lambda _gpu: NvmlSensors(nvml))
        status = machine.wait_until(lambda status: status.telemetry == "on")
        assert status.readings["temperature_celsius"] == {"coretemp Package id 0": 51.0, "gpu0": 61}
        machine.telemetry.stop()
        machine.wait_until(lambda _status: not nvml.is_open)


@given(values=st.lists(st.dictionaries(st.sampled_from("ab"), st.floats(0, 1)), max_size=4))
def test_merged_readings_keep_the_highest_of_each(values: list[dict[str, float]]) -> None:
    merged: Any = merge(*({"throttled": each} for each in values)).get("throttled", {})
    for name in {name for each in values for name in each}:
        assert merged[name] == max(each[name] for each in values if name in each)
