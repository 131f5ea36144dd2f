"""Federated averaging, for runs that exchange weight deltas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leader.optimizers.base import State, Step
from utils.vector import Vector


@dataclass(frozen=True)
class FedAvg:
    """FedAvg (McMahan et al. 2017, algorithm 1): w = w + lr * mean of the deltas, with lr = 1.

    Other learning rates are those of Reddi et al. 2021, algorithm 1 with SGD at the server.
    """

    lr: float = 1.0

    def init(self, size: int) -> State:
        """FedAvg keeps no state."""
        return {}

    def apply(self, state: State, parameters: Vector, mean: Vector, step: Step) -> tuple[State, Vector]:
        """New parameters (P,)."""
        return state, parameters + (mean if self.lr == 1 else np.float32(self.lr) * mean)
