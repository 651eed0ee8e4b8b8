"""What machines have in `/dev`, `/etc`, `/proc`, `/sys` and `/var`: trees to give as `root`.

Written from the documents of NVIDIA and the kernel, not copied from a board.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

ORIN: Mapping[str, str] = {
    "dev/nvmap": "",
    "dev/nvgpu/igpu0/ctrl": "",
    "dev/nvidia0": "",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=MODE_30W >\n",
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0nvidia,tegra234\0",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n",
    "proc/meminfo": "MemTotal: 64336000 kB\nMemAvailable: 48000000 kB\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "1300500000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "1300500000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1300500000\n",
    "sys/class/hwmon/hwmon3/name": "ina3221\n",
    "sys/class/hwmon/hwmon3/in1_label": "VDD_GPU_SOC\n",
    "sys/class/hwmon/hwmon3/in1_input": "19000\n",
    "sys/class/hwmon/hwmon3/curr1_input": "400\n",
    "sys/class/hwmon/hwmon3/in2_label": "VDD_CPU_CV\n",
    "sys/class/hwmon/hwmon3/in2_input": "19000\n",
    "sys/class/hwmon/hwmon3/curr2_input": "100\n",
    "sys/class/hwmon/hwmon3/in3_label": "NC\n",
    "sys/class/hwmon/hwmon3/in3_input": "0\n",
    "sys/class/hwmon/hwmon3/curr3_input": "0\n",
    "sys/class/hwmon/hwmon4/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon4/oc1_event_cnt": "0\n",
    "sys/class/hwmon/hwmon4/oc3_event_cnt": "2\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48250\n",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "45000\n",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",
    "sys/class/thermal/thermal_zone2/temp": "-256000\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "1\n",
    "sys/class/thermal/cooling_device1/type": "gpu-throttle-alert\n",
    "sys/class/thermal/cooling_device1/cur_state": "0\n",
    "sys/devices/platform/bus@0/17000000.gpu/load": "437\n",
    "sys/devices/system/cpu/present": "0-11\n",
    "sys/devices/system/cpu/online": "0-11\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "2201600\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "729600\n",
    "usr/lib/aarch64-linux-gnu/nvidia/libnvdla_compiler.so": "library",
    "var/lib/nvpmodel/status": "pmode:0000\n",
}
"""A Jetson AGX Orin with JetPack 6.2, all cores on, clocks fixed, the container given the GPU."""

ORIN_R36_5: Mapping[str, str] = {
    **ORIN,
    "etc/nv_tegra_release": "# R36 (release), REVISION: 5.0, GCID: 43688277, BOARD: generic, EABI: aarch64\n",
}
"""The same with JetPack 6.2.2."""

ORIN_R39: Mapping[str, str] = {
    **{name: text for name, text in ORIN.items() if not name.startswith("usr/")},
    "etc/nv_tegra_release": "# R39 (release), REVISION: 2.0, GCID: 45755727, BOARD: generic, EABI: aarch64\n",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  595.78  Release Build\n",
    "usr/lib/aarch64-linux-gnu/libnvinfer.so.10.16.2": "library",
}
"""The same with JetPack 7.2, in its own image: no libnvdla_compiler.so, TensorRT 10.16."""

THOR: Mapping[str, str] = {
    **{
        name: text
        for name, text in ORIN_R39.items()
        if not name.startswith(("dev/", "sys/class/devfreq/", "sys/devices/platform/", "sys/class/hwmon/"))
    },
    "dev/nvidia0": "",
    "dev/nvidia1": "",
    "dev/nvidiactl": "",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n",
    "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264\0",
    "sys/class/devfreq/gpu-gpc-0/cur_freq": "1575000000\n",
    "sys/class/devfreq/gpu-gpc-0/min_freq": "1575000000\n",
    "sys/class/devfreq/gpu-gpc-0/max_freq": "1575000000\n",
    "sys/devices/system/cpu/present": "0-13\n",
    "sys/devices/system/cpu/online": "0-13\n",
}
"""A Jetson AGX Thor with JetPack 7.2, all cores on, clocks fixed, the container given the GPU."""

ORIN_30W: Mapping[str, str] = {
    **ORIN,
    "sys/devices/system/cpu/online": "0-7\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "612000000\n",
    "var/lib/nvpmodel/status": "pmode:0002\n",
}
"""As a developer kit comes: eight of twelve cores on."""

ORIN_WITHOUT_RUNTIME: Mapping[str, str] = {
    name: text
    for name, text in ORIN.items()
    if not name.startswith(("dev/", "etc/", "usr/", "var/", "proc/device-tree/"))
}
"""The same board inside a container that was started without the NVIDIA runtime."""

SERVER: Mapping[str, str] = {
    "dev/nvidia0": "",
    "dev/nvidiactl": "",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 2025\n",
    "proc/meminfo": "MemTotal: 64336000 kB\nMemAvailable: 48000000 kB\n",
    "sys/class/hwmon/hwmon0/name": "coretemp\n",
    "sys/class/hwmon/hwmon0/temp1_label": "Package id 0\n",
    "sys/class/hwmon/hwmon0/temp1_input": "51000\n",
    "sys/class/hwmon/hwmon0/temp2_label": "Core 0\n",
    "sys/class/hwmon/hwmon0/temp2_input": "49000\n",
    "sys/devices/system/cpu/present": "0-31\n",
    "sys/devices/system/cpu/online": "0-31\n",
}
"""An x86 server with a GPU."""

SERVER_WITHOUT_TOOLKIT: Mapping[str, str] = {name: text for name, text in SERVER.items() if not name.startswith("dev/")}
"""The same inside a container that was not given the GPU."""

CARD_WITHOUT_DRIVER: Mapping[str, str] = {
    "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:01:00.0/class": "0x030200\n",
}
"""A GPU in its slot, and no more."""

PLAIN: Mapping[str, str] = {
    "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 9000000 kB\n",
    "sys/devices/system/cpu/present": "0-3\n",
    "sys/devices/system/cpu/online": "0-3\n",
}
"""A machine without GPU or sensors."""


def plant(folder: Path, files: Mapping[str, str]) -> Path:
    """Write the files of a machine below a folder; return it."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder
