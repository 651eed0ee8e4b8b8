"""Loss terms that both detectors share."""

import torch
from torch import Tensor


def box_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - GIoU of boxes given as distances (P, 4) from the same anchors: left, top, right, bottom.

    Source: Rezatofighi et al. 2019, "Generalized Intersection over Union".
    """
    student = student.clamp(min=-16)
    smaller, larger = torch.minimum(student, teacher), torch.maximum(student, teacher)
    shared = (smaller[:, :2] + smaller[:, 2:]).clamp(min=0).prod(1)
    hull = (larger[:, :2] + larger[:, 2:]).clamp(min=0).prod(1) + 1e-6
    areas = (student[:, :2] + student[:, 2:]).clamp(min=0).prod(1) + (teacher[:, :2] + teacher[:, 2:]).prod(1)
    union = areas - shared + 1e-6
    return 1 - shared / union + (hull - union) / hull
