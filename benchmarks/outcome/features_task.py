"""A linear classifier of 5,130 parameters on fixed random features of images: small enough for noise.

The features know nothing of anybody's images: filters come from a seed, and a patch is compared with itself alone.
(Coates et al. 2011, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", with random filters.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, conv2d, cross_entropy

from model.task import Indices
from utils.datasets import open_dataset
from utils.errors import DataError

CLASSES, FILTERS, PATCH, STRIDE = 10, 64, 6, 2
INPUTS = 2 * FILTERS * 4  # what of a filter is above and below, in each quarter of an image
PARAMETERS = CLASSES * (INPUTS + 1)
_SEED = 0
_AT_ONCE = 1000  # images
_MARGIN = 0.15  # of a patch's likeness to a filter, below which it counts as none
_MEAN, _SPREAD = 0.057, 0.048  # about those of natural images' features


@dataclass(frozen=True, eq=False)
class Features:
    """Images as the classifier sees them."""

    inputs: NDArray[np.float32]  # (N, INPUTS)
    labels: NDArray[np.int64]  # (N,)

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: NDArray[np.int64]) -> Features:
        """Those of some images."""
        return Features(self.inputs[indices], self.labels[indices])


@lru_cache(maxsize=2)
def features_of(folder: Path, *, train: bool) -> Features:
    """The training or test images of the data set in `folder`; raises DataError."""
    data = open_dataset(str(folder), folder, download=False)
    split = data.train if train else data.test
    if split is None:
        raise DataError(f"{folder} has no test images; name a folder with CIFAR-10")
    blocks = [_features(split.images[at : at + _AT_ONCE]) for at in range(0, len(split), _AT_ONCE)]
    return Features(np.concatenate(blocks), split.labels)


def _features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    pixels, size = torch.from_numpy(images).float() / 255, 3 * PATCH**2
    filters = torch.randn(FILTERS, 3, PATCH, PATCH, generator=torch.Generator().manual_seed(_SEED))
    filters -= filters.mean((1, 2, 3), keepdim=True)
    filters *= (size / 30) ** 0.5 / filters.flatten(1).norm(dim=1)[:, None, None, None]
    even = torch.full((1, 3, PATCH, PATCH), 1 / size)
    mean = conv2d(pixels, even, stride=STRIDE)
    variance = conv2d(pixels**2, even, stride=STRIDE) - mean**2
    alike = conv2d(pixels, filters, stride=STRIDE) / (size * variance + 0.1).sqrt()
    sides = torch.cat([(alike - _MARGIN).relu(), (-alike - _MARGIN).relu()], 1)
    made: NDArray[np.float32] = ((adaptive_avg_pool2d(sides, 2).flatten(1) - _MEAN) / _SPREAD).numpy()
    return made


class Linear:
    """See model.task.Task."""

    def build_model(self, seed: int) -> nn.Module:
        """One layer that begins with zeros, whatever the seed."""
        layer = nn.Linear(INPUTS, CLASSES)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    def open_data(self, path: Path | None, *, train: bool) -> Features | None:
        """The features of the images at `path`; raises DataError."""
        return features_of(path, train=train) if path is not None else None

    def make_batch(
        self, examples: Features, indices: Indices, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Inputs (B, INPUTS) and labels (B,)."""
        return torch.from_numpy(examples.inputs[indices]), torch.from_numpy(examples.labels[indices])

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean cross-entropy."""
        inputs, labels = batch
        return cross_entropy(model(inputs), labels)

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, float]:
        """Accuracy (0..1) and mean cross-entropy."""
        inputs, labels = batch
        logits = model(inputs)
        return {
            "accuracy": float((logits.argmax(1) == labels).double().mean()),
            "loss": float(cross_entropy(logits.double(), labels)),
        }
