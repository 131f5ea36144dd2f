"""What is trained: the loss of a batch, behind a small Protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from protos import leader_pb2
from utils.batches import ShardSampler, batch_generator, crop_and_flip, normalise


@dataclass(frozen=True)
class Shard:
    """Training examples in memory."""

    images: NDArray[np.uint8]  # (N, 3, H, W)
    labels: NDArray[np.int64]  # (N,)

    def __len__(self) -> int:
        return len(self.labels)


class Task(Protocol):
    """Makes batches and says what their loss is."""

    def loss(self, module: nn.Module, batch: int) -> tuple[Tensor, int]:
        """(mean loss, number of examples) of batch number `batch`, counted over all passes."""
        ...


class ImageClassification:
    """Cross-entropy on one shard's images, cropped and flipped batch by batch.

    Every random choice depends on the order's seed and the batch number alone, so the same order
    gives the same update wherever it runs.
    """

    def __init__(
        self, shard: Shard, order: leader_pb2.WorkOrder, device: torch.device, *, channels_last: bool
    ) -> None:
        self._shard = shard
        self._order = order
        self._device = device
        self._channels_last = channels_last
        self._sampler = ShardSampler(len(shard), order.batch_size, order.seed)

    def loss(self, module: nn.Module, batch: int) -> tuple[Tensor, int]:
        """(mean cross-entropy, number of examples) of batch number `batch`."""
        chosen = np.sort(self._sampler.indices(batch))
        images = torch.from_numpy(self._shard.images[chosen])
        labels = torch.from_numpy(self._shard.labels[chosen]).to(self._device)
        if self._order.augment == "standard":
            images = crop_and_flip(images, batch_generator(self._order.seed, batch))
        inputs = normalise(images.to(self._device), channels_last=self._channels_last)
        logits = module(inputs).float()
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=self._order.label_smoothing)
        return loss, len(chosen)
