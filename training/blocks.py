"""The layers of both students: convolution, batch norm, activation; depthwise residuals.

Every block is one that ONNX Runtime runs in its blocked CPU layout: convolutions with ReLU or leaky ReLU folded in,
additions, nearest upsampling by two. PReLU, which the teachers use, has no kernel in that layout.
"""

import torch
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without activation, then batch norm; padded so that stride 1 keeps the size."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class Bottleneck(nn.Module):
    """Widen (1x1), look around (depthwise 3x3), narrow (1x1), without activation at the end.

    Adds its input where the shapes agree. Source: Sandler et al. 2018, "MobileNetV2"; Chen et al. 2018,
    "MobileFaceNets", with leaky ReLU in place of PReLU.
    """

    def __init__(self, inputs: int, outputs: int, inner: int, stride: int = 1) -> None:
        """Build the three convolutions."""
        super().__init__()
        self.is_residual = inputs == outputs and stride == 1
        self.body = nn.Sequential(
            conv(inputs, inner),
            nn.LeakyReLU(0.2),
            conv(inner, inner, 3, stride=stride, groups=inner),
            nn.LeakyReLU(0.2),
            conv(inner, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y: Tensor = self.body(x)
        return x + y if self.is_residual else y


class Separable(nn.Module):
    """Depthwise then 1x1, ReLU after each; adds its input before the last ReLU where the shapes agree.

    Source: Howard et al. 2017, "MobileNets", with the residual of He et al. 2016.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        """Build the two convolutions."""
        super().__init__()
        self.is_residual = inputs == outputs and stride == 1
        self.depthwise = conv(inputs, inputs, kernel, stride=stride, groups=inputs)
        self.pointwise = conv(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y: Tensor = self.pointwise(torch.relu(self.depthwise(x)))
        return torch.relu(x + y if self.is_residual else y)


def fold_batch_norms(module: nn.Module) -> None:
    """Melt each batch norm into the convolution or matrix before it, in place; the module must be in eval mode."""
    for child in module.children():
        fold_batch_norms(child)
    if not isinstance(module, nn.Sequential):
        return
    for index in range(len(module) - 1):
        before, norm = module[index], module[index + 1]
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d) and isinstance(before, nn.Conv2d | nn.Linear):
            assert norm.running_mean is not None  # batch norms here keep statistics
            assert norm.running_var is not None
            gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            bias = torch.zeros_like(norm.running_mean) if before.bias is None else before.bias
            shape = (-1, *[1] * (before.weight.dim() - 1))
            before.weight = nn.Parameter((before.weight * gain.reshape(shape)).detach())
            before.bias = nn.Parameter((norm.bias + (bias - norm.running_mean) * gain).detach())
            module[index + 1] = nn.Identity()
