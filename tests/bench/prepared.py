"""What preparing a graph gains: `python -m tests.bench.prepared`. Shipped and prepared take turns, one thread each."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import click
import numpy as np

from jetface.graphs.prepare import prepare_graph
from jetface.graphs.rewrite import choose_rewrites
from jetface.registry import default_registry_dir, read_registry
from jetface.runtimes.backend import Backend
from jetface.runtimes.onnx import open_onnx_backends
from jetface.runtimes.providers import CPU, runtime_version
from tests.support.shared import shared_dir

_RUNS = 40

_CANVASES = {"det_500m": (640, 640), "scrfd_2.5g_bnkps": (640, 640)}
"""Recognizers take 112x112."""


def main() -> None:
    """Print one line a model: median and least milliseconds, and the largest difference of their answers."""
    registry = read_registry([default_registry_dir()])
    version = ".".join(map(str, runtime_version()))
    click.echo(f"ONNX Runtime {version}, {_RUNS} runs, one thread, milliseconds: median (least)")
    for name in ("det_500m", "scrfd_2.5g_bnkps", "w600k_mbf_dequantized", "mobilefacenet128"):
        path = shared_dir() / "models" / f"{name}.onnx"
        graph = prepare_graph(path, registry[name], rewrites=choose_rewrites(CPU, runtime_version()))
        shape = (1, 3, *_CANVASES.get(name, (112, 112)))
        click.echo(f"{name:24} {_compare(path, graph.model, shape)}  {', '.join(graph.rewrites)}")


def _compare(shipped: Path, prepared: bytes | Path, shape: tuple[int, ...]) -> str:
    batch = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    backends = {"shipped": open_onnx_backends(shipped)[0], "prepared": open_onnx_backends(prepared)[0]}
    answers = [backend.run(batch) for backend in backends.values()]
    difference = max(np.abs(a.ravel() - b.ravel()).max() for a, b in zip(*answers, strict=True))
    times_ms: dict[str, list[float]] = {name: [] for name in backends}
    for _ in range(_RUNS):
        for name, backend in backends.items():
            times_ms[name].append(_time_ms(backend, batch))
    words = [f"{name} {statistics.median(times):6.2f} ({min(times):6.2f})" for name, times in times_ms.items()]
    return f"{'  '.join(words)}  largest difference {difference:.1e}"


def _time_ms(backend: Backend, batch: np.ndarray) -> float:
    started = time.perf_counter()
    backend.run(batch)
    return 1e3 * (time.perf_counter() - started)


if __name__ == "__main__":
    main()
