"""The student of the arcface family: crops to 512 numbers."""

from torch import Tensor, nn

from training.blocks import Bottleneck, conv
from training.config import RecognizerShape

EMBEDDING_LENGTH = 512


class RecognizerStudent(nn.Module):
    """A MobileFaceNet with leaky ReLU: 112x112 down to 7x7, one weight a place, one matrix.

    Stages run at 56x56, 28x28, 14x14 and 7x7 with `depths` residual bottlenecks each; the first two share
    `widths[0]`. Source: Chen et al. 2018, "MobileFaceNets" (global depthwise convolution instead of pooling).
    """

    def __init__(self, shape: RecognizerShape) -> None:
        """Build the layers."""
        super().__init__()
        first = shape.widths[0]
        layers: list[nn.Module] = [conv(3, first, 3, stride=2), nn.LeakyReLU(0.2)]
        layers += [Bottleneck(first, first, first) for _ in range(shape.depths[0])]
        inputs = first
        for width, depth in zip(shape.widths, shape.depths[1:], strict=True):
            layers.append(Bottleneck(inputs, width, shape.expansion * width, stride=2))
            layers += [Bottleneck(width, width, shape.expansion * width) for _ in range(depth)]
            inputs = width
        last = shape.last_width
        self.body = nn.Sequential(*layers, conv(inputs, last), nn.LeakyReLU(0.2))
        self.gather = nn.Sequential(nn.Conv2d(last, last, 7, groups=last, bias=False), nn.BatchNorm2d(last))
        self.embed = nn.Sequential(nn.Linear(last, EMBEDDING_LENGTH, bias=False), nn.BatchNorm1d(EMBEDDING_LENGTH))

    def forward(self, blob: Tensor) -> Tensor:
        """(N, 3, 112, 112), RGB, (x - 127.5) / 127.5, to (N, 512), not normalised."""
        features: Tensor = self.gather(self.body(blob))
        embedding: Tensor = self.embed(features.flatten(1))
        return embedding
