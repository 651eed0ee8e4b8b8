"""On which node ONNX Runtime's CUDA provider dies with FP16 and channels last; `may_prefer_nhwc` keeps us from it.

    jetface models convert --help        # or any other way to an FP16 graph
    python -m tests.device.nhwc_fp16 --graph iresnet100_fp16.onnx

Cuts the graph short ever nearer to the node, each time in a process of its own, as the whole process dies; then tries
that node alone.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import helper
from onnx.utils import Extractor

_CHILD_TIMEOUT_S = 120


@click.command()
@click.option("--graph", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda")
@click.option("--side", default=112, help="Height and width of the input, where they are free.")
@click.option("--child", is_flag=True, help="Run the graph once and end: what the search starts.")
def main(**options: Any) -> None:
    """Find the node."""
    graph, device, side = options["graph"], options["device"], options["side"]
    if options["child"]:
        run_once(graph, device, side)
        return
    model = onnx.shape_inference.infer_shapes(onnx.load(graph))
    nodes = [node for node in model.graph.node if node.output]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "cut.onnx")

        def dies(count: int) -> bool:
            onnx.save(cut_after(model, nodes[count - 1].output[0]), path)
            return child_dies(path, device, side)

        count = first_that(dies, len(nodes))
        if count is None:
            click.echo(f"| graph | {graph.name} |\n|---|---|\n| nodes | {len(nodes)} |\n| dies | no |")
            return
        culprit = nodes[count - 1]
        onnx.save(alone(model, culprit), path)
        dies_alone = child_dies(path, device, side)
    click.echo(
        f"| graph | {graph.name} |\n|---|---|\n| nodes | {len(nodes)} |\n| dies after node | {count} |\n"
        f"| operator | {culprit.op_type} {culprit.name} |\n| inputs | {', '.join(culprit.input)} |\n"
        f"| attributes | {[helper.printable_attribute(attribute) for attribute in culprit.attribute]} |\n"
        f"| dies alone | {'yes' if dies_alone else 'no'} |"
    )


def first_that(dies: Callable[[int], bool], most: int) -> int | None:
    """Return the least count, 1 to `most`, that dies, where all larger ones do too; None when not even `most` does."""
    if not dies(most):
        return None
    lives, dead = 0, most
    while dead - lives > 1:
        middle = (lives + dead) // 2
        lives, dead = (lives, middle) if dies(middle) else (middle, dead)
    return dead


def cut_after(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """Return what of a graph is needed for one of its values."""
    return Extractor(model).extract_model([value.name for value in model.graph.input], [output])


def alone(model: onnx.ModelProto, node: onnx.NodeProto) -> onnx.ModelProto:
    """Return a node as a graph, its weights with it."""
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [name for name in node.input if name and name not in weights]
    return Extractor(model).extract_model(inputs, list(node.output))


def child_dies(path: Path, device: str, side: int) -> bool:
    """Tell whether a process that runs the graph is ended by a signal; an error it tells of is none."""
    command = [sys.executable, "-m", "tests.device.nhwc_fp16", "--child"]
    command += ["--graph", str(path), "--device", device, "--side", str(side)]
    return subprocess.run(command, check=False, capture_output=True, timeout=_CHILD_TIMEOUT_S).returncode < 0


def run_once(path: Path, device: str, side: int) -> None:
    """Run a graph with channels last."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    cuda = [("CUDAExecutionProvider", {"prefer_nhwc": "1"})] if device == "cuda" else []
    session = onnxruntime.InferenceSession(str(path), options, providers=[*cuda, "CPUExecutionProvider"])
    dtypes = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
    feeds = {}
    for value in session.get_inputs():
        lengths = [
            length if isinstance(length, int) else (1 if axis == 0 else side) for axis, length in enumerate(value.shape)
        ]
        feeds[value.name] = np.ones(lengths, dtypes[value.type])
    for _ in range(2):
        session.run(None, feeds)


if __name__ == "__main__":
    main()
