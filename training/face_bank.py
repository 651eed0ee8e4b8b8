"""All training portraits on one device, ready to be sampled from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.alignment import TEMPLATE, similarity
from training.portraits import read_images, read_portraits


@dataclass(frozen=True, slots=True)
class FaceBank:
    """Portraits with the place of the named face.

    Attributes:
        pictures: (N, 3, 250, 250) uint8, RGB.
        landmarks: (N, 5, 2) float32, pixels.
        crop_to_portrait: (N, 2, 3) float32: pixels of the aligned 112x112 crop to pixels of the portrait.
    """

    pictures: Tensor
    landmarks: Tensor
    crop_to_portrait: Tensor

    @staticmethod
    def load(archive: Path, labels: Path, device: torch.device, limit: int | None = None) -> "FaceBank":
        """Read the people that are not held out.

        Args:
            archive: `portraits.tar`.
            labels: What `training.label_portraits` wrote.
            device: Where the tensors live.
            limit: Read only so many portraits.
        """
        table = np.load(labels)
        row = {name: i for i, name in enumerate(table["file_names"]) if not table["held_out"][i]}
        rows, pictures = [], []
        for portrait in read_portraits(archive, limit):
            if portrait.file_name in row:
                rows.append(row[portrait.file_name])
                pictures.append(np.ascontiguousarray(portrait.image[:, :, ::-1].transpose(2, 0, 1)))
        landmarks = table["landmarks"][rows]
        inverse = np.stack([similarity(TEMPLATE, points) for points in landmarks])
        return FaceBank(
            torch.from_numpy(np.stack(pictures)).to(device),
            torch.from_numpy(landmarks).to(device),
            torch.from_numpy(inverse).to(device),
        )


def load_backgrounds(archive: Path, side_px: int, device: torch.device, limit: int | None = None) -> Tensor:
    """Read the natural pictures, each cut to the square in its middle: (N, 3, side, side) uint8, RGB.

    Raises:
        ValueError: A picture is smaller than the square.
    """
    squares: list[np.ndarray] = []
    for name, image in read_images(archive, limit):
        top, left = (image.shape[0] - side_px) // 2, (image.shape[1] - side_px) // 2
        if top < 0 or left < 0:
            raise ValueError(f"{name}: {image.shape} is smaller than {side_px}")
        square = image[top : top + side_px, left : left + side_px, ::-1]
        squares.append(np.ascontiguousarray(square.transpose(2, 0, 1)))
    return torch.from_numpy(np.stack(squares)).to(device)
