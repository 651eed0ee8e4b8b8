"""The pictures with licence plates, their boxes, and the texts that a person can read on those for judging.

An archive holds pictures and `labels.tsv`, a row a plate: file, set, x, y, w, h in pixels, text. In
`plates_romania_mit.tar` the texts are empty; `plate_texts.json` has those of its set `valid`, null where no person can
read it without doubt.
"""

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from training.graphs import Floats, Image
from training.portraits import read_images

TEXTS: Final = Path(__file__).with_name("plate_texts.json")


@dataclass(frozen=True, slots=True)
class PlatePicture:
    """One picture and its plates.

    Attributes:
        name: File name in the archive.
        image: (H, W, 3) BGR.
        boxes: (N, 4) x1, y1, x2, y2 in pixels.
        texts: N texts; None where it is not known.
    """

    name: str
    image: Image
    boxes: Floats
    texts: list[str | None]


def read_labels(archive: Path, split: str) -> dict[str, list[dict[str, str]]]:
    """Rows of `labels.tsv` for each picture of a set, `train` or `valid`."""
    with tarfile.open(archive) as tar:
        labels = tar.extractfile("labels.tsv")
        assert labels is not None  # a plain file
        rows = csv.DictReader(io.StringIO(labels.read().decode()), delimiter="\t")
        pictures: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            if row["set"] == split:
                pictures.setdefault(row["file"], []).append(row)
    return pictures


def to_box(row: dict[str, str]) -> list[float]:
    """x1, y1, x2, y2 of a row of labels."""
    x, y, w, h = (float(row[name]) for name in "xywh")
    return [x, y, x + w, y + h]


def read_plates(archive: Path, split: str, limit: int | None = None) -> Iterator[PlatePicture]:
    """Yield the pictures of a set, `train` or `valid`, in the order of their names, the first `limit` of them."""
    labels, known = read_labels(archive, split), read_texts()
    wanted = sorted(labels)[:limit]
    for name, image in read_images(archive, names=frozenset(wanted)):
        rows = labels[name]
        texts = known.get(name) or [row["text"] or None for row in rows]
        yield PlatePicture(name, image, np.array([to_box(row) for row in rows], np.float32), texts)


def read_texts() -> dict[str, list[str | None]]:
    """What `plate_texts.json` holds: by picture, a text for each row of the labels, in their order."""
    texts: dict[str, list[str | None]] = json.loads(TEXTS.read_text())
    return texts
