"""The pictures that the figures are taken on, none of which the students have learned from."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from training.graphs import Detector, Faces, Floats, Image, align
from training.portraits import PORTRAIT_PX, read_portraits

CANVAS_PX = 640


def read_picture(path: Path) -> Image:
    """Decode a picture file as BGR, EXIF orientation ignored.

    Raises:
        ValueError: OpenCV cannot read it.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError(f"cannot read {path.name}")
    return image.astype(np.uint8, copy=False)


def judged_faces(shared: Path) -> Iterator[tuple[str, Image]]:
    """Yield (person, picture) of `faces/`, in the order of the names."""
    for path in sorted((shared / "faces").glob("*/*.jpg")):
        yield path.parent.name, read_picture(path)


def central_face(faces: Faces) -> int:
    """Index of the face whose box centre lies nearest to the middle of a 250x250 portrait."""
    centers = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
    return int(np.argmin(np.abs(centers - PORTRAIT_PX / 2).sum(1)))


def held_out_crops(shared: Path, labels: Path) -> tuple[list[str], list[Image]]:
    """Align the held-out portraits with the landmarks that `training.label_portraits` wrote: people, crops."""
    table = np.load(labels)
    row = {name: i for i, name in enumerate(table["file_names"]) if table["held_out"][i]}
    people, crops = [], []
    for portrait in read_portraits(shared / "training" / "portraits.tar"):
        if portrait.file_name in row:
            people.append(portrait.person)
            crops.append(align(portrait.image, table["landmarks"][row[portrait.file_name]]))
    return people, crops


def face_crops(shared: Path, detector: Detector, canvas_px: int = CANVAS_PX) -> tuple[list[str], list[Image]]:
    """Align the central face of every picture in `faces/`: people, crops. A picture without a face is left out."""
    people, crops = [], []
    for person, image in judged_faces(shared):
        faces = detector.detect(image, canvas_px, 0.5)
        if len(faces.boxes):
            people.append(person)
            crops.append(align(image, faces.landmarks[central_face(faces)]))
    return people, crops


@dataclass(frozen=True, slots=True)
class GoldenPicture:
    """What `insightface` answers for one picture: boxes (N, 4), scores (N,)."""

    name: str
    image: Image
    boxes: Floats
    scores: Floats


def golden_pictures(shared: Path) -> Iterator[GoldenPicture]:
    """Yield the pictures of `golden/insightface.json`."""
    golden = json.loads((shared / "golden" / "insightface.json").read_text())
    for name, answer in golden["images"].items():
        boxes = np.array([face["bbox"] for face in answer["faces"]], np.float32).reshape(-1, 4)
        scores = np.array([face["score"] for face in answer["faces"]], np.float32)
        yield GoldenPicture(name, read_picture(shared / "images" / name), boxes, scores)
