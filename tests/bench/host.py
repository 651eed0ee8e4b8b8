"""What a picture costs the host where the graphs cost next to nothing, as on a fast GPU.

The detector sees one green square as a face, the recognizer sums up pixels: everything between the socket and the
graphs is the service's own. Prints pictures a second, CPU milliseconds a picture by thread, and the pid to attach a
profiler to. Run with `python -m tests.bench.host`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import cv2
import numpy as np
import psutil
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.bench.client import drive, post
from tests.support.server import Server, running_server
from tests.support.tiny_onnx import model

_HEIGHT_PX, _WIDTH_PX = 886, 1280
_FACE_AT = (640, 448)
"""Left and top of the square: half of it is the pixel (320, 224) of a canvas of 640, where stride 32 looks."""
_FACE_PX = 64

_ENTRY = """
name = "{name}"
task = "{task}"
family = "{family}"
license = "CC0-1.0"
source = "drawn by a benchmark"
sha256 = "{sha256}"
input = {{height_px = {side}, width_px = {side}, mean = 127.5, std = 127.5}}
{more}
"""


def detector() -> bytes:
    """Return a graph with SCRFD's nine outputs for any canvas: one convolution each, green at stride 32 is a face."""
    weights: dict[str, NDArray[np.generic]] = {}
    nodes, outputs = [], []
    around = np.array([[-1, -1], [1, -1], [0, 0], [-0.7, 1], [0.7, 1]], np.float32).ravel()
    for kind, columns, bias in (
        ("score", 1, np.array([-20.0])),
        ("box", 4, np.full(4, 2.0)),
        ("landmark", 10, around),
    ):
        weights[f"rows_{kind}"] = np.array([0, -1, columns], np.int64)
        for stride in (8, 16, 32):
            name = f"{kind}_{stride}"
            kernel = np.zeros((2 * columns, 3, 1, 1), np.float32)
            if name == "score_32":
                kernel[0, :, 0, 0] = (-20, 40, -20)  # blobs are RGB in [-1, 1]
            weights[f"{name}/kernel"] = kernel
            weights[f"{name}/bias"] = np.tile(bias, 2).astype(np.float32)
            if name == "score_32":
                weights[f"{name}/bias"] = np.array([-60, -20], np.float32)
            last = f"{name}/rows" if kind == "score" else name
            nodes += [
                helper.make_node(
                    "Conv", ["data", f"{name}/kernel", f"{name}/bias"], [f"{name}/maps"], strides=[stride] * 2
                ),
                helper.make_node("Transpose", [f"{name}/maps"], [f"{name}/turned"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"{name}/turned", f"rows_{kind}"], [last]),
            ]
            if kind == "score":
                nodes.append(helper.make_node("Sigmoid", [last], [name]))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None, columns]))
    inputs = [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, "H", "W"])]
    return model(nodes, weights, inputs, outputs)


def recognizer() -> bytes:
    """Return a graph from a crop to 512 numbers: means of 16x16 pixels, a matrix."""
    matrix = np.random.default_rng(0).standard_normal((147, 512)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["data"], ["pooled"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["embedding"]),
    ]
    return model(
        nodes,
        {"matrix": matrix},
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 512])],
    )


def picture() -> bytes:
    """Return a JPEG of noise of many sizes, about as large as a photograph, with the square."""
    noise = np.zeros((_HEIGHT_PX, _WIDTH_PX, 3), np.float32)
    chance = np.random.default_rng(0)
    for side in (8, 32, 128):
        small = chance.normal(0, 90 / side**0.25, (side, side, 3)).astype(np.float32)
        noise += cv2.resize(small, (_WIDTH_PX, _HEIGHT_PX), interpolation=cv2.INTER_CUBIC)
    pixels = np.clip(127 + noise, 0, 255).astype(np.uint8)
    left, top = _FACE_AT
    pixels[top : top + _FACE_PX, left : left + _FACE_PX] = (0, 255, 0)
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1])


def write_models(models: Path) -> None:
    """Write the two graphs and their registry entries, `green` and `sums`."""
    models.mkdir(exist_ok=True)
    for name, task, family, graph, side, more in (
        ("green", "detection", "scrfd", detector(), 0, ""),
        ("sums", "recognition", "arcface", recognizer(), 112, "embedding_length = 512"),
    ):
        (models / f"{name}.onnx").write_bytes(graph)
        sha256 = hashlib.sha256(graph).hexdigest()
        entry = _ENTRY.format(name=name, task=task, family=family, sha256=sha256, side=side, more=more)
        (models / f"{name}.toml").write_text(entry)


@contextmanager
def serving(folder: Path, **variables: str) -> Iterator[Server]:
    """Start a service with the two graphs."""
    write_models(folder / "models")
    chosen = {"DET_MODEL": "green", "REC_MODEL": "sums", "MODEL_PRELOAD": "1", "MAX_IN_FLIGHT": "256"}
    with running_server(folder, {**chosen, "LOG_LEVEL": "WARNING", **variables}) as server:
        server.wait_until_ready(60)
        yield server


def service_pid(server: Server) -> int:
    """Return the process that serves, below an init and the shell where there are such."""
    root = psutil.Process(server.process.pid)
    pid: int = next(found.pid for found in (root, *root.children(True)) if "serve" in found.cmdline())
    return pid


def cpu_s(pid: int) -> tuple[float, float]:
    """Return CPU seconds of a process: of its first thread, which runs the event loop, and of all others."""
    times = {}
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        fields = stat.read_text().rpartition(")")[2].split()
        times[stat.parent.name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    loop_s = times.pop(str(pid))
    return loop_s, sum(times.values())


@click.command()
@click.option("--clients", default=16)
@click.option("--seconds", default=8.0)
@click.option("--set", "variables", multiple=True, help="NAME=VALUE of the service.")
def main(clients: int, seconds: float, variables: tuple[str, ...]) -> None:
    """Measure what the host spends on a picture."""
    jpeg = picture()
    request = post("/extract?threshold=0.5", jpeg, "image/jpeg")
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), **dict(v.split("=", 1) for v in variables)) as server,
    ):
        port = int(server.url.rsplit(":", 1)[1])
        pid = service_pid(server)
        asyncio.run(drive(port, request, clients=clients, seconds=1))
        sys.stdout.write(f"pid {pid}, JPEG {len(jpeg)} bytes\n")
        sys.stdout.flush()
        before = cpu_s(pid)
        load = asyncio.run(drive(port, request, clients=clients, seconds=seconds))
        after = cpu_s(pid)
    done = len(load.ok_s)
    sys.stdout.write(f"{load.ok_per_s:.0f} pictures/s, p50 {load.percentile_ms(50):.1f} ms, {dict(load.statuses)}\n")
    for name, earlier, later in zip(("event loop", "other threads"), before, after, strict=True):
        sys.stdout.write(f"{name}: {1e3 * (later - earlier) / done:.3f} ms\n")


if __name__ == "__main__":
    main()
