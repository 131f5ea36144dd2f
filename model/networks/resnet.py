"""ResNet-20 and ResNet-56 for 32x32 images, as in He et al. 2016, section 4.2."""

from __future__ import annotations

from torch import nn

from model.networks.blocks import Head, PadShortcut, Residual, ResidualNet, basic_body
from model.networks.norm import Norm

WIDTHS = (16, 32, 64)


def cifar_resnet(depth: int, classes: int, norm: Norm) -> nn.Module:
    """ResNet of `depth` = 6n + 2 layers: images (N, 3, 32, 32) to logits (N, `classes`).

    Three stages of n blocks with 16, 32 and 64 channels; shortcuts without parameters
    (option A). With batch norm and 10 classes: 269,722 parameters for 20 layers (the paper
    says 0.27 M), 853,018 for 56 (0.85 M). https://arxiv.org/abs/1512.03385
    """
    blocks: list[nn.Module] = []
    inputs = WIDTHS[0]
    for outputs in WIDTHS:
        for _ in range((depth - 2) // 6):
            blocks.append(_block(norm, inputs, outputs))
            inputs = outputs
    return ResidualNet(norm, WIDTHS[0], blocks, Head(inputs, classes))


def _block(norm: Norm, inputs: int, outputs: int) -> nn.Module:
    stride = 1 if inputs == outputs else 2
    shortcut = nn.Identity() if stride == 1 else PadShortcut(inputs, outputs, stride)
    return nn.Sequential(Residual(basic_body(norm, inputs, outputs, stride), shortcut), nn.ReLU())
