"""The student of the scrfd family: a picture to scores, box distances and landmark distances at three strides."""

from torch import Tensor, nn
from torch.nn import functional

from training.blocks import Separable, conv
from training.config import DetectorShape

NUM_ANCHORS = 2
CHANNELS = (1, 4, 10)  # score, box distances, landmark distances of one anchor


class DetectorStudent(nn.Module):
    """Depthwise separable backbone, a feature pyramid with a way up and a way down, one head a stride.

    The stages run at strides 4, 8, 16 and 32; the last one looks with 5x5 kernels, so that a face as large as the
    canvas fits into its view. Source: Guo et al. 2021 (SCRFD: anchors, outputs); Liu et al. 2018 (PAFPN).
    """

    def __init__(self, shape: DetectorShape) -> None:
        """Build the layers."""
        super().__init__()
        first, second = shape.stem_widths
        neck, head = shape.neck_width, shape.head_width
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
        self.heads = nn.ModuleList(
            nn.Sequential(
                *[Separable(neck if index == 0 else head, head) for index in range(shape.head_depth)],
                nn.Conv2d(head, NUM_ANCHORS * sum(CHANNELS), 1),
            )
            for _ in shape.widths
        )
        for layers in self.heads:
            last = layers[-1]  # type: ignore[index]  # a Sequential
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)
            last.bias.data[:NUM_ANCHORS] = -4.6  # faces are rare at first: Lin et al. 2017, "Focal Loss", prior 0.01

    def head_maps(self, blob: Tensor) -> list[Tensor]:
        """Give the heads' outputs for strides 8, 16, 32, each (N, 30, h, w)."""
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
        return [head(f) for head, f in zip(self.heads, (fine, middle, coarse), strict=True)]

    def maps(self, blob: Tensor) -> list[tuple[Tensor, ...]]:
        """Give, for strides 8, 16, 32, score logits (N, 2, h, w), boxes (N, 8, h, w) and landmarks (N, 20, h, w)."""
        return [out.split([NUM_ANCHORS * c for c in CHANNELS], 1) for out in self.head_maps(blob)]

    def forward(self, blob: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W), RGB, (x - 127.5) / 128, to the nine outputs of the scrfd family.

        Returns:
            Scores, boxes, landmarks, each for strides 8, 16, 32: (N, anchors, 1 | 4 | 10); scores in [0, 1],
            distances in units of the stride.
        """
        levels = []
        for out in self.head_maps(blob):
            parts = out.permute(0, 2, 3, 1).split([NUM_ANCHORS * c for c in CHANNELS], 3)
            levels.append([p.reshape(p.shape[0], -1, c) for p, c in zip(parts, CHANNELS, strict=True)])
        return tuple(level[kind].sigmoid() if kind == 0 else level[kind] for kind in range(3) for level in levels)
