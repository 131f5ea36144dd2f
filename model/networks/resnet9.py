"""ResNet-9: a shallow residual network that trains on CPU cores in minutes."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from model.networks.blocks import Residual, ResidualNet, basic_body
from model.networks.norm import Norm, norm_layer

LOGIT_SCALE = 0.125


class ScaledHead(nn.Module):
    """Maximum over the pixels, one linear layer, logits scaled down to keep early steps stable."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(features.amax(dim=(2, 3)))
        return logits * LOGIT_SCALE


def resnet9(width: int, classes: int, norm: Norm) -> nn.Module:
    """ResNet-9 of `width` channels in the stem: images (N, 3, H, W), H and W >= 8, to logits (N, `classes`).

    Three halvings, each doubling the channels up to 8 x `width`, and two residual blocks, after
    the DAWNBench network of D. Page (https://myrtle.ai/learn/how-to-train-your-resnet/). With
    width 16, batch norm and 10 classes: 412,954 parameters.
    """
    blocks = (
        _halving(norm, width, 2 * width),
        _residual(norm, 2 * width),
        _halving(norm, 2 * width, 4 * width),
        _halving(norm, 4 * width, 8 * width),
        _residual(norm, 8 * width),
    )
    return ResidualNet(norm, width, blocks, ScaledHead(8 * width, classes))


def _halving(norm: Norm, inputs: int, outputs: int) -> nn.Module:
    # Normalising after the pooling touches a quarter of the pixels: a tenth faster on a CPU.
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    parts = OrderedDict(conv=conv, pool=nn.MaxPool2d(2), norm=norm_layer(norm, outputs), relu=nn.ReLU())
    return nn.Sequential(parts)


def _residual(norm: Norm, channels: int) -> nn.Module:
    return Residual(nn.Sequential(*basic_body(norm, channels, channels, 1), nn.ReLU()), nn.Identity())
