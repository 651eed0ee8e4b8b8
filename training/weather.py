"""What cameras on roads see pictures through: night, glare, rain, motion, the camera's own colours and JPEG.

Pictures are (N, 3, H, W) float, RGB, 0 to 255; every function returns a new tensor.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from training.photometry import some, uniform

# ITU-T T.81 annex K.1, luminance.
JPEG_TABLE = [
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
]  # fmt: skip


def tint(pictures: Tensor, share: float) -> Tensor:
    """Mix the channels anew, as infrared cameras and wrong white balances do, on a share of the pictures."""
    mixing = torch.eye(3, device=pictures.device) + torch.randn(len(pictures), 3, 3, device=pictures.device) * 0.35
    mixing = mixing.abs() / mixing.abs().sum(2, keepdim=True)
    cast = torch.exp(torch.randn(len(pictures), 3, 1, device=pictures.device) * 0.3)
    mixed = ((mixing @ pictures.flatten(2)) * cast).unflatten(2, pictures.shape[2:])
    return torch.where(some(pictures, share), mixed, pictures).clamp(0, 255)


def balance(pictures: Tensor, share: float) -> Tensor:
    """Give a share of the pictures the same mean and contrast in each channel, as if they were taken by day."""
    mean, spread = pictures.mean((2, 3), keepdim=True), pictures.std((2, 3), keepdim=True).clamp(min=12)
    level, contrast = uniform(pictures, 85, 150, 1, 1, 1), uniform(pictures, 45, 75, 1, 1, 1)
    return torch.where(some(pictures, share), (pictures - mean) / spread * contrast + level, pictures).clamp(0, 255)


def darken(pictures: Tensor, share: float) -> Tensor:
    """Take away light, so that a share of the pictures was taken at night; none that is dark already."""
    level = torch.exp(uniform(pictures, math.log(0.12), math.log(0.6), 1, 1, 1))
    level = torch.maximum(level, 25 / pictures.mean((1, 2, 3), keepdim=True).clamp(min=25))
    return torch.where(some(pictures, share), pictures * level, pictures)


def shine(pictures: Tensor, share: float, num_lights: int = 5) -> Tensor:
    """Put lamps with their glow onto a share of the pictures."""
    batch, _, height, width = pictures.shape
    x = torch.arange(width, device=pictures.device)[None, None, :]
    y = torch.arange(height, device=pictures.device)[None, :, None]
    glow = torch.zeros(batch, 1, height, width, device=pictures.device)
    for _ in range(num_lights):
        radius = torch.exp(uniform(pictures, math.log(3), math.log(45), 1, 1))
        dx = (x - uniform(pictures, 0, width, 1, 1)) / radius
        dy = (y - uniform(pictures, 0, height, 1, 1)) / radius
        power = uniform(pictures, 0, 330, 1, 1) * (uniform(pictures, 0, 1, 1, 1) < 0.5)
        glow += (power * torch.exp(-(dx * dx + dy * dy)))[:, None]
    colour = uniform(pictures, 0.5, 1.0, 3, 1, 1)
    return torch.where(some(pictures, share), pictures + glow * colour, pictures).clamp(0, 255)


def rain(pictures: Tensor, share: float) -> Tensor:
    """Bright streaks, nearly upright, on a share of the groups."""
    groups = []
    for group in pictures.chunk(8):
        if torch.rand(1).item() > share:
            groups.append(group)
            continue
        seeds = (torch.rand_like(group[:, :1]) < 0.004).float()
        kernel = line_kernel(17, 90 + float(torch.randn(1)) * 12, pictures.device)
        streaks = functional.conv2d(seeds, kernel[None, None], padding=8) * uniform(group, 400, 1500, 1, 1, 1)
        groups.append((group * 0.9 + streaks).clamp(0, 255))
    return torch.cat(groups)


def move(pictures: Tensor, share: float) -> Tensor:
    """Blur along a line, as a moving car or camera does, a share of the groups."""
    groups = []
    for group in pictures.chunk(16):
        if torch.rand(1).item() > share:
            groups.append(group)
            continue
        size = int(torch.randint(1, 6, (1,))) * 2 + 1
        kernel = line_kernel(size, float(torch.rand(1)) * 180, pictures.device).expand(3, 1, -1, -1)
        groups.append(functional.conv2d(group, kernel, padding=size // 2, groups=3))
    return torch.cat(groups)


def line_kernel(size: int, degrees: float, device: torch.device) -> Tensor:
    """(size, size), a line through the middle, sum 1."""
    offset = torch.arange(size, device=device, dtype=torch.float32) - size // 2
    angle = math.radians(degrees)
    across = offset[None] * math.sin(angle) - offset[:, None] * math.cos(angle)
    kernel = (1 - across.abs()).clamp(min=0)
    return kernel / kernel.sum()


def compress(pictures: Tensor, share: float) -> Tensor:
    """Lose what JPEG loses, on a share of the pictures; the sides must be multiples of 8."""
    device = pictures.device
    n = torch.arange(8, device=device, dtype=torch.float32)
    basis = torch.cos((2 * n[None] + 1) * n[:, None] * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    table = torch.tensor(JPEG_TABLE, device=device, dtype=torch.float32)
    blocks = pictures.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # N, 3, rows, columns, 8, 8
    strength = torch.exp(uniform(pictures, math.log(0.15), math.log(2.0), 1, 1, 1, 1, 1))
    steps = (table * strength).clamp(min=1)
    # Both products from the right, so that one large matrix product does each.
    waves = ((blocks - 128) @ basis.T).transpose(4, 5) @ basis.T
    steps = steps.transpose(4, 5)
    back = ((((waves / steps).round() * steps) @ basis).transpose(4, 5) @ basis) + 128
    lossy = back.transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return torch.where(some(pictures, share), lossy, pictures).clamp(0, 255)
