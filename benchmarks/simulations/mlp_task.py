"""A task of 2,762 parameters, 32-64-10, on vectors made up for each client: what a round costs beside training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model.task import Indices

PARAMETERS = 2762
INPUTS, HIDDEN, CLASSES = 32, 64, 10
EXAMPLES = 32  # a client


@dataclass(frozen=True, eq=False)
class Vectors:
    """One client's examples."""

    inputs: NDArray[np.float32]  # (N, INPUTS)
    labels: NDArray[np.int64]  # (N,)

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of_client(cls, number: int) -> Vectors:
        """The data of client `number`."""
        random = np.random.default_rng(number)
        inputs = random.standard_normal((EXAMPLES, INPUTS), np.float32)
        return cls(inputs, random.integers(0, CLASSES, EXAMPLES))


class Mlp:
    """See model.task.Task."""

    def build_model(self, seed: int) -> nn.Module:
        """32-64-10 with ReLU."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))

    def open_data(self, path: Path, *, train: bool) -> Vectors | None:
        """Nothing is on disk."""
        return None

    def make_batch(
        self, examples: Vectors, indices: Indices, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Inputs (B, 32) and labels (B,)."""
        return torch.from_numpy(examples.inputs[indices]), torch.from_numpy(examples.labels[indices])

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean cross-entropy."""
        inputs, labels = batch
        return cross_entropy(model(inputs), labels)

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, float]:
        """Mean cross-entropy."""
        return {"loss": float(self.loss(model, batch))}
