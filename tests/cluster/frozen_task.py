"""Noise, learnt by a small head on a base that is frozen and several thousand times as large."""

from __future__ import annotations

import torch
from torch import nn

from tests.integration.noise_task import FEATURES, Noise

WIDTH = 4000


class OnBase(Noise):
    """Trains a bias and a last layer; the base is drawn from a seed of its own."""

    BASE = 1

    def build_model(self, seed: int) -> nn.Module:
        """See Task."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.BASE)
            base = nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.Tanh(), nn.Linear(WIDTH, FEATURES))
            base.requires_grad_(False)
            torch.manual_seed(seed)
            head = nn.Linear(FEATURES, 1)
        return nn.Sequential(base, head)


class OnOtherBase(OnBase):
    """The same names and shapes, and other values."""

    BASE = 2
