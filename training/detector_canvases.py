"""Canvases for the detector: portraits in two random grids, from crowds to close faces, over a natural picture.

Everything is a lookup: each pixel of the canvas knows its cell, each cell its portrait and the similarity into it, so
a canvas of two thousand faces costs what a canvas of one does.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.face_bank import FaceBank
from training.photometry import add_noise, change_colours, lose_detail, uniform
from training.pyramids import Pyramid

FACE_PX = 90.0
"""Usual width of the named face's box in a portrait, pixels."""


def pixels(canvas_px: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The x (1, 1, S) and y (1, S, 1) of a canvas's pixels."""
    line = torch.arange(canvas_px, device=device, dtype=torch.float32)
    return line[None, None, :], line[None, :, None]


def worsen(canvas: Tensor) -> Tensor:
    """Blur and add noise, then blacken the bottom or the right of most canvases, as a letterbox does.

    Args:
        canvas: (N, 3, S, S), 0 to 255.
    """
    canvas = add_noise(lose_detail(canvas, 0.25, 0.4), 0.25, 12)
    x, y = pixels(canvas.shape[2], canvas.device)
    edge = uniform(canvas, 0.5, 2.0, 1, 1) * canvas.shape[2]
    is_wide = uniform(canvas, 0, 1, 1, 1) < 0.6
    kept = torch.where(is_wide, y.expand(1, *canvas.shape[2:]), x.expand(1, *canvas.shape[2:])) < edge
    return canvas * kept[:, None]


@dataclass(frozen=True, slots=True)
class CanvasPainter:
    """Draws training canvases from packed portraits and backgrounds."""

    portraits: Pyramid
    landmarks: Tensor
    backgrounds: Pyramid

    @staticmethod
    def build(bank: FaceBank, backgrounds: Tensor) -> "CanvasPainter":
        """Pack the pictures once."""
        return CanvasPainter(Pyramid.build(bank.pictures), bank.landmarks, Pyramid.build(backgrounds))

    def draw_sharp(self, batch: int, canvas_px: int) -> Tensor:
        """One batch (N, 3, S, S), RGB, 0 to 255, for `worsen` to blacken and blur."""
        device = self.landmarks.device
        canvas = self._background(batch, canvas_px, device)
        canvas = self._grid(canvas, small_px=13.0, large_px=120.0)
        canvas = self._grid(canvas, small_px=60.0, large_px=1600.0)
        return change_colours(canvas)

    def _background(self, batch: int, canvas_px: int, device: torch.device) -> Tensor:
        """A piece of a natural picture, mirrored and turned by quarter turns, at a random scale."""
        x, y = pixels(canvas_px, device)
        like = torch.empty(batch, device=device)
        side = self.backgrounds.width_px[0].float()
        scale = torch.exp(uniform(like, math.log(0.1), 0.0, 1, 1)) * side / canvas_px
        free = side - scale * canvas_px
        u = x * scale + free * uniform(like, 0, 1, 1, 1)
        v = y * scale + free * uniform(like, 0, 1, 1, 1)
        turned = uniform(like, 0, 1, 1, 1) < 0.3
        mirrored = uniform(like, 0, 1, 1, 1) < 0.5
        u, v = torch.where(turned, v, u), torch.where(turned, u, v)
        u = torch.where(mirrored, side - 1 - u, u)
        picture = torch.randint(self.backgrounds.count, (batch, 1, 1), device=device).expand(u.shape)
        return self.backgrounds.sample(picture, torch.zeros_like(picture), u, v).transpose(0, 1)

    def _grid(self, canvas: Tensor, small_px: float, large_px: float) -> Tensor:
        """Lay one turned, shifted grid of portraits over each canvas; some cells stay empty.

        Args:
            canvas: (N, 3, S, S).
            small_px: Smallest side of a cell.
            large_px: Largest side of a cell.
        """
        batch, _, side, _ = canvas.shape
        device = canvas.device
        x, y = pixels(side, device)
        cell_px = torch.exp(uniform(canvas, math.log(small_px), math.log(large_px), 1, 1))
        angle = torch.randn(batch, 1, 1, device=device) * math.radians(8)
        cos, sin = torch.cos(angle) / cell_px, torch.sin(angle) / cell_px
        dx, dy = x - side / 2, y - side / 2
        gx = cos * dx + sin * dy + uniform(canvas, 0, 1, 1, 1)
        gy = cos * dy - sin * dx + uniform(canvas, 0, 1, 1, 1)
        column, row = gx.floor(), gy.floor()
        table_side = int(1.5 * side / small_px) + 4
        table = self._cells(batch, table_side, cell_px)
        cell = ((row.long() % table_side) * table_side + column.long() % table_side).flatten(1)

        def look_up(values: Tensor) -> Tensor:
            return values.gather(1, cell).reshape(batch, side, side)

        fx, fy = gx - column - 0.5, gy - row - 0.5  # -0.5 to 0.5 within the cell
        power = torch.where(uniform(canvas, 0, 1, 1, 1) < 0.5, 2.0, 8.0)
        inside = (2 * fx).abs() ** power + (2 * fy).abs() ** power < 1
        a, b = look_up(table["a"]), look_up(table["b"])
        u = look_up(table["center_x"]) + (a * fx - b * fy) * look_up(table["flip"])
        v = look_up(table["center_y"]) + b * fx + a * fy
        shown = inside & look_up(table["filled"]) & (u > -1) & (v > -1) & (u < 250) & (v < 250)
        colours = self.portraits.sample(look_up(table["picture"]), look_up(table["level"]), u, v).transpose(0, 1)
        return torch.where(shown[:, None], colours, canvas)

    def _cells(self, batch: int, table_side: int, cell_px: Tensor) -> dict[str, Tensor]:
        """Draw what each cell shows.

        Returns:
            Tables (N, table_side ** 2): `picture`; `level` of the pyramid; `center_x`, `center_y` in the portrait;
            `a`, `b` of the similarity from cell widths to portrait pixels; `flip` 1 or -1; `filled`.
        """
        device = cell_px.device
        shape = (batch, table_side * table_side)
        picture = torch.randint(self.portraits.count, shape, device=device)
        middle = self.landmarks.mean(1)[picture]
        # The face is as wide as 0.35 to 0.9 of its cell, or larger than it in a tenth of the canvases.
        share = torch.rand(shape, device=device) * 0.55 + 0.35
        share = share * torch.where(torch.rand(batch, 1, device=device) < 0.1, 1.5, 1.0)
        zoom = FACE_PX / share  # portrait pixels a cell width
        turn = torch.randn(shape, device=device) * math.radians(10)
        wanted = torch.log2(zoom / cell_px[:, :, 0])  # portrait pixels a canvas pixel, in octaves
        level = (wanted - torch.rand(shape, device=device) * 1.7).clamp(0, 3).round().long()
        wander = torch.randn(*shape, 2, device=device) * (0.1 * zoom[:, :, None])
        fill = torch.rand(batch, 1, device=device)
        return {
            "picture": picture,
            "level": level,
            "center_x": middle[:, :, 0] + wander[:, :, 0],
            "center_y": middle[:, :, 1] + wander[:, :, 1],
            "a": torch.cos(turn) * zoom,
            "b": torch.sin(turn) * zoom,
            "flip": torch.where(torch.rand(shape, device=device) < 0.5, 1.0, -1.0),
            "filled": torch.rand(shape, device=device) < fill,
        }
