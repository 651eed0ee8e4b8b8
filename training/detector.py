"""The student of the scrfd family: a picture to scores, box distances and landmark distances at three strides."""

from torch import Tensor, nn

from training.config import DetectorShape
from training.feature_pyramid import FeaturePyramid, build_heads

NUM_ANCHORS = 2
CHANNELS = (1, 4, 10)  # score, box distances, landmark distances of one anchor


class DetectorStudent(nn.Module):
    """The detectors' body, one head a stride.

    Source: Guo et al. 2021, "Sample and Computation Redistribution for Efficient Face Detection" (anchors, outputs).
    """

    def __init__(self, shape: DetectorShape) -> None:
        """Build the layers."""
        super().__init__()
        self.body = FeaturePyramid(shape)
        self.heads = build_heads(shape, NUM_ANCHORS * sum(CHANNELS), NUM_ANCHORS)
        for head in self.heads:
            # A stride to each side: a box without area has no gradient of GIoU, and its head can stay shut for good.
            head[-1].bias.data[NUM_ANCHORS : NUM_ANCHORS * (1 + CHANNELS[1])] = 1.0  # type: ignore[index]  # a Sequential

    def head_maps(self, blob: Tensor) -> list[Tensor]:
        """Give the heads' outputs for strides 8, 16, 32, each (N, 30, h, w)."""
        return [head(features) for head, features in zip(self.heads, self.body(blob), strict=True)]

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
