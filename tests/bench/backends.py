"""ONNX Runtime against OpenVINO, in f32 and bf16: `python -m tests.bench.backends [graphs|service]`.

`graphs` runs prepared graphs on one thread, backends in turns. `service` runs the whole service without HTTP, four
callers, one backend after the other, three rounds.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import psutil

from jetface.domain import ExtractOptions
from jetface.graphs.prepare import prepare_graph
from jetface.graphs.rewrite import choose_rewrites
from jetface.imaging.sources import EncodedPicture
from jetface.logs import configure_logs
from jetface.registry import default_registry_dir, read_registry
from jetface.runtimes.backend import Backend
from jetface.runtimes.onnx import open_onnx_backends
from jetface.runtimes.openvino import has_bf16, load_runtime, open_openvino_backends
from jetface.runtimes.providers import CPU, runtime_version
from jetface.service import Service, open_service
from jetface.settings import Settings
from tests.bench.pictures import make_pictures
from tests.support.shared import shared_dir

GRAPHS: Sequence[tuple[str, tuple[int, int]]] = (
    ("det_500m", (640, 640)),
    ("det_500m", (448, 640)),
    ("det_500m", (96, 96)),
    ("scrfd_2.5g_bnkps", (640, 640)),
    ("w600k_mbf_dequantized", (112, 112)),
    ("mobilefacenet128", (112, 112)),
)

SERVICES: dict[str, dict[str, Any]] = {
    "onnxruntime": {"backend": "onnxruntime"},
    "openvino f32": {"backend": "openvino", "openvino_precision": "f32"},
    "openvino auto": {"backend": "openvino"},
    "openvino bf16": {"backend": "openvino", "openvino_precision": "bf16"},
    "auto": {"backend": "auto"},
}

RUNS, ROUNDS, CALLERS, PICTURES = 40, 3, 4, 200


@click.group()
def main() -> None:
    """Compare the backends."""


@main.command()
def graphs() -> None:
    """One thread, milliseconds: median (least), by graph, canvas and backend."""
    registry = read_registry([default_registry_dir()])
    core = load_runtime()
    for name, canvas_hw in GRAPHS:
        path = shared_dir() / "models" / f"{name}.onnx"
        fast = prepare_graph(path, registry[name], rewrites=choose_rewrites(CPU, runtime_version())).model
        plain = prepare_graph(path, registry[name]).model
        backends: dict[str, Backend] = {
            "onnxruntime": open_onnx_backends(fast)[0],
            "openvino f32": open_openvino_backends(core, plain)[0],
            "its PRelu split": open_openvino_backends(core, fast)[0],
        }
        if has_bf16(core):
            backends["openvino bf16"] = open_openvino_backends(core, plain, precision="bf16")[0]
            backends["its PRelu split in bf16"] = open_openvino_backends(core, fast, precision="bf16")[0]
        click.echo(f"{name} {canvas_hw[0]}x{canvas_hw[1]}  {_take_turns(backends, canvas_hw)}")


def _take_turns(backends: dict[str, Backend], canvas_hw: tuple[int, int]) -> str:
    blob = np.random.default_rng(0).standard_normal((1, 3, *canvas_hw)).astype(np.float32)
    times_ms: dict[str, list[float]] = {name: [] for name in backends}
    for turn in range(RUNS + 2):
        for name, backend in backends.items():
            started = time.perf_counter()
            backend.run(blob)
            if turn >= 2:
                times_ms[name].append(1e3 * (time.perf_counter() - started))
    return "  ".join(f"{name} {np.median(times):.2f} ({min(times):.2f})" for name, times in times_ms.items())


@main.command()
@click.option("--picture", default="one", type=click.Choice(["one", "six"]), help="How many faces it has.")
def service(picture: str) -> None:
    """Pictures a second at four callers and milliseconds at one, by backend; the best of three rounds."""
    configure_logs("WARNING", "text")
    with TemporaryDirectory() as folder:
        data = make_pictures(shared_dir() / "images", Path(folder))[picture].path.read_bytes()
        best: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for name, choice in SERVICES.items():
                settings = Settings(
                    models_dir=Path(os.environ.get("MODELS_DIR", folder)), model_mirror=str(shared_dir() / "models"),
                    det_model="det_500m", rec_model="w600k_mbf_dequantized", **choice,
                )  # fmt: skip
                per_s, alone_ms, cpu_ms = asyncio.run(_serve(settings, data))
                seen = best.setdefault(name, [0.0, np.inf, np.inf])
                best[name] = [max(seen[0], per_s), min(seen[1], alone_ms), min(seen[2], cpu_ms)]
    for name, (per_s, alone_ms, cpu_ms) in best.items():
        click.echo(f"{name:15} {per_s:6.1f} pictures/s  {alone_ms:6.1f} ms alone  {cpu_ms:6.2f} ms CPU a picture")


async def _serve(settings: Settings, data: bytes) -> tuple[float, float, float]:
    """Return pictures a second, milliseconds of a lone call (median), and CPU milliseconds a picture."""
    async with open_service(settings) as opened:
        for _ in range(CALLERS):
            await asyncio.gather(*(_extract(opened, data) for _ in range(CALLERS)))
        alone_ms = []
        for _ in range(PICTURES // 4):
            started = time.perf_counter()
            await _extract(opened, data)
            alone_ms.append(1e3 * (time.perf_counter() - started))
        process = psutil.Process()
        cpu_before, started = sum(process.cpu_times()[:2]), time.perf_counter()
        await asyncio.gather(*(_call(opened, data) for _ in range(CALLERS)))
        took_s = time.perf_counter() - started
        cpu_ms = 1e3 * (sum(process.cpu_times()[:2]) - cpu_before) / PICTURES
        return PICTURES / took_s, float(np.median(alone_ms)), cpu_ms


async def _call(opened: Service, data: bytes) -> None:
    for _ in range(PICTURES // CALLERS):
        await _extract(opened, data)


async def _extract(opened: Service, data: bytes) -> None:
    deadline = asyncio.get_running_loop().time() + 60
    await opened.extractor.extract([EncodedPicture(data)], ExtractOptions(score_threshold=0.5), deadline=deadline)


if __name__ == "__main__":
    main()
