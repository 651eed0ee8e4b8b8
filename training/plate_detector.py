"""The student of the yolo family with one class: a picture to boxes and scores of licence plates."""

import torch
from torch import Tensor, nn

from training.config import DetectorShape
from training.feature_pyramid import FeaturePyramid, build_heads

STRIDES = (8, 16, 32)
NUM_VALUES = 5  # of each cell: a box and a score
PLATE_SIDES = (3.0, 1.0, 3.0, 1.0)
"""Distances in strides to left, top, right, bottom with which training begins: about a plate's shape."""


def cell_centers(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Middles (cells, 2) x, y of all cells of a canvas in pixels and their strides (cells, 1), finest stride first."""
    centers, strides = [], []
    for stride in STRIDES:
        ys, xs = torch.meshgrid(
            torch.arange(height // stride, device=device, dtype=torch.float32),
            torch.arange(width // stride, device=device, dtype=torch.float32),
            indexing="ij",
        )
        centers.append((torch.stack([xs, ys], -1).reshape(-1, 2) + 0.5) * stride)
        strides.append(torch.full((len(centers[-1]), 1), float(stride), device=device))
    return torch.cat(centers), torch.cat(strides)


class PlateDetector(nn.Module):
    """The detectors' body, one score and four distances for each cell of strides 8, 16 and 32."""

    def __init__(self, shape: DetectorShape) -> None:
        """Build the layers."""
        super().__init__()
        self.body = FeaturePyramid(shape)
        self.heads = build_heads(shape, NUM_VALUES, num_scores=1)
        for head in self.heads:
            head[-1].bias.data[1:] = torch.tensor(PLATE_SIDES)  # type: ignore[index]  # a Sequential

    def cells(self, blob: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 5, cells): score logit, then distances to left, top, right, bottom in strides."""
        return torch.cat([head(f).flatten(2) for head, f in zip(self.heads, self.body(blob), strict=True)], 2)

    def forward(self, blob: Tensor) -> Tensor:
        """(N, 3, H, W), RGB, [0, 1], to (N, 5, cells): middle x, y, width, height in pixels, score in [0, 1]."""
        # Whole numbers, so that an exported graph holds the middles as constants.
        centers, strides = cell_centers(int(blob.shape[2]), int(blob.shape[3]), blob.device)
        found = self.cells(blob)
        boxes = to_boxes(found[:, 1:], centers, strides)
        sides = boxes[:, 2:] - boxes[:, :2]
        return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, sides, found[:, :1].sigmoid()], 1)


def to_boxes(distances: Tensor, centers: Tensor, strides: Tensor) -> Tensor:
    """Distances (N, 4, cells) in strides around the middles of cells to x1, y1, x2, y2 (N, 4, cells) in pixels."""
    middles, pixels = centers.T, distances * strides.T
    return torch.cat([middles - pixels[:, :2], middles + pixels[:, 2:]], 1)
