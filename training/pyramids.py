"""Pictures of one size at several scales, packed so that every pixel of a canvas can look up its own."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Pyramid:
    """Pictures at full, half, quarter ... size, one 32-bit word a pixel, all in one line.

    Attributes:
        words: (pixels,) int32: red + 256 green + 65536 blue, opacity in the highest byte.
        width_px: (L,) int64, of each size.
        height_px: (L,) int64, of each size.
        offset: (L,) int64, where each size begins.
        count: Number of pictures.
        channels: 3, or 4 with opacity.
    """

    words: Tensor
    width_px: Tensor
    height_px: Tensor
    offset: Tensor
    count: int
    channels: int

    @staticmethod
    def build(pictures: Tensor, num_levels: int = 4) -> "Pyramid":
        """Pack (N, 3 | 4, H, W) uint8 pictures; each size is the mean over 2x2 of the one before."""
        channels = pictures.shape[1]
        words, widths, heights, offsets, total = [], [], [], [], 0
        for level in range(num_levels):
            parts = []
            for chunk in pictures.split(256):
                x = functional.avg_pool2d(chunk.float(), 2**level).round().long()
                word = sum(x[:, channel] << (8 * channel) for channel in range(channels))
                assert isinstance(word, Tensor)  # there are channels
                parts.append(torch.where(word >= 2**31, word - 2**32, word).int().flatten())
            heights.append(pictures.shape[2] // 2**level)
            widths.append(pictures.shape[3] // 2**level)
            words.append(torch.cat(parts))
            offsets.append(total)
            total += len(words[-1])
        sizes = [torch.tensor(values, device=pictures.device) for values in (widths, heights, offsets)]
        return Pyramid(torch.cat(words), *sizes, len(pictures), channels)

    def sample(self, picture: Tensor, level: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Look up colours, bilinear between the four pixels around; outside, the border goes on.

        Args:
            picture: (...) int64 index.
            level: (...) int64, 0 to L - 1.
            x: (...) float pixels of the full size.
            y: As `x`.

        Returns:
            (channels, ...) float, 0 to 255.
        """
        width, height = self.width_px[level], self.height_px[level]
        scale = torch.exp2(-level.float())
        base = self.offset[level] + picture * width * height
        x, y = ((v + 0.5) * scale - 0.5 for v in (x, y))
        left, top = x.floor(), y.floor()
        result = torch.zeros(self.channels, *x.shape, device=x.device)
        for dy in (0, 1):
            for dx in (0, 1):
                column = torch.minimum((left + dx).long().clamp(min=0), width - 1)
                row = torch.minimum((top + dy).long().clamp(min=0), height - 1)
                word = self.words[base + row * width + column]
                weight = (1 - (x - left - dx).abs()) * (1 - (y - top - dy).abs())
                for channel in range(self.channels):
                    result[channel] += ((word >> (8 * channel)) & 255) * weight
        return result
