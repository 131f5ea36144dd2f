"""Normalisation layers: batch norm, or group norm for learners whose data differ."""

from __future__ import annotations

from typing import Literal

from torch import nn

Norm = Literal["batch", "group"]

CHANNELS_PER_GROUP = 8


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """A layer that normalises (N, `channels`, H, W).

    Batch norm has a fixed momentum, so its integer counter `num_batches_tracked` influences
    nothing. Group norm (Wu & He 2018) has no buffers and so nothing that depends on the mix of
    classes in a learner's batches; its groups hold 8 channels, or all where there are fewer.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels, momentum=0.1)
    return nn.GroupNorm(max(1, channels // CHANNELS_PER_GROUP), channels)
