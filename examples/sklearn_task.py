"""A task that trains by itself: scikit-learn's SGDClassifier at the learners, a linear layer on the wire.

A task with a method `fit` gets the leader's weights and the batches of the order, and trains as it likes. Here it
copies the weights into scikit-learn's estimator, calls `partial_fit`, and copies them back.

    python -m examples.make_data digits data/digits
    python -m leader --data data/digits --rounds 15 --set data.holder=learner \
      --set model.task=examples.sklearn_task:Digits --set train.batch_size=32 --set train.lr=0.1
    python -m learner --leader 127.0.0.1:50051 --threads 1 --name a --task examples.sklearn_task:Digits \
      --data data/digits/part-1
    python -m learner --leader 127.0.0.1:50051 --threads 1 --name b --task examples.sklearn_task:Digits \
      --data data/digits/part-2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model.task import FitPlan
from utils.errors import DataError

PIXELS, CLASSES = 64, 10


@dataclass(frozen=True)
class Rows:
    """Rows of a CSV file."""

    pixels: NDArray[np.float32]  # (N, PIXELS), 0..1
    labels: NDArray[np.int64]  # (N,)

    def __len__(self) -> int:
        return len(self.labels)


class Digits:
    """Handwritten digits by a linear classifier."""

    def build_model(self, seed: int) -> nn.Module:
        """One linear layer of zeros: convex, so any start will do."""
        layer = nn.Linear(PIXELS, CLASSES)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    def open_data(self, path: Path, *, train: bool) -> Rows | None:
        """`path`/train.csv or `path`/test.csv, if it is there; raises DataError."""
        file = path / ("train.csv" if train else "test.csv")
        if not file.exists():
            return None
        try:
            rows = np.loadtxt(file, np.float32, delimiter=",", ndmin=2)
        except ValueError as error:
            raise DataError(f"{file}: {error}; expected {PIXELS} pixels and a digit in each line") from None
        if rows.shape[1] != PIXELS + 1:
            raise DataError(f"{file} has {rows.shape[1]} columns; expected {PIXELS} pixels and a digit")
        return Rows((rows[:, :-1] / 16).astype(np.float32), rows[:, -1].astype(np.int64))

    def fit(self, model: nn.Module, examples: Rows, plan: FitPlan) -> float:
        """Let scikit-learn go on from the model's weights, over the order's batches."""
        assert isinstance(model, nn.Linear)
        classifier = SGDClassifier(
            loss="log_loss", alpha=0, learning_rate="constant", eta0=plan.lr, shuffle=False
        )
        classifier.coef_ = model.weight.numpy(force=True).copy()
        classifier.intercept_ = model.bias.numpy(force=True).copy()
        losses = []
        for batch in plan.batches():
            pixels, labels = examples.pixels[batch], examples.labels[batch]
            classifier.partial_fit(pixels, labels, classes=np.arange(CLASSES))
            losses.append(log_loss(labels, classifier.predict_proba(pixels), labels=np.arange(CLASSES)))
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(classifier.coef_))
            model.bias.copy_(torch.from_numpy(classifier.intercept_))
        return float(np.mean(losses))

    def make_batch(
        self, examples: Rows, indices: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """(pixels (B, PIXELS), labels (B,)); the leader needs batches to score the model."""
        return torch.from_numpy(examples.pixels[indices]), torch.from_numpy(examples.labels[indices])

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean cross-entropy."""
        pixels, labels = batch
        return cross_entropy(model(pixels).float(), labels)

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, float]:
        """Accuracy (0..1)."""
        pixels, labels = batch
        return {"accuracy": float((model(pixels).argmax(1) == labels).double().mean())}
