"""The network of Flower's NIID baseline on CIFAR-10, as a task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.image_classification import ImageClassification


@dataclass(frozen=True)
class Niid(ImageClassification):
    """Ten classes by a network of 62,006 parameters; pixels are from 0 to 1, not normalised."""

    def build_model(self, seed: int) -> nn.Module:
        """Two convolutions and three linear layers, with torch's own initial weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # Pooling before the ReLU gives the same values and gradients on a quarter of the pixels.
            return nn.Sequential(
                *(nn.Conv2d(3, 6, 5), nn.MaxPool2d(2), nn.ReLU()),
                *(nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()),
                *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
            )

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        logits: Tensor = model(images.to(torch.float32, memory_format=torch.channels_last).div_(255))
        return logits.float()
