"""Our backend on ONNX Runtime against ONNX Runtime alone: the same graph, the same GPU, in turns."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from app.backends.onnx_bucket import run_options
from app.backends.onnx_cuda import CudaSetup, open_cuda_backend
from app.backends.protocol import Backend
from app.backends.providers import CPU, CUDA, runtime_version
from app.models.families.canvases import CanvasHead, DetectorItem
from app.models.families.looks import LooksHead
from app.models.families.table import FAMILIES
from app.models.graphs.prepare import prepare_graph
from app.models.graphs.rewrite import choose_rewrites
from tests.device.gpu import DeviceName, describe, open_setup
from tests.device.report import Report
from tests.device.timing import take_turns
from tests.support.tiny_onnx import arcface_spec, scrfd_spec

_RAW_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "NCHW": {},
    "NHWC": {"prefer_nhwc": "1"},
    "NHWC in a CUDA graph": {"prefer_nhwc": "1", "enable_cuda_graph": "1"},
}
"""The sessions of which the fastest is the floor."""

_FACES = 8
"""About as many pass the threshold a canvas: random weights would pass thousands."""


@click.command()
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda")
@click.option("--recognizer", type=click.Path(exists=True, path_type=Path), required=True, help="FP32 ONNX file.")
@click.option("--detector", type=click.Path(exists=True, path_type=Path), required=True, help="SCRFD ONNX file.")
@click.option("--length", default=512, help="Of the recognizer's embedding.")
@click.option("--batch", "batches", type=int, multiple=True, default=(1, 16, 64), help="Of the recognizer.")
@click.option("--det-batch", default=8)
@click.option("--canvas", "canvas_px", default=640, help="Side of the detector's canvas.")
@click.option("--seconds", default=4.0, help="For each comparison.")
def main(**options: Any) -> None:
    """Compare backends; ends with 1 where a ratio is missed."""
    device: DeviceName = options["device"]
    setup = open_setup(device)
    report = Report("Backends on ONNX Runtime", describe(setup.cuda))
    with tempfile.TemporaryDirectory() as folder:
        recognizer(report, setup, options, Path(folder))
        detector(report, setup, options, Path(folder))
    report.show()
    sys.exit(device == "cuda" and not report.is_met)


def recognizer(report: Report, setup: CudaSetup, options: Mapping[str, Any], folder: Path) -> None:
    """Compare blobs in, embeddings out; beside it pixels in."""
    spec = arcface_spec(length=options["length"])
    path, rewrites = options["recognizer"], choose_rewrites(setup.provider, runtime_version())
    most = max(options["batches"])
    ours = open_cuda_backend(
        _model(prepare_graph(path, spec, rewrites=rewrites).model, folder / "rec.onnx"),
        setup=setup,
        max_batch_size=most,
    )
    pixels = open_cuda_backend(
        prepare_graph(path, spec, rewrites=rewrites, pixels=True).model, setup=setup, max_batch_size=most
    )
    limits = {1: (1.10, 0.70), 16: (1.05, None), 64: (1.05, 0.80)}
    for batch in options["batches"]:
        blob = np.random.default_rng(0).standard_normal((batch, 3, 112, 112)).astype(np.float32)
        crops = np.random.default_rng(0).integers(0, 256, (batch, 112, 112, 3), np.uint8)
        runs = {
            **raw_sessions(folder / "rec.onnx", blob, setup),
            "default": default_session(folder / "rec.onnx", blob, setup),
            "ours": lambda blob=blob: ours.run(blob),
            "ours, pixels": lambda crops=crops: pixels.run(crops),
        }
        times_ms = take_turns(runs, seconds=options["seconds"])
        most_raw, most_default = limits.get(batch, (None, None))
        _add_times(report, f"recognizer, batch {batch}", times_ms)
        floor_ms = min(times_ms[name] for name in times_ms if name.startswith("raw"))
        report.add(f"recognizer, batch {batch}: over the best raw session", times_ms["ours"] / floor_ms, most=most_raw)
        ratio = times_ms["ours"] / times_ms["default"]
        report.add(f"recognizer, batch {batch}: over default options, NumPy in and out", ratio, most=most_default)
    for backend in (ours, pixels):
        backend.close()


def detector(report: Report, setup: CudaSetup, options: Mapping[str, Any], folder: Path) -> None:
    """Compare pictures in, boxes out, with a raw session that is handed a blob."""
    batch, side = options["det_batch"], options["canvas_px"]
    spec, rewrites = scrfd_spec(), choose_rewrites(setup.provider, runtime_version())
    plain = prepare_graph(options["detector"], spec, rewrites=rewrites)
    graph = prepare_graph(options["detector"], spec, rewrites=rewrites, pixels=True)
    _model(plain.model, folder / "det.onnx")
    backend = open_cuda_backend(graph.model, setup=setup, max_batch_size=batch)
    looks = FAMILIES["scrfd"](spec, backend, (side, side), takes_pixels=graph.takes_pixels).head
    if not isinstance(looks, LooksHead) or not isinstance(looks.detector, CanvasHead):
        raise click.ClickException("the detector is not of family scrfd")
    head = looks.detector
    canvases = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    threshold = _threshold(backend, head.batch(spec, list(canvases), takes_pixels=graph.takes_pixels))
    items = [DetectorItem(canvas=canvas, score_threshold=threshold) for canvas in canvases]
    blob = np.random.default_rng(0).standard_normal((batch, 3, side, side)).astype(np.float32)
    runs = {**raw_sessions(folder / "det.onnx", blob, setup), "ours": lambda: head.run(backend, items)}
    times_ms = take_turns(runs, seconds=options["seconds"])
    _add_times(report, f"detector {side}x{side}, batch {batch}", times_ms)
    floor_ms = min(times_ms[name] for name in times_ms if name.startswith("raw"))
    report.add("detector, pictures in and boxes out: over the best raw session", times_ms["ours"] / floor_ms, most=1.15)
    report.add("nodes of the detector on the CPU", len(backend.cpu_nodes))
    backend.close()


def raw_sessions(path: Path, blob: NDArray[Any], setup: CudaSetup) -> dict[str, Callable[[], object]]:
    """Return runs of sessions on buffers that stay on the device: no copies, nothing allocated."""
    return {f"raw, {name}": _bound(path, blob, setup, options) for name, options in _RAW_OPTIONS.items()}


def default_session(path: Path, blob: NDArray[Any], setup: CudaSetup) -> Callable[[], object]:
    """Return runs as the documentation's first example has them."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=list(dict.fromkeys((setup.provider, CPU))))
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: blob})


def _bound(path: Path, blob: NDArray[Any], setup: CudaSetup, options: Mapping[str, str]) -> Callable[[], object]:
    import onnxruntime

    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3
    common = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested", **options}
    providers = [(CUDA, common), CPU] if setup.device == "cuda" else [CPU]
    session = onnxruntime.InferenceSession(str(path), quiet, providers=providers)
    binding = session.io_binding()
    value = onnxruntime.OrtValue.ortvalue_from_numpy(blob, setup.device, 0)
    binding.bind_ortvalue_input(session.get_inputs()[0].name, value)
    names = [output.name for output in session.get_outputs()]
    for name in names:
        binding.bind_output(name, setup.device, 0)
    session.run_with_iobinding(binding, run_options("-1", waits=True))
    for name, output in zip(names, binding.get_outputs(), strict=True):
        binding.bind_ortvalue_output(name, output)
    graph = run_options("1", waits=True)
    return lambda: session.run_with_iobinding(binding, graph)


def _threshold(backend: Backend, batch: NDArray[Any]) -> float:
    """Return the score that a handful of anchors a canvas reach."""
    scores = np.concatenate([output.ravel() for output in backend.run(batch) if output.shape[-1] == 1])
    return float(np.sort(scores)[-min(len(scores), _FACES * len(batch))])


def _add_times(report: Report, what: str, times_ms: Mapping[str, float]) -> None:
    for name, time_ms in times_ms.items():
        report.add(f"{what}: {name}", time_ms, "ms")


def _model(model: bytes | Path, path: Path) -> Path:
    path.write_bytes(model if isinstance(model, bytes) else model.read_bytes())
    return path


if __name__ == "__main__":
    main()
