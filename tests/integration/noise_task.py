"""A task of one's own whose tensors lie in a file in another order than in the model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.task import Indices

FEATURES, EXAMPLES = 6, 24


@dataclass(frozen=True)
class Rows:
    """Points with a value each."""

    x: NDArray[np.float32]  # (N, FEATURES)
    y: NDArray[np.float32]  # (N, 1)

    def __len__(self) -> int:
        return len(self.y)


class Net(nn.Module):
    """A perceptron; its layers are built in another order than that of their names."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(FEATURES, FEATURES)  # as large as the third: a mix-up has the right shapes
        self.norm = nn.BatchNorm1d(FEATURES)
        self.first = nn.Linear(FEATURES, FEATURES)
        self.last = nn.Linear(FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, FEATURES) to (B, 1)."""
        values: Tensor = self.last(torch.tanh(self.second(self.norm(self.first(x)))))
        return values


class Noise:
    """Regression on noise; the path says which."""

    def build_model(self, seed: int) -> nn.Module:
        """See Task."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Net()

    def open_data(self, path: Path | None, *, train: bool) -> Rows:
        """Rows that depend on the path alone."""
        seed = int.from_bytes(str(path).encode()[-4:])
        generator = np.random.Generator(np.random.PCG64(seed))
        x = generator.normal(size=(EXAMPLES, FEATURES)).astype(np.float32)
        return Rows(x, generator.normal(size=(EXAMPLES, 1)).astype(np.float32))

    def make_batch(
        self, examples: Rows, indices: Indices, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Points and values."""
        return torch.from_numpy(examples.x[indices]), torch.from_numpy(examples.y[indices])

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean squared error."""
        x, y = batch
        error: Tensor = model(x).float() - y
        return error.square().mean()

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, float]:
        """Mean squared error."""
        return {"squared_error": float(self.loss(model, batch))}


class MoreNoise(Noise):
    """The same, with as many rows again, as of a folder to which some came."""

    def open_data(self, path: Path | None, *, train: bool) -> Rows:
        """See Task."""
        rows = super().open_data(path, train=train)
        return Rows(np.concatenate([rows.x, rows.x]), np.concatenate([rows.y, rows.y]))


class SlowNoise(Noise):
    """The same, at 0.05 s a batch."""

    def make_batch(
        self, examples: Rows, indices: Indices, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """See Task."""
        time.sleep(0.05)
        return super().make_batch(examples, indices, rng)


class NormlessNoise(Noise):
    """The same, of a net in which no example has a part in what becomes of another."""

    def build_model(self, seed: int) -> nn.Module:
        """See Task."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Tanh(), nn.Linear(FEATURES, 1))
