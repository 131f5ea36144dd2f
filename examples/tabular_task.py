"""A task of one's own: tables of numbers, a loss that weighs mistakes, and scores of any name.

Every clinic has a CSV file of tumours: 30 measurements, then 1 if the tumour is malignant. A missed one is
worse than a false alarm, and the loss says so.

    python -m examples.make_data tumours data/tumours --parts 3
    python -m leader --data data/tumours --learners 3 --rounds 30 --set data.holder=learner \
      --set model.task=examples.tabular_task:Tumours --set train.batch_size=32 --set train.lr=0.05
    python -m learner --leader 127.0.0.1:50051 --threads 1 --name a --task examples.tabular_task:Tumours \
      --data data/tumours/part-1
    python -m learner --leader 127.0.0.1:50051 --threads 1 --name b --task examples.tabular_task:Tumours \
      --data data/tumours/part-2
    python -m learner --leader 127.0.0.1:50051 --threads 1 --name c --task examples.tabular_task:Tumours \
      --data data/tumours/part-3
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from utils.errors import DataError

FEATURES = 30
MISSED = 3.0  # times as bad as a false alarm


@dataclass(frozen=True)
class Table:
    """Rows of a CSV file."""

    features: Tensor  # (N, FEATURES) float32, logarithms
    malignant: Tensor  # (N,) float32, 0 or 1

    def __len__(self) -> int:
        return len(self.malignant)


class Tumours:
    """Tell malignant tumours from benign ones."""

    def build_model(self, seed: int) -> nn.Module:
        """A perceptron; its batch norm learns the scale of the features from all clinics."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0)
            )

    def open_data(self, path: Path, *, train: bool) -> Table | None:
        """`path`/train.csv or `path`/test.csv, if it is there; raises DataError."""
        file = path / ("train.csv" if train else "test.csv")
        if not file.exists():
            return None
        try:
            rows = np.loadtxt(file, np.float32, delimiter=",", ndmin=2)
        except ValueError as error:
            raise DataError(f"{file}: {error}; expected {FEATURES} numbers and 0 or 1 in each line") from None
        if rows.shape[1] != FEATURES + 1:
            raise DataError(f"{file} has {rows.shape[1]} columns; expected {FEATURES} numbers and 0 or 1")
        # Some are areas in the thousands, some fractions below 0.01: an update can't hold the variance of the
        # former (aggregate.max_abs), and batch norm takes that of the latter for nothing.
        return Table(torch.from_numpy(np.log(rows[:, :-1] + 0.01)), torch.from_numpy(rows[:, -1]))

    def make_batch(
        self, examples: Table, indices: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """(features (B, FEATURES), labels (B,)); tables are not augmented."""
        return examples.features[indices], examples.malignant[indices]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy in which a malignant tumour counts MISSED times."""
        features, malignant = batch
        weight = torch.tensor(MISSED, device=features.device)
        return binary_cross_entropy_with_logits(model(features).float(), malignant, pos_weight=weight)

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, float]:
        """Accuracy, the share of malignant tumours found, and the area under the ROC curve."""
        features, malignant = batch
        scores, truth = model(features).float(), malignant.bool()
        ill, healthy = scores[truth], scores[~truth]
        # The area is the chance that an ill one scores above a healthy one.
        above = (ill[:, None] > healthy).double() + (ill[:, None] == healthy).double() / 2
        return {
            "accuracy": float(((scores > 0) == truth).double().mean()),
            "found": float((ill > 0).double().mean()) if len(ill) else 1.0,
            "auc": float(above.mean()) if above.numel() else 0.5,
        }
