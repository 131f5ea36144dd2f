"""The network of Flower's NIID baseline on CIFAR-10, as a task; and the same with losses that know a part's labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model.image_classification import ImageClassification, LabelledImages
from model.task import Indices
from utils.batches import crop_and_flip
from utils.datasets import Dataset

Batch = tuple[
    Tensor, Tensor, Tensor
]  # uint8 images (B, 3, 32, 32), labels (B,), what is added to logits (10,)


class Niid:
    """Ten classes by a network of 62,006 parameters; pixels from 0 to 1, not normalised."""

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

    def open_data(self, path: Path | None, *, train: bool) -> Dataset | None:
        """The training or test split at `path`; raises DataError."""
        return ImageClassification().open_data(path, train=train)

    def make_batch(
        self, examples: LabelledImages, indices: Indices, rng: np.random.Generator | None
    ) -> Batch:
        """The examples at `indices`, cropped and flipped if there is `rng`."""
        images = torch.from_numpy(np.array(examples.images[indices]))
        if rng is not None:
            images = crop_and_flip(images, rng)
        return images, torch.from_numpy(examples.labels[indices]), self.shift(examples)

    def shift(self, examples: LabelledImages) -> Tensor:
        """What the loss adds to the logits (10,)."""
        return torch.zeros(10)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy."""
        images, labels, shift = batch
        return cross_entropy(_logits(model, images) + shift, labels)

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, float]:
        """Accuracy (0..1) and mean cross-entropy, of the logits as they are."""
        images, labels, _ = batch
        logits = _logits(model, images)
        return {
            "accuracy": float((logits.argmax(1) == labels).double().mean()),
            "loss": float(cross_entropy(logits.double(), labels)),
        }


class CalibratedNiid(Niid):
    """The same, trained by logits that have the logarithm of each label's share in the part added.

    Labels that a part has not would be unlearnt there, from its own alone; so they are all but left out of
    its loss (Zhang et al. 2022, FedLC, https://arxiv.org/abs/2209.00189, here with the shift of Menon et al. 2021,
    https://arxiv.org/abs/2007.07314).
    """

    floor = 1e-2  # the least share: of nothing, the other parts' labels would not be told apart from a part's

    def shift(self, examples: LabelledImages) -> Tensor:
        """The logarithms of the shares (10,)."""
        counts = np.bincount(examples.labels, minlength=10)
        return torch.from_numpy(np.log(np.maximum(counts / counts.sum(), self.floor)).astype(np.float32))


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    pixels = images.to(torch.float32, memory_format=torch.channels_last).div_(255)
    logits: Tensor = model(pixels)
    return logits.float()
