"""Replace a trained 3x3 convolution by a thinner one and a 1x1 that restores its width: less work, nearly the same.

Source: the output-side factorisation of Zhang et al. 2015, "Accelerating very deep convolutional networks": the
outputs' principal components, over real pictures, are what the thin convolution computes.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from training.detector import DetectorStudent
from training.detector_canvases import CanvasPainter, worsen
from training.face_bank import FaceBank, load_backgrounds

NUM_PORTRAITS, NUM_BACKGROUNDS, NUM_CANVASES, CANVAS_PX, BACKGROUND_PX = 300, 60, 6, 640, 320


def draw_blob(shared: Path, labels: Path) -> Tensor:
    """A few training canvases as a blob (6, 3, 640, 640)."""
    device = torch.device("cpu")
    torch.manual_seed(0)
    bank = FaceBank.load(shared / "training" / "portraits.tar", labels, device, NUM_PORTRAITS)
    backgrounds = load_backgrounds(shared / "training" / "backgrounds.tar", BACKGROUND_PX, device, NUM_BACKGROUNDS)
    canvases = worsen(CanvasPainter.build(bank, backgrounds).draw_sharp(NUM_CANVASES, CANVAS_PX))
    return (canvases - 127.5) / 128


def factorise(layer: nn.Conv2d, outputs: Tensor, rank: int) -> nn.Sequential:
    """Split one convolution with bias.

    Args:
        layer: (outputs, inputs, k, k) weights.
        outputs: (N, outputs, h, w) that it gave on real pictures.
        rank: Width between the two convolutions.
    """
    rows = outputs.permute(0, 2, 3, 1).reshape(-1, layer.out_channels)
    mean = rows.mean(0)
    components = torch.linalg.eigh(torch.cov(rows.T)).eigenvectors[:, -rank:]
    bias = torch.zeros_like(mean) if layer.bias is None else layer.bias
    thin = nn.Conv2d(layer.in_channels, rank, 3, 1, 1, bias=False)
    thin.weight = nn.Parameter(torch.einsum("or,oikl->rikl", components, layer.weight))
    wide = nn.Conv2d(rank, layer.out_channels, 1)
    wide.weight = nn.Parameter(components[:, :, None, None].clone())
    wide.bias = nn.Parameter(mean - components @ (components.T @ (mean - bias)))
    return nn.Sequential(thin, wide)


@torch.no_grad()
def thin_smoothing(student: DetectorStudent, blob: Tensor, rank: int) -> None:
    """Factorise the smoothing convolutions of the pyramid, in place; batch norms must be folded."""
    for stage in student.body.smooth:
        inner = stage[0]  # type: ignore[index]  # a Sequential of a folded convolution and its activation
        seen: list[Tensor] = []
        hook = inner[0].register_forward_hook(lambda _layer, _inputs, output, seen=seen: seen.append(output))
        student.head_maps(blob)
        hook.remove()
        inner[0] = factorise(inner[0], seen[0], rank)
