"""What a picture costs between a detector's outputs and its crops: CPU microseconds. Prints one table.

Run with `python -m tests.bench.decoding`. The outputs are det_500m's for real pictures; a backend returns them at once,
and putting canvases together is left out, so what is measured is what holds the interpreter lock.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import cv2
import numpy as np

from jetface.domain import Batch, Detections, ExtractOptions, Image, Tensor
from jetface.geometry.alignment import align
from jetface.geometry.boxes import merge_looks
from jetface.geometry.letterbox import Letterbox, scaled_canvas, to_source
from jetface.graphs.prepare import prepare_graph
from jetface.heads.canvases import DetectorItem, LooksHead
from jetface.heads.scrfd import Scrfd
from jetface.pipeline.extract import select_faces
from jetface.registry import default_registry_dir, read_registry
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.function_backend import array_of
from tests.support.pictures import read_image
from tests.support.shared import shared_dir

MAX_HW = (640, 640)
SCALES = (1.0, 0.15)
PICTURES = {
    "no face": None,
    "one face": "inspireface_mask2.jpg",
    "one face, on both canvases": "ifrest_Stallone.jpg",
    "115 faces": "ifrest_lumia.jpg",
}
"""By what is seen in them. As most faces, the one of the second is too small for the small canvas."""
BATCHES = (1, 8)
OPTIONS = ExtractOptions(score_threshold=0.5)


class Ready(Scrfd):
    """SCRFD without its blobs: the first canvas says for all of them which outputs are wanted."""

    @staticmethod
    def batch(_spec: object, canvases: Sequence[Image], *, takes_pixels: bool) -> Batch:  # noqa: ARG004 - as overridden
        """Return the first canvas, as a batch of one."""
        return canvases[0][None]


class ReadyBackend:
    """A backend whose outputs lie ready, by height of the canvas."""

    def __init__(self, outputs: dict[int, tuple[Tensor, ...]], max_batch_size: int) -> None:
        self.outputs = outputs
        self.max_batch_size = max_batch_size

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return what was prepared for canvases of this height."""
        return self.outputs[array_of(batch).shape[1]]

    def close(self) -> None:
        """Nothing to free."""


class Looked:
    """One picture, its letterboxes and canvases, and what det_500m says of each."""

    def __init__(self, image: Image) -> None:
        name = "det_500m"
        spec = read_registry([default_registry_dir()])[name]
        (backend,) = open_onnx_backends(prepare_graph(shared_dir() / "models" / f"{name}.onnx", spec).model)
        head = Scrfd.probe(spec, backend, MAX_HW)
        self.image = image
        self.head = LooksHead(Ready(spec, head.layout))
        self.letterboxes = fit((image.shape[0], image.shape[1]))
        self.looks = tuple(DetectorItem(letterbox.apply(image), 0.5) for letterbox in self.letterboxes)
        self.outputs = {
            look.canvas.shape[0]: backend.run(head.batch(spec, [look.canvas], takes_pixels=False))
            for look in self.looks
        }
        backend.close()

    def detect(self, batch: int) -> Callable[[], Sequence[tuple[Detections, ...]]]:
        """Return a call that decodes `batch` pictures like this one, both looks."""
        tiled = {side: tuple(np.repeat(each, batch, axis=0) for each in all_) for side, all_ in self.outputs.items()}
        backend = ReadyBackend(tiled, batch)
        return lambda: self.head.run(backend, [self.looks] * batch)

    def place(self, found: tuple[Detections, ...]) -> Detections:
        """Do what follows the detector's run: to the source's pixels, merge, select."""
        full, small = (to_source(look, letterbox) for look, letterbox in zip(found, self.letterboxes, strict=True))
        return select_faces(merge_looks(full, small), OPTIONS, max_faces=1024)


def fit(image_hw: tuple[int, int]) -> list[Letterbox]:
    """Place a picture on both canvases."""
    return [Letterbox.fit(image_hw, scaled_canvas(MAX_HW, scale), rectangular=False) for scale in SCALES]


def cpu_us(call: Callable[[], object], seconds: float) -> float:
    """Return CPU microseconds of one call: the least of five rounds."""
    call()
    rounds = []
    for _ in range(5):
        calls, started, end = 0, time.thread_time(), time.perf_counter() + seconds / 5
        while time.perf_counter() < end:
            call()
            calls += 1
        rounds.append((time.thread_time() - started) / calls)
    return min(rounds) * 1e6


def rows(seconds: float) -> Iterator[tuple[str, float]]:
    """Measure each part, `seconds` each; yield its name and microseconds a picture."""
    folder = shared_dir() / "images"
    looked = {
        seen: Looked(np.zeros((886, 1280, 3), np.uint8) if name is None else read_image(folder / name))
        for seen, name in PICTURES.items()
    }
    for (seen, picture), batch in itertools.product(looked.items(), BATCHES):
        yield f"outputs to faces, batch {batch}: {seen}", cpu_us(picture.detect(batch), seconds) / batch
    for seen, picture in looked.items():
        yield f"to the source, merge, select: {seen}", cpu_us(partial(picture.place, *picture.detect(1)()), seconds)
    one = looked["one face"]
    landmarks = one.place(*one.detect(1)()).landmarks
    yield "align one face", cpu_us(lambda: align(one.image, landmarks[0]), seconds)
    matrix, part = np.array([[1, 0.1, 0], [-0.1, 1, 0]]), one.image[:200, :200]
    yield "OpenCV's part of that, about", cpu_us(lambda: cv2.warpAffine(part, matrix, (112, 112)), seconds)
    yield "fit both canvases", cpu_us(lambda: fit((886, 1280)), seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    sys.stdout.write("| part | CPU us a picture |\n|---|---|\n")
    for name, microseconds in rows(args.seconds):
        sys.stdout.write(f"| {name} | {microseconds:.1f} |\n")


if __name__ == "__main__":
    main()
