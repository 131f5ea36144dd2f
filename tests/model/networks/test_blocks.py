from __future__ import annotations

import torch
from torch import nn

from model.networks.blocks import Head, PadShortcut, Residual


def test_pad_shortcut_takes_every_second_pixel_and_adds_zero_channels() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    out = PadShortcut(1, 3, stride=2)(x)
    kept = torch.tensor([[0.0, 2.0], [8.0, 10.0]])
    assert torch.equal(out, torch.stack([torch.zeros(2, 2), kept, torch.zeros(2, 2)]).unsqueeze(0))


def test_residual_adds_body_and_shortcut() -> None:
    assert torch.equal(
        Residual(nn.Identity(), nn.ReLU())(torch.tensor([-1.0, 2.0])), torch.tensor([-1.0, 4.0])
    )


def test_head_is_linear_in_the_mean_over_the_pixels() -> None:
    head = Head(2, 3)
    x = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(x), head.get_submodule("linear")(x.mean(dim=(2, 3))))
