"""Write a trained student as the ONNX file that the service loads.

    python -m training.export recognizer --checkpoint .train/recognizer.pt --out models/starter_rec.onnx
    python -m training.export detector --checkpoint .train/detector.pt --out models/starter_det.onnx
    python -m training.export plates --checkpoint .train/plates.pt --out models/starter_plate.onnx

The averaged weights, batch norms melted into the convolutions, the graph simplified, the large weights stored as FP16
behind a cast to FP32 that ONNX Runtime folds when it loads the file. Prints the sha256 that belongs into the TOML.
"""

import argparse
import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxslim
import torch
from onnx import helper, numpy_helper
from torch import nn

from training.blocks import fold_batch_norms
from training.config import DetectorExport, DetectorShape, RecognizerShape, read_table
from training.detector import CHANNELS, NUM_ANCHORS, DetectorStudent
from training.low_rank import draw_blob, thin_smoothing
from training.plate_detector import NUM_VALUES, PlateDetector
from training.recognizer import RecognizerStudent

OPSET = 17
PLATE_CANVAS_PX = 640  # the service's usual canvas; one size, so that boxes come out of constants
SMALLEST_HALF = 64  # values; smaller weights gain nothing from FP16
DETECTOR_OUTPUTS = [f"{kind}_{stride}" for kind in ("scores", "boxes", "landmarks") for stride in (8, 16, 32)]


def build(kind: str, config: Path) -> tuple[nn.Module, torch.Tensor, list[str], dict[str, dict[int, str]]]:
    """Give the student, an example input, the names of the outputs and the free axes."""
    if kind == "recognizer":
        student: nn.Module = RecognizerStudent(read_table(config, "shape", RecognizerShape))
        axes = {"input": {0: "batch"}, "embedding": {0: "batch"}}
        return student, torch.zeros(2, 3, 112, 112), ["embedding"], axes
    if kind == "plates":
        student = PlateDetector(read_table(config, "shape", DetectorShape))
        axes = {"input": {0: "batch"}, "output": {0: "batch"}}
        return student, torch.zeros(2, 3, PLATE_CANVAS_PX, PLATE_CANVAS_PX), ["output"], axes
    student = DetectorStudent(read_table(config, "shape", DetectorShape))
    axes = {name: {0: "batch", 1: f"anchors_{name.split('_')[1]}"} for name in DETECTOR_OUTPUTS}
    axes["input"] = {0: "batch", 2: "height", 3: "width"}
    return student, torch.zeros(2, 3, 64, 96), DETECTOR_OUTPUTS, axes


def shift_scores(student: DetectorStudent, offsets: list[float]) -> None:
    """Add to the score logits of each stride, in place."""
    for layers, offset in zip(student.heads, offsets, strict=True):
        layers[-1].bias.data[:NUM_ANCHORS] += offset  # type: ignore[index]  # a Sequential ending in a convolution


def fix_reshapes(graph: onnx.GraphProto) -> None:
    """Give every reshape a constant shape, in place: (0, -1, channels), where 0 is the batch as it comes."""
    node_by_output = {node.output[0]: node for node in graph.node}
    for name, channels in zip(DETECTOR_OUTPUTS, np.repeat(CHANNELS, 3).tolist(), strict=True):
        node = node_by_output[name]
        while node.op_type != "Reshape":
            node = node_by_output[node.input[0]]
        node.input[1] = f"{name}_shape"
        graph.initializer.append(numpy_helper.from_array(np.array([0, -1, channels], np.int64), node.input[1]))
    for output, channels in zip(graph.output, np.repeat(CHANNELS, 3).tolist(), strict=True):
        output.type.tensor_type.shape.dim[2].dim_value = channels  # which the exporter cannot tell


def fix_plate_reshapes(graph: onnx.GraphProto) -> None:
    """Give the reshapes of the plate detector their constant shape, (0, 5, -1), and its output its known sides."""
    for index, node in enumerate(n for n in graph.node if n.op_type == "Reshape"):
        node.input[1] = f"reshape_{index}"
        graph.initializer.append(numpy_helper.from_array(np.array([0, NUM_VALUES, -1], np.int64), node.input[1]))
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = NUM_VALUES


def store_half(graph: onnx.GraphProto) -> None:
    """Replace each large FP32 weight by an FP16 one and a cast back, in place."""
    casts = []
    for weight in graph.initializer:
        array = numpy_helper.to_array(weight)
        if array.dtype != np.float32 or array.size < SMALLEST_HALF:
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(array.astype(np.float16), f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def clean(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Drop what a reader of the file does not need: shapes in between, doc strings, long names, the exporter's name."""
    graph = model.graph
    kept = {t.name for t in [*graph.input, *graph.output]}
    short: dict[str, str] = {}
    for node in graph.node:
        for names in (node.input, node.output):
            for index, tensor in enumerate(names):
                if tensor and tensor not in kept:
                    names[index] = short.setdefault(tensor, f"t{len(short)}")
        node.name, node.doc_string = "", ""
    for weight in graph.initializer:
        weight.name, weight.doc_string = short.setdefault(weight.name, f"t{len(short)}"), ""
    del graph.value_info[:], model.metadata_props[:]
    graph.name, graph.doc_string, model.doc_string = name, "", ""
    model.producer_name, model.producer_version = "jetface", ""
    return model


def export(kind: str, config: Path, checkpoint: Path, out: Path, shared: Path, labels: Path) -> str:
    """Write the file and give its sha256."""
    student, example, outputs, axes = build(kind, config)
    student.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["average"])
    student.eval()
    fold_batch_norms(student)
    if isinstance(student, DetectorStudent):
        extra = read_table(config, "export", DetectorExport)
        shift_scores(student, extra.score_offsets)
        if extra.smooth_rank:
            thin_smoothing(student, draw_blob(shared, labels), extra.smooth_rank)
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # the TorchScript exporter warns that it is the older one
        warnings.simplefilter("ignore")
        torch.onnx.export(
            student,
            (example,),
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=["input"],
            output_names=outputs,
            dynamic_axes=axes,
        )
    raw = onnx.load_from_string(buffer.getvalue())
    if isinstance(student, DetectorStudent):
        fix_reshapes(raw.graph)
    elif isinstance(student, PlateDetector):
        raw = onnxslim.slim(raw)  # the reshapes of what is constant are gone then
        fix_plate_reshapes(raw.graph)
    model = clean(onnxslim.slim(raw), out.stem)
    store_half(model.graph)
    onnx.checker.check_model(model, full_check=True)
    encoded = model.SerializeToString()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(encoded)
    return hashlib.sha256(encoded).hexdigest()


def main() -> None:
    """Export what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["recognizer", "detector", "plates"])
    parser.add_argument("--config", type=Path, default=None, help="default: the TOML of that kind beside this file")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="for canvases to thin the detector on")
    parser.add_argument("--labels", type=Path, default=Path(".train/portraits.npz"), help="likewise")
    options = parser.parse_args()
    config = options.config or Path(__file__).with_name(f"{options.kind}.toml")
    sha256 = export(options.kind, config, options.checkpoint, options.out, options.shared, options.labels)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB, sha256 {sha256}")


if __name__ == "__main__":
    main()
