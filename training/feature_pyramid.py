"""The body of the detectors: a picture to features at strides 8, 16 and 32."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from training.blocks import Separable, conv
from training.config import DetectorShape


class FeaturePyramid(nn.Module):
    """Depthwise separable backbone, then a pyramid with a way up and a way down.

    The stages run at strides 4, 8, 16 and 32; the last one looks with 5x5 kernels, so that an object as large as the
    canvas fits into its view. Source: Liu et al. 2018, "Path Aggregation Network".
    """

    def __init__(self, shape: DetectorShape) -> None:
        """Build the layers."""
        super().__init__()
        first, second = shape.stem_widths
        neck = shape.neck_width
        self.stem = nn.Sequential(
            conv(3, first, 3, stride=2),
            nn.ReLU(),
            conv(first, second, 3, stride=2),
            nn.ReLU(),
            *[Separable(second, second) for _ in range(shape.depths[0])],
        )
        self.stages = nn.ModuleList()
        inputs = second
        for width, depth, kernel in zip(shape.widths, shape.depths[1:], (3, 3, 5), strict=True):
            blocks = [Separable(width, width, kernel) for _ in range(depth)]
            self.stages.append(nn.Sequential(Separable(inputs, width, stride=2), *blocks))
            inputs = width
        self.lateral = nn.ModuleList(conv(width, neck) for width in shape.widths)
        self.smooth = nn.ModuleList(nn.Sequential(conv(neck, neck, 3), nn.ReLU()) for _ in shape.widths)
        self.down = nn.ModuleList(Separable(neck, neck, stride=2) for _ in shape.widths[1:])

    def forward(self, blob: Tensor) -> list[Tensor]:
        """(N, 3, H, W) to (N, neck_width, H / stride, W / stride) for strides 8, 16, 32."""
        x = self.stem(blob)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        fine, middle, coarse = (lateral(f) for lateral, f in zip(self.lateral, features, strict=True))
        middle = middle + functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        fine = fine + functional.interpolate(middle, scale_factor=2.0, mode="nearest")
        fine, middle, coarse = (smooth(f) for smooth, f in zip(self.smooth, (fine, middle, coarse), strict=True))
        middle = middle + self.down[0](fine)
        coarse = coarse + self.down[1](middle)
        return [fine, middle, coarse]


def build_heads(shape: DetectorShape, outputs: int, num_scores: int) -> nn.ModuleList:
    """One head a stride: separable convolutions, then `outputs` maps, of which the first `num_scores` are logits."""
    heads = nn.ModuleList()
    for _ in shape.widths:
        widths = [shape.neck_width, *[shape.head_width] * shape.head_depth]
        last = nn.Conv2d(widths[-1], outputs, 1)
        nn.init.normal_(last.weight, std=0.01)
        assert last.bias is not None  # a convolution has one unless it is told otherwise
        nn.init.zeros_(last.bias)
        last.bias.data[:num_scores] = -4.6  # objects are rare at first: Lin et al. 2017, "Focal Loss", prior 0.01
        heads.append(nn.Sequential(*[Separable(a, b) for a, b in pairwise(widths)], last))
    return heads
