"""ResNet-18, 34 and 50 of He et al. 2016 with a stem for small images: one 3x3 convolution, no pooling."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from model.networks.blocks import ConvNorm, Head, Residual, ResidualNet, basic_body, bottleneck_body
from model.networks.norm import Norm

WIDTHS = (64, 128, 256, 512)

Body = Callable[[Norm, int, int, int], nn.Module]

#: Depth to: body of a block, output channels per unit of width, blocks in each of the four stages.
PLANS: dict[int, tuple[Body, int, tuple[int, int, int, int]]] = {
    18: (basic_body, 1, (2, 2, 2, 2)),
    34: (basic_body, 1, (3, 4, 6, 3)),
    50: (bottleneck_body, 4, (3, 4, 6, 3)),
}


def imagenet_resnet(depth: int, classes: int, norm: Norm) -> nn.Module:
    """ResNet of `depth` 18, 34 or 50: images (N, 3, H, W) to logits (N, `classes`).

    Shortcuts that change shape are 1x1 convolutions (option B). With batch norm and 10
    classes: 11,173,962, 21,282,122 and 23,520,842 parameters. https://arxiv.org/abs/1512.03385
    """
    body, expansion, stages = PLANS[depth]
    blocks: list[nn.Module] = []
    inputs = WIDTHS[0]
    for stage, (width, repeats) in enumerate(zip(WIDTHS, stages, strict=True)):
        outputs = width * expansion
        for index in range(repeats):
            stride = 2 if stage > 0 and index == 0 else 1
            blocks.append(_block(body, norm, inputs, outputs, stride))
            inputs = outputs
    return ResidualNet(norm, WIDTHS[0], blocks, Head(inputs, classes))


def _block(body: Body, norm: Norm, inputs: int, outputs: int, stride: int) -> nn.Module:
    same = stride == 1 and inputs == outputs
    shortcut = nn.Identity() if same else ConvNorm(norm, inputs, outputs, kernel=1, stride=stride)
    return nn.Sequential(Residual(body(norm, inputs, outputs, stride), shortcut), nn.ReLU())
