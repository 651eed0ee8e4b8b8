"""Where things stand on a canvas: quadrilaterals, the mappings into them, and what hides what.

Points are (..., 2) x, y in canvas pixels, pixel (0, 0) reaching from 0 to 1. A quadrilateral is (..., 4, 2): top left,
top right, bottom right, bottom left as seen on the thing itself. A mapping is a (..., 3, 3) homography.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def place_quads(center: Tensor, width: Tensor, height: Tensor, turns: Tensor) -> Tensor:
    """Rectangles turned in space and seen from three widths away.

    Args:
        center: (..., 2).
        width: (...) pixels, seen straight on.
        height: As `width`.
        turns: (..., 3) yaw, pitch, roll in radians.
    """
    signs = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]], device=center.device)
    x, y = signs[:, 0] * width[..., None], signs[:, 1] * height[..., None]
    yaw, pitch, roll = (t[..., None] for t in turns.unbind(-1))
    depth = x * yaw.sin() + y * pitch.sin()
    far = 1 + depth / (3 * torch.maximum(width, height)[..., None])
    x, y = x * yaw.cos() / far, y * pitch.cos() / far
    return torch.stack([x * roll.cos() - y * roll.sin(), x * roll.sin() + y * roll.cos()], -1) + center[..., None, :]


def from_unit_square(quads: Tensor) -> Tensor:
    """The mapping of the unit square onto each quadrilateral.

    Source: Heckbert 1989, "Fundamentals of Texture Mapping and Image Warping", section 2.2.3.
    """
    (x0, x1, x2, x3), (y0, y1, y2, y3) = (quads[..., axis].unbind(-1) for axis in (0, 1))
    dx1, dx2, sx = x1 - x2, x3 - x2, x0 - x1 + x2 - x3
    dy1, dy2, sy = y1 - y2, y3 - y2, y0 - y1 + y2 - y3
    determinant = dx1 * dy2 - dx2 * dy1
    determinant = torch.where(determinant.abs() < 1e-3, torch.full_like(determinant, 1e-3), determinant)
    g, h = (sx * dy2 - dx2 * sy) / determinant, (dx1 * sy - sx * dy1) / determinant
    one = torch.ones_like(g)
    rows = [x1 - x0 + g * x1, x3 - x0 + h * x3, x0, y1 - y0 + g * y1, y3 - y0 + h * y3, y0, g, h, one]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def inverse(mapping: Tensor) -> Tensor:
    """The inverse of homographies (..., 3, 3), up to a factor, which homographies do not have; none fails."""
    a, b, c = mapping.unbind(-1)
    rows = [torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)]
    return torch.stack(rows, -2)


def apply(mapping: Tensor, points: Tensor) -> Tensor:
    """Map points (..., P, 2) by (..., 3, 3)."""
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], -1) @ mapping.transpose(-1, -2)
    return homogeneous[..., :2] / homogeneous[..., 2:]


def rectangles(inset: Tensor) -> Tensor:
    """Corners (..., 4, 2) in the unit square of a rectangle (..., 4) left, top, right, bottom."""
    left, top, right, bottom = inset.unbind(-1)
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return torch.stack([torch.stack(c, -1) for c in corners], -2)


def bounds(quads: Tensor) -> Tensor:
    """Upright boxes (..., 4) x1, y1, x2, y2 around quadrilaterals."""
    return torch.cat([quads.amin(-2), quads.amax(-2)], -1)


def touches(boxes: Tensor, others: Tensor, is_there: Tensor) -> Tensor:
    """(N, K): whether each box (N, K, 4) shares any area with a box (N, J, 4) that is there (N, J)."""
    a, b = boxes[:, :, None], others[:, None]
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    return ((shared > 0) & is_there[:, None]).any(2)


def keep_apart(boxes: Tensor, is_there: Tensor) -> Tensor:
    """(N, K): those of the boxes (N, K, 4) that are there and touch none kept before."""
    kept = torch.zeros_like(is_there)
    for index in range(boxes.shape[1]):
        hit = touches(boxes[:, index : index + 1], boxes, kept)[:, 0]
        kept[:, index] = is_there[:, index] & ~hit
    return kept


@dataclass(frozen=True, slots=True)
class Slots:
    """Drawings laid onto canvases, the later over the earlier.

    Attributes:
        quads: (N, K, 4, 2).
        picture: (N, K) int64, index of the drawing.
        is_there: (N, K) bool.
    """

    quads: Tensor
    picture: Tensor
    is_there: Tensor

    @staticmethod
    def join(slots: list["Slots"]) -> "Slots":
        """All of them, in their order."""
        return Slots(
            torch.cat([s.quads for s in slots], 1),
            torch.cat([s.picture for s in slots], 1),
            torch.cat([s.is_there for s in slots], 1),
        )
