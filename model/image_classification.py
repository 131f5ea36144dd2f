"""The built-in task: classify images, cropped and flipped batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model.registry import build_model
from model.task import Indices
from utils.batches import crop_and_flip, normalise
from utils.datasets import Dataset, open_dataset
from utils.errors import DataError


class LabelledImages(Protocol):
    """Images with their labels: a Dataset, or a shard of one."""

    @property
    def images(self) -> NDArray[np.uint8]:
        """(N, 3, H, W)."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,)."""
        ...

    def __len__(self) -> int:
        """N."""
        ...


@dataclass(frozen=True)
class Shard:
    """Training images in memory, as the leader sent them."""

    images: NDArray[np.uint8]  # (N, 3, H, W)
    labels: NDArray[np.int64]  # (N,)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class PlacedImages:
    """Images with their labels in the memory of a device."""

    images: Tensor  # (N, 3, H, W) uint8
    labels: Tensor  # (N,) int64

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageClassification:
    """Cross-entropy on images of CIFAR's size, by a model of the registry."""

    model: str = "resnet9-w16"
    norm: str = "batch"
    classes: int = 10
    augment: bool = True
    label_smoothing: float = 0.0
    channels_last: bool = True

    def build_model(self, seed: int) -> nn.Module:
        """The registry's model; raises ConfigError for an unknown one."""
        return build_model(self.model, classes=self.classes, norm=self.norm, seed=seed)

    def open_data(self, path: Path | None, *, train: bool) -> Dataset | None:
        """The training or test split of the data set at `path`; raises DataError."""
        if path is None:
            raise DataError("images come from a folder; name it with --data DIR")
        split = open_dataset(str(path), path, download=False)
        return split.train if train else split.test

    def place(self, examples: LabelledImages, device: torch.device, most_bytes: int) -> PlacedImages | None:
        """The same images on `device`; see PlacesExamples."""
        if type(self).make_batch is not ImageClassification.make_batch:
            return None  # whoever makes batches otherwise reads the examples as they are
        every = np.arange(len(examples))
        one = examples.images[every[:1]].nbytes + examples.labels[every[:1]].nbytes
        if one * len(examples) > most_bytes:
            return None
        images, labels = examples.images[every], examples.labels[every]
        return PlacedImages(torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device))

    def make_batch(
        self, examples: LabelledImages | PlacedImages, indices: Indices, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """(uint8 images (B, 3, H, W), labels (B,)), where the examples lie; augmented by `rng` if `augment` is set."""
        if isinstance(examples, PlacedImages):
            places = torch.from_numpy(indices).to(examples.images.device)
            images, labels = examples.images[places], examples.labels[places]
        else:
            images = torch.from_numpy(np.array(examples.images[indices]))
            labels = torch.from_numpy(examples.labels[indices])
        if rng is not None and self.augment:
            images = crop_and_flip(images, rng)
        return images, labels

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean cross-entropy with label smoothing."""
        images, labels = batch
        logits = self._logits(model, images)
        return cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, float]:
        """Accuracy (0..1) and mean cross-entropy."""
        images, labels = batch
        logits = self._logits(model, images)
        return {
            "accuracy": float((logits.argmax(1) == labels).double().mean()),
            "loss": float(cross_entropy(logits.double(), labels)),
        }

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        logits: Tensor = model(normalise(images, channels_last=self.channels_last))
        return logits.float()
