"""Our backend on ONNX Runtime against ONNX Runtime alone: the same graph, the same GPU, in turns."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from jetface.domain import Batch
from jetface.graphs.prepare import prepare_graph
from jetface.graphs.rewrite import choose_rewrites
from jetface.heads.canvases import CanvasHead, DetectorItem, LooksHead
from jetface.heads.families import FAMILIES
from jetface.models.items import ItemMemory
from jetface.runtimes.backend import Backend
from jetface.runtimes.onnx_cuda import CudaSetup, open_cuda_backend
from jetface.runtimes.providers import CPU, runtime_version
from tests.device.gpu import DeviceName, describe, open_setup
from tests.device.raw import noise, open_raw, write_model
from tests.device.report import Report
from tests.device.timing import take_turns
from tests.support.tiny_onnx import arcface_spec, scrfd_spec

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
    """Compare crops in, embeddings out, as the service has it, with a raw session that is handed a blob."""
    spec = arcface_spec(length=options["length"])
    path, rewrites = options["recognizer"], choose_rewrites(setup.provider, runtime_version())
    most = max(options["batches"])
    blobs = open_cuda_backend(
        write_model(prepare_graph(path, spec, rewrites=rewrites).model, folder / "rec.onnx"),
        setup=setup,
        max_batch_size=most,
    )
    pixels = open_cuda_backend(
        prepare_graph(path, spec, rewrites=rewrites, pixels=True).model, setup=setup, max_batch_size=most
    )
    limits = {1: (1.10, 0.70), 16: (1.05, None), 64: (1.05, 0.80)}
    for batch in options["batches"]:
        what, blob = f"recognizer, batch {batch}", noise(batch, 3, 112, 112)
        crops = np.random.default_rng(0).integers(0, 256, (batch, 112, 112, 3), np.uint8)
        raw = open_raw(report, f"{what}: raw", folder / "rec.onnx", blob, setup)
        runs: dict[str, Callable[[], object]] = {
            **_named_raw(raw),
            "default": default_session(folder / "rec.onnx", blob, setup),
            "ours": partial(pixels.run, crops),
            "ours, blobs in": partial(blobs.run, blob),
        }
        times_ms = take_turns(runs, seconds=options["seconds"])
        most_raw, most_default = limits.get(batch, (None, None))
        _add_times(report, what, times_ms)
        floor_ms = min(times_ms[name] for name in times_ms if name.startswith("raw"))
        report.add(f"{what}: over the best raw session", times_ms["ours"] / floor_ms, most=most_raw)
        ratio = times_ms["ours"] / times_ms["default"]
        report.add(f"{what}: over default options, NumPy in and out", ratio, most=most_default)
    for backend in (blobs, pixels):
        backend.close()


def detector(report: Report, setup: CudaSetup, options: Mapping[str, Any], folder: Path) -> None:
    """Compare pictures in, boxes out, with a raw session that is handed a blob."""
    batch, side = options["det_batch"], options["canvas_px"]
    spec, rewrites = scrfd_spec(), choose_rewrites(setup.provider, runtime_version())
    calm = calm_scores(options["detector"], folder / "calm.onnx", side)
    plain = prepare_graph(calm, spec, rewrites=rewrites)
    graph = prepare_graph(calm, spec, rewrites=rewrites, pixels=True)
    write_model(plain.model, folder / "det.onnx")
    backend = open_cuda_backend(graph.model, setup=setup, max_batch_size=batch)
    looks = FAMILIES["scrfd"].probe(spec, backend, (side, side), takes_pixels=graph.takes_pixels).head
    if not isinstance(looks, LooksHead) or not isinstance(looks.detector, CanvasHead):
        raise click.ClickException("the detector is not of family scrfd")
    head = looks.detector
    canvases = list(np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8))
    threshold = _threshold(backend, head.batch(spec, canvases, takes_pixels=graph.takes_pixels))
    memory = ItemMemory()
    memory.pin("detector", backend, [canvases[0].shape])
    # As the service draws them.
    drawn = [memory.new_item(canvas.shape) for canvas in canvases]
    for place, canvas in zip(drawn, canvases, strict=True):
        place[:] = canvas
    items, copied = (
        [DetectorItem(canvas=canvas, score_threshold=threshold) for canvas in each] for each in (drawn, canvases)
    )
    ours = {
        "ours": lambda: head.run(backend, items),
        "ours, canvases not in pinned memory": lambda: head.run(backend, copied),
        "ours, boxes not read": lambda: backend.run(drawn),
    }
    what, blob = f"detector {side}x{side}, batch {batch}", noise(batch, 3, side, side)
    raw = open_raw(report, f"{what}: raw", folder / "det.onnx", blob, setup)
    times_ms = take_turns({**_named_raw(raw), **ours}, seconds=options["seconds"])
    _add_times(report, what, times_ms)
    floor_ms = min(times_ms[name] for name in times_ms if name.startswith("raw"))
    report.add("detector, pictures in and boxes out: over the best raw session", times_ms["ours"] / floor_ms, most=1.15)
    report.add("nodes of the detector on the CPU", len(backend.cpu_nodes))
    memory.close()
    backend.close()


def default_session(path: Path, blob: NDArray[Any], setup: CudaSetup) -> Callable[[], object]:
    """Return runs as the documentation's first example has them."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=list(dict.fromkeys((setup.provider, CPU))))
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: blob})


def _named_raw(runs: Mapping[str, Callable[[], object]]) -> dict[str, Callable[[], object]]:
    """Return the sessions of which the fastest is the floor as the report calls them."""
    return {f"raw, {name}": run for name, run in runs.items()}


def calm_scores(source: Path, target: Path, side: int) -> Path:
    """Write a detector whose scores are spread out: those of random weights are all 0 or 1, thousands at a time.

    What makes the scores of a level is divided by their spread on noise; real weights are changed as little as that.
    """
    import onnxruntime

    model = onnx.load(source)
    made_by = {name: node for node in model.graph.node for name in node.output}
    convolutions = []
    for sigmoid in (node for node in model.graph.node if node.op_type == "Sigmoid"):
        maker = made_by[sigmoid.input[0]]
        while maker.op_type != "Conv":
            maker = made_by[maker.input[0]]
        convolutions.append(maker)
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(onnx.ValueInfoProto(name=node.output[0]) for node in convolutions)
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=[CPU])
    feeds = {session.get_inputs()[0].name: noise(1, 3, side, side)}
    weights = {weight.name: weight for weight in model.graph.initializer}
    for node, scores in zip(convolutions, session.run([node.output[0] for node in convolutions], feeds), strict=True):
        for name in node.input[1:]:
            calm = numpy_helper.to_array(weights[name]) / max(1.0, float(scores.std()))
            weights[name].CopyFrom(numpy_helper.from_array(calm.astype(np.float32), name))
    onnx.save(model, target)
    return target


def _threshold(backend: Backend, batch: Batch) -> float:
    """Return the score that a handful of anchors a canvas reach."""
    scores = np.concatenate([output.ravel() for output in backend.run(batch) if output.shape[-1] == 1])
    return float(np.sort(scores)[-min(len(scores), _FACES * len(batch))])


def _add_times(report: Report, what: str, times_ms: Mapping[str, float]) -> None:
    for name, time_ms in times_ms.items():
        report.add(f"{what}: {name}", time_ms, "ms")


if __name__ == "__main__":
    main()
