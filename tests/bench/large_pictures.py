"""Pictures far larger than a detector's canvas: decoded whole, or shrunk first. Prints the tables of ADR 20.

Run with `python -m tests.bench.large_pictures` (half an hour on two cores; `--people 20` for a shorter one). The way
that was not taken is played here: a JPEG is decoded at a half, a quarter or an eighth, so that it still is twice the
canvas, and other formats are averaged to the same size.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from jetface.domain import ExtractOptions, Face, Image
from jetface.geometry.boxes import iou_matrix
from jetface.imaging.sources import EncodedPicture
from jetface.service import Service, open_service
from jetface.settings import Settings
from tests.support.encoded import encode
from tests.support.pictures import read_image
from tests.support.shared import shared_dir

CANVAS_PX = 640
LARGE_SIDES_PX = (2600, 3000, 5200, 7000)
PORTRAIT_SIDE_PX = 3000
TIMED_PIXELS = 24_000_000
OPTIONS = ExtractOptions(score_threshold=0.6)
REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def jpeg_of(image: Image, quality: int = 92) -> bytes:
    """Encode a picture as a camera does."""
    return encode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])


def resized_to(image: Image, side_px: float) -> Image:
    """Return the picture with its longer side this long."""
    factor = side_px / max(image.shape[:2])
    return np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC), np.uint8)


def decoded(jpeg: bytes, denominator: int = 1) -> Image:
    """Decode a JPEG at a fraction of its size."""
    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), REDUCED[denominator]), np.uint8)


def denominator_of(image: Image) -> int:
    """Return how far a picture may shrink and still be twice the canvas."""
    return next((d for d in (8, 4, 2) if max(image.shape[:2]) >= 2 * d * CANVAS_PX), 1)


def averaged(image: Image, denominator: int) -> Image:
    """Shrink by area what a JPEG's decoder shrinks; sides are cut to whole blocks."""
    height, width = (side // denominator for side in image.shape[:2])
    whole = image[: height * denominator, : width * denominator]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


async def faces_of(service: Service, data: bytes, options: ExtractOptions = OPTIONS) -> tuple[Face, ...]:
    """Return a picture's faces."""
    deadline = asyncio.get_running_loop().time() + 300
    (result,) = await service.extractor.extract([EncodedPicture(data)], options, deadline=deadline)
    if result.error is not None:
        raise result.error
    return result.faces


def vector_of(face: Face) -> np.ndarray:
    """Return a face's embedding."""
    assert face.embedding is not None
    return face.embedding.vector


def cosines(first: Sequence[Face], second: Sequence[Face]) -> Iterator[float]:
    """Yield how alike the faces are that lie in the same place."""
    if first and second:
        overlaps = iou_matrix(np.stack([face.box for face in first]), np.stack([face.box for face in second]))
        for face, row in zip(first, overlaps, strict=True):
            if row.max() > 0.5:
                yield float(vector_of(face) @ vector_of(second[int(row.argmax())]))


def large_jpegs() -> Iterator[bytes]:
    """Yield photographs of 3000 px, and smaller ones enlarged."""
    for path in sorted((shared_dir() / "cases" / "bigjpeg").glob("*.jpg")):
        yield path.read_bytes()
    for name in ("bbt1", "deepface_couple", "ifrest_Stallone", "inspireface_kun", "hpc203_selfie"):
        image = read_image(shared_dir() / "images" / f"{name}.jpg")
        yield from (jpeg_of(resized_to(image, side)) for side in LARGE_SIDES_PX)


async def print_agreement(service: Service) -> None:
    """JPEG against the same pixels in another format."""
    ways: dict[str, list[float]] = {"whole": [], "shrunk": []}
    for jpeg in large_jpegs():
        pixels = decoded(jpeg)
        by = denominator_of(pixels)
        ways["whole"] += cosines(await faces_of(service, jpeg), await faces_of(service, encode(".bmp", pixels)))
        ways["shrunk"] += cosines(
            await faces_of(service, encode(".bmp", decoded(jpeg, by))),
            await faces_of(service, encode(".bmp", averaged(pixels, by))),
        )
    for way, found in ways.items():
        below = sum(cosine < 0.999 for cosine in found)
        print(f"{way}: {len(found)} faces, least cosine {min(found):.4f}, {below} below 0.999", flush=True)  # noqa: T201


async def print_identification(service: Service, num_people: int) -> None:
    """Portraits of 250 px enlarged to 3000, each against every other."""
    folders = sorted(path for path in (shared_dir() / "faces").iterdir() if path.is_dir())[:num_people]
    paths = [path for folder in folders for path in sorted(folder.iterdir())]
    people = np.array([path.parent.name for path in paths])
    only = ExtractOptions(score_threshold=0.6, limit_faces=1)
    ways: dict[str, list[np.ndarray]] = {"whole": [], "shrunk": []}
    for path in paths:
        jpeg = jpeg_of(resized_to(read_image(path), PORTRAIT_SIDE_PX))
        for way, data in (("whole", jpeg), ("shrunk", encode(".bmp", decoded(jpeg, 2)))):
            ways[way].append(vector_of((await faces_of(service, data, only))[0]))
    rows, columns = np.triu_indices(len(paths), 1)
    is_same = people[rows] == people[columns]
    for way, vectors in ways.items():
        cosine = np.stack(vectors) @ np.stack(vectors).T
        pairs = cosine[rows, columns]
        np.fill_diagonal(cosine, -1)
        rank_1 = (people[cosine.argmax(axis=1)] == people).mean()
        impostors = np.sort(pairs[~is_same])[::-1]
        rates = [
            f"{(pairs[is_same] > impostors[int(far * len(impostors))]).mean():.4f} at {far:g}" for far in (1e-3, 1e-4)
        ]
        print(f"{way}: {len(paths)} portraits, rank 1 {rank_1:.4f}, TAR {', '.join(rates)}", flush=True)  # noqa: T201


async def print_time(service: Service) -> None:
    """CPU milliseconds of a JPEG of 24 million pixels, smooth and with a camera's noise."""
    for name in ("ifrest_Stallone", "bbt1"):
        image = read_image(shared_dir() / "images" / f"{name}.jpg")
        large = resized_to(image, max(image.shape[:2]) * (TIMED_PIXELS / (image.shape[0] * image.shape[1])) ** 0.5)
        grain = np.random.default_rng(0).normal(0, 8, large.shape)
        noisy = np.clip(large + grain, 0, 255).astype(np.uint8)
        for kind, jpeg in (("smooth", jpeg_of(large)), ("noisy", jpeg_of(noisy, 95))):
            by = denominator_of(large)
            whole_ms, shrunk_ms = (cpu_ms(jpeg, denominator) for denominator in (1, by))
            took = []
            for _ in range(7):
                started = time.process_time()
                await faces_of(service, jpeg)
                took.append(1e3 * (time.process_time() - started))
            print(  # noqa: T201
                f"{name}, {kind}, {len(jpeg) / 2**20:.1f} MiB: decode whole {whole_ms:.0f} ms, at 1/{by} "
                f"{shrunk_ms:.0f} ms; extract {statistics.median(took):.0f} ms",
                flush=True,
            )


def cpu_ms(jpeg: bytes, denominator: int) -> float:
    """Return the CPU time of a decode: the median of seven."""
    took = []
    for _ in range(7):
        started = time.thread_time()
        decoded(jpeg, denominator)
        took.append(1e3 * (time.thread_time() - started))
    return statistics.median(took)


async def measure(num_people: int) -> None:
    """Print all three tables."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            models_dir=Path(folder),
            model_mirror=str(shared_dir() / "models"),
            det_model="det_500m",
            rec_model="w600k_mbf_dequantized",
            backend="onnxruntime",
        )
        async with open_service(settings) as service:
            await print_time(service)
            await print_agreement(service)
            await print_identification(service, num_people)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=200, help="of whom there are four portraits each")
    asyncio.run(measure(parser.parse_args().people))
