"""Crops for the recogniser: cut out anew at every step, half of them mixed from two faces."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from training.alignment import CROP_PX
from training.face_bank import FaceBank
from training.photometry import add_noise, change_colours, lose_detail, some, uniform
from training.portraits import PORTRAIT_PX


def random_similarities(like: Tensor) -> Tensor:
    """(N, 2, 3) small turns, scales and shifts about the middle of the crop; one in eight is three times as large."""
    wild = 1 + 2 * (torch.rand(len(like), device=like.device) < 1 / 8)
    angle = torch.randn(len(like), device=like.device) * math.radians(3) * wild
    scale = torch.exp(torch.randn(len(like), device=like.device) * 0.04 * wild)
    shift = torch.randn(len(like), 2, device=like.device) * 1.5 * wild[:, None]
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    linear = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], 1)
    middle = torch.full((2,), (CROP_PX - 1) / 2, device=like.device)
    return torch.cat([linear, (middle + shift - linear @ middle)[:, :, None]], 2)


def cut_crops(bank: FaceBank, rows: Tensor) -> Tensor:
    """Cut aligned crops with small random similarities, half of them mirrored: (N, 3, 112, 112) float, 0 to 255."""
    jitter = random_similarities(rows)
    to_portrait = bank.crop_to_portrait[rows]
    linear = to_portrait[:, :, :2] @ jitter[:, :, :2]
    shift = (to_portrait[:, :, :2] @ jitter[:, :, 2:] + to_portrait[:, :, 2:])[:, :, 0]
    pixels = torch.arange(CROP_PX, device=rows.device, dtype=torch.float32)
    grid = torch.stack(torch.meshgrid(pixels, pixels, indexing="xy"), -1).reshape(1, -1, 2)
    places = grid @ linear.transpose(1, 2) + shift[:, None]
    normalised = ((places + 0.5) * (2 / PORTRAIT_PX) - 1).reshape(-1, CROP_PX, CROP_PX, 2)
    crops = functional.grid_sample(bank.pictures[rows].float(), normalised, align_corners=False)
    return torch.where(some(crops, 0.5), crops.flip(3), crops)


def mix(crops: Tensor, share: float) -> Tensor:
    """Mix a share of the crops with another of the batch: half by a constant, half across a soft straight edge."""
    partners = crops.roll(1, 0)
    pixels = torch.linspace(-1, 1, CROP_PX, device=crops.device)
    angle = uniform(crops, 0, 2 * math.pi, 1, 1, 1)
    plane = torch.cos(angle) * pixels + torch.sin(angle) * pixels[:, None] + uniform(crops, -0.5, 0.5, 1, 1, 1)
    edge = torch.sigmoid(plane * uniform(crops, 2, 20, 1, 1, 1))
    weight = torch.where(some(crops, 0.5), edge, uniform(crops, 0.2, 0.8, 1, 1, 1))
    return torch.where(some(crops, share), crops * weight + partners * (1 - weight), crops)


def hide_parts(crops: Tensor, share: float) -> Tensor:
    """Cover a random rectangle with one colour or with a piece of another face, on a share of the crops."""
    pixels = torch.arange(CROP_PX, device=crops.device)
    center, half = uniform(crops, 0, CROP_PX, 2, 1, 1), uniform(crops, 6, 28, 2, 1, 1)
    inside_x = (pixels - center[:, :1]).abs() < half[:, :1]
    inside_y = (pixels[:, None] - center[:, 1:]).abs() < half[:, 1:]
    colour = uniform(crops, 0, 255, 3, 1, 1).expand_as(crops)
    cover = torch.where(some(crops, 0.5), colour, crops.roll(3, 0))
    return torch.where(inside_x & inside_y & some(crops, share), cover, crops)


def draw_crops(bank: FaceBank, batch: int, mixed_share: float) -> Tensor:
    """One batch (N, 3, 112, 112), RGB, normalised to (x - 127.5) / 127.5."""
    rows = torch.randint(len(bank.pictures), (batch,), device=bank.pictures.device)
    crops = mix(cut_crops(bank, rows), mixed_share)
    crops = hide_parts(change_colours(crops), 0.15)
    crops = add_noise(lose_detail(crops, 0.25, 0.3), 0.3, 12)
    return (crops - 127.5) / 127.5
