"""Which rewrites of a graph pay on the CUDA provider, and how: each set, in each layout, with and without CUDA graphs.

Sessions of ONNX Runtime alone on buffers that stay on the device, in turns. `choose_rewrites` in
`app/jetface/graphs/rewrite.py` says which are on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from jetface.graphs.prepare import prepare_graph
from jetface.graphs.rewrite import EVERYWHERE, MERGE_SIBLINGS, SPLIT_PRELU, WIDEN_GROUPS
from jetface.registry import ModelSpec
from jetface.runtimes.onnx_cuda import CudaSetup
from tests.device.gpu import DeviceName, describe, open_setup
from tests.device.raw import noise, open_raw, write_model
from tests.device.report import Report
from tests.device.timing import take_turns
from tests.support.tiny_onnx import arcface_spec, scrfd_spec

_SETS = (
    (),
    EVERYWHERE,
    (*EVERYWHERE, MERGE_SIBLINGS),
    (*EVERYWHERE, MERGE_SIBLINGS, WIDEN_GROUPS),
    (*EVERYWHERE, SPLIT_PRELU),
    (*EVERYWHERE, MERGE_SIBLINGS, WIDEN_GROUPS, SPLIT_PRELU),
)
"""What is tried; sets that change a graph alike are tried once."""


@click.command()
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda")
@click.option("--detector", type=click.Path(exists=True, path_type=Path), required=True, help="SCRFD ONNX file.")
@click.option("--recognizer", type=click.Path(exists=True, path_type=Path), required=True, help="FP32 ONNX file.")
@click.option("--length", default=512, help="Of the recognizer's embedding.")
@click.option("--batch", "batches", type=int, multiple=True, default=(1, 8))
@click.option("--canvas", "canvas_px", default=640, help="Side of the detector's canvas.")
@click.option("--seconds", default=3.0, help="For each batch of each model.")
def main(**options: Any) -> None:
    """Compare sets of rewrites."""
    device: DeviceName = options["device"]
    setup = open_setup(device)
    report = Report("Rewrites of graphs", describe(setup.cuda))
    models = {
        "detector": (options["detector"], scrfd_spec(), options["canvas_px"]),
        "recognizer": (options["recognizer"], arcface_spec(length=options["length"]), 112),
    }
    with tempfile.TemporaryDirectory() as folder:
        for what, (path, spec, side_px) in models.items():
            graphs = rewritten(path, spec, Path(folder, what))
            for batch in options["batches"]:
                blob = noise(batch, 3, side_px, side_px)
                compare(report, f"{what} {side_px}x{side_px}, batch {batch}", graphs, blob, setup, options["seconds"])
    report.show()


def rewritten(path: Path, spec: ModelSpec, folder: Path) -> dict[str, Path]:
    """Return the graphs that the sets make of a model, by the rewrites that changed something."""
    folder.mkdir()
    graphs: dict[str, Path] = {}
    for rewrites in _SETS:
        graph = prepare_graph(path, spec, rewrites=rewrites)
        name = " + ".join(graph.rewrites) or "none"
        if name not in graphs:
            graphs[name] = write_model(graph.model, folder / f"{len(graphs)}.onnx")
    return graphs


def compare(
    report: Report,
    what: str,
    graphs: Mapping[str, Path],
    blob: NDArray[np.float32],
    setup: CudaSetup,
    seconds: float,
) -> None:
    """Time every graph with all options, and tell which cannot be opened."""
    runs: dict[str, Callable[[], object]] = {}
    for rewrites, path in graphs.items():
        opened = open_raw(report, f"{what}: {rewrites}", path, blob, setup)
        runs |= {f"{rewrites}, {name}": run for name, run in opened.items()}
    times_ms = take_turns(runs, seconds=seconds)
    for name, time_ms in times_ms.items():
        report.add(f"{what}: {name}", time_ms, "ms")
    if times_ms:
        report.tell(f"{what}: fastest", min(times_ms, key=times_ms.__getitem__))


if __name__ == "__main__":
    main()
