"""Least squares as a task, on made-up points: small enough for references that are written without Flockstep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.task import Indices

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """What a learner holds."""

    x: Doubles  # (N, features)
    y: Doubles  # (N,)

    def __len__(self) -> int:
        return len(self.y)


def points(seed: int, examples: int, features: int, shift: float) -> Points:
    """Points on a plane of their own, so far from zero."""
    generator = np.random.Generator(np.random.PCG64(seed))
    x = generator.normal(size=(examples, features))
    return Points(x, x @ generator.normal(size=features) + shift)


class Regression:
    """Least squares."""

    def __init__(self, features: int, *, bias: bool) -> None:
        self._features = features
        self._bias = bias

    def build_model(self, seed: int) -> nn.Module:
        """Weights of zero."""
        module = nn.Linear(self._features, 1, bias=self._bias)
        for weights in module.parameters():
            nn.init.zeros_(weights)
        return module

    def open_data(self, path: object, *, train: bool) -> None:
        """None."""

    def make_batch(
        self, examples: Points, indices: Indices, rng: np.random.Generator | None
    ) -> dict[str, Tensor]:
        """Points and values, in float32."""
        return {
            "x": torch.from_numpy(examples.x[indices]).float(),
            "y": torch.from_numpy(examples.y[indices]).float(),
        }

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Mean squared error."""
        error: Tensor = model(batch["x"])[:, 0] - batch["y"]
        return error.square().mean()

    def metrics(self, model: nn.Module, batch: dict[str, Tensor]) -> Mapping[str, float]:
        """None."""
        return {}
