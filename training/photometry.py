"""Changes of colour, sharpness and noise, for a whole batch on its device.

Pictures are (N, 3, H, W) float, RGB, 0 to 255; every function returns a new tensor. Teacher and student always see
the same changed picture (Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent").
"""

import torch
from torch import Tensor
from torch.nn import functional

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma


def uniform(like: Tensor, low: float, high: float, *shape: int) -> Tensor:
    """Random numbers (N, *shape) between two bounds, on the device of `like` and with its N."""
    return torch.rand(len(like), *shape, device=like.device) * (high - low) + low


def some(like: Tensor, share: float) -> Tensor:
    """(N, 1, 1, 1) bool, true for about this share of the pictures."""
    return torch.rand(len(like), 1, 1, 1, device=like.device) < share


def change_colours(pictures: Tensor) -> Tensor:
    """Brightness, contrast, gamma, colour cast and saturation; one in ten becomes grey."""
    luma = pictures.new_tensor(GREY).reshape(1, 3, 1, 1)
    x = (pictures / 255).clamp(0, 1)
    x = x ** torch.exp(uniform(x, -0.4, 0.4, 1, 1, 1))
    x = x * uniform(x, 0.9, 1.1, 3, 1, 1) * uniform(x, 0.7, 1.3, 1, 1, 1)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * uniform(x, 0.7, 1.3, 1, 1, 1) + mean + uniform(x, -0.08, 0.08, 1, 1, 1)
    grey = (x * luma).sum(1, keepdim=True)
    saturation = torch.where(some(x, 0.1), torch.zeros_like(grey[:, :, :1, :1]), uniform(x, 0.6, 1.4, 1, 1, 1))
    x = grey + (x - grey) * saturation
    return x.clamp(0, 1) * 255


def add_noise(pictures: Tensor, share: float, most: float) -> Tensor:
    """Gaussian noise, of a strength up to `most` grey levels, on a share of the pictures."""
    strength = uniform(pictures, 0, most, 1, 1, 1) * some(pictures, share)
    return (pictures + torch.randn_like(pictures) * strength).clamp(0, 255)


def lose_detail(pictures: Tensor, share: float, smallest: float, num_groups: int = 8) -> Tensor:
    """Shrink and enlarge again, which blurs as a small or badly compressed picture does.

    Args:
        pictures: (N, 3, H, W).
        share: Share of the groups that are changed.
        smallest: Smallest scale, (0, 1].
        num_groups: The batch is cut into so many groups; one scale is drawn for each.
    """
    groups = []
    scales = torch.rand(num_groups).mul(1 - smallest).add(smallest).tolist()
    chosen = (torch.rand(num_groups) < share).tolist()
    for group, scale, is_chosen in zip(pictures.chunk(num_groups), scales, chosen, strict=False):
        if not is_chosen:
            groups.append(group)
            continue
        height, width = group.shape[2:]
        small = functional.interpolate(
            group, (max(int(height * scale), 4), max(int(width * scale), 4)), mode="bilinear", antialias=True
        )
        groups.append(functional.interpolate(small, (height, width), mode="bilinear"))
    return torch.cat(groups)
