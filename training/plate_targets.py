"""Which cells answer for which plate, and how sure they should be."""

from dataclasses import dataclass

import torch
from torch import Tensor

SCORE_POWER, IOU_POWER = 0.5, 6.0
"""How much score and overlap count when cells compete for a plate: Feng et al. 2021, "TOOD", as YOLOv8 sets them."""


@dataclass(frozen=True, slots=True)
class CellTargets:
    """Targets of a batch.

    Attributes:
        scores: (N, cells) in [0, 1]: the overlap that the best cells reach, 0 where no plate is meant.
        boxes: (N, cells, 4) x1, y1, x2, y2 of the plate that a cell answers for.
        counts: (N, cells) bool: the score of this cell is judged.
    """

    scores: Tensor
    boxes: Tensor
    counts: Tensor


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU (N, M, cells) of boxes (N, M, 4) with boxes (N, cells, 4)."""
    a, b = boxes[:, :, None], others[:, None]
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    areas = [(x[..., 2:] - x[..., :2]).clamp(min=0).prod(-1) for x in (a, b)]
    return shared / (areas[0] + areas[1] - shared + 1e-6)


@torch.no_grad()
def assign(
    scores: Tensor,
    found: Tensor,
    plates: Tensor,
    is_plate: Tensor,
    is_unclear: Tensor,
    centers: Tensor,
    strides: Tensor,
    cells_a_plate: int,
) -> CellTargets:
    """Let the cells that answer best for each plate learn it.

    A cell competes for a plate where its middle lies in the plate, or within one of its strides of the plate's middle,
    since a far plate is thinner than a cell.

    Args:
        scores: (N, cells) in [0, 1], as answered.
        found: (N, cells, 4) boxes, as answered.
        plates: (N, M, 4).
        is_plate: (N, M).
        is_unclear: (N, M): cells within are not judged.
        centers: (cells, 2) middles.
        strides: (cells, 1).
        cells_a_plate: Most cells that learn one plate.
    """
    iou = overlaps(plates, found)
    middle, half = (plates[..., :2] + plates[..., 2:]) / 2, (plates[..., 2:] - plates[..., :2]) / 2
    away = (centers - middle[:, :, None]).abs()
    near = (away < torch.maximum(half[:, :, None], strides)).all(3)
    fit = scores[:, None] ** SCORE_POWER * iou**IOU_POWER * (near & is_plate[:, :, None])
    best = fit.topk(cells_a_plate, 2)
    chosen = torch.zeros_like(fit, dtype=torch.bool).scatter_(2, best.indices, best.values > 0)
    owner = torch.where(chosen, iou, torch.full_like(iou, -1.0)).argmax(1)  # (N, cells)
    mine = torch.zeros_like(chosen).scatter_(1, owner[:, None], value=True) & chosen
    most_fit = fit.amax(2, keepdim=True).clamp(min=1e-12)
    most_iou = torch.where(chosen, iou, torch.zeros_like(iou)).amax(2, keepdim=True)
    wanted = torch.where(mine, fit / most_fit * most_iou, torch.zeros_like(fit)).amax(1)
    boxes = plates.gather(1, owner[:, :, None].expand(-1, -1, 4))
    hidden = ((away < torch.maximum(half[:, :, None], strides / 2)).all(3) & is_unclear[:, :, None]).any(1)
    return CellTargets(wanted, boxes, ~hidden | (wanted > 0))
