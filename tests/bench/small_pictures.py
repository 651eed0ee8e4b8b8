"""Small pictures: by how much they may be enlarged for the detector. Prints the tables of ADR 36.

Run with `python -m tests.bench.small_pictures` (half an hour on two cores; `--people 25` for a shorter one). What is
answered at each bound is compared with what is answered where every picture fills the whole canvas.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import cv2
import numpy as np

from jetface.domain import ExtractOptions, Face, Image
from jetface.geometry.boxes import iou_matrix
from jetface.service import Service, open_service
from jetface.settings import Settings
from tests.bench.large_pictures import faces_of, vector_of
from tests.support.encoded import encode
from tests.support.pictures import read_image
from tests.support.portraits import crop_of, middle_face
from tests.support.shared import shared_dir

DENOMINATORS = (1, 2, 4)
TIMED_SIDES_PX = (250, 160, 112)
TURNS = 41
Answers = Sequence[tuple[Face, ...]]


def settings_of(args: argparse.Namespace, folder: str, max_upscale: float) -> Settings:
    """Return the settings of one service."""
    return Settings(
        models_dir=Path(folder),
        model_mirror=str(shared_dir() / "models"),
        det_model=args.detector,
        rec_model="w600k_mbf_dequantized",
        backend=args.backend,
        max_upscale=max_upscale,
    )


def shrunk(image: Image, denominator: float) -> Image:
    """Return the picture at a fraction of its sides."""
    factor = 1 / denominator
    return np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)


def portraits_of(num_people: int) -> list[Path]:
    """Return the portraits of people from all over the alphabet."""
    folders = sorted(path for path in (shared_dir() / "faces").iterdir() if path.is_dir())
    return [path for folder in folders[:: len(folders) // num_people][:num_people] for path in sorted(folder.iterdir())]


def options_of(service: Service, *, with_crop: bool = False, with_embedding: bool = True) -> ExtractOptions:
    """Return the options of a request at the detector's own threshold."""
    return ExtractOptions(score_threshold=service.score_threshold, with_crop=with_crop, with_embedding=with_embedding)


async def answered(service: Service, pictures: Sequence[bytes]) -> Answers:
    """Return the faces of each picture."""
    return [await faces_of(service, data, options_of(service)) for data in pictures]


async def crops(service: Service, portraits: Sequence[Path]) -> list[bytes]:
    """Return the aligned crop of the person of each portrait."""
    found = []
    for path in portraits:
        faces = await faces_of(service, path.read_bytes(), options_of(service, with_crop=True))
        found.append(encode(".png", crop_of(middle_face(faces, (250, 250)))))
    return found


def compared(before: Answers, after: Answers) -> str:
    """Say how many faces were lost and gained, and how alike the others are."""
    num_lost, num_gained, cosines = 0, 0, []
    for old, new in zip(before, after, strict=True):
        boxes, others = (np.array([face.box for face in faces], np.float32).reshape(-1, 4) for faces in (old, new))
        is_same = iou_matrix(boxes, others) > 0.5
        num_lost += int((~is_same.any(axis=1)).sum())
        num_gained += int((~is_same.any(axis=0)).sum())
        cosines += [float(vector_of(old[i]) @ vector_of(new[j])) for i, j in np.argwhere(is_same)]
    below = sum(cosine < 0.999 for cosine in cosines)
    return (
        f"{sum(map(len, before))} | {num_lost} | {num_gained} | {below} | {min(cosines):.3f} | "
        f"{statistics.median(cosines):.4f}"
    )


def identified(answers: Answers, people: np.ndarray, side_px: int) -> str:
    """Say whether the faces in the middle are told apart; a portrait without a face is not found."""
    faces = [middle_face(found, (side_px, side_px)) for found in answers]
    seen = np.array([face is not None for face in faces])
    vectors, people = np.stack([vector_of(face) for face in faces if face]), people[seen]
    cosines = vectors @ vectors.T
    rows, columns = np.triu_indices(len(vectors), 1)
    is_same, pairs = people[rows] == people[columns], cosines[rows, columns]
    np.fill_diagonal(cosines, -1)
    rank_1 = (people[cosines.argmax(axis=1)] == people).sum() / len(faces)
    impostors = np.sort(pairs[~is_same])[::-1]
    rate = (pairs[is_same] > impostors[len(impostors) // 1000]).mean()
    return f"{rank_1:.4f} | {rate:.4f}"


async def print_answers(args: argparse.Namespace, folder: str) -> None:
    """What each bound changes."""
    portraits = portraits_of(args.people)
    people = np.array([path.parent.name for path in portraits])
    kinds: Mapping[str, list[Path]] = {
        "golden": sorted((shared_dir() / "images").rglob("*.*")),
        "portraits": portraits,
    }
    pictures = {
        f"{kind} 1/{by}": [
            path.read_bytes() if by == 1 else encode(".png", shrunk(read_image(path), by)) for path in paths
        ]
        for by in DENOMINATORS
        for kind, paths in kinds.items()
    }
    before: dict[str, Answers] = {}
    print("| bound | pictures | faces | lost | gained | below 0.999 | least | median | rank 1 | TAR at 1e-3 |")  # noqa: T201
    print("|---|---|---|---|---|---|---|---|---|---|")  # noqa: T201
    for bound in (math.inf, *args.bounds):
        async with open_service(settings_of(args, folder, bound)) as service:
            if not before:
                pictures["crops"] = await crops(service, portraits)
            for name, encoded in pictures.items():
                found = await answered(service, encoded)
                before.setdefault(name, found)
                apart = " | "
                if not name.startswith("golden"):
                    apart = identified(found, people, 112 if name == "crops" else 250 // int(name[-1]))
                print(f"| {bound:g} | {name} | {compared(before[name], found)} | {apart} |", flush=True)  # noqa: T201


async def cpu_s(service: Service, data: bytes, options: ExtractOptions) -> float:
    """Return the CPU time of one picture, all threads, seconds."""
    started = time.process_time()
    await faces_of(service, data, options)
    return time.process_time() - started


async def print_time(args: argparse.Namespace, folder: str) -> None:
    """CPU time of a picture at each bound over that without one: taking turns, medians."""
    portraits = [read_image(path) for path in portraits_of(10)[::4]]
    bounds = (math.inf, *args.bounds)
    async with AsyncExitStack() as stack:
        services = [await stack.enter_async_context(open_service(settings_of(args, folder, bound))) for bound in bounds]
        for side_px in TIMED_SIDES_PX:
            pictures = [encode(".jpg", shrunk(image, image.shape[0] / side_px)) for image in portraits]
            for with_embedding in (True, False):
                took: list[list[float]] = [[] for _ in bounds]
                for turn in range(TURNS):
                    for service, times in zip(services, took, strict=True):
                        options = options_of(service, with_embedding=with_embedding)
                        times.append(await cpu_s(service, pictures[turn % len(pictures)], options))
                base_s, *others_s = (statistics.median(times[1:]) for times in took)
                ratios = ", ".join(
                    f"{bound:g}: {other_s / base_s:.2f}" for bound, other_s in zip(args.bounds, others_s, strict=True)
                )
                what = "extract" if with_embedding else "detection alone"
                print(f"{side_px} px, {what}: {1e3 * base_s:.1f} ms; of that at {ratios}", flush=True)  # noqa: T201


async def measure(args: argparse.Namespace) -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        await print_time(args, folder)
        if args.people:
            await print_answers(args, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=200, help="of whom there are four portraits each; 0: time alone")
    parser.add_argument("--detector", default="det_500m")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--bounds", type=float, nargs="+", default=[1, 1.5, 2, 3, 4])
    asyncio.run(measure(parser.parse_args()))
