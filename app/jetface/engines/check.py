"""Whether an engine answers as ONNX Runtime does in FP32, on pictures drawn by code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from jetface.domain import Detections, Image
from jetface.geometry.letterbox import Letterbox
from jetface.graphs.pixels import to_batch
from jetface.graphs.prepare import prepare_graph
from jetface.heads.canvases import DetectorItem
from jetface.heads.families import FAMILIES
from jetface.judging.agreement import (
    DETECTIONS,
    ENGINE_EMBEDDINGS,
    INT8_ENGINE_DETECTIONS,
    INT8_ENGINE_EMBEDDINGS,
    SCORE_MARGIN,
    DetectionAgreement,
    candidates,
    compare_detections,
    compare_embeddings,
    score_threshold,
)
from jetface.judging.drawings import draw_probes
from jetface.registry import ModelSpec
from jetface.runtimes.backend import Backend
from jetface.runtimes.onnx import open_onnx_backends


@dataclass(frozen=True, slots=True)
class Check:
    """What came of comparing an engine."""

    verdict: str
    """What was measured, for people."""
    fault: str | None
    """The first limit that is missed, None where none is."""


def open_reference(weights: Path, spec: ModelSpec) -> Backend:
    """Open the model as it was published, in FP32 on the CPU.

    Raises:
        ModelError: The weights are not those of the entry.
        BackendError: ONNX Runtime does not open them.
    """
    (backend,) = open_onnx_backends(prepare_graph(weights, spec).model, num_lanes=1, max_batch_size=1)
    return backend


def compare(
    spec: ModelSpec,
    engine: Backend,
    reference: Backend,
    *,
    takes_pixels: bool,
    canvases_hw: Sequence[tuple[int, int]],
    is_int8: bool = False,
) -> Check:
    """Run both on the probe pictures.

    Args:
        spec: The model's entry.
        engine: What is to be judged; owned by the calling thread.
        reference: What it is judged by; owned by the calling thread.
        takes_pixels: Whether the engine normalises pixels itself.
        canvases_hw: Heights and widths a detector is run at; others need none.
        is_int8: Both run a quantized graph, the reference in the arithmetic of ONNX Runtime.

    Raises:
        InferenceError: A run failed.
        ModelContractError: The engine's outputs are not those of the model.
    """
    if spec.task == "detection":
        agreement, verdict = _compare_detections(spec, engine, reference, takes_pixels, canvases_hw)
        return Check(verdict, agreement.fault(INT8_ENGINE_DETECTIONS if is_int8 else DETECTIONS))
    height_px, width_px = spec.input.height_px, spec.input.width_px
    crops = [np.asarray(cv2.resize(crop, (width_px, height_px)), np.uint8) for crop in draw_probes().crops]
    embeddings = compare_embeddings(
        _rows(spec, reference, crops, takes_pixels=False), _rows(spec, engine, crops, takes_pixels=takes_pixels)
    )
    mean, worst, count = embeddings.mean_cosine, embeddings.worst_cosine, embeddings.num_compared
    verdict = f"cosine {mean:.5f} mean, {worst:.5f} worst over {count} crops"
    return Check(verdict, embeddings.fault(INT8_ENGINE_EMBEDDINGS if is_int8 else ENGINE_EMBEDDINGS))


def _compare_detections(
    spec: ModelSpec,
    engine: Backend,
    reference: Backend,
    takes_pixels: bool,
    canvases_hw: Sequence[tuple[int, int]],
) -> tuple[DetectionAgreement, str]:
    threshold = score_threshold(spec)
    found: tuple[list[Detections], list[Detections]] = ([], [])
    for canvas_hw in canvases_hw:
        canvases = [
            Letterbox.fit((picture.shape[0], picture.shape[1]), canvas_hw, rectangular=False).apply(picture)
            for picture in draw_probes().pictures
        ]
        items = [DetectorItem(canvas=canvas, score_threshold=threshold - SCORE_MARGIN) for canvas in canvases]
        for side, backend, pixels in ((found[0], reference, False), (found[1], engine, takes_pixels)):
            head = FAMILIES[spec.family](spec, backend, canvas_hw, takes_pixels=pixels).head
            side.extend(candidates(head, backend, items))
    agreement = compare_detections(*found, score_threshold=threshold)
    both, alone, worst_iou = agreement.found_by_both, agreement.only_one, agreement.worst_iou
    verdict = f"{both} faces found by both, {alone} by one only, worst IoU {worst_iou:.4f}"
    return agreement, verdict


def _rows(spec: ModelSpec, backend: Backend, pictures: Sequence[Image], *, takes_pixels: bool) -> NDArray[np.float32]:
    """Return what the graph says of each picture, one row each."""
    rows = []
    for start in range(0, len(pictures), backend.max_batch_size):
        chunk = pictures[start : start + backend.max_batch_size]
        (output, *_) = backend.run(to_batch(chunk, spec.input, takes_pixels=takes_pixels))
        # The next run may write where this one's answer lies.
        rows.append(output.reshape(len(chunk), -1).copy())
    return np.concatenate(rows)
