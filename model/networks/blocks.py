"""The building blocks that the residual networks share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from model.networks.norm import Norm, norm_layer


class ConvNorm(nn.Sequential):
    """Convolution without bias, padded to keep height and width at stride 1, then normalisation."""

    def __init__(self, norm: Norm, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        super().__init__(OrderedDict(conv=conv, norm=norm_layer(norm, outputs)))


class PadShortcut(nn.Module):
    """Shortcut without parameters: every `stride`-th pixel, new channels zero (He et al. 2016, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.added = outputs - inputs
        self.stride = stride

    def forward(self, images: Tensor) -> Tensor:
        kept = images[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))


class Residual(nn.Module):
    """body(x) + shortcut(x)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, images: Tensor) -> Tensor:
        changed: Tensor = self.body(images)
        kept: Tensor = self.shortcut(images)
        return changed + kept


class Head(nn.Sequential):
    """Mean over the pixels, then one linear layer: (N, `inputs`, H, W) to logits (N, `classes`)."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(
            OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=nn.Linear(inputs, classes))
        )


class ResidualNet(nn.Sequential):
    """3x3 stem of `width` channels, blocks, head: images (N, 3, H, W) to logits (N, classes)."""

    def __init__(self, norm: Norm, width: int, blocks: Iterable[nn.Module], head: nn.Module) -> None:
        stem = nn.Sequential(OrderedDict(layer=ConvNorm(norm, 3, width), relu=nn.ReLU()))
        super().__init__(OrderedDict(stem=stem, blocks=nn.Sequential(*blocks), head=head))


def basic_body(norm: Norm, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Two 3x3 convolutions, the first with `stride`."""
    return nn.Sequential(
        ConvNorm(norm, inputs, outputs, stride=stride), nn.ReLU(), ConvNorm(norm, outputs, outputs)
    )


def bottleneck_body(norm: Norm, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """1x1, 3x3 with `stride`, 1x1; the inner width is a quarter of `outputs`."""
    width = outputs // 4
    return nn.Sequential(
        ConvNorm(norm, inputs, width, kernel=1),
        nn.ReLU(),
        ConvNorm(norm, width, width, stride=stride),
        nn.ReLU(),
        ConvNorm(norm, width, outputs, kernel=1),
    )
