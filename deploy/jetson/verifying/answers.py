"""Whether the service answers as ONNX Runtime does in FP32 on the CPU, and as golden boxes say where there are some."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from jetface.domain import Detections, ExtractOptions, Face
from jetface.errors import BackendUnavailableError, ServiceError
from jetface.geometry.boxes import iou_matrix
from jetface.imaging.sources import EncodedPicture
from jetface.judging.agreement import SAME_FACE_IOU, SCORE_MARGIN, compare_detections, compare_embeddings
from jetface.runtimes.choose import Host
from jetface.service import open_service
from jetface.settings import Settings
from verifying.caller import Target, answered
from verifying.drawing import Named, pictures_of

GOLDEN_FILE = "golden.json"
_PATIENCE_S = 600.0


def compare_answers(
    target: Target, settings: Settings, folder: Path | None, *, host: Host | None = None
) -> dict[str, Any]:
    """Compare the service with ONNX Runtime on the CPU, which runs the same models in this process.

    Args:
        target: The service.
        settings: Its own; models and thresholds are taken from them.
        folder: An owner's pictures, with what faces they show in `golden.json` if there is one; None: drawn ones.
        host: What is asked of this machine; others in tests.

    Raises:
        click.ClickException: ONNX Runtime cannot be had here and no golden file judges in its place, or the service
            answers with an error.
    """
    golden_file = folder / GOLDEN_FILE if folder is not None and (folder / GOLDEN_FILE).is_file() else None
    fault = (host or Host()).cores_fault()
    if fault and golden_file is None:
        raise click.ClickException(f"{fault.what}: {fault.why}. {fault.cure}")
    pictures = pictures_of(folder)
    with target.caller() as caller:
        threshold = float(caller.get("/info")["defaults"]["det_thresh"])
        lower = str(max(0.0, threshold - SCORE_MARGIN))
        detected = [_detections(caller.detect(each.data, threshold=lower)["faces"]) for each in pictures]
        extracted = [answered(caller.extract(each.data))["data"][0]["faces"] for each in pictures]
    golden = {"golden": golden_faults(golden_file, pictures, detected, threshold)} if golden_file else {}
    if fault:
        return {"num_pictures": len(pictures), **golden}
    try:
        faces = asyncio.run(_reference(settings, pictures, float(lower)))
    # An image for engines alone has no ONNX Runtime.
    except BackendUnavailableError as cause:
        if not golden:
            raise click.ClickException(cause.message) from cause
        return {"num_pictures": len(pictures), **golden}
    except ServiceError as cause:
        raise click.ClickException(cause.message) from cause
    boxes = compare_detections([_as_detections(each) for each in faces], detected, score_threshold=threshold)
    pairs = [pair for ours, theirs in zip(faces, extracted, strict=True) for pair in _embedding_pairs(ours, theirs)]
    embeddings = compare_embeddings(_stack([first for first, _ in pairs]), _stack([second for _, second in pairs]))
    return {
        "num_pictures": len(pictures),
        "faces": boxes.found_by_both,
        "faces_only_one_found": boxes.only_one,
        "worst_iou": boxes.worst_iou,
        "worst_cosine": embeddings.worst_cosine if pairs else None,
        **golden,
    }


def golden_faults(
    file: Path, pictures: Sequence[Named], detected: Sequence[Detections], threshold: float
) -> dict[str, Any]:
    """Compare faces with those that a file expects.

    Args:
        file: `{"images": {NAME: {"faces": [{"bbox": [x1, y1, x2, y2]}, ...]}}}`, source pixels.
        pictures: What was asked.
        detected: What the service found in each.
        threshold: Faces that score less do not count.

    Raises:
        click.ClickException: The file is not of that form, or names no picture of these.
    """
    try:
        expected = {
            name: np.array([face["bbox"] for face in each["faces"]], np.float32).reshape(-1, 4)
            for name, each in json.loads(file.read_text(encoding="utf-8"))["images"].items()
        }
    except (ValueError, KeyError, TypeError) as cause:
        raise click.ClickException(f'{file} is not {{"images": {{NAME: {{"faces": [{{"bbox": ...}}]}}}}}}') from cause
    compared = [(each, found) for each, found in zip(pictures, detected, strict=True) if each.name in expected]
    if not compared:
        raise click.ClickException(f"{file} names none of the pictures beside it")
    faults = []
    for picture, found in compared:
        kept = found.boxes[found.scores >= threshold]
        overlaps = iou_matrix(expected[picture.name], kept)
        if len(kept) != len(expected[picture.name]):
            faults.append(f"{picture.name}: {len(kept)} faces, not {len(expected[picture.name])}")
        elif overlaps.size and overlaps.max(axis=1).min() < SAME_FACE_IOU:
            faults.append(f"{picture.name}: a face that is expected was not found")
    return {"num_pictures": len(compared), "is_met": not faults, "faults": faults}


async def _reference(settings: Settings, pictures: Sequence[Named], threshold: float) -> list[tuple[Face, ...]]:
    plain = settings.model_copy(
        update={"backend": "onnxruntime", "ort_providers": ("cpu",), "model_preload": False, "telemetry_interval_s": 0}
    )
    async with open_service(plain) as service:
        deadline = asyncio.get_running_loop().time() + _PATIENCE_S
        options = ExtractOptions(score_threshold=threshold)
        sources = [EncodedPicture(each.data) for each in pictures]
        results = [(await service.extractor.extract([source], options, deadline=deadline))[0] for source in sources]
    for result in results:
        if result.error is not None:
            raise result.error
    return [tuple(result.faces) for result in results]


def _detections(faces: Sequence[dict[str, Any]]) -> Detections:
    return Detections(
        boxes=np.array([face["box"] for face in faces], np.float32).reshape(-1, 4),
        scores=np.array([face["score"] for face in faces], np.float32),
        landmarks=np.array([face["landmarks"] for face in faces], np.float32).reshape(-1, 5, 2),
    )


def _as_detections(faces: Sequence[Face]) -> Detections:
    return _detections([{"box": face.box, "score": face.score, "landmarks": face.landmarks} for face in faces])


def _embedding_pairs(
    ours: Sequence[Face], theirs: Sequence[dict[str, Any]]
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Pair embeddings of one face; none where a side has none. Faces that one side lacks are told by their boxes."""
    overlaps = iou_matrix(_as_detections(ours).boxes, np.array([f["bbox"] for f in theirs], np.float32).reshape(-1, 4))
    pairs = []
    for column, face in enumerate(theirs):
        if not len(ours) or face.get("vec") is None:
            continue
        row = int(overlaps[:, column].argmax())
        embedding = ours[row].embedding
        if embedding is not None and overlaps[row, column] >= SAME_FACE_IOU:
            pairs.append((embedding.vector, np.asarray(face["vec"], np.float32)))
    return pairs


def _stack(rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.stack(rows) if rows else np.empty((0, 0), np.float32)
