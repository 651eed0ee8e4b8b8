"""Detectors in bfloat16 beside float32, by OpenVINO: whether `keeps_bf16` may stand in an entry. Prints ADR 8's table.

Run with `python -m tests.bench.bfloat16` (some minutes on two cores) where the CPU has AVX512_BF16 or AMX. Limits: no
face lost or gained above the threshold + 0.02, IoU 0.98, landmarks within 1 % of the box, embeddings at cosine 0.999.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jetface.domain import ExtractOptions, Face, KnownFaces
from jetface.geometry.boxes import iou_matrix
from jetface.imaging.sources import EncodedPicture
from jetface.service import Service, open_service
from jetface.settings import Settings
from tests.bench.large_pictures import faces_of
from tests.bench.small_pictures import portraits_of
from tests.support.shared import shared_dir

DETECTORS = ("det_500m", "scrfd_2.5g_bnkps", "starter_det", "yunet_n")
MARGIN = 0.02
"""A score so near the threshold may fall on either side of it."""
SAME_FACE_IOU = 0.5
DEADLINE_S = 600


@dataclass(slots=True)
class Compared:
    """What bfloat16 made of the faces that float32 finds."""

    num_lost: int = 0
    num_gained: int = 0
    ious: list[float] = field(default_factory=list)
    shifts: list[float] = field(default_factory=list)
    """Of the landmark that moved most, over the longer side of the box."""
    cosines: list[float] = field(default_factory=list)
    """Of the embeddings at both landmarks, by one recognizer in float32."""

    def row(self) -> str:
        """Return what a table says."""
        ious, shifts, cosines = map(np.array, (self.ious, self.shifts, self.cosines))
        return (
            f"{len(ious)} | {self.num_lost}, {self.num_gained} | {ious.min():.3f} ({(ious < 0.98).sum()}) | "
            f"{shifts.max():.3f} ({(shifts > 0.01).sum()}) | {cosines.min():.3f} ({(cosines < 0.999).sum()})"
        )


async def found(service: Service, data: bytes) -> Sequence[Face]:
    """Return faces down to a little below the threshold, without embeddings."""
    options = ExtractOptions(score_threshold=service.score_threshold - MARGIN, with_embedding=False)
    return await faces_of(service, data, options)


async def embedded(service: Service, data: bytes, faces: Sequence[Face]) -> Sequence[Face]:
    """Return faces embedded at their landmarks."""
    known = KnownFaces(landmarks=np.stack([face.landmarks for face in faces]))
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    return (await service.extractor.recognize([EncodedPicture(data)], [known], deadline=deadline))[0].faces


def num_missing(faces: Sequence[Face], others: Sequence[Face], threshold: float) -> int:
    """Count the faces that are sure and have no counterpart above the threshold."""
    there = [face for face in others if face.score >= threshold]
    sure = [face for face in faces if face.score >= threshold + MARGIN]
    return sum(best_of(face, there) is None for face in sure)


def best_of(face: Face, others: Sequence[Face]) -> tuple[float, Face] | None:
    """Return the face with the same box, and the IoU."""
    if not others:
        return None
    overlaps = iou_matrix(face.box[None], np.stack([other.box for other in others]))[0]
    best = int(overlaps.argmax())
    return (float(overlaps[best]), others[best]) if overlaps[best] >= SAME_FACE_IOU else None


async def compare(detector: str, pictures: Sequence[bytes], folder: str) -> Compared:
    """Look at all pictures in both precisions."""
    settings = Settings(
        models_dir=Path(folder), model_mirror=str(shared_dir() / "models"), det_model=detector,
        rec_model="w600k_mbf_dequantized", backend="openvino", openvino_precision="f32",
    )  # fmt: skip
    compared = Compared()
    async with (
        open_service(settings) as exact,
        open_service(settings.model_copy(update={"openvino_precision": "bf16"})) as reduced,
    ):
        for data in pictures:
            ours, theirs = await found(exact, data), await found(reduced, data)
            compared.num_lost += num_missing(ours, theirs, exact.score_threshold)
            compared.num_gained += num_missing(theirs, ours, exact.score_threshold)
            faces = [face for face in ours if face.score >= exact.score_threshold]
            pairs = [(face, *best) for face in faces if (best := best_of(face, theirs)) is not None]
            if not pairs:
                continue
            vectors = [
                [face.embedding.vector for face in await embedded(exact, data, each) if face.embedding is not None]
                for each in ([face for face, _, _ in pairs], [other for _, _, other in pairs])
            ]
            for (face, iou, other), vector, other_vector in zip(pairs, *vectors, strict=True):
                side = float((face.box[2:] - face.box[:2]).max())
                compared.ious.append(iou)
                compared.shifts.append(float(np.abs(face.landmarks - other.landmarks).max()) / side)
                compared.cosines.append(float(vector @ other_vector))
    return compared


def main() -> None:
    """Print a row for each detector."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=100, help="four portraits each, beside the pictures of a crowd")
    parser.add_argument("--detectors", nargs="+", default=DETECTORS)
    args = parser.parse_args()
    images = [path for path in (shared_dir() / "images").iterdir() if path.suffix in {".jpg", ".png"}]
    pictures = [path.read_bytes() for path in [*sorted(images), *portraits_of(args.people)]]
    print("| | faces | lost, gained | least IoU | landmarks, most | least cosine |")  # noqa: T201 - what it is for
    print("|---|---|---|---|---|---|")  # noqa: T201
    for detector in args.detectors:
        with tempfile.TemporaryDirectory() as folder:
            print(f"| {detector} | {asyncio.run(compare(detector, pictures, folder)).row()} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
