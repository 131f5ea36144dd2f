from __future__ import annotations

import pytest
import torch
from torch import nn

from model.networks.norm import norm_layer


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (8, 1), (16, 2), (64, 8), (128, 16)])
def test_group_norm_has_eight_channels_a_group(channels: int, groups: int) -> None:
    layer = norm_layer("group", channels)
    assert isinstance(layer, nn.GroupNorm)
    assert (layer.num_groups, layer.num_channels) == (groups, channels)


def test_group_norm_of_an_image_does_not_depend_on_the_other_images() -> None:
    layer = norm_layer("group", 16)
    x = torch.randn(4, 16, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x)[:1], layer(x[:1]))


def test_batch_norm_moves_its_statistics_a_tenth_of_the_way_whatever_its_counter_says() -> None:
    layer = norm_layer("batch", 1)
    assert isinstance(layer, nn.BatchNorm2d)
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.fill_(1000)

    layer(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))

    torch.testing.assert_close(layer.running_mean, torch.tensor([0.2]))
    torch.testing.assert_close(layer.running_var, torch.tensor([0.9 + 0.1 * 2.0]))
