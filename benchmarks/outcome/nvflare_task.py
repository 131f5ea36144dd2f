"""The network of NVFlare's CIFAR-10 examples, as a task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from model.image_classification import ImageClassification

SEED = 42  # of the initial weights, whatever the seed of a run: the examples' own


@dataclass(frozen=True)
class ModerateCnn(ImageClassification):
    """Ten classes by a network of 3,491,530 parameters, with dropout; images are padded by reflection, as theirs."""

    def build_model(self, seed: int) -> nn.Module:
        """Three pairs of convolutions and three linear layers, with the initial weights of the examples."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return nn.Sequential(
                *_pair(3, 32, 64),
                *_pair(64, 128, 128),
                nn.Dropout2d(0.05),
                *_pair(128, 256, 256),
                *(nn.Flatten(), nn.Dropout(0.1), nn.Linear(4096, 512), nn.ReLU()),
                *(nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.1), nn.Linear(512, 10)),
            )


def _pair(inputs: int, inner: int, outputs: int) -> tuple[nn.Module, ...]:
    """Two 3x3 convolutions and a pooling that halves height and width."""
    first, second = nn.Conv2d(inputs, inner, 3, padding=1), nn.Conv2d(inner, outputs, 3, padding=1)
    return (first, nn.ReLU(), second, nn.MaxPool2d(2), nn.ReLU())
